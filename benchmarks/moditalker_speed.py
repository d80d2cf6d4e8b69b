"""Measures our MToV against a plain transcription of the published one, side by side, and compares the results.

    python benchmarks/moditalker_speed.py [--preset starter-landmark --unet starter]

One window of 16 frames end to end: conditions encoded, 25 DDIM steps from the noised still portrait (the published
scripts' walk), decoded. Ours is also shown with the still portrait already known, as from the second window of a video
on. Weights are random. Seconds are of the process, so that other work on the machine counts little.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from loquent.models.moditalker import (
    LatentUNet,
    TriplaneAutoencoder,
    VideoSampler,
    VideoSettings,
    get_autoencoder_preset,
    get_unet_preset,
)
from reference import moditalker as plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

AGREEMENT = 1e-3


def randomise(network: nn.Module, seed: int) -> None:
    """Moves every weight, so that none that starts at zero hides a mistake."""
    random = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.data.add_(0.02 * torch.randn(weight.shape, generator=random))


def smooth_clip(num_frames: int, size_px: int, seed: int) -> Tensor:
    """(T, 3, R, R) in [−1, 1], smooth in space and time."""
    random = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 4, 8, 8, generator=random) * 2 - 1
    return F.interpolate(small, (num_frames, size_px, size_px), mode="trilinear")[0].transpose(0, 1)


class Noises:
    """The same noise for either way."""

    def __init__(self, *shape: int) -> None:
        self._shape, self._random = shape, torch.Generator().manual_seed(0)

    def __call__(self) -> Tensor:
        return torch.randn(self._shape, generator=self._random)


def best_seconds(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Runs all in turn, so that a change of the machine's load meets each, and keeps the best time of each."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for index, run in enumerate(runs):
            start = time.process_time()
            run()
            best[index] = min(best[index], time.process_time() - start)
    return best


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description="Measures our MToV against a plain transcription.")
    parser.add_argument("--preset", default="starter-landmark", help="of both autoencoders, without a painter")
    parser.add_argument("--unet", default="starter", help="preset of the denoiser")
    parser.add_argument("--repeats", type=int, default=3, help="windows of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = get_autoencoder_preset(arguments.preset)
    unet = replace(get_unet_preset(arguments.unet), prediction="noise")
    torch.manual_seed(0)
    networks = TriplaneAutoencoder(config), TriplaneAutoencoder(config), LatentUNet(unet)
    for seed, network in enumerate(networks):
        randomise(network.eval(), seed)
    settings = VideoSettings(steps=100, strength=0.25, overlap=0)
    sampler = VideoSampler(*networks, settings)
    frames, size = config.num_frames, config.size_px
    dots, pose = smooth_clip(frames, size, 1), smooth_clip(frames, size, 2)
    portrait = smooth_clip(1, size, 3)[0]
    states = tuple({name: value.float() for name, value in network.state_dict().items()} for network in networks)
    length = (config.latent_dim, config.latent_length)

    def theirs() -> Tensor:
        return plain.sample_window(
            states, (config, unet), dots, portrait, pose, Noises(1, *length), settings.steps, settings.strength
        )

    def ours() -> Tensor:
        pieces = sampler.sample([dots], portrait=portrait, pose=[pose], draw_noise=Noises(*length))
        return torch.cat(list(pieces))

    difference = float((theirs() - ours()).abs().max())
    plain_s, ours_s = best_seconds([theirs, ours], arguments.repeats)
    step = Noises(1, *length)
    x, told = step(), [step(), step(), step()[..., : config.side**2]]
    timestep = torch.tensor([500])
    parts = {
        "one denoising step": (
            lambda: plain.denoise(states[2], unet, x, timestep, *told),
            lambda: networks[2](x, timestep, *told),
        ),
        "encoding 16 frames": (
            lambda: plain.encode(states[0], config, dots.transpose(0, 1)[None]),
            lambda: networks[0].encode(dots.transpose(0, 1)[None]),
        ),
        "decoding 16 frames": (lambda: plain.decode(states[0], config, x), lambda: networks[0].decode(x)),
    }
    rows = [("one window, end to end", plain_s, ours_s)]
    rows += [(name, *best_seconds(list(pair), arguments.repeats)) for name, pair in parts.items()]
    for name, slow, fast in rows:
        print(f"{name:24} plain {1000 * slow:8.1f} ms   ours {1000 * fast:8.1f} ms   {slow / fast:5.2f} times as fast")
    print(f"largest difference of a frame {difference:.1e}{'' if difference <= AGREEMENT else '  RESULTS DIFFER'}")
    return 0 if difference <= AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(main())
