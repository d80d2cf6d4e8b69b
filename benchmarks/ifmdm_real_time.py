"""Is the shipped IF-MDM faster than real time? Seconds of each stage for a frame, on an example portrait and recording.

    python benchmarks/ifmdm_real_time.py [--systems ifmdm ifmdm-512] [--threads 2] [--repeats 3] [--device cuda]
    python benchmarks/ifmdm_real_time.py --preset published-512 --batch 16 --device cuda --bfloat16

With --preset, drawing alone with random weights, as published without the refine block, in batches. Wall seconds and seconds of the process, which add up over threads and leave out other work on the machine; the best of
the repeats counts for each.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import torch
from torch.nn import functional as F

from loquent.face.analyze import analyze
from loquent.media.audio import read_audio
from loquent.media.image import read_image
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset
from loquent.models.ifmdm.drawing import PortraitDrawer
from loquent.systems import load_system
from loquent.types import Controls

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"
Made = TypeVar("Made")


def timed(work: Callable[[], Made], repeats: int) -> tuple[Made, float, float]:
    """What the work gives, its wall seconds and its seconds of the process."""
    walls, processes = [], []
    for _ in range(repeats):
        wall_s, process_s = time.perf_counter(), time.process_time()
        made = work()
        walls.append(time.perf_counter() - wall_s)
        processes.append(time.process_time() - process_s)
    return made, min(walls), min(processes)


def measure(name: str, repeats: int, device: str) -> None:
    system = load_system(name, device)
    portrait, speech = analyze(read_image(EXAMPLES / "portrait_a.jpg")), read_audio(EXAMPLES / "speech.flac")
    num_frames = speech.num_frames()
    controls = Controls()
    features, *encoding = timed(lambda: list(system.encoder.encode(speech)), repeats)
    pieces, *writing = timed(lambda: list(system.generator.generate(iter(features), portrait, controls)), repeats)
    renderer, *reading = timed(lambda: system.make_renderer(portrait, None), repeats)
    frames, *drawing = timed(lambda: sum(1 for piece in pieces for _ in renderer.render(piece)), repeats)
    assert frames == num_frames
    print(f"{name}: {num_frames} frames of {renderer.size_px[0]} x {renderer.size_px[1]}, {controls.steps} steps")
    print(f"  {'stage':28}{'wall':>12}{'process':>12}")
    print(f"  {'portrait, once':28}{1000 * reading[0]:9.1f} ms{1000 * reading[1]:9.1f} ms")
    for stage, seconds in (("speech features", encoding), ("codes", writing), ("drawing", drawing)):
        print(f"  {stage + ', a frame':28}{1000 * seconds[0] / frames:9.1f} ms{1000 * seconds[1] / frames:9.1f} ms")
    total = [encoding[k] + writing[k] + drawing[k] for k in (0, 1)]
    print(f"  {'frames a second':28}{frames / total[0]:9.1f}   {frames / total[1]:9.1f}", flush=True)


@torch.no_grad()
def measure_drawing(preset: str, batch: int, repeats: int, device: str, bfloat16: bool) -> None:
    """Prints how many frames a second a renderer with random weights draws of one portrait."""
    config = get_autoencoder_preset(preset)
    torch.manual_seed(0)
    network = Autoencoder(config).eval().to(device)
    image = F.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, size=config.size_px, mode="bicubic").to(device)
    motion = (torch.rand(batch, config.motion_dim) - 0.5).to(device)
    with torch.autocast(device, torch.bfloat16) if bfloat16 else contextlib.nullcontext():
        drawer = PortraitDrawer(network)
        portrait = drawer.read(image)

        def draw() -> None:
            drawer.draw(portrait, motion, refine=False)
            if device == "cuda":
                torch.cuda.synchronize()

        draw()  # the first call chooses kernels
        _, wall_s, process_s = timed(draw, repeats)
    print(f"{preset}, {batch} frames at once, {'bfloat16' if bfloat16 else 'float32'} on {device}")
    print(f"  {'frames a second':28}{batch / wall_s:9.1f}   {batch / process_s:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["ifmdm", "ifmdm-512"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--preset", help="draw with random weights of this preset instead, without an output stage")
    parser.add_argument("--batch", type=int, default=16, help="frames at once, with --preset")
    parser.add_argument("--bfloat16", action="store_true", help="in autocast, with --preset")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    if arguments.preset:
        measure_drawing(arguments.preset, arguments.batch, arguments.repeats, arguments.device, arguments.bfloat16)
        return
    for name in arguments.systems:
        measure(name, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
