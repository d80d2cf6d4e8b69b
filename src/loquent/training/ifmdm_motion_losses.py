"""Losses of the IF-MDM motion transformer.

Shape letters: B batch, N frames of a window, V speech vectors of a frame, A speech channels, M motion numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from loquent.diffusion.gaussian import add_noise
from loquent.models.ifmdm.code_space import lip_factor
from loquent.models.ifmdm.statistics import measure
from loquent.models.ifmdm.transformer import Drops
from loquent.training.diffusion_losses import noise_losses

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.diffusion.gaussian import Schedule
    from loquent.models.ifmdm.code_space import CodeSpace, MoveParts
    from loquent.models.ifmdm.transformer import MotionDiffusionTransformer

DROP_PROBABILITY = 0.3
_LEAST, _MOST = 0.3, 6.0  # times as far as in the corpus
_SHIFT = 0.25  # deviation of another pose, before tanh
_BEYOND = 0.4  # a bent move stays below 1 and this


@dataclass(frozen=True, eq=False)
class MotionWindow:
    """A window to learn from, with its conditions."""

    motion: Tensor  # (B, N, M)
    speech: Tensor  # (B, N, V, A)
    hint: Tensor  # (B, M)
    mean: Tensor  # (B, M)
    std: Tensor  # (B, M)
    photo: Tensor | None = None  # (B, M), motion that shows the photo as it is


def split_window(motion: Tensor, speech: Tensor, photo: Tensor | None = None) -> MotionWindow:
    """N + 1 frames of motion (B, N + 1, M) and speech (B, N + 1, V, A): the first is the hint, all give the statistics."""
    statistics = measure(motion)
    return MotionWindow(motion[:, 1:], speech[:, 1:], motion[:, 0], statistics.mean, statistics.std, photo)


def draw_drops(batch: int, random: torch.Generator) -> Drops:
    """Drops each condition of each sample with the published probability, independently of the others."""
    joint, hint, mean, std, speech = torch.rand(5, batch, generator=random) < DROP_PROBABILITY
    return Drops(joint=joint, hint=hint, mean=mean, std=std, speech=speech)


def draw_asked(batch: int, random: torch.Generator) -> Drops:
    """Drops conditions as they will be missing when people use the network: both statistics in a good third of the
    samples, one of them in half, speech on both its paths at once, for guidance."""
    speech, hint, statistics = torch.rand(3, batch, generator=random)
    is_silent = speech < 0.15
    return Drops(
        joint=is_silent,
        speech=is_silent,
        hint=hint < 0.1,
        mean=statistics > 0.35,
        std=(statistics < 0.25) | (statistics > 0.6),
    )


def varied(
    window: MotionWindow, drops: Drops, space: CodeSpace, parts: MoveParts, random: torch.Generator
) -> MotionWindow:
    """Windows in which half of the statistics that are not dropped ask for something else than the corpus does.

    Where the deviation is told, the head moves 0.3 to 6 times as far, and the lips somewhat further where the head does.
    Where the mean is told, the head moves about another pose. What the mean says of everything but the head becomes that
    of the hint or of the photo in two thirds of the samples, as in the published settings: lips are to follow speech.
    """
    count = len(window.motion)
    chance, factor, which = torch.rand(3, count, generator=random).to(window.motion)
    whole = space.moves(torch.cat([window.hint[:, None], window.motion], dim=1))
    mean = whole.mean(1, keepdim=True)
    span = math.log(_MOST / _LEAST)
    head = torch.where(drops.std | (chance < 0.5), 1.0, _LEAST * torch.exp(span * factor))[:, None, None]
    shift = _SHIFT * torch.randn(mean.shape, generator=random).to(mean) @ parts.head
    is_shifted = ~drops.mean & ((2 * chance) % 1 < 0.5)
    moved = mean + parts.scaled(whole - mean, lip_factor(head), head) + shift * is_shifted[:, None, None]
    changed = (head != 1) | is_shifted[:, None, None]
    whole = torch.where(changed, _limited(moved), whole)
    statistics = measure(space.of_moves(whole))
    assert window.photo is not None
    others = (space.moves(window.photo), whole[:, 0])
    said = whole.mean(1)
    for index, other in enumerate(others):
        difference = other - said
        said = said + (difference - difference @ parts.head) * ((3 * which).long() == index)[:, None]
    normal = space.of_moves(whole)
    return replace(window, motion=normal[:, 1:], hint=normal[:, 0], mean=space.of_moves(said), std=statistics.std)


def _limited(moves: Tensor) -> Tensor:
    """Bends moves beyond ±1 so that they stay within what a renderer has seen."""
    beyond = (moves.abs() - 1).clamp(min=0)
    return moves - moves.sign() * (beyond - _BEYOND * torch.tanh(beyond / _BEYOND))


def motion_losses(
    network: MotionDiffusionTransformer,
    schedule: Schedule,
    window: MotionWindow,
    step: Tensor,
    noise: Tensor,
    drops: Drops | None,
) -> dict[str, Tensor]:
    """`noise_losses` of the network on a window, terms (B,), at steps (B,) with noise (B, N, M).

    Ours: velocity, the error of the clean motion's differences from frame to frame, or of the noise's where that is less.
    """
    noisy = add_noise(schedule, window.motion, noise, step)
    timestep = schedule.timesteps.to(step.device)[step]
    predicted, logits = network(noisy, timestep, window.speech, window.hint, window.mean, window.std, drops)
    terms = noise_losses(schedule, window.motion, noisy, noise, step, predicted, logits)
    error = (noise - predicted).diff(dim=1).square().flatten(1).mean(1)
    share = (schedule.inverse_noise.to(step.device)[step] ** 2).clamp(max=1)
    return {**terms, "velocity": error * share}
