"""Measures our IF-MDM against a plain transcription of the published one, side by side, and compares the results.

    python benchmarks/ifmdm_speed.py --renderer starter-256 --motion starter a0

Weights are random, but flows as small as a trained renderer's and the picture as smooth as a photo: where neighbouring
pixels have nothing to do with each other, rounding alone moves single pixels of either way by 1e-2. Seconds are of the process, so that other work on the
machine counts little; with more than one thread they add up over the threads.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from loquent.models.ifmdm import Autoencoder, MotionDiffusionTransformer, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.drawing import PortraitDrawer
from loquent.models.ifmdm.fast import FastMotionDiffusionTransformer
from loquent.models.ifmdm.sampling import guided
from reference import ifmdm as plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

AGREEMENT = 1e-3
SMALL_FLOW = 0.1


@dataclass(frozen=True)
class Comparison:
    """One piece of work, done both ways."""

    work: str
    plain_s: float
    ours_s: float
    difference: float  # largest of the result, relative where it is above 1

    def __str__(self) -> str:
        verdict = "" if self.difference <= AGREEMENT else "  RESULTS DIFFER"
        return (
            f"{self.work:34} plain {1000 * self.plain_s:8.1f} ms   ours {1000 * self.ours_s:8.1f} ms   "
            f"{self.plain_s / self.ours_s:5.2f} times as fast   largest difference {self.difference:.1e}{verdict}"
        )


def compare(work: str, theirs: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int) -> Comparison:
    """Runs both in turn, so that a change of the machine's load meets both, and keeps the best time of each."""
    with torch.no_grad():
        expected, given = theirs(), ours()
        times: list[list[float]] = [[], []]
        for _ in range(repeats):
            for run, seconds in zip((theirs, ours), times, strict=True):
                start = time.process_time()
                run()
                seconds.append(time.process_time() - start)
    difference = ((expected - given).abs() / expected.abs().clamp(min=1)).max()
    return Comparison(work, min(times[0]), min(times[1]), float(difference))


def randomise(network: nn.Module, seed: int) -> None:
    """Moves every weight, so that none that starts at zero hides a mistake."""
    torch.manual_seed(seed)
    for weight in network.parameters():
        weight.data.add_(0.02 * torch.randn_like(weight))


def compare_renderer(preset: str, repeats: int) -> list[Comparison]:
    config = get_autoencoder_preset(preset)
    network = Autoencoder(config).eval()
    randomise(network, 0)
    for level in network.decoder.levels:
        level.flow.flow.weight.data.mul_(SMALL_FLOW)
    state, drawer = network.state_dict(), PortraitDrawer(network)
    image = F.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, size=config.size_px, mode="bicubic")
    motion = torch.rand(1, config.motion_dim) - 0.5
    with torch.no_grad():
        vector, maps = plain.encode(state, config, image)
    portrait = drawer.read(image)
    return [
        compare(
            f"{preset}: read a portrait",
            lambda: plain.encode(state, config, image)[0],
            lambda: network.encode(image.contiguous(memory_format=torch.channels_last)).vector,
            repeats,
        ),
        compare(
            f"{preset}: draw a frame",
            lambda: plain.decode(state, config, vector, maps, motion),
            lambda: drawer.draw(portrait, motion, refine=False),
            repeats,
        ),
    ]


def compare_motion(preset: str, repeats: int) -> Comparison:
    """A denoising step with guidance, conditions embedded before."""
    config = get_motion_preset(preset)
    network = MotionDiffusionTransformer(config).eval()
    randomise(network, 1)
    state = network.state_dict()
    x, timestep = torch.randn(1, config.num_frames, config.motion_dim), torch.tensor([500])
    speech = torch.randn(1, config.num_frames, config.vectors_per_frame, config.audio_dim)
    vectors = [torch.randn(1, config.motion_dim) for _ in range(3)]
    scale = 2.0
    predict = guided(FastMotionDiffusionTransformer(network), speech, *vectors, scale=scale, kind="published")

    def plain_step() -> Tensor:
        both = torch.cat([speech, torch.zeros_like(speech)])
        conditions = (both, *(value.repeat(2, 1) for value in vectors))
        noise, _ = plain.denoise(state, config, x.repeat(2, 1, 1), timestep.repeat(2), *conditions)
        with_speech, without = noise.chunk(2)
        return without + scale * (with_speech - without)

    return compare(f"{preset}: a guided denoising step", plain_step, lambda: predict(x, timestep)[0], repeats)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures our IF-MDM against a plain transcription.")
    parser.add_argument("--renderer", default="starter-256", help="preset of the renderer")
    parser.add_argument("--motion", nargs="+", default=["starter", "a0"], help="presets of the motion transformer")
    parser.add_argument("--repeats", type=int, default=5, help="calls of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = compare_renderer(arguments.renderer, arguments.repeats)
    results += [compare_motion(preset, arguments.repeats) for preset in arguments.motion]
    for result in results:
        print(result)
    return 0 if all(result.difference <= AGREEMENT for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
