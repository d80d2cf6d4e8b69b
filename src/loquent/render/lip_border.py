"""Where the red of a lip really ends in the photo: landmarks miss it by a pixel or two, and a rim of teeth shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.topology import LIPS_INNER_LOWER, LIPS_INNER_UPPER
from loquent.motion.face_model import LIP_RING2_LOWER, LIP_RING2_UPPER, LIP_RING3_LOWER, LIP_RING3_UPPER
from loquent.render.aperture import dense_edge

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Shape letters: S stations along a lip, D depths into it.

_DEPTHS = np.linspace(-0.02, 0.03, 21)  # where the border is searched: from in the mouth into the lip, in unit_px
_SPREAD = np.array([12.0, 5.0, 5.0])  # of a lip's or tooth's colour in Lab
_HOLD = 2.0  # cost of a border away from the landmarks, at a depth of 0.02
_BEND = 1.2  # cost of a step in depth between neighbouring stations


def lip_border_depths(
    pixels: NDArray[np.uint8], landmarks: NDArray[np.float32], unit_px: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far beyond the landmarks' inner border the red of each lip begins, in pixels, never negative.

    Args:
        pixels: RGB, (H, W, 3), of a mouth that is open.
        landmarks: (478, 3).
        unit_px: interocular distance.

    Returns:
        For the upper and the lower lip, (S,) depths at stations spread evenly from corner to corner.
    """
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float32)
    points = landmarks[:, :2]
    upper, lower = dense_edge(points[list(LIPS_INNER_UPPER)]), dense_edge(points[list(LIPS_INNER_LOWER)])
    across = upper[-1] - upper[0]
    down = np.array([-across[1], across[0]]) / np.linalg.norm(across)
    shares = np.linspace(0.2, 0.8, 5)[:, None, None]
    kinds = _kinds(_sample(lab, upper + shares * (lower - upper)).reshape(-1, 3))
    place = np.linspace(0, 1, len(upper))
    corners = np.clip(np.minimum(place, 1 - place) / 0.3, 0, 1)  # there lips and darkness are hard to tell apart
    depths = []
    rings = ((upper, -1.0, LIP_RING2_UPPER, LIP_RING3_UPPER), (lower, 1.0, LIP_RING2_LOWER, LIP_RING3_LOWER))
    for edge, outwards, *lip_rings in rings:
        lip = np.mean([_sample(lab, dense_edge(points[list(ring)])) for ring in lip_rings], axis=0)  # (S, 3)
        lip = cv2.GaussianBlur(lip[:, None], (1, 9), 0)[:, 0]
        places = edge[:, None] + (_DEPTHS * unit_px * outwards)[:, None] * down  # (S, D, 2)
        colours = _sample(lab, places)
        from_lip = (((colours - lip[:, None]) / _SPREAD) ** 2).sum(-1)
        from_inside = (((colours[:, :, None] - kinds) / _SPREAD) ** 2).sum(-1).min(-1)
        chosen = _smoothest_border(np.clip(from_inside - from_lip, -4, 4))
        depth = cv2.GaussianBlur(_DEPTHS[chosen][:, None], (1, 5), 0)[:, 0] * unit_px
        depths.append((np.maximum(depth, 0) * corners).astype(np.float32))
    return depths[0], depths[1]


def _sample(picture: NDArray[np.float32], points: NDArray) -> NDArray[np.float32]:
    """Colours at points (..., 2)."""
    flat = np.asarray(points, np.float32).reshape(1, -1, 2)
    found = cv2.remap(picture, flat, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(*points.shape[:-1], picture.shape[2])


def _kinds(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Three typical colours of what is between the lips: teeth, gums, darkness."""
    cv2.setRNGSeed(1)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.1)
    no_labels = np.zeros((len(colours), 1), np.int32)
    return cv2.kmeans(colours, 3, no_labels, criteria, 2, cv2.KMEANS_PP_CENTERS)[2]


def _smoothest_border(lip_evidence: NDArray) -> NDArray[np.intp]:
    """(S,) index of the depth at which lip begins, by dynamic programming along the lip; evidence is (S, D)."""
    before = np.cumsum(lip_evidence, axis=1) - lip_evidence
    gain = lip_evidence.sum(1, keepdims=True) - 2 * before - _HOLD * (_DEPTHS / 0.02) ** 2
    bend = _BEND * np.abs(np.arange(len(_DEPTHS))[:, None] - np.arange(len(_DEPTHS)))
    best, back = gain[0], []
    for row in gain[1:]:
        total = best[None] - bend
        back.append(total.argmax(1))
        best = row + total.max(1)
    path = [int(best.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return np.array(path[::-1])
