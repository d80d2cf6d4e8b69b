"""Landmarks in the place of another video's face, by five of its points, as the published scripts do it.

Where a portrait is animated, `landmarks.posed` is exact and needs no driving video; this is for published weights,
whose training landmarks were made this way.

Shape letters: T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALF_SIDE = 112  # of the 224-pixel picture that the published face model looks at
_FACE_SIZE = 102.0  # pixels of that picture to a unit of the five-point template


@dataclass(frozen=True, eq=False)
class Similarity:
    """Where the five-point template lies in each frame."""

    scale: NDArray[np.float64]  # (T,) pixels of the 224-pixel picture to a pixel of the frame
    translation: NDArray[np.float64]  # (T, 2) in frame pixels


def rotation_matrices(angles_rad: NDArray) -> NDArray:
    """(Rz·Ry·Rx)ᵀ for row vectors, (T, 3, 3), of angles (T, 3) about the axes x right, y up, z to the camera."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_rad).T, np.sin(angles_rad).T
    rows = [
        [cy * cz, cy * sz, -sy],
        [sx * sy * cz - cx * sz, sx * sy * sz + cx * cz, sx * cy],
        [cx * sy * cz + sx * sz, cx * sy * sz - sx * cz, cx * cy],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def five_points(landmarks: NDArray) -> NDArray:
    """Eyes, nose tip and corners of the mouth, picture's left first: (..., 68, C) to (..., 5, C)."""
    eyes = [landmarks[..., pair, :].mean(-2) for pair in ([36, 39], [42, 45])]
    return np.stack([*eyes, *(landmarks[..., index, :] for index in (30, 48, 54))], -2)


def fit_template(detected_px: NDArray, template: NDArray) -> Similarity:
    """Least squares of x = R1·P + tx, y = R2·P + ty for the five points of detected landmarks (T, 68, 2).

    Args:
        detected_px: y down or up; only the translation differs.
        template: (5, 3).
    """
    design = np.column_stack([template, np.ones(len(template))])
    points = np.asarray(five_points(detected_px), np.float64)  # (T, 5, 2)
    solution = np.linalg.pinv(design) @ points  # (T, 4, 2)
    length = np.linalg.norm(solution[:, :3], axis=1).mean(-1)
    return Similarity(_FACE_SIZE / length, solution[:, 3])


def align_published(
    canonical: NDArray, angles_rad: NDArray, translation: NDArray, detected_px: NDArray, template: NDArray
) -> NDArray[np.float64]:
    """Landmarks (T, 68, 2) in pixels of the driving frames.

    The published cut to whole pixels of a 224-pixel picture, before scaling, is kept.

    Args:
        canonical: (T, 68, 3).
        angles_rad: head angles of the driving frames in the face model, (T, 3).
        translation: of the head, (T, 3).
        detected_px: the driving frames' own landmarks, (T, 68, 2).
        template: five points of the face model, (5, 3).
    """
    in_space = canonical @ rotation_matrices(angles_rad) + translation[:, None]
    on_grid = np.trunc(_HALF_SIDE * in_space[..., :2] + _HALF_SIDE)
    scale = fit_template(detected_px, template).scale
    placed = on_grid * [1, -1] / scale[:, None, None]
    shift = five_points(detected_px).mean(-2) - five_points(placed).mean(-2)  # (T, 2)
    return placed + shift[:, None]
