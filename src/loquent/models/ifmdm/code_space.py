"""The space in which the starter transformer sees motion codes: centred, decorrelated, of unit deviation.

Published codes go into the diffusion as the renderer makes them. There one number may move ten times as far as another,
and small movements, such as the lips', drown in the noise that training adds.

Shape letters: M motion numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_DEVIATION = 0.05  # of the widest direction's: what hardly moves is not blown up further


@dataclass(frozen=True, eq=False)
class CodeSpace:
    """normal = (code − mean) · basis."""

    mean: Tensor  # (M,)
    basis: Tensor  # (M, M), invertible

    @staticmethod
    def identity(motion_dim: int) -> CodeSpace:
        """The published state: codes as they are."""
        return CodeSpace(torch.zeros(motion_dim), torch.eye(motion_dim))

    @staticmethod
    def fitted(codes: Tensor) -> CodeSpace:
        """Principal directions of codes (N, M), widest first, each divided by its deviation."""
        mean = codes.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov((codes - mean).T.double()))
        deviations = variances.clamp(min=0).sqrt().flip(0)
        deviations = deviations.clamp(min=_LEAST_DEVIATION * float(deviations[0]))
        return CodeSpace(mean, (directions.flip(1) / deviations).to(codes))

    def normal(self, codes: Tensor) -> Tensor:
        """Codes (..., M) as the transformer sees them."""
        return (codes - self.mean) @ self.basis

    def codes(self, normal: Tensor) -> Tensor:
        """Inverse of `normal`, limited to (−1, 1), where codes lie."""
        return (normal @ torch.linalg.inv(self.basis) + self.mean).clamp(-1, 1)
