"""Losses of the IF-MDM motion transformer.

Shape letters: B batch, N frames of a window, V speech vectors of a frame, A speech channels, M motion numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from loquent.diffusion.gaussian import add_noise
from loquent.models.ifmdm.statistics import measure
from loquent.models.ifmdm.transformer import Drops
from loquent.training.diffusion_losses import noise_losses

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.diffusion.gaussian import Schedule
    from loquent.models.ifmdm.transformer import MotionDiffusionTransformer

DROP_PROBABILITY = 0.3


@dataclass(frozen=True, eq=False)
class MotionWindow:
    """A window to learn from, with its conditions."""

    motion: Tensor  # (B, N, M)
    speech: Tensor  # (B, N, V, A)
    hint: Tensor  # (B, M)
    mean: Tensor  # (B, M)
    std: Tensor  # (B, M)


def split_window(motion: Tensor, speech: Tensor) -> MotionWindow:
    """N + 1 frames of motion (B, N + 1, M) and speech (B, N + 1, V, A): the first is the hint, all give the statistics."""
    statistics = measure(motion)
    return MotionWindow(motion[:, 1:], speech[:, 1:], motion[:, 0], statistics.mean, statistics.std)


def draw_drops(batch: int, random: torch.Generator) -> Drops:
    """Drops each condition of each sample with the published probability, independently of the others."""
    joint, hint, mean, std, speech = torch.rand(5, batch, generator=random) < DROP_PROBABILITY
    return Drops(joint=joint, hint=hint, mean=mean, std=std, speech=speech)


def motion_losses(
    network: MotionDiffusionTransformer,
    schedule: Schedule,
    window: MotionWindow,
    step: Tensor,
    noise: Tensor,
    drops: Drops | None,
) -> dict[str, Tensor]:
    """`noise_losses` of the network on a window, terms (B,), at steps (B,) with noise (B, N, M)."""
    noisy = add_noise(schedule, window.motion, noise, step)
    timestep = schedule.timesteps.to(step.device)[step]
    predicted, logits = network(noisy, timestep, window.speech, window.hint, window.mean, window.std, drops)
    return noise_losses(schedule, window.motion, noisy, noise, step, predicted, logits)
