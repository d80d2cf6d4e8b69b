"""Blinks from pixels: how much of what lies between the lids looks like the skin above them.

Landmarks of lids come from networks that have seen few closed eyes and hardly follow a blink; the pixels tell it.

Shape letters: T frames, H, W of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face import topology

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 36, 28
_CORNERS = ((topology.LEFT_EYE_UPPER[0], topology.LEFT_EYE_UPPER[-1]),
            (topology.RIGHT_EYE_UPPER[0], topology.RIGHT_EYE_UPPER[-1]))  # fmt: skip
_LIDS = ((topology.LEFT_EYE_UPPER, topology.LEFT_EYE_LOWER), (topology.RIGHT_EYE_UPPER, topology.RIGHT_EYE_LOWER))
_CORNER_X, _CORNER_Y = 6.0, 16.0  # where the corners lie in a patch, from its sides and from its top
_SKIN_ROWS = 5  # above the upper lid
_MIN_CONTRAST = 0.08  # of linear light between an eye's pixel and skin, below which the pixel tells nothing
_OPEN_QUANTILE = 0.6
# Share of skin-like pixels, above the usual, at which an eye is shut: this part of the largest in the video, within these
# bounds; and at which part of that share the lid begins to fall.
_SHUT_PART, _SHUT_LEAST, _SHUT_MOST = 0.85, 0.17, 0.5
_FALL_PART, _FALL_LEAST = 0.3, 0.1


def cut_eyes(pixels: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Both eyes of a frame, their corners always in the same places: (2, H, W, 3), the picture's left eye first."""
    size = (WIDTH, HEIGHT)
    patches = [cv2.warpAffine(pixels, _to_patch(landmarks, eye), size, flags=cv2.INTER_LINEAR) for eye in range(2)]
    return np.asarray(patches, np.uint8)


def lid_lines(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """Upper and lower lid of both eyes in the patches, (2, 2, 9, 2)."""
    lines = []
    for eye, lids in enumerate(_LIDS):
        matrix = _to_patch(landmarks, eye)
        lines.append([landmarks[list(lid), :2] @ matrix[:, :2].T + matrix[:, 2] for lid in lids])
    return np.asarray(lines, np.float32)


def _to_patch(landmarks: NDArray[np.floating], eye: int) -> NDArray[np.float64]:
    """(2, 3) from the frame to the patch."""
    a, b = (np.asarray(landmarks[corner, :2], np.float64) for corner in _CORNERS[eye])
    if a[0] > b[0]:
        a, b = b, a
    along = b - a
    scale = (WIDTH - 2 * _CORNER_X) / max(float(along @ along), 1e-6)
    cos, sin = scale * along
    linear = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([linear, np.array([_CORNER_X, _CORNER_Y]) - linear @ a])


def closure(patches: NDArray[np.uint8], lids: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each eye is closed, (T, 2), 0 as usual, 1 shut.

    Args:
        patches: (T, 2, H, W, 3), of `cut_eyes`.
        lids: (T, 2, 2, 9, 2), of `lid_lines`.
    """
    closed = [_closure_of_eye(patches[:, eye], np.median(lids[:, eye], axis=0)) for eye in range(2)]
    return np.stack(closed, axis=1).astype(np.float32)


def _closure_of_eye(patches: NDArray[np.uint8], lids: NDArray[np.float32]) -> NDArray[np.float64]:
    light = (patches.astype(np.float32) / 255) ** 2.2
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    upper, lower = lids
    cv2.fillPoly(inside, [np.round(np.concatenate([upper, lower[::-1]])).astype(np.int32)], 1)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    order = np.argsort(upper[:, 0])
    height = np.interp(np.arange(WIDTH), upper[order, 0], upper[order, 1])[columns]
    above = (
        (rows < height - 2) & (rows > height - 2 - _SKIN_ROWS) & (columns > _CORNER_X) & (columns < WIDTH - _CORNER_X)
    )
    skin = np.median(light[:, above], axis=1)  # (T, 3)
    relative = np.sqrt(light / np.maximum(skin[:, None, None], 1e-3))  # skin is 1 in any light
    usual = np.median(relative, axis=0)
    contrast = np.linalg.norm(usual - 1, axis=-1)
    telling = (inside > 0) & (contrast > _MIN_CONTRAST)
    if not telling.any():
        return np.zeros(len(patches))
    away = np.linalg.norm(relative - 1, axis=-1)[:, telling]
    share = np.clip(1 - away / contrast[telling], 0, 1) @ contrast[telling] / contrast[telling].sum()
    share -= np.quantile(share, _OPEN_QUANTILE)
    shut = np.clip(_SHUT_PART * share.max(), _SHUT_LEAST, _SHUT_MOST)
    fall = max(_FALL_PART * shut, _FALL_LEAST)
    return np.clip((share - fall) / (shut - fall), 0, 1)
