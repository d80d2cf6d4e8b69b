"""Measures what MToV's starter weights draw with more and fewer sampling steps, on windows with known frames.

    python -m loquent.training.moditalker_video_data PORTRAITS LABELS.npz CORPUS --split test --out WINDOWS
    python benchmarks/moditalker_steps.py WINDOWS [--weights src/loquent/weights/moditalker-video]

Difference: mean over pixels near mouth and eyes, most of them openings, of |drawn − real| in 0..255; the row `encoded`
is what the autoencoder makes of the real frames' own latent, the row `other` of another window's latent.
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

from loquent.models.moditalker.rendering import VideoNetworks
from loquent.models.moditalker.video_sampling import Conditions, LatentSampler, VideoSettings, guided
from loquent.systems import WEIGHTS_DIR
from loquent.training.moditalker_autoencoder import opening_weights
from loquent.training.moditalker_video_data import NetworkView, Windows

if TYPE_CHECKING:
    from torch import Tensor

FRAMES = [1, 5, 9, 13]
WALKS = [
    ("ddim", 100),
    ("ddim", 25),
    ("ddim", 10),
    ("ddim", 4),
    ("dpm-solver", 25),
    ("dpm-solver", 10),
    ("dpm-solver", 6),
    ("dpm-solver", 4),
    ("dpm-solver", 2),
    ("dpm-solver", 1),
]


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
        self._guide, self._real = view.guide(FRAMES).transpose(0, 1), view.clip(FRAMES).transpose(0, 1)

    def difference(self, latent: Tensor) -> float:
        tokens = self._networks.pictures.decode_tokens(latent)[:, FRAMES]
        drawn = self._networks.pictures.painter.paint(tokens, self._guide).over(self._guide)
        return 127.5 * float((opening_weights(self._guide) * (drawn - self._real).abs()).mean())

    def sample(self, sampler: LatentSampler, noise: Tensor, guidance: float, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        denoiser = self._networks.denoiser
        network = guided(denoiser, self.conditions, guidance)
        made = sampler.sample(
            network, noise, lambda: torch.randn(noise.shape, generator=random), denoiser.config.prediction
        )
        return self._networks.scale.from_unit(made)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="MToV's quality against sampling steps.")
    parser.add_argument("windows", type=Path, help="folder made by loquent.training.moditalker_video_data")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR / "moditalker-video")
    parser.add_argument("--every", type=int, default=3, help="use every n-th window")
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
    print(f"{len(scenes)} windows")
    print(f"encoded                            difference {np.mean([s.difference(s.latent) for s in scenes]):6.2f}")
    others = [a.difference(b.latent) for a, b in zip(scenes, [*scenes[1:], scenes[0]], strict=True)]
    print(f"other                              difference {np.mean(others):6.2f}")
    for solver, steps in WALKS:
        for guidance in arguments.guidance:
            sampler = LatentSampler(VideoSettings(steps=steps, solver=solver))  # type: ignore[arg-type]
            start = time.process_time()
            latents = [scene.sample(sampler, noise, guidance, seed) for seed, scene in enumerate(scenes)]
            seconds = (time.process_time() - start) / len(scenes)
            differences = [scene.difference(latent) for scene, latent in zip(scenes, latents, strict=True)]
            print(
                f"{solver:10} {steps:4} steps, guidance {guidance:3.1f}   difference {np.mean(differences):6.2f}   "
                f"{1000 * seconds:7.0f} ms a window"
            )


if __name__ == "__main__":
    main()
