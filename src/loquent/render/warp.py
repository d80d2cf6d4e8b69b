"""Smooth displacement fields on lattices, and their inversion.

A field is known forwards: where does a point of the photo go? Drawing needs it backwards: which point of the photo
shows at this pixel? `invert` answers on a coarse lattice; the answer is smooth, so it is enlarged by interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Shape letters: K landmarks, N points, (H, W) rows and columns of a lattice or a picture.


@dataclass(frozen=True)
class Lattice:
    """A regular grid of points over a box of the photo."""

    left_px: float
    top_px: float
    step_px: float
    num_columns: int
    num_rows: int

    @staticmethod
    def over(box_px: tuple[float, float, float, float], step_px: float) -> Lattice:
        """The lattice whose points cover the box (left, top, right, bottom)."""
        left, top, right, bottom = box_px
        columns = int(np.ceil((right - left) / step_px)) + 1
        rows = int(np.ceil((bottom - top) / step_px)) + 1
        return Lattice(left, top, step_px, max(columns, 2), max(rows, 2))

    def points(self) -> NDArray[np.float32]:
        """(H, W, 2): x and y of each point, in photo pixels."""
        x = self.left_px + self.step_px * np.arange(self.num_columns, dtype=np.float32)
        y = self.top_px + self.step_px * np.arange(self.num_rows, dtype=np.float32)
        return np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)

    def sample(self, values: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (H, W, C) with C of 1 to 4, interpolated at `points` (h, w, 2); constant beyond the edge."""
        where = (points - np.float32((self.left_px, self.top_px))) * np.float32(1 / self.step_px)
        return cv2.remap(values, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def pixel_map(self, values: NDArray[np.float32], box_px: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """Values (H, W, 2) enlarged to every pixel of a whole-pixel box inside the lattice: (h, w, 2)."""
        left, top, right, bottom = box_px
        zoom = 1 / self.step_px
        matrix = np.array([[zoom, 0, (left - self.left_px) * zoom], [0, zoom, (top - self.top_px) * zoom]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (right - left, bottom - top)
        return cv2.warpAffine(values, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


class SmoothInterpolator:
    """Spreads values at scattered centres into a smooth field that falls to zero away from them.

    Source: Wendland 1995, the compactly supported C2 function (1 - r)^4 (4 r + 1). The field is linear in the
    values, so it is kept as a matrix.
    """

    def __init__(self, centres: NDArray, support_px: float, smoothing: float = 1e-4) -> None:
        """Args: centres (K, 2); support_px: reach of one centre; smoothing: added to the diagonal, 0 is exact."""
        self._centres = np.asarray(centres, np.float64)
        self._support_px = support_px
        system = self._kernel(self._centres) + smoothing * np.eye(len(self._centres))
        self._solve = np.linalg.inv(system)

    def matrix(self, points: NDArray) -> NDArray[np.float32]:
        """(N, K) matrix that takes values at the centres to values at `points` (N, 2)."""
        return (self._kernel(np.asarray(points, np.float64)) @ self._solve).astype(np.float32)

    def _kernel(self, points: NDArray) -> NDArray:
        offset = points[:, None, :] - self._centres[None, :, :]
        r = np.minimum(np.sqrt((offset**2).sum(-1)) / self._support_px, 1.0)
        return (1 - r) ** 4 * (4 * r + 1)


def invert(
    displacement: NDArray[np.float32],
    lattice: Lattice,
    targets: NDArray[np.float32],
    start: NDArray[np.float32] | None = None,
    iterations: int = 4,
) -> NDArray[np.float32]:
    """Finds the photo points that the field carries to `targets`, by Newton's method.

    Args:
        displacement: where each lattice point moves, relative to itself, (H, W, 2) in pixels.
        lattice: the lattice of `displacement`.
        targets: points of the frame, (h, w, 2).
        start: first guess, (h, w, 2); the targets less the mean displacement by default.
        iterations: Newton steps; the error shrinks quadratically where the field is smooth.

    Returns:
        (h, w, 2) points of the photo.
    """
    inverse = _inverse_jacobian(displacement, lattice.step_px)
    source = targets - displacement.mean((0, 1)) if start is None else start
    for _ in range(iterations):
        error = targets - source - lattice.sample(displacement, source)
        j = lattice.sample(inverse, source)
        step = np.stack(
            [
                j[..., 0] * error[..., 0] + j[..., 1] * error[..., 1],
                j[..., 2] * error[..., 0] + j[..., 3] * error[..., 1],
            ],
            axis=-1,
        )
        source = source + step
    return source


def _inverse_jacobian(displacement: NDArray[np.float32], step_px: float) -> NDArray[np.float32]:
    """(H, W, 4): rows of the inverse of the field's Jacobian, kept away from folding."""
    kernel = np.float32([[-0.5, 0.0, 0.5]]) / np.float32(step_px)
    unit = np.ones((1, 1), np.float32)
    dx = cv2.sepFilter2D(displacement, cv2.CV_32F, kernel, unit, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.sepFilter2D(displacement, cv2.CV_32F, unit, kernel, borderType=cv2.BORDER_REPLICATE)
    a, b = 1 + dx[..., 0], dy[..., 0]
    c, d = dx[..., 1], 1 + dy[..., 1]
    determinant = np.maximum(a * d - b * c, np.float32(0.25))
    return np.stack([d, -b, -c, a], axis=-1) / determinant[..., None]


def smoothstep(x: NDArray | float) -> NDArray[np.float32]:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(np.asarray(x, np.float32), 0, 1)
    return t * t * (3 - 2 * t)
