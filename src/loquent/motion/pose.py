"""Head angles and rotation matrices, as docs/conventions.md states them: R = Rz(roll) Ry(-yaw) Rx(-pitch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def rotation_matrix(angles_rad: ArrayLike) -> NDArray[np.float64]:
    """Rotation matrices of head angles.

    Args:
        angles_rad: (..., 3): pitch, yaw, roll in radians; pitch > 0 raises the chin, yaw > 0 turns the nose to the
            picture's right, roll > 0 tilts the top of the head to the picture's right.

    Returns:
        (..., 3, 3), for column vectors of the camera frame (x right, y down, z away).
    """
    pitch, yaw, roll = np.moveaxis(np.asarray(angles_rad, np.float64), -1, 0)
    ca, sa = np.cos(pitch), -np.sin(pitch)  # Rx(-pitch)
    cb, sb = np.cos(yaw), -np.sin(yaw)  # Ry(-yaw)
    cc, sc = np.cos(roll), np.sin(roll)
    rows = [
        [cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa],
        [sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa],
        [-sb, cb * sa, cb * ca],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def angles_of(matrix: ArrayLike) -> NDArray[np.float64]:
    """Pitch, yaw and roll (..., 3) in radians of rotation matrices (..., 3, 3); inverse of `rotation_matrix`.

    Yaw comes back in [-pi/2, pi/2]; at its ends, where pitch and roll are one and the same turn, roll is 0.
    """
    r = np.asarray(matrix, np.float64)
    yaw = np.arcsin(np.clip(r[..., 2, 0], -1, 1))
    upright = np.hypot(r[..., 0, 0], r[..., 1, 0]) > 1e-8
    pitch = np.where(upright, -np.arctan2(r[..., 2, 1], r[..., 2, 2]), np.arctan2(r[..., 1, 2], r[..., 1, 1]))
    roll = np.where(upright, np.arctan2(r[..., 1, 0], r[..., 0, 0]), 0.0)
    return np.stack([pitch, yaw, roll], -1)
