"""Which optimizer moves the weights of a network, and how its learning rate runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from loquent.errors import LoquentError
from loquent.training.adan import Adan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the weights of one network are moved.

    Raises:
        LoquentError: an unknown optimizer, or a number of betas that it does not take.
    """

    optimizer: Literal["adamw", "adam", "adan"] = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_share: float = 0.3  # last part of the run in which the rate falls linearly to a twentieth; 0: constant
    weight_decay: float = 0.01  # of matrices and kernels; biases and gains are not decayed. Adam decays nothing
    betas: tuple[float, ...] = (0.9, 0.98)  # Adan takes three, each the share of the new value
    max_grad_norm: float = 1.0  # longer gradients are shortened to it; inf: never

    def __post_init__(self) -> None:
        wanted = {"adamw": 2, "adam": 2, "adan": 3}
        if self.optimizer not in wanted:
            raise LoquentError(f"unknown optimizer {self.optimizer!r}; choose one of {', '.join(wanted)}")
        if len(self.betas) != wanted[self.optimizer]:
            raise LoquentError(f"{self.optimizer} takes {wanted[self.optimizer]} betas; got {list(self.betas)}")

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate at a step of a run of `steps`: linear warm-up, constant, linear fall."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (steps - step) / max(1.0, self.decay_share * steps)
        return self.learning_rate * warm * min(1.0, max(0.05, left))


def make_optimizer(weights: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of these weights, in two groups: matrices and kernels, which are decayed, and the others."""
    weights = list(weights)
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adan":
        first, second, third = settings.betas
        return Adan(groups, lr=settings.learning_rate, betas=(first, second, third))  # type: ignore[arg-type]
    first, second = settings.betas
    if settings.optimizer == "adam":
        return torch.optim.Adam(weights, lr=settings.learning_rate, betas=(first, second), foreach=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(first, second), foreach=True)
