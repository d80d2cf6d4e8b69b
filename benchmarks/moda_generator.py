"""Time and agreement of the motion generator of the published size with a plain transcription of the specification.

    python benchmarks/moda_generator.py --key-lists tests/parity/moda

Weights are random, in the released names and shapes; a window has 80 frames, 10 steps and guidance 1.2. Both are run in
turn, step by step; times are of the process's own work (CPU time), the least of the repetitions, so that other programs
disturb less. Operations are those of products; a multiply and an add count as two.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from loquent.evaluation.fixtures import read_key_list
from loquent.models.moda.config import BASE
from loquent.models.moda.fast import FastMotionTransformer
from loquent.models.moda.network import MotionTransformer
from loquent.models.moda.sampling import WindowedSampler
from loquent.models.moda.weights import load_published
from reference import moda_generator as reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

STEPS, GUIDANCE, EMOTION = 10, 1.2, 4


def random_state(path: Path, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of the released names and shapes that keep activations near 1, and gates open."""
    state = {}
    for name, tensor in read_key_list(path).items():
        values = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            state[name] = 1 + 0.1 * values
        elif name.endswith("weight"):
            gain = 0.3 if "adaLN" in name else 0.7
            state[name] = gain * values / tensor.shape[-1] ** 0.5
        else:
            state[name] = 0.1 * values
    return state


def _linear_flops(x: list[int], weight: object, *_: object, out_shape: list[int], **__: object) -> int:
    del weight
    return 2 * torch.Size(x).numel() * out_shape[-1]


def _attention_flops(q: list[int], k: list[int], *_: object, **__: object) -> int:
    return 4 * torch.Size(q).numel() * k[-2]


COUNTED = {
    torch.ops.mkldnn._linear_pointwise: _linear_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}


def count(run: Callable[[], object]) -> float:
    """Operations of a call, in units of 10^9."""
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        run()
    return counter.get_total_flops() / 1e9


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key-lists", type=Path, required=True, help="folder of the released names and shapes")
    parser.add_argument("--repeats", type=int, default=3, help="of a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="also sample a whole window both ways and compare")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    state = random_state(arguments.key_lists / "talking_head_dit.keys.json", generator)
    with torch.device("meta"):
        network = MotionTransformer(BASE)
    load_published(network, state, "random")
    fast = FastMotionTransformer(network.eval())
    audio = draw(2, BASE.num_frames, BASE.audio_layers, BASE.audio_dim)
    motion, identity, previous = draw(2, BASE.num_frames, BASE.motion_dim), draw(2, BASE.identity_dim), draw(2, 70)
    sigma, labels = torch.full((2,), 0.556), torch.tensor([BASE.null_emotion, EMOTION])
    weights = torch.nn.functional.one_hot(labels, BASE.num_emotions + 1).float()

    def plain_step() -> Tensor:
        return reference.velocity(state, motion, 1000 * sigma, previous, audio, labels, identity)

    given = fast.embed(audio, weights, identity)

    def our_step() -> Tensor:
        return fast.velocity(motion, sigma, previous, given)

    results: list[Tensor] = []
    steps = (plain_step, our_step, lambda: fast.embed(audio, weights, identity).audio)
    operations = [count(lambda run=run: results.append(run())) for run in steps]
    off = (results[0] - results[1]).abs().max()
    print(f"velocity: largest difference {off:.1e} of {results[0].abs().max():.2f}", flush=True)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(arguments.repeats):
        for times, run in zip(seconds, (plain_step, our_step), strict=True):
            times.append(cpu_seconds(run))
    once = cpu_seconds(lambda: fast.embed(audio, weights, identity))
    plain, our = (min(times) for times in seconds)
    report("guided step", operations[0], operations[1], plain, our)
    for name, evaluated in (("window of 80", STEPS), ("narrow skipped", STEPS - 1)):
        ours_gflop, ours_s = evaluated * operations[1] + operations[2], evaluated * our + once
        report(name, STEPS * operations[0], ours_gflop, STEPS * plain, ours_s)
    if arguments.whole:
        compare_windows(state, fast, audio[1], previous[0], identity[0])


def report(name: str, plain_gflop: float, our_gflop: float, plain_s: float, our_s: float) -> None:
    print(
        f"{name:14} GFLOP {plain_gflop:7.1f} -> {our_gflop:7.1f} ({plain_gflop / our_gflop:.2f} times less)   "
        f"s {plain_s:6.2f} -> {our_s:6.2f} ({plain_s / our_s:.2f} times as fast)",
        flush=True,
    )


def compare_windows(
    state: dict[str, Tensor], fast: FastMotionTransformer, audio: Tensor, previous: Tensor, identity: Tensor
) -> None:
    """A whole window, sampled both ways from the same noise, before the running mean over its pose."""
    noise = torch.randn(BASE.num_frames, BASE.motion_dim, generator=torch.Generator().manual_seed(1))
    results: list[Tensor] = []
    emotion = torch.nn.functional.one_hot(torch.tensor(EMOTION), BASE.num_emotions + 1).float()
    sampler = WindowedSampler(fast)
    plain = cpu_seconds(
        lambda: results.append(
            reference.sample_window(state, noise, previous, audio, fast.null_audio, EMOTION, identity, STEPS, GUIDANCE)
        )
    )
    our = cpu_seconds(
        lambda: results.append(sampler.sample_window(audio, previous, emotion, identity, noise, STEPS, GUIDANCE))
    )
    off = (results[0] - results[1]).abs().max()
    print(
        f"whole window: s {plain:.2f} -> {our:.2f} ({plain / our:.2f} times as fast)   "
        f"largest difference {off:.1e} of {results[0].abs().max():.2f}"
    )


if __name__ == "__main__":
    main()
