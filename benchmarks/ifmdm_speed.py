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
from loquent.diffusion.gaussian import Schedule, ddim, last_sample, linear_betas, strided_timesteps
from loquent.models.ifmdm import Autoencoder, MotionDiffusionTransformer, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.drawing import PortraitDrawer
from loquent.models.ifmdm.fast import FastMotionDiffusionTransformer
from loquent.models.ifmdm.sampling import guided
from reference import ifmdm as plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from loquent.diffusion.gaussian import Predict

AGREEMENT = 1e-3
SMALL_FLOW = 0.1
STEPS = 10  # of a window, as the system takes
WINDOW_REPEATS = 2  # of the longest work


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


class Renderer:
    """A renderer with random weights and a portrait, read both ways."""

    def __init__(self, preset: str) -> None:
        self.preset, self.config = preset, get_autoencoder_preset(preset)
        self.network = Autoencoder(self.config).eval()
        randomise(self.network, 0)
        for level in self.network.decoder.levels:
            level.flow.flow.weight.data.mul_(SMALL_FLOW)  # type: ignore[union-attr,operator]
        self.state, self.drawer = self.network.state_dict(), PortraitDrawer(self.network)
        self.image = F.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, size=self.config.size_px, mode="bicubic")
        with torch.no_grad():
            self.vector, self.maps = plain.encode(self.state, self.config, self.image)
        self.portrait = self.drawer.read(self.image)

    def draw_plainly(self, motion: Tensor) -> Tensor:
        """Frames of motion (B, M), one after another."""
        frames = [plain.decode(self.state, self.config, self.vector, self.maps, code[None]) for code in motion]
        return torch.cat(frames)

    def draw(self, motion: Tensor) -> Tensor:
        """The same our way."""
        return torch.cat([self.drawer.draw(self.portrait, code[None], refine=False) for code in motion])

    def compare(self, repeats: int) -> list[Comparison]:
        image, motion = self.image, torch.rand(1, self.config.motion_dim) - 0.5
        return [
            compare(
                f"{self.preset}: read a portrait",
                lambda: plain.encode(self.state, self.config, image)[0],
                lambda: self.network.encode(image.contiguous(memory_format=torch.channels_last)).vector,
                repeats,
            ),
            compare(
                f"{self.preset}: draw a frame",
                lambda: self.draw_plainly(motion),
                lambda: self.draw(motion),
                repeats,
            ),
        ]


class Transformer:
    """A motion transformer with random weights and a window's conditions; a guided step both ways, these embedded before
    our way."""

    def __init__(self, preset: str, scale: float = 2.0) -> None:
        self.preset, self.config, self._scale = preset, get_motion_preset(preset), scale
        network = MotionDiffusionTransformer(self.config).eval()
        randomise(network, 1)
        self._state, self._fast = network.state_dict(), FastMotionDiffusionTransformer(network)
        self.noise = torch.randn(1, self.config.num_frames, self.config.motion_dim)
        self._speech = torch.randn(1, self.config.num_frames, self.config.vectors_per_frame, self.config.audio_dim)
        self._vectors = [torch.randn(1, self.config.motion_dim) for _ in range(3)]

    def predict_plainly(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self._speech, torch.zeros_like(self._speech)])
        conditions = (both, *(value.repeat(2, 1) for value in self._vectors))
        noise, logits = plain.denoise(self._state, self.config, x.repeat(2, 1, 1), timestep.repeat(2), *conditions)
        with_speech, without = noise.chunk(2)
        return without + self._scale * (with_speech - without), logits.chunk(2)[0]

    def embedded(self) -> Predict:
        return guided(self._fast, self._speech, *self._vectors, scale=self._scale, kind="published")

    def compare(self, repeats: int) -> Comparison:
        timestep, predict = torch.tensor([500]), self.embedded()
        return compare(
            f"{self.preset}: a guided denoising step",
            lambda: self.predict_plainly(self.noise, timestep)[0],
            lambda: predict(self.noise, timestep)[0],
            repeats,
        )


def compare_window(renderer: Renderer, transformer: Transformer, steps: int, repeats: int) -> Comparison:
    """A window from noise to pictures."""
    schedule = Schedule.respaced(linear_betas(), strided_timesteps(steps))

    def codes(predict: Predict) -> Tensor:
        return last_sample(ddim(predict, transformer.noise, schedule))[0] / 2

    return compare(
        f"a window, {transformer.config.num_frames} frames, {steps} steps",
        lambda: renderer.draw_plainly(codes(transformer.predict_plainly)),
        lambda: renderer.draw(codes(transformer.embedded())),
        repeats,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures our IF-MDM against a plain transcription.")
    parser.add_argument("--renderer", default="starter-256", help="preset of the renderer")
    parser.add_argument("--motion", nargs="+", default=["starter", "a0"], help="presets of the motion transformer")
    parser.add_argument("--repeats", type=int, default=5, help="calls of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    renderer, transformers = Renderer(arguments.renderer), [Transformer(preset) for preset in arguments.motion]
    results = renderer.compare(arguments.repeats)
    results += [transformer.compare(arguments.repeats) for transformer in transformers]
    results.append(compare_window(renderer, transformers[0], STEPS, min(arguments.repeats, WINDOW_REPEATS)))
    for result in results:
        print(result)
    return 0 if all(result.difference <= AGREEMENT for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
