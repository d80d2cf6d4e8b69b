"""Measures what MToV's starter weights draw with more and fewer sampling steps, on windows with known frames.

    python -m loquent.training.moditalker_video_data PORTRAITS LABELS.npz CORPUS --split test --out WINDOWS
    python benchmarks/moditalker_steps.py WINDOWS [--weights src/loquent/weights/moditalker-video]

Of the box round the mouth, in frames (`difference`, `detail`) and in latents (`latent`, `spread`):

- difference: mean |drawn − real| in 0..255, pixels in openings counting most;
- detail: how much neighbouring pixels of openings differ, over the same of the real frames; 1 is right, less is blurred;
- latent: root of the mean squared difference of drawn and real, over that of the mean latent and real;
- spread: Frechet distance of drawn and real latents in the principal directions of real ones, over their variance; 0 if
  drawn windows are distributed as real ones, whatever belongs to what.

The row `encoded` is what the autoencoder makes of the real frames' own latent, the row `other` of another window's,
the row `mean` of the mean latent.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.models.moditalker.painter import Guide
from loquent.models.moditalker.rendering import VideoNetworks
from loquent.models.moditalker.video_sampling import Conditions, LatentSampler, VideoSettings, guided
from loquent.systems import WEIGHTS_DIR
from loquent.training.moditalker_autoencoder import opening_weights
from loquent.training.moditalker_video_data import NetworkView, Windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FRAMES = [1, 5, 9, 13]
FEATURES = 16  # principal directions of real latents in which distributions are compared
WALKS = ("ddim:100", "ddim:25", "ddim:10", "ddim:4", "dpm-solver:25", "dpm-solver:10", "dpm-solver:6", "dpm-solver:4",
         "dpm-solver:2", "dpm-solver:1")  # fmt: skip


class Scene:
    """One window: what the networks are told of it, and how far a latent's frames are from the real ones."""

    def __init__(self, networks: VideoNetworks, view: NetworkView) -> None:
        self._networks = networks
        pictures = networks.pictures
        self.latent = pictures.encode(view.openings()[None])
        self.conditions = Conditions(
            landmark=networks.dots.encode(view.dots()[None]),
            pose=pictures.encode(view.pose()[None]),
            identity=pictures.encode(view.portrait()[None])[..., : pictures.config.side**2],
        )
        self._guide, self._real, self._corners = view.mouth(FRAMES)

    def measure(self, latent: Tensor) -> tuple[float, float, float]:
        """Difference, and the detail of drawn and of real frames."""
        tokens = self._networks.pictures.decode_tokens(latent)[0, FRAMES]
        drawn = self._networks.pictures.paint(tokens, self._guide, self._corners).over(self._guide)
        difference = 127.5 * float((opening_weights(self._guide) * (drawn - self._real).abs()).mean())
        parts = Guide.of(self._guide)
        opening = ((1 - parts.is_upper) * (1 - parts.is_lower) * (1 + parts.near) / 8)[..., 1:, 1:]
        detail = [
            float((opening * (x.diff(dim=2)[..., 1:].abs() + x.diff(dim=3)[..., 1:, :].abs())).mean())
            for x in (drawn, self._real)
        ]
        return difference, detail[0], detail[1]

    def sample(self, sampler: LatentSampler, noise: Tensor, guidance: float, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        denoiser = self._networks.denoiser
        network = guided(denoiser, self.conditions, guidance)
        made = sampler.sample(
            network, noise, lambda: torch.randn(noise.shape, generator=random), denoiser.config.prediction
        )
        return self._networks.scale.from_unit(made)


class Statistics:
    """How latents (N, L, P) of real windows are distributed."""

    def __init__(self, latents: Tensor) -> None:
        flat = latents.flatten(1).double()
        self._middle = flat.mean(0)
        self._latents = latents
        self._directions = torch.linalg.svd(flat - self._middle, full_matrices=False)[2][:FEATURES].T
        self._real = self._features(latents)

    def _features(self, latents: Tensor) -> Tensor:
        return (latents.flatten(1).double() - self._middle) @ self._directions

    def away(self, latents: Tensor) -> float:
        """How far latents are from the real ones of the same windows; 1 as far as their mean."""
        real = self._latents
        return float((latents - real).square().mean().sqrt() / (real - real.mean(0)).square().mean().sqrt())

    def spread(self, latents: Tensor) -> float:
        """Frechet distance |m₁ − m₂|² + tr(C₁ + C₂ − 2·(C₁·C₂)^½), over the real windows' own variance."""
        made = self._features(latents)
        covariances = [values.T.cov() for values in (made, self._real)]
        mixed = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
        apart = (made.mean(0) - self._real.mean(0)).square().sum()
        total = covariances[1].trace()
        return float((apart + covariances[0].trace() + total - 2 * mixed) / total)


def report(name: str, scenes: Sequence[Scene], latents: Tensor, statistics: Statistics, seconds: float) -> None:
    """Prints one row."""
    rows = np.array([scene.measure(latent[None]) for scene, latent in zip(scenes, latents, strict=True)])
    print(
        f"{name:36} difference {rows[:, 0].mean():6.2f}   detail {rows[:, 1].sum() / rows[:, 2].sum():5.2f}   "
        f"latent {statistics.away(latents):5.2f}   spread {statistics.spread(latents):5.2f}   {1000 * seconds:6.0f} ms a window",
        flush=True,
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="MToV's quality against sampling steps.")
    parser.add_argument("windows", type=Path, help="folder made by loquent.training.moditalker_video_data")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR / "moditalker-video")
    parser.add_argument("--every", type=int, default=1, help="use every n-th window")
    parser.add_argument("--walks", nargs="+", default=WALKS, help="solver:steps, such as dpm-solver:2")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    networks, windows = VideoNetworks.from_pretrained(arguments.weights), Windows(arguments.windows)
    config = networks.pictures.config
    scenes = [
        Scene(networks, NetworkView(windows[number], config)) for number in range(0, len(windows), arguments.every)
    ]
    noise = torch.randn(1, config.latent_dim, config.latent_length, generator=torch.Generator().manual_seed(0))
    real = torch.cat([scene.latent for scene in scenes])
    statistics = Statistics(real)
    print(f"{len(scenes)} windows")
    report("encoded", scenes, real, statistics, 0.0)
    report("other", scenes, real.roll(1, 0), statistics, 0.0)
    report("mean", scenes, real.mean(0, keepdim=True).expand_as(real), statistics, 0.0)
    for walk in arguments.walks:
        solver, steps = walk.split(":")
        for guidance in arguments.guidance:
            sampler = LatentSampler(VideoSettings(steps=int(steps), solver=solver))
            start = time.process_time()
            latents = torch.cat([scene.sample(sampler, noise, guidance, seed) for seed, scene in enumerate(scenes)])
            seconds = (time.process_time() - start) / len(scenes)
            report(f"{solver:10} {int(steps):4} steps, guidance {guidance:3.1f}", scenes, latents, statistics, seconds)


if __name__ == "__main__":
    main()
