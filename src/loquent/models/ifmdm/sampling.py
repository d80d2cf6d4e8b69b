"""Motion of any length, window by window, each begun by the last frame of the one before.

Shape letters: N frames of a window, V speech vectors of a frame, A speech channels, M motion numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from loquent.diffusion.flow import guide
from loquent.diffusion.gaussian import (
    Schedule,
    ancestral,
    ddim,
    even_timesteps,
    last_sample,
    linear_betas,
    strided_timesteps,
)
from loquent.diffusion.windows import crossfade, cut_windows
from loquent.models.ifmdm.statistics import WindowStart, free
from loquent.models.ifmdm.transformer import Drops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from loquent.diffusion.gaussian import Predict
    from loquent.models.ifmdm.fast import FastMotionDiffusionTransformer
    from loquent.models.ifmdm.statistics import StatisticsRule
    from loquent.models.ifmdm.transformer import MotionDiffusionTransformer

GuidanceKind = Literal["published", "consistent"]


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How a window is sampled. The published sampling script is unknown; these are our defaults."""

    sampler: Literal["ddim", "ancestral"] = "ddim"
    steps: int = 20
    guidance: float = 1.0  # 1 is none; more exaggerates what speech changes
    guidance_kind: GuidanceKind = "consistent"
    clip: bool = True  # motion lies in (−1, 1)
    overlap: int = 0  # frames that a window shares with the one before; 0: as published, they only meet

    def schedule(self, betas: Tensor) -> Schedule:
        """The steps to walk through the timesteps of `betas`.

        Raises:
            ControlsError: this number of steps cannot be had.
        """
        kept = strided_timesteps if self.sampler == "ddim" else even_timesteps
        return Schedule.respaced(betas, kept(self.steps, len(betas)))


def guided(
    network: MotionDiffusionTransformer | FastMotionDiffusionTransformer,
    speech: Tensor,
    hint: Tensor,
    mean: Tensor,
    std: Tensor,
    *,
    scale: float,
    kind: GuidanceKind,
) -> Predict:
    """The network with its conditions embedded once, guided by speech alone.

    "published" puts zeros for speech without, but keeps the path that joins it with noisy motion, a state that
    training never shows. "consistent" drops both paths as training does.

    Returns:
        A function of noisy motion (B, N, M) and timesteps (B,). Variance logits are those with speech.
    """
    with_speech = network.embed_conditions(speech, hint, mean, std)
    if scale == 1:
        return network.denoiser(with_speech)
    keep = torch.zeros(len(speech), dtype=torch.bool, device=speech.device)
    drops = None if kind == "published" else Drops(joint=~keep, hint=keep, mean=keep, std=keep, speech=~keep)
    silent = network.embed_conditions(torch.zeros_like(speech), hint, mean, std, drops)
    denoise_both = network.denoiser(with_speech, silent)

    def predict(x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        noise, logits = denoise_both(x, timestep)
        conditional, unconditional = noise.chunk(2)
        return guide(unconditional, conditional, scale), logits.chunk(2)[0]

    return predict


class WindowedSampler:
    """Samples windows that continue each other.

    Our extension: with an overlap a window begins that many frames before the end of the last one, and the two takes of
    these frames pass into each other. Both follow the same speech; where they hold the head differently, it moves over
    instead of jumping.
    """

    def __init__(
        self, network: MotionDiffusionTransformer | FastMotionDiffusionTransformer, settings: SamplerSettings
    ) -> None:
        self.network = network
        self.settings = settings
        self._schedule = settings.schedule(linear_betas())

    @torch.no_grad()
    def sample(
        self,
        speech: Iterable[Tensor],
        *,
        portrait: Tensor,
        draw_noise: Callable[[], Tensor],
        statistics: StatisticsRule = free,
    ) -> Iterator[Tensor]:
        """Turns a stream of speech vectors into a stream of motion of the same number of frames.

        Args:
            speech: consecutive blocks (t, V, A).
            portrait: motion of the portrait, (M,); the first window continues it.
            draw_noise: gives the next (N, M) of noise.
            statistics: the wanted statistics of each window.

        Yields:
            The motion of each window, (t, M), t = N for all but the last.
        """
        overlap, frames = self.settings.overlap, self.network.config.num_frames
        last, tail = portrait, portrait[:0]  # the frame right before the window, and frames that the next one shares
        for index, (window, num_real) in enumerate(cut_windows(speech, frames, overlap)):
            mean, std = statistics(WindowStart(index, portrait, last))
            motion = self._sample_window(window, last, mean, std, draw_noise)
            if index:
                motion = torch.cat([crossfade(tail, motion[:overlap]), motion[overlap:]])
            done = frames - overlap
            last, tail = motion[done - 1], motion[done:num_real]
            yield motion[: min(done, num_real)]
        if len(tail):
            yield tail

    def _sample_window(
        self, speech: Tensor, hint: Tensor, mean: Tensor, std: Tensor, draw_noise: Callable[[], Tensor]
    ) -> Tensor:
        """One window (N, M)."""
        settings = self.settings
        batched = (x[None] for x in (speech, hint, mean, std))
        predict = guided(self.network, *batched, scale=settings.guidance, kind=settings.guidance_kind)
        start = draw_noise()[None].to(hint)
        if settings.sampler == "ddim":
            states = ddim(predict, start, self._schedule, clip=settings.clip)
        else:
            states = ancestral(predict, start, self._schedule, lambda: draw_noise()[None], clip=settings.clip)
        return last_sample(states)[0]
