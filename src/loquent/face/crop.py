"""Square face crops that follow the face's size and roll, and pasting them back into the photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.errors import PhotoError
from loquent.face.topology import LEFT_EYE_OUTER, MIRRORED, RIGHT_EYE_OUTER

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_MARGIN = 1.75  # side of `head_square` in units of the landmarks' box


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A square cut out of a photo, and the way back."""

    pixels: NDArray[np.uint8]  # RGB, (S, S, 3)
    crop_to_photo: NDArray[np.float64]  # (2, 3): maps crop (x, y, 1) to photo pixels, pixel centres at integers


@dataclass(frozen=True)
class Square:
    """A square region of a photo, turned with the head."""

    centre_x: float  # photo pixels
    centre_y: float
    side_px: float
    roll_rad: float = 0.0  # > 0: the top leans to the picture's right

    def crop_to_photo(self, size: int) -> NDArray[np.float64]:
        """(2, 3) matrix from pixels of a crop of `size` x `size` to photo pixels."""
        scale = self.side_px / size
        cos, sin = scale * np.cos(self.roll_rad), scale * np.sin(self.roll_rad)
        linear = np.array([[cos, -sin], [sin, cos]])
        middle = (size - 1) / 2
        offset = np.array([self.centre_x, self.centre_y]) - linear @ [middle, middle]
        return np.column_stack([linear, offset])

    def from_photo(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Photo pixels (P, 3) -> sides of the square, the origin in its middle."""
        upright = (points[:, :2] - [self.centre_x, self.centre_y]) @ self._turn()
        return (np.column_stack([upright, points[:, 2]]) / self.side_px).astype(np.float32)

    def to_photo(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Inverse of `from_photo`."""
        scaled = points * self.side_px
        flat = scaled[:, :2] @ self._turn().T + [self.centre_x, self.centre_y]
        return np.column_stack([flat, scaled[:, 2]]).astype(np.float32)

    def _turn(self) -> NDArray[np.float64]:
        cos, sin = np.cos(self.roll_rad), np.sin(self.roll_rad)
        return np.array([[cos, -sin], [sin, cos]])


def eye_roll(landmarks: NDArray[np.floating]) -> float:
    """Angle of the line through the outer eye corners, radians; > 0: the head leans to the picture's right."""
    across = landmarks[LEFT_EYE_OUTER, :2] - landmarks[RIGHT_EYE_OUTER, :2]
    return float(np.arctan2(across[1], across[0]))


def mirror_landmarks(landmarks: NDArray[np.float32], width_px: int) -> NDArray[np.float32]:
    """Landmarks (478, 3) in the mirrored picture, renumbered so that left stays the person's left."""
    mirrored = landmarks[list(MIRRORED)]
    mirrored[:, 0] = width_px - 1 - mirrored[:, 0]
    return mirrored


def square_around(
    landmarks: NDArray[np.floating], margin: float, roll_rad: float | None = None, points: list[int] | None = None
) -> Square:
    """The square that holds the landmarks.

    Args:
        landmarks: (N, 2 or 3), photo pixels.
        margin: side of the square in units of the longer side of the landmarks' box.
        roll_rad: None takes the roll of the eyes.
        points: indices that the square is built on; None takes all.
    """
    roll = eye_roll(landmarks) if roll_rad is None else roll_rad
    chosen = landmarks[:, :2] if points is None else landmarks[points, :2]
    rotation = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    upright = chosen @ rotation.T
    low, high = upright.min(0), upright.max(0)
    centre = rotation.T @ ((low + high) / 2)
    return Square(float(centre[0]), float(centre[1]), float((high - low).max()) * margin, roll)


def head_square(landmarks: NDArray[np.floating], margin: float = HEAD_MARGIN) -> Square:
    """The upright square of head and shoulders that the video systems draw: the landmarks' box, brow to chin, is 57 %
    of its side and in its middle."""
    return square_around(landmarks, margin, roll_rad=0.0)


def cut(photo: NDArray[np.uint8], square: Square, size: int) -> FaceCrop:
    """Resamples the square to `size` x `size` pixels; outside the photo its edge pixels go on."""
    crop_to_photo = square.crop_to_photo(size)
    shrink = square.side_px / size
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    source, crop_to_source = photo, crop_to_photo
    if shrink > 1.5:  # averages first, so that no source pixel is passed over
        source, crop_to_source = _shrink_window(photo, crop_to_photo, size, shrink)
    pixels = cv2.warpAffine(source, crop_to_source, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return FaceCrop(np.asarray(pixels, np.uint8), crop_to_photo)


def cut_mirrored(photo: NDArray[np.uint8], square: Square, size: int) -> NDArray[np.uint8]:
    """What `cut` would give for the photo seen in a mirror, the square being in the mirror's coordinates."""
    width = photo.shape[1]
    in_photo = Square(width - 1 - square.centre_x, square.centre_y, square.side_px, -square.roll_rad)
    return np.ascontiguousarray(cut(photo, in_photo, size).pixels[:, ::-1])


def paste_back(
    photo: NDArray[np.uint8],
    crop: NDArray[np.uint8],
    crop_to_photo: NDArray[np.floating],
    mask: NDArray[np.floating],
) -> NDArray[np.uint8]:
    """The photo with the changed part of a crop put back.

    Pixels of the photo where the mask is 0, or which lie outside the crop, stay exactly as they are.

    Args:
        photo: RGB, (H, W, 3).
        crop: RGB, (S, S, 3).
        crop_to_photo: (2, 3), as in `FaceCrop`.
        mask: (S, S), 0 keeps the photo, 1 takes the crop; soft edges leave no seam.

    Raises:
        PhotoError: the mask does not fit the crop.
    """
    if mask.shape != crop.shape[:2]:
        raise PhotoError(f"the mask is {mask.shape}, the crop {crop.shape[:2]}; both must be equal")
    left, top, right, bottom = _covered_box(crop.shape[0], crop_to_photo, photo.shape[:2])
    if right <= left or bottom <= top:
        return photo.copy()
    to_window = crop_to_photo - np.array([[0, 0, left], [0, 0, top]])
    window_size = (right - left, bottom - top)
    moved = cv2.warpAffine(crop, to_window, window_size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask.astype(np.float32), to_window, window_size, flags=cv2.INTER_LINEAR)[..., None]
    result = photo.copy()
    window = result[top:bottom, left:right]
    blended = np.rint(window + weight * (moved.astype(np.float32) - window)).astype(np.uint8)
    np.copyto(window, blended, where=weight > 0)
    return result


def _shrink_window(
    photo: NDArray[np.uint8], crop_to_photo: NDArray[np.float64], size: int, shrink: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of the photo under a crop, made smaller by about `shrink`, and the matrix from crop to it."""
    left, top, right, bottom = _covered_box(size, crop_to_photo, photo.shape[:2])
    left, top = min(left, photo.shape[1] - 1), min(top, photo.shape[0] - 1)
    window = photo[top : max(bottom, top + 1), left : max(right, left + 1)]
    width, height = max(1, round(window.shape[1] / shrink)), max(1, round(window.shape[0] / shrink))
    scale = np.array([width / window.shape[1], height / window.shape[0]])
    to_window = crop_to_photo - np.array([[0, 0, left], [0, 0, top]])
    to_small = to_window * scale[:, None]
    to_small[:, 2] += 0.5 * scale - 0.5  # pixel centres at integers in both
    return np.asarray(cv2.resize(window, (width, height), interpolation=cv2.INTER_AREA), np.uint8), to_small


def _covered_box(
    size: int, crop_to_photo: NDArray[np.floating], photo_size: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of the photo's pixels that the crop can touch."""
    edge = np.array([[-1, -1, 1], [size, -1, 1], [-1, size, 1], [size, size, 1]], np.float64)
    corners = edge @ crop_to_photo.T
    low = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [photo_size[1], photo_size[0]])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
