import logging
from importlib.resources import files

import cv2
import numpy as np
import pytest

from loquent.errors import FaceError, MissingExtraError
from loquent.face import analyze, choose_face, find_faces, mediapipe_backend
from loquent.face.topology import NUM_LANDMARKS
from loquent.types import Face, Photo


def square_face(left: float, size: float) -> Face:
    points = np.zeros((NUM_LANDMARKS, 3), np.float32)
    points[0, :2], points[1, :2] = (left, 10), (left + size, 10 + size)
    points[2:, :2] = (left + size / 2, 10 + size / 2)
    return Face(points)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    path = files("loquent") / "examples" / "portrait_a.jpg"
    coded = np.frombuffer(path.read_bytes(), np.uint8)
    picture = cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
    return np.asarray(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def face(portrait) -> Face:
    faces = find_faces(Photo(portrait))
    assert len(faces) == 1
    return faces[0]


def test_the_largest_face_is_the_default():
    faces = [square_face(0, 20), square_face(100, 40), square_face(300, 10)]
    assert choose_face(faces) is faces[1]
    assert choose_face(faces, 2) is faces[2]


def test_a_wrong_index_lists_what_was_found():
    with pytest.raises(FaceError, match=r"no face 5; found 2.*0: 20x20 px at \(0, 10\); 1: 40x40 px"):
        choose_face([square_face(0, 20), square_face(100, 40)], 5)


def test_no_face_says_what_helps():
    blank = Photo(np.full((120, 90, 3), 128, np.uint8))
    assert find_faces(blank) == []
    with pytest.raises(FaceError, match="use a picture in which one face looks towards the camera"):
        analyze(blank)


def test_embedded_landmarks_lie_where_a_face_has_them(face, portrait):
    points = face.landmarks
    assert points.shape == (NUM_LANDMARKS, 3)
    assert face.score > 0.5
    left, top, right, bottom = face.box_px
    assert 0 < left < right < portrait.shape[1]
    assert 0 < top < bottom < portrait.shape[0] + 5
    assert points[33, 0] < points[133, 0] < points[362, 0] < points[263, 0]
    assert points[10, 1] < points[159, 1] < points[1, 1] < points[13, 1] <= points[14, 1] + 1 < points[152, 1]
    assert points[1, 2] < points[[234, 454], 2].min()  # the nose is nearer than the ears


def test_mirrored_photo_gives_mirrored_landmarks(face, portrait):
    from loquent.face.crop import mirror_landmarks

    other = find_faces(Photo(np.ascontiguousarray(portrait[:, ::-1])))[0]
    back = mirror_landmarks(other.landmarks, portrait.shape[1])
    away = np.linalg.norm((back - face.landmarks)[:, :2], axis=1).mean() / face.interocular_px
    assert away < 0.01


@pytest.mark.parametrize(("scale", "roll_deg"), [(0.3, 25.0), (0.6, -30.0)])
def test_landmarks_follow_size_and_roll(face, portrait, scale, roll_deg):
    turn = cv2.getRotationMatrix2D((127.5, 127.5), roll_deg, scale)
    turned = cv2.warpAffine(portrait, turn, (256, 256), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    found = choose_face(find_faces(Photo(np.asarray(turned, np.uint8))))
    wanted = face.landmarks[:, :2] @ turn[:, :2].T + turn[:, 2]
    away = np.linalg.norm(found.landmarks[:, :2] - wanted, axis=1).mean() / (scale * face.interocular_px)
    assert away < 0.04


def test_faces_come_from_left_to_right(portrait):
    small = cv2.resize(portrait, (128, 128), interpolation=cv2.INTER_AREA)
    scene = np.zeros((256, 400, 3), np.uint8)
    scene[:, 140:396] = portrait
    scene[60:188, 4:132] = small
    faces = find_faces(Photo(scene))
    assert len(faces) == 2
    assert faces[0].box_px[0] < 132 < faces[1].box_px[0]
    assert choose_face(faces) is faces[1]


def test_portrait_of_a_photo(portrait):
    result = analyze(Photo(portrait))
    assert result.rest_expression.shape == (52,)
    assert result.pose_rad.shape == (3,)
    assert np.abs(result.pose_rad).max() < 0.35


def test_profile_is_warned_about(portrait, monkeypatch, caplog):
    from dataclasses import replace

    from loquent.motion import face_model

    fit = face_model.fit_face
    monkeypatch.setattr(face_model, "fit_face", lambda points: replace(fit(points), pose_rad=np.array([0.0, 0.9, 0.0])))
    with caplog.at_level(logging.WARNING):
        analyze(Photo(portrait))
    assert "turned by 52 degrees" in caplog.text


def test_unknown_backend_is_named():
    with pytest.raises(FaceError, match="unknown face backend 'dlib'; choose one of embedded, mediapipe"):
        find_faces(Photo(np.zeros((8, 8, 3), np.uint8)), "dlib")  # type: ignore[arg-type]


def test_mediapipe_needs_its_model_file(monkeypatch, tmp_path):
    monkeypatch.delenv(mediapipe_backend.MODEL_VARIABLE, raising=False)
    blank = Photo(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(FaceError, match=r"--face-model or in the environment variable LOQUENT_FACE_LANDMARKER"):
        find_faces(blank, "mediapipe")
    with pytest.raises(FaceError, match="no such MediaPipe model file"):
        find_faces(blank, "mediapipe", tmp_path / "none.task")
    monkeypatch.setenv(mediapipe_backend.MODEL_VARIABLE, str(tmp_path / "other.task"))
    with pytest.raises(FaceError, match=r"other\.task"):
        find_faces(blank, "mediapipe")


def test_missing_mediapipe_package_names_the_extra(monkeypatch, tmp_path):
    import sys

    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "mediapipe.tasks.python", None)
    with pytest.raises(MissingExtraError, match=r"loquent\[mediapipe\]"):
        find_faces(Photo(np.zeros((8, 8, 3), np.uint8)), "mediapipe", model)


def test_broken_mediapipe_model_is_named(tmp_path):
    pytest.importorskip("mediapipe", reason="the extra mediapipe is not installed")
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"no model")
    with pytest.raises(FaceError, match="could not load the model"):
        find_faces(Photo(np.zeros((8, 8, 3), np.uint8)), "mediapipe", model)
