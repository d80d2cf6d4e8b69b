"""Landmark motion of any length from speech.

Windows overlap. While a window is sampled, the frames it shares with the windows before are held: at every step the
estimate of the clean motion is blended with what is already there, all the way where that has been handed out, fading
over the last `overlap` frames. So a window grows out of the one before, and the joint is no cut but a fade between two
takes that agree. The reference landmarks are the portrait's throughout: nothing can drift.

Shape letters: N frames of a window, V speech vectors of a frame, A speech channels, K frames already known.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from loquent.diffusion.gaussian import Schedule, last_sample
from loquent.diffusion.stochastic import cosine_betas, from_clean, stochastic_ddim, truncated_timesteps
from loquent.errors import ControlsError, SpeechError
from loquent.models.moditalker.atom import guided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from loquent.diffusion.stochastic import Network
    from loquent.models.moditalker.atom import AtomDenoiser


@dataclass(frozen=True, kw_only=True)
class AtomSettings:
    """How motion is sampled; published where something is."""

    steps: int = 50
    eta: float = 1.0
    guidance: float = 2.0
    overlap: int = 25  # frames that fade from one window to the next; ours


class SpeechWindow(NamedTuple):
    """Speech of one window and where it lies."""

    speech: Tensor  # (N, V, A)
    num_known: int  # frames at its start that windows before it cover
    num_real: int  # frames of the recording; only a recording shorter than a window has fewer than N


def speech_windows(blocks: Iterable[Tensor], num_frames: int, overlap: int) -> Iterator[SpeechWindow]:
    """Cuts a stream of speech vectors (t, V, A) into windows.

    The last window ends with the recording and shares more frames than others, so that no silence has to be made up. A
    recording shorter than a window is completed with its last frame.
    """
    stride = num_frames - overlap
    blocks = iter(blocks)
    held = next(blocks, torch.empty(0))
    num_known = 0
    for block in itertools.chain([held[:0]], blocks):
        held = torch.cat([held, block])
        while len(held) >= num_frames + stride:
            yield SpeechWindow(held[:num_frames], num_known, num_frames)
            held, num_known = held[stride:], overlap
    if 0 < len(held) < num_frames:  # can only be the first
        padding = held[-1:].expand(num_frames - len(held), -1, -1)
        yield SpeechWindow(torch.cat([held, padding]), 0, len(held))
    elif len(held):
        yield SpeechWindow(held[:num_frames], num_known, num_frames)
        if num_new := len(held) - num_frames:
            yield SpeechWindow(held[-num_frames:], num_frames - num_new, num_frames)


class AtomSampler:
    """Samples windows that grow out of each other."""

    def __init__(self, network: AtomDenoiser, settings: AtomSettings) -> None:
        """
        Raises:
            ControlsError: a setting is out of its range.
        """
        num_frames = network.config.num_frames
        if not 0 < settings.overlap <= num_frames // 2:
            raise ControlsError(
                f"windows of {num_frames} frames cannot overlap by {settings.overlap}; choose 1 to {num_frames // 2}"
            )
        self.network = network
        self.settings = settings
        betas = cosine_betas()
        self._schedule = Schedule.respaced(betas, truncated_timesteps(settings.steps, len(betas)))

    @torch.no_grad()
    def sample(
        self, speech: Iterable[Tensor], *, landmark: Tensor, draw_noise: Callable[[], Tensor]
    ) -> Iterator[Tensor]:
        """Turns a stream of speech vectors into a stream of landmark vectors of the same number of frames.

        Args:
            speech: consecutive blocks (t, V, A).
            landmark: the portrait's landmark vector, (204,), see `landmarks.to_vector`.
            draw_noise: gives the next (N, 204) of noise.

        Yields:
            Consecutive pieces (t, 204), final once handed out.

        Raises:
            SpeechError: the vectors have another shape.
        """
        config, overlap = self.network.config, self.settings.overlap
        known: Tensor | None = None  # the last N frames sampled, the last `overlap` of them not yet handed out
        for window in speech_windows(speech, config.num_frames, overlap):
            _check_speech(window.speech, (config.num_frames, config.vectors_per_frame, config.audio_dim))
            motion = self._sample_window(window, known, landmark, draw_noise)
            start = 0 if known is None else window.num_known - overlap
            if window.num_real - overlap > start:
                yield landmark + motion[start : window.num_real - overlap]
            known = motion[: window.num_real]
        if known is not None:
            yield landmark + known[-overlap:]

    def _sample_window(
        self, window: SpeechWindow, known: Tensor | None, landmark: Tensor, draw_noise: Callable[[], Tensor]
    ) -> Tensor:
        """Residual motion of a window, (N, 204)."""
        settings = self.settings
        network: Network = guided(
            self.network, window.speech[None].to(landmark), landmark[None], scale=settings.guidance
        )
        if known is not None:
            network = holding(network, known[-window.num_known :], settings.overlap)

        def draw() -> Tensor:
            return draw_noise()[None].to(landmark)

        denoise = from_clean(network, self._schedule)
        return last_sample(stochastic_ddim(denoise, draw(), self._schedule, draw, eta=settings.eta))[0]


def holding(network: Network, known: Tensor, fade: int) -> Network:
    """A predictor of clean motion whose first K frames stay with `known` (K, 204), less and less over the last `fade`.

    The first of the fading frames is still wholly known, and the first after them wholly new.
    """
    weight = torch.ones(len(known), 1, device=known.device, dtype=known.dtype)
    weight[-fade:, 0] = 1 - torch.arange(fade, device=known.device, dtype=known.dtype) / fade

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        clean = network(x, timestep)
        held = torch.lerp(clean[:, : len(known)], known, weight)
        return torch.cat([held, clean[:, len(known) :]], dim=1)

    return predict


def _check_speech(speech: Tensor, wanted: tuple[int, int, int]) -> None:
    if tuple(speech.shape) != wanted:
        raise SpeechError(
            f"speech has {tuple(speech.shape[1:])} numbers a frame; these weights want {wanted[1:]}: use the speech "
            f"encoder that they were trained with"
        )
