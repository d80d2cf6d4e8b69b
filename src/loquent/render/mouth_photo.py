"""What the photo tells about the mouth's inside: colours, light, sharpness, and the teeth that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face import topology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LUMA = np.array([0.299, 0.587, 0.114])
LEFT_CHEEK, RIGHT_CHEEK = (50, 205, 187, 117, 101, 207), (280, 425, 411, 346, 330, 427)  # as seen in the picture

# Tooth colour from (skin RGB, eye white RGB, 1): least squares over the portraits of the training split whose smile
# shows teeth (494 of them; on the 74 of the test split the luminance errs by 18.6 of 255, against 28.4 for the mean).
TOOTH_FROM_SKIN_AND_EYE = np.array(
    [
        [0.499, 0.240, 0.128],
        [0.092, 0.392, 0.459],
        [-0.028, -0.040, 0.000],
        [0.067, -0.223, -0.162],
        [0.379, 0.520, -0.391],
        [-0.202, -0.058, 0.803],
        [44.717, 39.979, 38.550],
    ]
)


@dataclass(frozen=True, eq=False)
class Appearance:
    """Colours (RGB, 0..255) and light near the mouth."""

    tooth: NDArray[np.float64]
    lip: NDArray[np.float64]
    skin: NDArray[np.float64]
    light_right: float  # -1..1: how much brighter the picture's right cheek is than the left
    blur_px: float  # standard deviation of the photo's own softness, in photo pixels


def measure(pixels: NDArray[np.uint8], landmarks: NDArray) -> Appearance:
    """Looks at cheeks, lips and eye whites of one face; `landmarks` are (478, 3) in pixels of `pixels`."""
    points = landmarks[:, :2]
    reach = max(1, round(0.03 * float(np.linalg.norm(points[33] - points[263]))))
    left, right = _patch_colour(pixels, points, LEFT_CHEEK, reach), _patch_colour(pixels, points, RIGHT_CHEEK, reach)
    skin = (left + right) / 2
    lips_ring = _polygon(pixels, points, topology.LIPS_OUTER_UPPER, topology.LIPS_OUTER_LOWER)
    lips_ring &= ~_polygon(pixels, points, topology.LIPS_INNER_UPPER, topology.LIPS_INNER_LOWER)
    lip = np.median(pixels[lips_ring], axis=0) if lips_ring.any() else skin * (0.9, 0.75, 0.75)
    eye_white = _eye_white(pixels, points, skin)
    tooth = np.concatenate([skin, eye_white, [1.0]]) @ TOOTH_FROM_SKIN_AND_EYE
    bright_left, bright_right = left @ LUMA, right @ LUMA
    return Appearance(
        tooth=tooth.clip(20, 245),
        lip=lip,
        skin=skin,
        light_right=float((bright_right - bright_left) / max(bright_right + bright_left, 1.0)),
        blur_px=_softness(pixels, points),
    )


def _patch_colour(pixels: NDArray, points: NDArray, indices: Sequence[int], reach: int) -> NDArray[np.float64]:
    height, width = pixels.shape[:2]
    x = points[list(indices), 0].round().astype(int).clip(0, width - 1)
    y = points[list(indices), 1].round().astype(int).clip(0, height - 1)
    patches = [
        np.median(pixels[max(b - reach, 0) : b + reach + 1, max(a - reach, 0) : a + reach + 1], axis=(0, 1))
        for a, b in zip(x, y, strict=True)
    ]
    return np.median(patches, axis=0)


def _polygon(pixels: NDArray, points: NDArray, upper: Sequence[int], lower: Sequence[int]) -> NDArray[np.bool_]:
    mask = np.zeros(pixels.shape[:2], np.uint8)
    ring = points[[*upper, *lower[::-1][1:-1]]]
    cv2.fillPoly(mask, [np.round(ring * 16).astype(np.int32)], (255,), shift=4)
    return mask > 127


def _eye_white(pixels: NDArray, points: NDArray, skin: NDArray) -> NDArray[np.float64]:
    """Mean colour of the brighter part of both eyes' whites."""
    found = []
    for upper, lower, iris in (
        (topology.RIGHT_EYE_UPPER, topology.RIGHT_EYE_LOWER, topology.RIGHT_IRIS),
        (topology.LEFT_EYE_UPPER, topology.LEFT_EYE_LOWER, topology.LEFT_IRIS),
    ):
        white = _polygon(pixels, points, upper, lower)
        rim = 1.15 * float(np.linalg.norm(points[iris[1]] - points[iris[3]])) / 2
        cv2.circle(shown := white.astype(np.uint8), points[iris[0]].round().astype(int).tolist(), round(rim), (0,), -1)
        found.append(pixels[shown > 0])
    colours = np.concatenate(found).astype(np.float64)
    if len(colours) < 4:
        return skin * (0.85, 0.93, 0.98)  # the portraits' mean ratio
    luma = colours @ LUMA
    return colours[luma >= np.percentile(luma, 60)].mean(axis=0)


def _softness(pixels: NDArray, points: NDArray) -> float:
    """Standard deviation, in pixels, of the blur that would make the sharpest edges round the eyes as they are."""
    box = points[[*topology.EYELIDS, *topology.LIPS]]
    low, high = np.floor(box.min(0)).astype(int).clip(0), np.ceil(box.max(0)).astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[low[1] : high[1], low[0] : high[0]]), cv2.COLOR_RGB2GRAY)
    grey = grey.astype(np.float32)
    if min(grey.shape) < 8:
        return 0.7
    slope = cv2.magnitude(cv2.Sobel(grey, -1, 1, 0, scale=0.125), cv2.Sobel(grey, -1, 0, 1, scale=0.125))
    size = max(3, 2 * round(0.04 * grey.shape[1]) + 1)
    contrast = cv2.dilate(grey, np.ones((size, size))) - cv2.erode(grey, np.ones((size, size)))
    strong = slope >= np.percentile(slope, 98)
    return float(np.clip(np.median(contrast[strong] / np.maximum(slope[strong], 1.0)) / np.sqrt(2 * np.pi), 0.5, 6.0))
