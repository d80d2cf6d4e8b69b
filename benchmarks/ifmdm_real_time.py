"""Is the shipped IF-MDM faster than real time? Seconds of each stage for a frame, on an example portrait and recording.

    python benchmarks/ifmdm_real_time.py [--systems ifmdm ifmdm-512] [--threads 2] [--repeats 3]

Wall seconds and seconds of the process, which add up over threads and leave out other work on the machine; the best of
the repeats counts for each.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import torch

from loquent.face.analyze import analyze
from loquent.media.audio import read_audio
from loquent.media.image import read_image
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


def measure(name: str, repeats: int) -> None:
    system = load_system(name, "cpu")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["ifmdm", "ifmdm-512"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    for name in arguments.systems:
        measure(name, arguments.repeats)


if __name__ == "__main__":
    main()
