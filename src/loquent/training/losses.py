"""Losses as functions of a network and a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loquent.diffusion.flow import add_noise, clean_estimate, velocity_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def stratified_sigmas(size: int, random: torch.Generator, low: float = 0.001) -> Tensor:
    """Flow times (B,), uniform in [low, 1], one in each of B equal parts, so that a small batch sees all of them.

    They lie where `random` does.
    """
    part = (torch.randperm(size, generator=random) + torch.rand(size, generator=random)) / size
    return low + (1 - low) * part


def masked_mean(values: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Mean of (B, N, M) over the frames in `mask` (B, N), with a weight for each channel (M,)."""
    per_frame = (values * weights).mean(-1)
    return (per_frame * mask).sum() / mask.sum().clamp(min=1)


def flow_losses(
    velocity_of: Callable[[Tensor, Tensor], Tensor],
    data: Tensor,
    mask: Tensor,
    weights: Tensor,
    random: torch.Generator,
) -> dict[str, Tensor]:
    """The three published terms of MoDA's training step (docs/generator.md, "Losses").

    Args:
        velocity_of: the network's velocity of noisy motion (B, N, M) at flow times (B,).
        data: clean motion, (B, N, M), normalised.
        mask: (B, N), 1 for frames that count.
        weights: (M,), of the channels.

    Returns:
        denoise: squared error of the velocity; velocity: of its difference from frame to frame; smooth: squared second
        difference of the clean estimate.
    """
    noise = torch.randn(data.shape, generator=random).to(data)
    sigma = stratified_sigmas(len(data), random).to(data)
    noisy = add_noise(data, noise, sigma)
    velocity = velocity_of(noisy, sigma)
    error = velocity - velocity_target(data, noise)
    pairs = mask[:, 1:] * mask[:, :-1]
    triples = pairs[:, 1:] * mask[:, :-2]
    bend = clean_estimate(noisy, velocity, sigma).diff(n=2, dim=1).square()
    return {
        "denoise": masked_mean(error.square(), mask, weights),
        "velocity": masked_mean(error.diff(dim=1).square(), pairs, weights),
        "smooth": masked_mean(bend, triples, weights),
    }
