"""Motion of any length, window by window, in the network's normalised space."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.diffusion.flow import TimeGrid, euler, guide, time_grid
from loquent.diffusion.windows import crossfade, cut_windows, smooth3, smooth3_stream
from loquent.models.moda.emotion import split_emotions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from loquent.models.moda.emotion import EmotionCurve
    from loquent.models.moda.fast import FastMotionTransformer
    from loquent.models.moda.network import MotionTransformer


class WindowedSampler:
    """Samples overlapping windows and joins them without seams (docs/generator.md, "Windows").

    Shape letters: N frames of a window, M motion channels, L audio layers, C audio channels, I identity channels,
    E emotion labels with the null label.

    Args:
        network: the velocity.
        grid: of the flow's times.
        smooth_fades: windows fade into each other without a jerk at the fades' ends; the published fade is linear.
        reuse_below: steps narrower than this take the velocity of the step before. The published grid's last one is
            0.001 wide.
    """

    def __init__(
        self,
        network: MotionTransformer | FastMotionTransformer,
        grid: TimeGrid = "published",
        smooth_fades: bool = False,
        reuse_below: float = 0.0,
    ) -> None:
        self.network = network
        self.reuse_below = reuse_below
        self.grid: TimeGrid = grid
        self.smooth_fades = smooth_fades
        self.smoothed = slice(network.config.smooth_from, network.config.smooth_to)

    def sample(
        self,
        audio: Iterable[Tensor],
        *,
        previous: Tensor,
        emotion: Tensor | EmotionCurve,
        identity: Tensor,
        draw_noise: Callable[[], Tensor],
        steps: int,
        guidance: float,
    ) -> Iterator[Tensor]:
        """Turns a stream of speech features into a stream of motion of the same length.

        Args:
            audio: consecutive blocks (t, L, C).
            previous: motion right before the first frame, (M,), normalised.
            emotion: weights of the labels, (E,), or these over time.
            identity: (I,).
            draw_noise: gives the (N, M) start of the next window.
            steps: Euler steps of a window.
            guidance: 1 is none; more exaggerates what speech and emotion change.

        Yields:
            Consecutive pieces (t, M), final once handed out.
        """
        config = self.network.config
        starts = count(0, config.num_frames - config.overlap)

        def sample_window(features: Tensor, before: Tensor) -> Tensor:
            weights = emotion(next(starts), config.num_frames) if callable(emotion) else emotion[None]
            states, shares = split_emotions(weights)
            noise = draw_noise()
            takes = [self.sample_window(features, before, state, identity, noise, steps, guidance) for state in states]
            return takes[0] if len(takes) == 1 else torch.einsum("nk,knm->nm", shares, torch.stack(takes))

        return smooth3_stream(self._join(audio, previous, sample_window), self.smoothed)

    def _join(
        self, audio: Iterable[Tensor], previous: Tensor, sample_window: Callable[[Tensor, Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Samples each window after the frame before it and fades neighbours into each other."""
        config = self.network.config
        stride = config.num_frames - config.overlap
        tail: Tensor | None = None  # the last `overlap` frames so far, still to be blended
        for features, num_real in cut_windows(audio, config.num_frames, config.overlap):
            window = smooth3(sample_window(features, previous), self.smoothed)
            previous = window[stride - 1]
            window = window[:num_real]
            if tail is not None:
                shared = crossfade(tail, window[: config.overlap], self.smooth_fades)
                window = torch.cat([shared, window[config.overlap :]])
            if num_real == config.num_frames:
                yield window[:stride]
                tail = window[stride:]
            else:
                yield window
                tail = None
        if tail is not None:
            yield tail

    @torch.no_grad()
    def sample_window(
        self,
        audio: Tensor,
        previous: Tensor,
        emotion: Tensor,
        identity: Tensor,
        noise: Tensor,
        steps: int,
        guidance: float,
    ) -> Tensor:
        """One window (N, M) from its noise, computed where the network is."""
        config = self.network.config
        device = self.network.null_audio.device
        audio, previous, emotion, identity, noise = (
            value.to(device) for value in (audio, previous, emotion, identity, noise)
        )
        heard, felt = audio[None], emotion[None]
        if guidance > 1:
            null_emotion = F.one_hot(torch.tensor(config.null_emotion), len(emotion)).to(emotion)
            heard = torch.stack([self.network.null_audio.expand_as(audio), audio])
            felt = torch.stack([null_emotion, emotion])
        copies = len(heard)
        given = self.network.embed(heard, felt, identity.expand(copies, -1))

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            out = self.network.velocity(
                x.expand(copies, -1, -1), sigma.expand(copies), previous.expand(copies, -1), given
            )
            return out if copies == 1 else guide(out[:1], out[1:], guidance)

        grid = time_grid(steps, self.grid).to(device)
        return euler(velocity, noise[None], grid, self.reuse_below)[0].cpu()
