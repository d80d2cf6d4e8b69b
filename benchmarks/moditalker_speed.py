"""Measures our MToV against a plain transcription of the published one, side by side, and compares the results.

    python benchmarks/moditalker_speed.py [--preset starter-landmark --unet starter]
    python benchmarks/moditalker_speed.py --preset published --unet published --steps 4 --repeats 1
    python benchmarks/moditalker_speed.py --preset published --unet published --device cuda [--bfloat16]

One window of 16 frames end to end: conditions encoded, 25 DDIM steps from the noised still portrait (the published
scripts' walk), decoded. Weights are random. Seconds are of the process, so that other work on the machine counts
little; with --device cuda they are wall seconds, and with --bfloat16 ours alone runs in autocast: the difference then
is that of the precision, and is not held to the bound.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import contextlib
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
from loquent.models.moditalker.video_sampling import Conditions, guided
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

    def __init__(self, *shape: int, device: str = "cpu") -> None:
        self._shape, self._device = shape, device
        self._random = torch.Generator().manual_seed(0)

    def __call__(self) -> Tensor:
        return torch.randn(self._shape, generator=self._random).to(self._device)


def best_seconds(runs: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Runs all in turn, so that a change of the machine's load meets each, and keeps the best time of each."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for index, run in enumerate(runs):
            start = clock(device)
            run()
            best[index] = min(best[index], clock(device) - start)
    return best


def clock(device: str) -> float:
    """Seconds of the process, or wall seconds once an accelerator has done its work."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description="Measures our MToV against a plain transcription.")
    parser.add_argument("--preset", default="starter-landmark", help="of both autoencoders, without a painter")
    parser.add_argument("--unet", default="starter", help="preset of the denoiser")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps: the last quarter of a walk")
    parser.add_argument("--repeats", type=int, default=3, help="windows of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="ours in autocast, with --device cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, repeats = arguments.device, arguments.repeats
    config = get_autoencoder_preset(arguments.preset)
    unet = replace(get_unet_preset(arguments.unet), prediction="noise")
    torch.manual_seed(0)
    networks = TriplaneAutoencoder(config), TriplaneAutoencoder(config), LatentUNet(unet)
    for seed, network in enumerate(networks):
        randomise(network.eval(), seed)
        network.to(device)
    settings = VideoSettings(steps=4 * arguments.steps, strength=0.25, overlap=0)
    sampler = VideoSampler(*networks, settings)
    frames, size = config.num_frames, config.size_px
    dots, pose = (smooth_clip(frames, size, seed).to(device) for seed in (1, 2))
    portrait = smooth_clip(1, size, 3)[0].to(device)
    states = tuple({name: value.float() for name, value in network.state_dict().items()} for network in networks)
    length = (config.latent_dim, config.latent_length)
    precision = torch.autocast(device, torch.bfloat16) if arguments.bfloat16 else contextlib.nullcontext()

    def theirs() -> Tensor:
        noises = Noises(1, *length, device=device)
        return plain.sample_window(
            states, (config, unet), dots, portrait, pose, noises, settings.steps, settings.strength
        )

    def ours() -> Tensor:
        with precision:
            pieces = sampler.sample([dots], portrait=portrait, pose=[pose], draw_noise=Noises(*length, device=device))
            return torch.cat(list(pieces))

    def in_precision(work: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with precision:
                return work()

        return run

    difference = float((theirs() - ours()).abs().max())
    plain_s, ours_s = best_seconds([theirs, ours], repeats, device)
    step = Noises(1, *length, device=device)
    x, conditions = step(), Conditions(step(), step(), step()[..., : config.side**2])
    timestep = torch.tensor([500], device=device)
    denoise = guided(sampler.network, conditions, 1.0)
    clip = dots.transpose(0, 1)[None]
    parts = {
        "one denoising step": (
            lambda: plain.denoise(states[2], unet, x, timestep, *conditions),
            lambda: denoise(x, timestep),
        ),
        "encoding 16 frames": (lambda: plain.encode(states[0], config, clip), lambda: sampler.pictures.encode(clip)),
        "decoding 16 frames": (lambda: plain.decode(states[0], config, x), lambda: sampler.pictures.decode(x)),
    }
    rows = [("one window, end to end", plain_s, ours_s)]
    rows += [(name, *best_seconds([slow, in_precision(fast)], repeats, device)) for name, (slow, fast) in parts.items()]
    for name, slow, fast in rows:
        print(f"{name:24} plain {1000 * slow:8.1f} ms   ours {1000 * fast:8.1f} ms   {slow / fast:5.2f} times as fast")
    differs = difference > AGREEMENT and not arguments.bfloat16
    print(f"largest difference of a frame {difference:.1e}{'  RESULTS DIFFER' if differs else ''}")
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
