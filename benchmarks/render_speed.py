"""Times the mesh renderer on one core, without encoding.

    python benchmarks/render_speed.py [photo.jpg] [--size 512] [--frames 250]

Prints the preparation time of one portrait, the time of a frame as wall-clock and as processor time (the second is
the fair figure on a busy machine), and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import time
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import torch

from loquent.face import analyze
from loquent.media.image import read_image
from loquent.render.mesh import MeshRenderer
from loquent.types import ARKIT_INDEX, Motion


def talking_motion(num_frames: int, rest_expression: np.ndarray) -> Motion:
    """Something like speech: jaw and lips at speaking rate, a blink every three seconds, a slowly moving head."""
    time_s = np.arange(num_frames) / 25
    motion = Motion.neutral(num_frames)
    motion.expression[:] = 0.5 * rest_expression

    def wave(rate_hz: float, phase: float) -> np.ndarray:
        return 0.5 + 0.5 * np.sin(2 * np.pi * rate_hz * time_s + phase)

    for name, amount, rate_hz in (("jawOpen", 0.35, 4.1), ("mouthFunnel", 0.3, 1.7), ("mouthPucker", 0.3, 1.1)):
        motion.expression[:, ARKIT_INDEX[name]] += amount * wave(rate_hz, rate_hz).astype(np.float32)
    blink = np.exp(-(((time_s % 3 - 1.5) / 0.08) ** 2))
    for side in ("Left", "Right"):
        channel = motion.expression[:, ARKIT_INDEX[f"eyeBlink{side}"]]
        channel[:] = np.maximum(channel, blink)
    for axis, rate_hz in enumerate((0.31, 0.23, 0.17)):
        motion.rotation[:, axis] = 0.16 * wave(rate_hz, axis) - 0.08
    motion.gaze[:, :, 1] = (0.1 * wave(0.4, 0) - 0.05)[:, None]
    return motion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=512, help="longer side of the frames; 0 keeps the photo's own")
    parser.add_argument("--frames", type=int, default=250)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    photo = options.photo or Path(str(files("loquent.examples").joinpath("portrait_a.jpg")))
    portrait = analyze(read_image(photo))
    start, busy = time.perf_counter(), time.process_time()
    renderer = MeshRenderer(portrait, size=options.size or None)
    print(f"{photo.name}, frames of {renderer.size_px[0]} x {renderer.size_px[1]}")
    print(f"preparation: {time.perf_counter() - start:.2f} s, processor {time.process_time() - busy:.2f} s")
    motion = talking_motion(options.frames, portrait.rest_expression)
    for _ in renderer.render(motion[:16]):
        pass
    start, busy = time.perf_counter(), time.process_time()
    for _ in renderer.render(motion):
        pass
    wall, used = time.perf_counter() - start, time.process_time() - busy
    print(f"a frame: {1e3 * wall / len(motion):.1f} ms, processor {1e3 * used / len(motion):.1f} ms")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
