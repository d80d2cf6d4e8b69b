"""The mesh renderer on a drawn face: what must hold for every photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from loquent.face.topology import FACE_OVAL, LIPS_INNER_LOWER, LIPS_INNER_UPPER, LIPS_OUTER_LOWER, LIPS_OUTER_UPPER
from loquent.motion.face_model import face_tables, fit_face
from loquent.render.mesh import MeshRenderer, _limit_wide_eyes
from loquent.render.person import head_poses
from loquent.types import ARKIT_INDEX, Face, Motion, Photo, Portrait

WIDTH, HEIGHT, IOD = 261, 301, 90.0


def _draw(landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
    """A face like a doll's, with fine texture so that every movement shows."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    picture = np.dstack([90 + 20 * x / width, 110 + 0 * x, 130 + 20 * y / height]).astype(np.float32)
    points = landmarks[:, :2]
    centre = points[list(FACE_OVAL)].mean(0)
    cv2.ellipse(picture, (int(centre[0]), height + 20), (110, 80), 0, 0, 360, (40.0, 40.0, 60.0), -1)
    cv2.ellipse(picture, (int(centre[0]), int(centre[1]) - 10), (72, 100), 0, 0, 360, (60.0, 40.0, 30.0), -1)

    def fill(indices: tuple[int, ...], colour: tuple[float, float, float]) -> None:
        cv2.fillPoly(picture, [np.round(points[list(indices)]).astype(np.int32)], colour, cv2.LINE_8)

    fill(FACE_OVAL, (200.0, 160.0, 140.0))
    fill((*LIPS_OUTER_UPPER, *LIPS_OUTER_LOWER[::-1]), (180.0, 90.0, 90.0))
    fill((*LIPS_INNER_UPPER, *LIPS_INNER_LOWER[::-1]), (70.0, 30.0, 30.0))
    texture = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.8) + texture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    head = face_tables().neutral * IOD
    landmarks = (head + np.array([WIDTH / 2, 120, 0])).astype(np.float32)
    photo = Photo(_draw(landmarks, WIDTH, HEIGHT))
    shape = fit_face(landmarks)
    return Portrait(photo, Face(landmarks), shape.rest_expression, shape.pose_rad.astype(np.float32))


@pytest.fixture(scope="module")
def renderer(portrait: Portrait) -> MeshRenderer:
    return MeshRenderer(portrait)


def _rest(renderer: MeshRenderer, num_frames: int) -> Motion:
    motion = Motion.neutral(num_frames)
    motion.expression[:] = renderer.shape.rest_expression
    return motion


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9)))


def test_rest_motion_gives_the_photo(renderer: MeshRenderer, portrait: Portrait):
    (frame,) = renderer.render(_rest(renderer, 1))
    assert renderer.size_px == (260, 300)
    assert frame.shape == (300, 260, 3)
    assert frame.dtype == np.uint8
    assert _psnr(frame, portrait.photo.pixels[:300, :260]) > 50


def test_background_stays_while_the_head_turns(renderer: MeshRenderer, portrait: Portrait):
    motion = _rest(renderer, 3)
    motion.rotation[1, 1], motion.rotation[2, 2] = 0.3, -0.15
    frames = list(renderer.render(motion))
    corner = np.s_[:60, :40]
    for frame in frames[1:]:
        assert np.abs(frame[corner].astype(int) - portrait.photo.pixels[corner]).max() <= 1
        assert np.abs(frame.astype(int) - frames[0]).mean() > 2


def test_head_moves_as_the_face_model_says(renderer: MeshRenderer):
    motion = _rest(renderer, 2)
    motion.translation[1] = (0.1, 0.05, 0)
    still, moved = renderer.render(motion)
    nose = renderer.shape.landmarks(motion.expression, motion.rotation, motion.translation)[:, 1, :2]
    before, after = (
        cv2.getRectSubPix(f, (31, 31), tuple(map(float, p))) for f, p in zip((still, moved), nose, strict=True)
    )
    assert np.allclose(nose[1] - nose[0], (0.1 * renderer.shape.scale_px, 0.05 * renderer.shape.scale_px), atol=1e-3)
    assert _psnr(before, after) > 30


def test_lips_part_and_seal(renderer: MeshRenderer):
    motion = Motion.neutral(2)
    motion.expression[1, ARKIT_INDEX["jawOpen"]] = 0.5
    shut, ajar = renderer.render(motion)
    points = renderer.shape.landmarks(motion.expression)[1]
    middle = np.round((points[13, :2] + points[14, :2]) / 2).astype(int)
    inside = np.s_[middle[1] - 1 : middle[1] + 6, middle[0] - 3 : middle[0] + 4]
    assert ajar[inside].mean() < 0.6 * shut[inside].mean()


def test_frames_do_not_depend_on_their_neighbours(renderer: MeshRenderer):
    motion = _rest(renderer, 20)
    motion.expression[:, ARKIT_INDEX["jawOpen"]] = np.linspace(0, 0.4, 20)
    motion.rotation[:, 1] = np.linspace(-0.1, 0.1, 20)
    whole = list(renderer.render(motion))
    pieces = [frame for start in range(0, 20, 7) for frame in renderer.render(motion[slice(start, start + 7)])]
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(whole, pieces, strict=True)) <= 3  # rounding of sums
    assert len({id(frame) for frame in whole}) == 20


def test_smooth_motion_gives_smooth_pictures(renderer: MeshRenderer):
    time = np.linspace(0, 0.25, 24)
    motion = _rest(renderer, len(time))
    motion.expression[:, ARKIT_INDEX["jawOpen"]] = 0.25 - 0.25 * np.cos(2 * np.pi * time)
    motion.rotation[:, 1] = 0.2 * np.sin(2 * np.pi * time)
    frames = np.array([cv2.GaussianBlur(f.astype(np.float32), (0, 0), 2) for f in renderer.render(motion)])
    first, second = np.abs(np.diff(frames, axis=0)), np.abs(np.diff(frames, n=2, axis=0))
    assert second.mean((1, 2, 3)).max() < 0.4 * first.mean((1, 2, 3)).max()


def test_blink_covers_the_iris(portrait: Portrait):
    pixels = portrait.photo.pixels.copy()
    iris = portrait.face.landmarks[473, :2]
    cv2.circle(pixels, tuple(np.round(iris).astype(int).tolist()), 4, (20, 20, 20), -1)
    renderer = MeshRenderer(Portrait(Photo(pixels), portrait.face, portrait.rest_expression, portrait.pose_rad))
    motion = _rest(renderer, 2)
    motion.expression[1, ARKIT_INDEX["eyeBlinkLeft"]] = 1
    x, y = np.round(iris).astype(int)
    open_eye, shut = renderer.render(motion)
    assert open_eye[y, x].mean() < 60
    assert shut[y - 2 : y + 3, x - 2 : x + 3].mean() > 100


def test_size_sets_the_longer_side(portrait: Portrait):
    assert MeshRenderer(portrait, size=150).size_px == (130, 150)


def test_a_face_cut_by_the_border_renders(portrait: Portrait):
    top, left = 60, 70
    pixels = np.ascontiguousarray(portrait.photo.pixels[top:, left:])
    landmarks = portrait.face.landmarks - np.array([left, top, 0], np.float32)
    renderer = MeshRenderer(Portrait(Photo(pixels), Face(landmarks), portrait.rest_expression, portrait.pose_rad))
    motion = _rest(renderer, 2)
    motion.rotation[:, 0], motion.rotation[:, 1] = (-0.2, 0.2), (0.3, -0.3)
    motion.expression[:, ARKIT_INDEX["jawOpen"]] = 0.5
    for frame in renderer.render(motion):
        assert frame.shape == (240, 190, 3)
        assert frame.min() < frame.max()


def test_pivot_is_the_face_models(renderer: MeshRenderer):
    motion = _rest(renderer, 1)
    motion.rotation[:] = (0.1, -0.2, 0.05)
    (pose,) = head_poses(renderer.shape, motion.rotation, motion.translation)
    rest = renderer.shape.landmarks(motion.expression)[0]
    wanted = renderer.shape.landmarks(motion.expression, motion.rotation)[0]
    assert np.allclose(rest @ pose.matrix.T + pose.offset, wanted, atol=0.02)


def test_eyes_open_no_wider_than_the_photo_can_fill():
    expression = np.zeros((4, 52), np.float32)
    wide = ARKIT_INDEX["eyeWideLeft"]
    expression[:, wide] = [0.1, 0.3, 0.6, 1.0]
    rest = np.zeros(52, np.float32)
    rest[wide] = 0.3
    limited = _limit_wide_eyes(expression, rest)
    np.testing.assert_allclose(limited[:2], expression[:2])
    assert 0.3 < limited[2, wide] < limited[3, wide] <= 0.5
    assert limited.sum() == pytest.approx(limited[:, wide].sum())


def test_turns_level_off_before_the_picture_folds(renderer: MeshRenderer):
    motion = _rest(renderer, 3)
    motion.rotation[:, 1] = np.radians([29, 70, 170])
    a, b, c = renderer.render(motion)
    assert _psnr(b, c) > 40
    assert _psnr(a, b) < _psnr(b, c)


def test_landmarks_are_those_of_the_frames(renderer: MeshRenderer, portrait: Portrait):
    """What is not drawn, of a turn or of wide eyes, is not told of either."""
    motion = _rest(renderer, 3)
    motion.rotation[1:, 1] = np.radians([15, 60])
    motion.expression[2, [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]] = 1
    points, asked = renderer.landmarks(motion), renderer.shape.landmarks(motion.expression, motion.rotation)
    np.testing.assert_allclose(points[0], portrait.face.landmarks, atol=0.5)
    np.testing.assert_allclose(points[1], asked[1], atol=1e-3)
    nose, upper_lid, brow = 4, 159, 105
    assert 0 < points[2, nose, 0] - points[1, nose, 0] < 0.5 * (asked[2, nose, 0] - asked[1, nose, 0])
    lids = [np.subtract(*p[[upper_lid, brow], 1]) for p in (points[1], points[2], asked[2])]
    assert lids[2] < lids[1] - 1
    for where, (places, _) in zip(points[:2], renderer.shown(motion[:2]), strict=True):
        x, y = where[nose, :2].round().astype(int)
        np.testing.assert_allclose(places[y, x], portrait.face.landmarks[nose, :2], atol=2.5)
