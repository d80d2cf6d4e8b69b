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
_RIDGE, _LEAST_PARAMETER, _LEAST_VARIANCE = 1e-3, 1e-3, 1e-5
_LIPS_FOLLOW = 0.3  # power of the head's factor


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

    def moves(self, normal: Tensor) -> Tensor:
        """Inverse of `of_moves`."""
        return normal @ torch.linalg.inv(self.basis) + self.mean

    def codes(self, normal: Tensor, portrait: Tensor) -> Tensor:
        """Inverse of `normal`."""
        return torch.tanh(self.moves(normal) + before_tanh(portrait))


@dataclass(frozen=True, eq=False)
class MoveParts:
    """What in a move (…, M) is the lips', and what the head's: move @ lips, move @ head. Eyes and brows are what remains."""

    lips: Tensor  # (M, M)
    head: Tensor  # (M, M)
    usual: Tensor  # (M, M), covariance of moves about their mean within a window

    @staticmethod
    def fitted(moves: Tensor, lips: Tensor, head: Tensor, others: Tensor, usual: Tensor) -> MoveParts:
        """Tells parts by what each group of face parameters (K, ...) does to moves (K, M): the most likely parts, if they
        are normal and know nothing of each other."""
        groups = [lips, head, others]
        table = torch.cat(groups, dim=1)
        table = table / (table.std(0) + _LEAST_PARAMETER)
        ridge = _RIDGE * len(table) * torch.eye(table.shape[1])
        effects = torch.linalg.solve(table.T @ table + ridge, table.T @ moves)
        sizes = [group.shape[1] for group in groups]
        small = _LEAST_VARIANCE * torch.eye(moves.shape[1])
        spreads = [
            torch.cov((part @ effect).T) + small
            for part, effect in zip(table.split(sizes, dim=1), effects.split(sizes), strict=True)
        ]
        whole = torch.linalg.inv(torch.stack(spreads).sum(0))
        return MoveParts(whole @ spreads[0], whole @ spreads[1], usual)

    def scaled(self, moves: Tensor, lips: Tensor, head: Tensor) -> Tensor:
        """Moves (..., M) whose lips and head move so many times as far; factors broadcast with the moves."""
        return moves + (lips - 1) * (moves @ self.lips) + (head - 1) * (moves @ self.head)

    def scaled_deviation(self, space: CodeSpace, lips: Tensor, head: Tensor) -> Tensor:
        """Standard deviation (M,) of a window in the normal space, moving so many times as far as usual."""
        values, vectors = torch.linalg.eigh(self.usual)
        usual = (vectors * values.clamp(min=0).sqrt()).T  # rows whose products add up to the covariance
        return (self.scaled(usual, lips, head) @ space.basis).square().sum(0).sqrt()


def lip_factor(head: Tensor) -> Tensor:
    """How much further lips move where everything is to move `head` times as far: they still have to close."""
    return head.clamp(min=1) ** _LIPS_FOLLOW
