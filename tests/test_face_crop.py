import cv2
import numpy as np
import pytest

from loquent.errors import PhotoError
from loquent.face.crop import Square, cut, cut_mirrored, mirror_landmarks, paste_back, square_around
from loquent.face.topology import LEFT_EYE_OUTER, MIRRORED, NUM_LANDMARKS, RIGHT_EYE_OUTER


@pytest.fixture
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), np.uint8), (0, 0), 2)


def face_at(centre: tuple[float, float], size: float, roll_rad: float) -> np.ndarray:
    """478 points in a box of `size`, the outer eye corners level before the turn."""
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (NUM_LANDMARKS, 3)) * size
    points[:4, :2] = [[-size / 2, -size / 2], [size / 2, -size / 2], [size / 2, size / 2], [-size / 2, size / 2]]
    points[RIGHT_EYE_OUTER, :2], points[LEFT_EYE_OUTER, :2] = (-size / 4, -size / 8), (size / 4, -size / 8)
    cos, sin = np.cos(roll_rad), np.sin(roll_rad)
    points[:, :2] = points[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + centre
    return points.astype(np.float32)


def test_square_follows_size_place_and_roll():
    square = square_around(face_at((70, 40), 30, 0.4), margin=1.5)
    assert square.centre_x == pytest.approx(70, abs=0.01)
    assert square.centre_y == pytest.approx(40, abs=0.01)
    assert square.side_px == pytest.approx(45, abs=0.01)
    assert square.roll_rad == pytest.approx(0.4, abs=1e-3)


def test_whole_pixel_crop_pasted_back_is_the_photo(photo):
    crop = cut(photo, Square(59.5, 44.5, 40, 0.0), 40)
    np.testing.assert_array_equal(crop.pixels, photo[25:65, 40:80])
    result = paste_back(photo, crop.pixels, crop.crop_to_photo, np.ones((40, 40)))
    np.testing.assert_array_equal(result, photo)


def test_nothing_changes_where_the_mask_is_zero(photo):
    square = Square(60, 45, 50, 0.3)
    mask = np.zeros((64, 64), np.float32)
    mask[20:44, 20:44] = 1
    result = paste_back(photo, np.zeros((64, 64, 3), np.uint8), square.crop_to_photo(64), mask)
    touched = cv2.warpAffine((mask > 0).astype(np.float32), square.crop_to_photo(64), (120, 90)) > 0
    np.testing.assert_array_equal(result[~touched], photo[~touched])
    assert (result[45, 60] == 0).all()


def test_paste_outside_the_photo_leaves_it_as_it_is(photo):
    square = Square(500, 500, 40)
    result = paste_back(photo, np.zeros((8, 8, 3), np.uint8), square.crop_to_photo(8), np.ones((8, 8)))
    np.testing.assert_array_equal(result, photo)


def test_mask_of_another_size_is_refused(photo):
    with pytest.raises(PhotoError, match="mask"):
        paste_back(photo, np.zeros((8, 8, 3), np.uint8), np.eye(2, 3), np.ones((9, 9)))


def test_crop_points_and_pixels_agree(photo):
    square = Square(61.3, 40.2, 37, -0.5)
    points = np.array([[50.0, 30.0, 5.0], [70.0, 52.0, -2.0]])
    inside = square.from_photo(points)
    np.testing.assert_allclose(square.to_photo(inside), points, atol=1e-4)
    in_crop = inside[:, :2] * 64 + 31.5
    back = in_crop @ square.crop_to_photo(64)[:, :2].T + square.crop_to_photo(64)[:, 2]
    np.testing.assert_allclose(back, points[:, :2], atol=1e-4)


def test_large_crops_are_averaged_not_sampled():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[::2] = 200
    crop = cut(stripes, Square(199.5, 199.5, 320), 20)
    np.testing.assert_allclose(crop.pixels, 100, atol=3)


def test_crop_beyond_the_photo_repeats_its_edge(photo):
    crop = cut(photo, Square(0, 45, 60), 30)
    assert crop.pixels.shape == (30, 30, 3)
    np.testing.assert_allclose(crop.pixels[15, 0], crop.pixels[15, 5], atol=1)


def test_mirrored_crop_is_the_crop_of_the_mirrored_photo(photo):
    square = Square(47.2, 41.0, 44, 0.2)
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    np.testing.assert_allclose(
        cut_mirrored(photo, square, 44).astype(int), cut(mirrored, square, 44).pixels.astype(int), atol=2
    )


def test_mirroring_landmarks_twice_changes_nothing():
    landmarks = face_at((40, 40), 30, 0.1)
    assert sorted(MIRRORED) == list(range(NUM_LANDMARKS))
    assert MIRRORED[RIGHT_EYE_OUTER] == LEFT_EYE_OUTER
    np.testing.assert_allclose(mirror_landmarks(mirror_landmarks(landmarks, 120), 120), landmarks, atol=1e-4)
