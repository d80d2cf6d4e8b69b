"""The space in which the starter transformer sees motion: how far codes are from the portrait's own.

Published codes go into the diffusion as the renderer makes them. They hold, beside the movement, some of who the person
is, and one number may move ten times as far as another, so that small movements, such as the lips', drown in the noise
that training adds. Here the portrait's code is taken off before the tanh that ends the motion head, where movement adds
up (the renderer's relative form), and what is left is decorrelated and brought to unit deviation.

Shape letters: M motion numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 0.999  # codes are kept this far inside (−1, 1) where their atanh is taken
_LEAST_DEVIATION = 0.05  # of the widest direction's: what hardly moves is not blown up further


def before_tanh(codes: Tensor) -> Tensor:
    return torch.atanh(codes.clamp(-LIMIT, LIMIT))


@dataclass(frozen=True, eq=False)
class CodeSpace:
    """normal = (atanh(code) − atanh(portrait's code) − mean) · basis."""

    mean: Tensor  # (M,)
    basis: Tensor  # (M, M), invertible

    @staticmethod
    def fitted(moves: Tensor) -> CodeSpace:
        """Principal directions of moves (N, M), differences of codes before the tanh; widest first, unit deviation."""
        mean = moves.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov((moves - mean).T.double()))
        deviations = variances.clamp(min=0).sqrt().flip(0)
        deviations = deviations.clamp(min=_LEAST_DEVIATION * float(deviations[0]))
        return CodeSpace(mean, (directions.flip(1) / deviations).to(moves))

    def of_moves(self, moves: Tensor) -> Tensor:
        """Moves (..., M) as the transformer sees them."""
        return (moves - self.mean) @ self.basis

    def normal(self, codes: Tensor, portrait: Tensor) -> Tensor:
        """Codes (..., M) of a portrait whose own code is (M,), as the transformer sees them."""
        return self.of_moves(before_tanh(codes) - before_tanh(portrait))

    def codes(self, normal: Tensor, portrait: Tensor) -> Tensor:
        """Inverse of `normal`."""
        return torch.tanh(normal @ torch.linalg.inv(self.basis) + self.mean + before_tanh(portrait))
