"""Landmarks back to face parameters, so that landmark motion can drive whatever face parameters drive.

The 68 landmarks say less than the 52 ARKit weights: cheeks, tongue and the difference between rolled and pressed lips
are not in them. What they leave open is filled in by how weights go together in speech, a Gaussian learnt from the
training data: w = argmin |D·w − x|²/σ² + (w − μ)ᵀ·Σ⁻¹·(w − μ), 0 ≤ w ≤ 1, with D the person's own fitted face. The
heights of the mouth's opening count as observations of their own with a smaller σ, and lips that all but touch are
closed: a gap of a millimetre is seen, where a corner of the mouth a millimetre off is not.

Shape letters: T frames, K weights (52).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loquent.models.moditalker.landmarks import MOUTH_GAPS, VECTOR_DIM, canonical_displacement
from loquent.types import ARKIT_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.motion.face_model import FaceShape

_SIGMA_DM = 0.01  # of a landmark's coordinate
_GAP_SIGMA_DM = 0.002
_CLOSED_DM = 0.01  # lips closer than this touch
_PRESS_DM = 0.005  # how far past touching they are asked to go: the face keeps them from crossing
_SWEEPS = 40


@dataclass(frozen=True, eq=False)
class ExpressionPrior:
    """How ARKit weights are distributed in speech."""

    mean: NDArray[np.float64]  # (K,)
    precision: NDArray[np.float64]  # (K, K)

    @staticmethod
    def of(expression: NDArray, floor: float = 0.01) -> ExpressionPrior:
        """Measured on weights (T, K); `floor` is the least standard deviation."""
        expression = np.asarray(expression, np.float64)
        covariance = np.cov(expression.T) + floor**2 * np.eye(expression.shape[1])
        return ExpressionPrior(
            np.asarray(expression.mean(0), np.float64), np.asarray(np.linalg.inv(covariance), np.float64)
        )

    @staticmethod
    def broad() -> ExpressionPrior:
        """Knows only that most weights are small, for networks that come without statistics."""
        count = len(ARKIT_NAMES)
        return ExpressionPrior(np.zeros(count), np.eye(count) / 0.15**2)


class FaceFit:
    """Fits face parameters of one person to landmarks relative to that person's neutral face."""

    def __init__(self, shape: FaceShape, prior: ExpressionPrior) -> None:
        displacement = canonical_displacement(shape.expressions)  # (K, 204)
        gaps = gap_heights(displacement)  # (K, P)
        self._design = np.concatenate([displacement / _SIGMA_DM, gaps / _GAP_SIGMA_DM], axis=1)
        self._normal = self._design @ self._design.T + prior.precision
        self._pull = prior.precision @ prior.mean

    def fit(self, displacement: NDArray) -> NDArray[np.float32]:
        """ARKit weights (T, K).

        Args:
            displacement: landmarks less those of the neutral face, (T, 204), decimetres.
        """
        gaps = gap_heights(displacement)
        gaps = np.where(gaps < _CLOSED_DM, -_PRESS_DM, gaps)
        observed = np.concatenate([displacement / _SIGMA_DM, gaps / _GAP_SIGMA_DM], axis=1)
        return bounded_rows(self._normal, observed @ self._design.T + self._pull, 0.0, 1.0).astype(np.float32)


def gap_heights(displacement: NDArray) -> NDArray[np.float64]:
    """Heights (..., P) by which landmarks (..., 204), relative to sealed lips, part the pairs of MOUTH_GAPS."""
    heights = np.asarray(displacement, np.float64).reshape(*displacement.shape[:-1], VECTOR_DIM // 3, 3)[..., 1]
    upper, lower = (list(points) for points in zip(*MOUTH_GAPS, strict=True))
    return heights[..., upper] - heights[..., lower]


def bounded_rows(normal: NDArray, target: NDArray, low: float, high: float) -> NDArray[np.float64]:
    """Minimises x' A x / 2 - b' x within bounds for many b at once, by coordinate descent.

    Args:
        normal: A, (K, K), symmetric with a positive diagonal.
        target: the b, (T, K).
        low, high: bounds of every coordinate.
    """
    x = np.clip(np.linalg.solve(normal, target.T).T, low, high)
    slope = x @ normal - target
    for _ in range(_SWEEPS):
        largest = 0.0
        for index in range(len(normal)):
            step = np.clip(x[:, index] - slope[:, index] / normal[index, index], low, high) - x[:, index]
            slope += step[:, None] * normal[index]
            x[:, index] += step
            largest = max(largest, float(np.abs(step).max()))
        if largest < 1e-4:
            break
    return x
