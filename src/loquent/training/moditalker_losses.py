"""Losses of MoDiTalker's networks, as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.diffusion.gaussian import add_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from loquent.diffusion.gaussian import Schedule
    from loquent.models.moditalker.discriminator import PatchDiscriminator

    Predict = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), timesteps (B,)

RECONSTRUCTION_WEIGHT, VELOCITY_WEIGHT = 7.5, 1.5
CONDITION_DROPOUT = 0.25  # of AToM, speech and landmarks together
PIXEL_WEIGHT, PERCEPTUAL_WEIGHT, FEATURE_WEIGHT = 4.0, 4.0, 4.0


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


def latent_clean_loss(predict: Predict, schedule: Schedule, latent: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """Mean squared error of the latent predicted from a noisy one, as the paper writes the loss."""
    return F.mse_loss(predict(add_noise(schedule, latent, noise, step), step), latent)


@dataclass(frozen=True, eq=False)
class Discriminators:
    """Of single frames and of clips."""

    frames: PatchDiscriminator
    clips: PatchDiscriminator

    def judge(self, clip: Tensor, frame_index: Tensor) -> list[list[Tensor]]:
        """Features and logits of the frame drawn from each sample, and of the clips (B, 3, T, R, R)."""
        return [self.frames(drawn_frames(clip, frame_index)), self.clips(clip)]


def drawn_frames(clip: Tensor, frame_index: Tensor) -> Tensor:
    """Frame `frame_index` (B,) of each clip (B, 3, T, R, R): (B, 3, R, R)."""
    return clip[torch.arange(len(clip), device=clip.device), :, frame_index]


def autoencoder_losses(
    real: Tensor,
    made: Tensor,
    frame_index: Tensor,
    discriminators: Discriminators | None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    """Terms that train an autoencoder, weighted; their sum is the loss.

    Args:
        real: clips (B, 3, T, R, R) in [−1, 1].
        made: what the autoencoder gives for them.
        frame_index: frame of each sample that the terms for single frames look at, (B,).
        discriminators: None before the adversarial phase, in which published training stays for very long.
        perceptual: distance of frames (B, 3, R, R); published LPIPS with VGG. None: without.
    """
    terms = {"reconstruction": PIXEL_WEIGHT * (real - made).abs().mean()}
    if perceptual is not None:
        terms["perceptual"] = PERCEPTUAL_WEIGHT * perceptual(
            drawn_frames(real, frame_index), drawn_frames(made, frame_index)
        )
    if discriminators is not None:
        with torch.no_grad():
            of_real = discriminators.judge(real, frame_index)
        of_made = discriminators.judge(made, frame_index)
        terms["adversarial"] = -_sum(features[-1].mean() for features in of_made)
        terms["features"] = FEATURE_WEIGHT * _sum(
            (a - b).abs().mean()
            for features_a, features_b in zip(of_real, of_made, strict=True)
            for a, b in zip(features_a[:-1], features_b[:-1], strict=True)
        )
    return terms


def discriminator_loss(real: Tensor, made: Tensor, frame_index: Tensor, discriminators: Discriminators) -> Tensor:
    """Hinge loss of both discriminators, summed; arguments as for `autoencoder_losses`."""
    of_real = discriminators.judge(real.detach(), frame_index)
    of_made = discriminators.judge(made.detach(), frame_index)
    return _sum(
        0.5 * (F.relu(1 - a[-1]).mean() + F.relu(1 + b[-1]).mean()) for a, b in zip(of_real, of_made, strict=True)
    )


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
