"""The published crop around a face and the way back into the photo.

Points are (N, 2) in photo pixels, x right, y down. Matrices are (2, 3) or (3, 3) on columns (x, y, 1).

Source: docs/moda.md, "Crop".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.errors import FaceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Number of landmarks -> points of the picture's left eye, right eye and the lips, whose means carry the crop.
_REFERENCE_POINTS = {
    203: ((0, 6, 12, 18), (24, 30, 36, 42), (48, 66)),
    106: ((33, 35, 40, 39), (87, 89, 94, 93), (52, 61)),
    101: ((39, 42, 45, 48), (51, 54, 57, 60), (75, 81)),
    68: ((36, 39), (42, 45), (48, 54)),
    5: ((0,), (1,), (3, 4)),
    9: ((2, 3), (0, 1), (5, 6)),  # animals
    # MediaPipe's topology, ours: eye corners and lids; corners of the lips.
    478: ((33, 160, 133, 144), (362, 385, 263, 380), (61, 291)),
}
# Number of landmarks -> lid to lid over corner to corner of the picture's left and right eye, and the same of the lips.
_OPENINGS = {
    203: (((6, 18), (0, 12)), ((30, 42), (24, 36)), ((90, 102), (48, 66))),
    478: (((159, 145), (33, 133)), ((386, 374), (362, 263)), ((13, 14), (61, 291))),
}
OPENING_LANDMARKS = tuple(_OPENINGS)
_MASK_MARGIN_PX = 16  # of a 512-pixel crop


@dataclass(frozen=True)
class CropRule:
    """How far a crop reaches around the landmarks."""

    size_px: int
    scale: float  # side in units of the longer side of the landmarks' upright box
    shift_x: float = 0.0  # of the centre, in sides
    shift_y: float = 0.0  # negative is up
    turned: bool = True  # with the head; otherwise upright, though placed and sized as if turned


SOURCE = CropRule(512, 2.3, shift_y=-0.125)
LANDMARK_NETWORK = CropRule(224, 1.5, shift_y=-0.1)
DRIVING = CropRule(512, 2.2, shift_y=-0.1, turned=False)


@dataclass(frozen=True, eq=False)
class CropGeometry:
    """A square of a photo."""

    centre: NDArray[np.float64]  # (2,), photo pixels
    side_px: float
    angle_rad: float  # of the crop's x axis, clockwise as seen
    size_px: int  # of the crop

    @property
    def photo_to_crop(self) -> NDArray[np.float32]:
        """(2, 3)."""
        k = self.size_px / self.side_px
        cos, sin = k * np.cos(self.angle_rad), k * np.sin(self.angle_rad)
        linear = np.array([[cos, sin], [-sin, cos]])
        offset = self.size_px / 2 - linear @ self.centre
        return np.column_stack([linear, offset]).astype(np.float32)

    @property
    def crop_to_photo(self) -> NDArray[np.float32]:
        """(3, 3)."""
        whole = np.vstack([self.photo_to_crop, [0, 0, 1]]).astype(np.float32)
        return np.asarray(np.linalg.inv(whole), np.float32)

    @property
    def corners(self) -> NDArray[np.float64]:
        """(4, 2): the picture's top left, top right, bottom right, bottom left."""
        half = self.side_px / 2
        across = half * np.array([np.cos(self.angle_rad), np.sin(self.angle_rad)])
        down = half * np.array([-np.sin(self.angle_rad), np.cos(self.angle_rad)])
        return self.centre + np.array([-across - down, across - down, across + down, down - across])


def face_square(points: NDArray[np.floating], rule: CropRule) -> CropGeometry:
    """The square that a rule puts around landmarks.

    Raises:
        FaceError: the number of landmarks is none that is known.
    """
    points = np.asarray(points, np.float64)[:, :2]
    axes = np.stack(_face_axes(points))
    mean = points.mean(0)
    upright = (points - mean) @ axes.T
    low, high = upright.min(0), upright.max(0)
    side = float((high - low).max()) * rule.scale
    centre = mean + ((low + high) / 2 + side * np.array([rule.shift_x, rule.shift_y])) @ axes
    angle = float(np.arctan2(axes[0, 1], axes[0, 0])) if rule.turned else 0.0
    return CropGeometry(centre, side, angle, rule.size_px)


def _face_axes(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors across and down the face."""
    if len(points) not in _REFERENCE_POINTS:
        known = ", ".join(str(number) for number in sorted(_REFERENCE_POINTS))
        raise FaceError(f"a crop was asked for around {len(points)} landmarks; give one of {known}")
    left, right, lips = (points[list(indices)].mean(0) for indices in _REFERENCE_POINTS[len(points)])
    down = lips - (left + right) / 2
    length = float(np.linalg.norm(down))
    down = np.array([0.0, 1.0]) if length < 1e-3 else down / length
    return np.array([down[1], -down[0]]), down


def mean_square(landmarks: NDArray[np.floating], rule: CropRule = DRIVING) -> CropGeometry:
    """One square for all frames of a video, from the landmarks of each (T, N, 2 or 3)."""
    squares = [face_square(points, rule) for points in landmarks]
    centre = np.mean([square.centre for square in squares], axis=0)
    return CropGeometry(centre, float(np.mean([square.side_px for square in squares])), 0.0, rule.size_px)


def face_crop(photo: NDArray[np.uint8], square: CropGeometry, size: int = 256) -> NDArray[np.uint8]:
    """The square of a photo averaged down to `size`, (size, size, 3)."""
    return np.asarray(cv2.resize(cut(photo, square), (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def cut(photo: NDArray[np.uint8], square: CropGeometry) -> NDArray[np.uint8]:
    """The square of a photo, black outside: (size, size, 3)."""
    size = (square.size_px, square.size_px)
    return np.asarray(cv2.warpAffine(photo, square.photo_to_crop, size, flags=cv2.INTER_LINEAR), np.uint8)


def network_input(crop: NDArray[np.uint8], size: int = 256) -> NDArray[np.float32]:
    """A crop (S, S, 3) averaged down to `size`, in [0, 1], (3, size, size)."""
    small = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255))


def paste_mask(size: int = 512) -> NDArray[np.float32]:
    """Weight of a crop's pixels, (size, size): 1, falling to 0 over the 16 pixels at the border of a crop of 512."""
    margin = _MASK_MARGIN_PX * size / 512
    places = np.arange(size)
    outside = np.maximum(np.maximum(margin - places, places - (size - margin)), 0)
    distance = np.hypot(outside[:, None], outside[None, :])
    return np.asarray(np.floor(255 * np.maximum(0, 1 - distance / margin)) / 255, np.float32)


def paste_back(
    photo: NDArray[np.uint8], crop: NDArray[np.uint8], crop_to_photo: NDArray[np.floating], mask: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """The photo with a crop laid over it.

    Only the part of the photo under the crop is worked on.

    Args:
        photo: (H, W, 3).
        crop: (S, S, 3).
        crop_to_photo: (2 or 3, 3).
        mask: (S, S), weight of the crop.
    """
    to_photo = np.asarray(crop_to_photo, np.float64)[:2]
    left, top, right, bottom = _covered_box(crop.shape[0], to_photo, photo.shape[:2])
    result = photo.copy()
    if right <= left or bottom <= top:
        return result
    to_window = to_photo - [[0, 0, left], [0, 0, top]]
    window = result[top:bottom, left:right]
    size = (right - left, bottom - top)
    moved = cv2.warpAffine(crop, to_window, size, flags=cv2.INTER_LINEAR).astype(np.float32)
    weight = np.asarray(cv2.warpAffine(mask.astype(np.float32), to_window, size, flags=cv2.INTER_LINEAR))[..., None]
    window[:] = np.clip(weight * moved + (1 - weight) * window, 0, 255).astype(np.uint8)
    return result


def _covered_box(size: int, to_photo: NDArray[np.float64], photo_size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of the photo's pixels that the crop can touch."""
    edge = np.array([[-1, -1, 1], [size, -1, 1], [-1, size, 1], [size, size, 1]], np.float64)
    reached = edge @ to_photo.T
    low = np.maximum(np.floor(reached.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(reached.max(0)).astype(int) + 1, [photo_size[1], photo_size[0]])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def openings(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """How open the picture's left eye, its right eye and the lips are, (3,): gap over width, of 203 or 478 landmarks.

    Raises:
        FaceError: another number of landmarks.
    """
    if len(points) not in _OPENINGS:
        raise FaceError(f"{len(points)} landmarks do not tell how open eyes and lips are; give 203 or 478")
    points = np.asarray(points, np.float64)[:, :2]

    def distance(pair: tuple[int, int]) -> float:
        return float(np.linalg.norm(points[pair[0]] - points[pair[1]]))

    return np.array([distance(gap) / (distance(width) + 1e-6) for gap, width in _OPENINGS[len(points)]])


def eye_ratios(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """How open the picture's left and right eye are, (2,)."""
    return openings(points)[:2]


def lip_ratio(points: NDArray[np.floating]) -> float:
    """How open the lips are."""
    return float(openings(points)[2])
