"""Teeth and lips told apart by colour, and the inner lip border moved to where the photo shows it.

Landmarkers place the inner lip border within a pixel or two; that is enough to leave a rim of teeth on a moving lip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face import topology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

INTEROCULAR_MM = 90.0  # between the outer eye corners; what millimetres mean here
# The landmarker's rings next to the inner border, same order as topology.LIPS_INNER_*.
_NEXT_UPPER = (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292)
_NEXT_LOWER = (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292)
_MIN_REDNESS = 7.0  # a* by which lips must differ from teeth to be told apart by colour; grey photos do not
_REACH_MM, _STEP_MM = 2.25, 0.25


def polygon_mask(ring_px: NDArray, width: int, height: int) -> NDArray[np.float32]:
    """Anti-aliased inside of a ring of points, 0..1, (height, width)."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(ring_px * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
    return mask.astype(np.float32) / np.float32(255)


def crop_round(pixels: NDArray, points: NDArray, margin_px: float) -> tuple[NDArray, NDArray[np.int64]]:
    """The part of a picture round points (N, 2), at least one pixel of it, and the place of its upper left corner."""
    height, width = pixels.shape[:2]
    left, top = np.clip(np.floor(points.min(0) - margin_px), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0) + margin_px) + 1, (left + 1, top + 1), (width, height)).astype(int)
    return pixels[top:bottom, left:right], np.array([left, top])


def lip_ring(landmarks: NDArray, upper: Sequence[int], lower: Sequence[int]) -> NDArray:
    """Closed ring (N, 2) of an upper and a lower border that share their corners."""
    return landmarks[[*upper, *lower[::-1][1:-1]], :2]


def lightness_and_redness(pixels: NDArray) -> tuple[NDArray, NDArray]:
    """L* (0..100) and a* of RGB pixels in 0..255."""
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab[..., 0], lab[..., 1]


def tooth_certainty(
    lightness: NDArray, redness: NDArray, core: NDArray, px_per_mm: float, lip: NDArray
) -> NDArray[np.float32] | None:
    """How surely each pixel is a tooth: bright for its column, and less red than the lips.

    Args:
        lightness: L*, (H, W).
        redness: a*, (H, W).
        core: (H, W), True between the lips.
        px_per_mm: size of a millimetre at the mouth.
        lip: (3,) RGB of the lips, 0..255.

    Returns:
        (H, W) in 0..1, or None when nothing between the lips can be told from them.
    """
    top = float(np.percentile(lightness[core], 90))
    bright = core & (lightness >= np.percentile(lightness[core], 55))
    tooth_redness = float(np.percentile(redness[bright], 30))
    lip_lightness, lip_redness = (float(plane[0, 0]) for plane in lightness_and_redness(lip.reshape(1, 1, 3)))
    columns = np.flatnonzero(core.any(axis=0))
    level = np.array([np.percentile(lightness[core[:, column], column], 85) for column in columns], np.float32)
    level = cv2.GaussianBlur(level[None], (0, 0), 3 * px_per_mm, borderType=cv2.BORDER_REPLICATE)[0]
    level = np.interp(np.arange(lightness.shape[1]), columns, np.maximum(level, 0.45 * top))
    certainty = (lightness / level - 0.58) / 0.16
    distance = lip_redness - tooth_redness
    if distance > _MIN_REDNESS:
        certainty = np.minimum(certainty, (tooth_redness + 0.7 * distance - redness) / (0.3 * distance))
    elif top < lip_lightness + 8:
        return None
    return np.clip(certainty, 0, 1).astype(np.float32)


def refine_inner_lips(pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Landmarks whose inner lip border lies where teeth or darkness begin.

    Args:
        pixels: the photo, RGB (H, W, 3).
        landmarks: (478, 3) in its pixels.

    Returns:
        A copy, (478, 3); the same numbers when the lips are closed or cannot be told from what is between them.
    """
    refined = np.array(landmarks, np.float32)
    unit = float(np.linalg.norm(landmarks[topology.RIGHT_EYE_OUTER, :2] - landmarks[topology.LEFT_EYE_OUTER, :2]))
    per_mm = unit / INTEROCULAR_MM
    upper, lower = (refined[list(edge), :2] for edge in (topology.LIPS_INNER_UPPER, topology.LIPS_INNER_LOWER))
    across = (upper[-1] - upper[0]) / max(float(np.linalg.norm(upper[-1] - upper[0])), 1e-6)
    down = np.array([-across[1], across[0]])
    if float(((lower - upper) @ down).max()) < 2.0 * per_mm:
        return refined
    outer = lip_ring(landmarks, topology.LIPS_OUTER_UPPER, topology.LIPS_OUTER_LOWER)
    crop, corner = crop_round(pixels, outer, 4 * per_mm)
    evidence = _between_lips(crop, landmarks[:, :2] - corner, per_mm)
    if evidence is None:
        return refined
    for edge, following, inwards in (
        (topology.LIPS_INNER_UPPER, _NEXT_UPPER, down),
        (topology.LIPS_INNER_LOWER, _NEXT_LOWER, -down),
    ):
        points = refined[list(edge), :2] - corner
        shift = _border_shift(evidence, points, inwards, across, per_mm)[:, None] * inwards
        refined[list(edge[1:-1]), :2] += shift[1:-1].astype(np.float32)
        refined[list(following[1:-1]), :2] += 0.5 * shift[1:-1].astype(np.float32)
    return refined


def _between_lips(pixels: NDArray, points: NDArray, per_mm: float) -> NDArray[np.float32] | None:
    """How surely each pixel shows teeth or darkness rather than lip, (H, W)."""
    size = (pixels.shape[1], pixels.shape[0])
    core = polygon_mask(lip_ring(points, topology.LIPS_INNER_UPPER, topology.LIPS_INNER_LOWER), *size) > 0.5
    lips = polygon_mask(lip_ring(points, topology.LIPS_OUTER_UPPER, topology.LIPS_OUTER_LOWER), *size) > 0.5
    lips &= ~cv2.dilate(core.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    if core.sum() < 20 or lips.sum() < 20:
        return None
    lightness, redness = lightness_and_redness(pixels)
    if np.median(redness[lips]) - np.percentile(redness[core], 30) < _MIN_REDNESS:
        return None
    teeth = tooth_certainty(lightness, redness, core, per_mm, np.median(pixels[lips], axis=0))
    lip_lightness = float(np.median(lightness[lips]))
    dark = np.clip((0.55 * lip_lightness - lightness) / (0.15 * lip_lightness), 0, 1).astype(np.float32)
    return dark if teeth is None else np.maximum(dark, teeth)


def _border_shift(
    evidence: NDArray[np.float32], points: NDArray, inwards: NDArray, across: NDArray, per_mm: float
) -> NDArray[np.float64]:
    """How far each point (S, 2) should move inwards, in pixels (S,): the best step in the evidence across the border."""
    depths = np.arange(-_REACH_MM, _REACH_MM + 1e-6, _STEP_MM)
    sideways = np.linspace(-1.0, 1.0, 5)
    where = (
        points[:, None, None] + per_mm * (depths[None, :, None, None] * inwards + sideways[:, None] * across)
    ).astype(np.float32)
    flat = where.reshape(len(points), -1, 2)
    profile = cv2.remap(evidence, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR).reshape(where.shape[:3]).mean(axis=2)
    outside = np.concatenate([np.zeros((len(points), 1)), np.cumsum(profile, axis=1)], axis=1)
    inside = np.cumsum((1 - profile)[:, ::-1], axis=1)[:, ::-1]
    inside = np.concatenate([inside, np.zeros((len(points), 1))], axis=1)
    borders = np.concatenate([depths - _STEP_MM / 2, [depths[-1] + _STEP_MM / 2]])
    cost = outside + inside + 0.12 * borders**2
    best = cost.argmin(axis=1)
    sure = cost[np.arange(len(points)), best] < 0.3 * len(depths)
    shift = np.where(sure, borders[best], 0.0)
    smooth = np.convolve(np.pad(shift, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    from_corner = np.minimum(np.arange(len(points)), np.arange(len(points))[::-1])
    return np.clip(smooth, -2.0, 2.0) * np.minimum(from_corner / 3, 1) * per_mm
