"""Pictures that condition the video network: dots for landmarks, frames without their lower part, squares.

Shape letters: T frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from loquent.models.moditalker.landmarks import NOSE_BASE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_DISC_HALF_WIDTHS = (0, 2, 2, 3, 2, 2, 0)  # of the rows of a disc of radius 3
_DISC = np.array(
    [(dx, row - 3) for row, half in enumerate(_DISC_HALF_WIDTHS) for dx in range(-half, half + 1)]
)  # (29, 2)


def draw_dots(landmarks_px: NDArray, side_px: int, size_px: int = 256) -> NDArray[np.uint8]:
    """White discs on black, (T, size, size), for landmarks (T, K, 2) of a square picture of `side_px`.

    Coordinates are cut to whole pixels before and after scaling, as published. Discs outside the picture are cut off.
    """
    pixels = np.trunc(np.trunc(landmarks_px[..., :2]) / side_px * size_px).astype(np.int64)
    pictures = np.zeros((len(pixels), size_px, size_px), np.uint8)
    x, y = np.moveaxis(pixels[:, :, None] + _DISC, -1, 0)  # (T, K, 29) each
    frame = np.broadcast_to(np.arange(len(pixels))[:, None, None], x.shape)
    inside = (x >= 0) & (x < size_px) & (y >= 0) & (y < size_px)
    pictures[frame[inside], y[inside], x[inside]] = 255
    return pictures


def hide_lower_face(frames: Tensor, landmarks_px: NDArray) -> Tensor:
    """Blackens the rows from the base of the nose on: (T, 3, H, W) of 0..255, landmarks (T, 68, 2) in its pixels.

    Values are cut to whole numbers, as published.
    """
    shown = frames.trunc()
    for frame, landmarks in zip(shown, landmarks_px, strict=True):
        frame[:, max(int(landmarks[NOSE_BASE, 1]), 0) :] = 0
    return shown


def to_square(frames: Tensor, size_px: int) -> Tensor:
    """The middle square of frames (T, 3, H, W), brought to `size_px` without smoothing: (T, 3, size, size)."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = frames[..., top : top + side, left : left + side]
    return F.interpolate(middle.float(), size=(size_px, size_px), mode="bilinear", align_corners=False)


def to_clip(pictures: Tensor) -> Tensor:
    """Pictures (T, 3, H, W) of 0..255 as the autoencoders read them: (3, T, H, W) in [−1, 1]."""
    return (pictures.float() / 127.5 - 1).movedim(0, 1)


def dots_to_clip(dots: NDArray[np.uint8]) -> Tensor:
    """Dot pictures (T, H, W) as the landmark autoencoder reads them: (3, T, H, W) of −1 and 1."""
    return to_clip(torch.from_numpy(dots)[:, None].expand(-1, 3, -1, -1))
