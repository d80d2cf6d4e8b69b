"""Losses of MoDiTalker's diffusion networks, as published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.diffusion.gaussian import add_noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loquent.diffusion.gaussian import Schedule

    Predict = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), timesteps (B,)

RECONSTRUCTION_WEIGHT, VELOCITY_WEIGHT = 7.5, 1.5
CONDITION_DROPOUT = 0.25  # of AToM, speech and landmarks together


def atom_losses(
    predict: Predict,
    schedule: Schedule,
    residual: Tensor,
    noise: Tensor,
    step: Tensor,
    real: Tensor | None = None,
) -> dict[str, Tensor]:
    """The two terms that train AToM, weighted; their sum is the loss.

    Args:
        predict: clean residual from a noisy one.
        schedule: of every timestep.
        residual: clean, (B, N, 204).
        noise: (B, N, 204).
        step: (B,).
        real: (B, N), false for frames that only complete a clip. None: all are real. Published training counts the
            frames that complete a clip, whose residual is wrong.
    """
    predicted = predict(add_noise(schedule, residual, noise, step), step)
    mask = torch.ones_like(residual[..., 0]) if real is None else real.to(residual)
    error = predicted - residual
    pairs = mask[:, 1:] * mask[:, :-1]
    return {
        "reconstruction": RECONSTRUCTION_WEIGHT * _mean_square(error, mask),
        "velocity": VELOCITY_WEIGHT * _mean_square(error.diff(dim=1), pairs),
    }


def _mean_square(error: Tensor, mask: Tensor) -> Tensor:
    return (error.square().mean(-1) * mask).sum() / mask.sum().clamp(min=1)


def latent_noise_loss(predict: Predict, schedule: Schedule, latent: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """Mean squared error of the noise predicted in a noisy latent; arguments as for `atom_losses`."""
    return F.mse_loss(predict(add_noise(schedule, latent, noise, step), step), noise)
