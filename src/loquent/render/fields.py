"""Smooth fields through scattered points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ThinPlate:
    """Thin-plate spline in the plane: values at fixed centres become a smooth field, linear far away.

    Source: Bookstein 1989, "Principal Warps". The field is linear in the values, so it is kept as a matrix.
    """

    def __init__(self, centres: NDArray, smoothing: float = 0.0) -> None:
        """Args: centres (N, 2); smoothing: 0 interpolates, larger values trade exactness for smoothness."""
        self.centres = np.asarray(centres, np.float64)
        self._origin = self.centres.mean(0)
        self._scale = max(float(self.centres.std()), 1e-9)
        unit = (self.centres - self._origin) / self._scale
        count = len(unit)
        affine = np.column_stack([np.ones(count), unit])
        system = np.zeros((count + 3, count + 3))
        system[:count, :count] = _kernel(unit, unit) + smoothing * np.eye(count)
        system[:count, count:] = affine
        system[count:, :count] = affine.T
        self._unit = unit
        self._solve = np.linalg.pinv(system)[:, :count]

    def matrix(self, points: NDArray) -> NDArray[np.float64]:
        """(P, N) matrix that takes values at the centres to values at `points` (P, 2)."""
        unit = (np.asarray(points, np.float64) - self._origin) / self._scale
        basis = np.column_stack([_kernel(unit, self._unit), np.ones(len(unit)), unit])
        return basis @ self._solve


def _kernel(a: NDArray, b: NDArray) -> NDArray:
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1)
    return 0.5 * squared * np.log(squared + 1e-12)
