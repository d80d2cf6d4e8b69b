from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from loquent.data.people import is_test
from loquent.face import detector as detector_module
from loquent.face import landmarker as landmarker_module
from loquent.face.crop import Square
from loquent.face.topology import CHIN, LIPS_INNER_LOWER, LIPS_INNER_UPPER, LOWER_LIP_ROWS
from loquent.motion.face_model import face_tables
from loquent.training import face_detector, face_landmarker
from loquent.training.face_data import FaceMaker, fit_similarity, mirror, upright_shape
from loquent.training.face_negatives import without_face
from loquent.training.face_photometric import cover, degrade, put_on_glasses
from loquent.training.face_warps import FaceWarper, Sample, fill_mouth, random_expression, rotate_head


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A made-up picture with the mean face's landmarks: an oval with eyes and a mouth."""
    landmarks = (face_tables().neutral * 42 + [120, 95, 0]).astype(np.float32)
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (240, 240, 3), np.uint8), (0, 0), 3)
    hull = cv2.convexHull(np.rint(landmarks[:, :2]).astype(np.int32))
    cv2.fillConvexPoly(pixels, hull, (200, 160, 140))
    for eye in (468, 473):
        cv2.circle(pixels, tuple(int(v) for v in landmarks[eye, :2]), 4, (30, 20, 20), -1)
    cv2.line(pixels, tuple(landmarks[78, :2].astype(int)), tuple(landmarks[308, :2].astype(int)), (120, 40, 40), 2)
    return Sample(np.asarray(pixels, np.uint8), landmarks)


@pytest.fixture(scope="module")
def warper(sample) -> FaceWarper:
    return FaceWarper(upright_shape(sample.landmarks).astype(np.float32))


@pytest.fixture
def cache_folder(tmp_path, sample) -> Path:
    folder = tmp_path / "faces-0"
    folder.mkdir()
    np.save(folder / "pixels.npy", np.repeat(sample.pixels[None], 6, axis=0))
    np.save(folder / "landmarks.npy", np.repeat(sample.landmarks[None], 6, axis=0))
    return tmp_path


def test_warp_to_the_same_landmarks_is_the_picture(sample, warper):
    same, _ = warper.warp(sample, sample.landmarks, np.eye(2, 3), 240)
    np.testing.assert_allclose(same.landmarks, sample.landmarks, atol=1e-3)
    assert np.abs(same.pixels.astype(int) - sample.pixels)[30:210, 30:210].mean() < 0.5


def test_warp_carries_the_iris_with_its_landmark(sample, warper):
    wanted = rotate_head(sample.landmarks, 0.05, 0.25)
    turned, _ = warper.warp(sample, wanted, np.eye(2, 3), 240)
    for eye in (468, 473):
        x, y = np.rint(turned.landmarks[eye, :2]).astype(int)
        assert turned.pixels[y, x].mean() < 60


def test_open_mouth_is_filled_between_the_lips(sample, warper):
    wanted = sample.landmarks.copy()
    wanted[[point for row in LOWER_LIP_ROWS for point in row], 1] += 12
    opened, opening = warper.warp(sample, wanted, np.eye(2, 3), 240)
    x, y = np.rint(wanted[[13, 14], :2].mean(axis=0)).astype(int)
    assert opening[y, x]
    assert not opening[: int(wanted[13, 1]) - 2].any()
    filled = fill_mouth(opened, opening, np.random.default_rng(0))
    np.testing.assert_array_equal(filled[~opening], opened.pixels[~opening])


def test_positive_yaw_turns_the_nose_to_the_pictures_right(sample):
    turned = rotate_head(sample.landmarks, 0.0, 0.4)
    middle = turned[[234, 454], 0].mean()
    assert turned[1, 0] > middle + 5
    raised = rotate_head(sample.landmarks, 0.3, 0.0)
    assert raised[1, 1] < sample.landmarks[1, 1]


def test_expressions_keep_the_lips_apart_or_sealed(sample):
    for seed in range(30):
        moved = random_expression(sample.landmarks, np.random.default_rng(seed))
        gap = moved[list(LIPS_INNER_LOWER[1:-1]), 1] - moved[list(LIPS_INNER_UPPER[1:-1]), 1]
        assert gap.min() > -2
        assert moved[CHIN, 1] > moved[17, 1]


def test_drawn_faces_are_upright_and_whole(sample):
    maker = FaceMaker([sample, mirror(sample)])
    rng = np.random.default_rng(2)
    for _ in range(12):
        drawn = maker.draw(rng)
        assert drawn.pixels.shape == (240, 240, 3)
        assert np.isfinite(drawn.landmarks).all()
        assert (drawn.landmarks[:, :2] > 0).all()
        assert (drawn.landmarks[:, :2] < 240).all()


def test_pictures_keep_size_and_type(sample):
    rng = np.random.default_rng(3)
    small = cv2.resize(sample.pixels, (64, 64))
    for pixels in (
        *(degrade(small, rng) for _ in range(60)),
        *(without_face(sample, 1.3, 64, rng) for _ in range(40)),
        cover(small, small, rng),
    ):
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
    assert put_on_glasses(sample.pixels, sample.landmarks, rng).shape == sample.pixels.shape


def test_similarity_is_recovered():
    points = np.random.default_rng(0).normal(0, 1, (20, 2))
    matrix = np.array([[0.8, -0.6, 3.0], [0.6, 0.8, -2.0]]) * 1.7
    np.testing.assert_allclose(fit_similarity(points, points @ matrix[:, :2].T + matrix[:, 2]), matrix, atol=1e-9)


def test_the_split_is_about_an_eighth():
    assert np.mean([is_test(f"X{number:06d}") for number in range(2000)]) == pytest.approx(0.125, abs=0.02)


def test_scene_asks_for_the_face_where_it_is(sample):
    window = Square(120, 130, 3 * 96, 0.2)
    pixels, landmarks = face_detector.place(sample, window)
    scene = face_detector.face_scene(pixels, landmarks)
    rows, columns = np.nonzero(scene.labels == face_detector.FACE)
    assert len(rows) >= 1
    across, down, log_size, cos, sin = scene.answers[:, rows[0], columns[0]]
    box = detector_module.Square((columns[0] + 0.5) * 8 - 0.5 + across * detector_module.TYPICAL_FACE_PX, 0, 1)
    expected = face_detector.square_around(landmarks, 1.0)
    assert box.centre_x == pytest.approx(expected.centre_x, abs=0.01)
    assert detector_module.TYPICAL_FACE_PX * np.exp(log_size) == pytest.approx(expected.side_px, rel=1e-3)
    assert np.arctan2(sin, cos) == pytest.approx(-0.2, abs=0.02)
    assert np.isfinite(down)


def test_tiny_or_huge_faces_ask_for_nothing(sample):
    pixels, landmarks = face_detector.place(sample, Square(120, 130, 20 * 96, 0.0))
    assert not face_detector.face_scene(pixels, landmarks).labels.any()


@pytest.mark.parametrize("part", ["face", "lips", "eye"])
def test_landmarker_trains_stops_and_goes_on(cache_folder, sample, part):
    cache = face_landmarker.FaceCache(cache_folder)
    run = cache_folder / "run"
    run.mkdir()
    options = {"portraits": [sample], "batch": 4, "config": landmarker_module.TINY}
    face_landmarker.train(cache, run, part, 0.002, **options)
    first = torch.load(run / f"{part}.pt", weights_only=True)
    face_landmarker.train(cache, run, part, first["seconds"] / 60 + 0.004, **options)  # however slow the machine is
    second = torch.load(run / f"{part}.pt", weights_only=True)
    assert second["step"] > first["step"] > 0
    assert second["seconds"] > first["seconds"]


def test_landmarker_starts_at_the_mean_shape(cache_folder, sample):
    cache = face_landmarker.FaceCache(cache_folder)
    model = landmarker_module.Landmarker(landmarker_module.TINY).eval()
    face_landmarker.start_at_mean(model.face, cache, "face")
    assert face_landmarker.test_error(model, "face", [sample]) < 15


def test_detector_trains_and_exports(cache_folder, sample, tmp_path):
    maker = face_detector.SceneMaker([sample], face_landmarker.FaceCache(cache_folder))
    face_detector.train(maker, tmp_path, 0.003, batch=4, config=detector_module.TINY)
    face_detector.export(tmp_path, tmp_path / "weights", detector_module.TINY)
    assert (tmp_path / "weights" / "config.json").exists()
    assert (tmp_path / "weights" / "model.safetensors").stat().st_size > 1000
