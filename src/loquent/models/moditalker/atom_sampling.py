"""Landmark motion of any length from speech.

Windows overlap. While a window is sampled, the frames it shares with the windows before are held: at every step the
estimate of the clean motion is blended with what is already there, all the way where that has been handed out, fading
over the last `overlap` frames. So a window grows out of the one before, and the joint is no cut but a fade between two
takes that agree. The reference landmarks are the portrait's throughout: nothing can drift.

Shape letters: N frames of a window, V speech vectors of a frame, A speech channels, K frames that windows
before cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from loquent.diffusion.gaussian import Schedule, last_sample
from loquent.diffusion.stochastic import cosine_betas, fine_timesteps, from_clean, stochastic_ddim, truncated_timesteps
from loquent.diffusion.takes import full_windows, join_takes, keep_known
from loquent.errors import ControlsError, SpeechError
from loquent.models.moditalker.atom import guided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from loquent.diffusion.stochastic import Network
    from loquent.diffusion.takes import Window
    from loquent.models.moditalker.atom import AtomDenoiser


@dataclass(frozen=True, kw_only=True)
class AtomSettings:
    """How motion is sampled; published where something is."""

    steps: int = 50
    eta: float = 1.0
    guidance: float = 2.0
    overlap: int = 25  # frames that fade from one window to the next; ours
    spacing: Literal["even", "fine"] = "even"  # of timesteps; "fine" is ours, for few steps


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
        spaced = truncated_timesteps if settings.spacing == "even" else fine_timesteps
        self._schedule = Schedule.respaced(betas, spaced(settings.steps, len(betas)))

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
        wanted = (config.num_frames, config.vectors_per_frame, config.audio_dim)

        def make_take(window: Window, known: Tensor | None) -> Tensor:
            _check_speech(window.rows, wanted)
            return self._sample_window(window.rows.to(landmark), known, landmark, draw_noise)

        for motion in join_takes(full_windows(speech, config.num_frames, overlap), make_take, overlap):
            yield landmark + motion

    def _sample_window(
        self, speech: Tensor, known: Tensor | None, landmark: Tensor, draw_noise: Callable[[], Tensor]
    ) -> Tensor:
        """Residual motion of a window, (N, 204)."""
        settings = self.settings
        network: Network = guided(self.network, speech[None], landmark[None], scale=settings.guidance)
        if known is not None:
            network = holding(network, known, settings.overlap)

        def draw() -> Tensor:
            return draw_noise()[None].to(landmark)

        denoise = from_clean(network, self._schedule)
        return last_sample(stochastic_ddim(denoise, draw(), self._schedule, draw, eta=settings.eta))[0]


def holding(network: Network, known: Tensor, fade: int) -> Network:
    """A predictor of clean motion (1, N, 204) that keeps `known` (K, 204) as `takes.keep_known` does."""
    return lambda x, timestep: keep_known(network(x, timestep)[0], known, fade)[None]


def _check_speech(speech: Tensor, wanted: tuple[int, int, int]) -> None:
    if tuple(speech.shape) != wanted:
        raise SpeechError(
            f"speech has {tuple(speech.shape[1:])} numbers a frame; these weights want {wanted[1:]}: use the speech "
            f"encoder that they were trained with"
        )
