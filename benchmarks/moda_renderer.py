"""Time and agreement of the warping renderer's networks with a plain transcription of the specification.

    python benchmarks/moda_renderer.py --key-lists tests/parity/moda

Weights are random, in the released names and shapes. Sizes below 64 give smaller maps at the published widths.
Times are of one thread's own work (CPU time), the best of the repetitions, so that other programs disturb less.
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
from loquent.models.moda.renderer import PUBLISHED, SpadeDecoder, WarpingNetwork, weights
from loquent.models.moda.renderer.fast import FastDecoder, FastWarping
from reference import moda_renderer as reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def random_state(path: Path, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of the released names and shapes that keep activations near 1."""
    state = {}
    for name, shape in ((name, tensor.shape) for name, tensor in read_key_list(path).items()):
        fan_in = max(1, shape[1:].numel()) if len(shape) > 1 else 1
        values = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("norm.weight")):
            state[name] = 1 + 0.1 * values.abs()
        elif name.endswith(("weight_u", "weight_v")):
            state[name] = values / values.norm()
        else:
            state[name] = values * (2 / fan_in) ** 0.5 if len(shape) > 1 else 0.1 * values
    for name in [name for name in state if name.endswith("weight_u")]:
        weight = state[name.replace("weight_u", "weight_orig")].flatten(1)
        v = weight.T @ state[name]
        state[name.replace("weight_u", "weight_v")] = v / v.square().sum()  # u·W·v is 1: weights stay as they are
    return state


def measure(run: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a call in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def packed_conv_flops(x: list[int], weight: list[int], *_: object, out_shape: list[int], **__: object) -> int:
    """Of oneDNN's convolution, which torch's counter does not know."""
    del x
    return 2 * torch.Size(out_shape).numel() * torch.Size(weight).numel() // out_shape[1]


# Not counted: the spectra themselves; products of complex numbers count as products of real ones.
COUNTED = {torch.ops.mkldnn._convolution_pointwise: packed_conv_flops}


def compare(name: str, plain: Callable[[], Tensor], ours: Callable[[], Tensor], repeats: int) -> None:
    with FlopCounterMode(display=False) as plain_flops:
        wanted = plain()
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as our_flops:
        given = ours()
    off = (given - wanted).abs().max().item()
    seconds = [measure(run, repeats) for run in (plain, ours)]
    gflop = [counter.get_total_flops() / 1e9 for counter in (plain_flops, our_flops)]
    print(
        f"{name:8} GFLOP {gflop[0]:8.1f} -> {gflop[1]:8.1f} ({gflop[0] / gflop[1]:.2f} times less)   "
        f"s {seconds[0]:.3f} -> {seconds[1]:.3f} ({seconds[0] / seconds[1]:.2f} times as fast)   "
        f"largest difference {off:.1e} of {wanted.abs().max().item():.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key-lists", type=Path, required=True, help="folder of the released names and shapes")
    parser.add_argument(
        "--size",
        type=int,
        default=64,
        help="rows and columns of the feature volume; below 32 is too small for the networks",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(0)
    size = arguments.size

    state = random_state(arguments.key_lists / "warping_network.keys.json", generator)
    network = WarpingNetwork(PUBLISHED.warping).eval()
    weights.load_renamed(network, state, weights.WARPING, "random")
    fast = FastWarping(network)
    volume = torch.randn(1, 32, 16, size, size, generator=generator)
    source, target = (torch.rand(1, 21, 3, generator=generator) * 1.6 - 0.8 for _ in range(2))
    prepared = fast.prepare(volume, source)
    compare(
        "warping",
        lambda: reference.warp(state, volume, target, source),
        lambda: fast(prepared, target).features,
        arguments.repeats,
    )

    state = random_state(arguments.key_lists / "spade_decoder.keys.json", generator)
    decoder = SpadeDecoder(PUBLISHED.decoder).eval()
    weights.load_renamed(decoder, state, weights.DECODER, "random")
    fast_decoder = FastDecoder(decoder)
    features = torch.randn(1, 256, size, size, generator=generator)
    compare("decoder", lambda: reference.decode(state, features), lambda: fast_decoder(features), arguments.repeats)


if __name__ == "__main__":
    main()
