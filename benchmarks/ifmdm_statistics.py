"""Does movement follow IF-MDM's five motion settings? Measured as the published clips were.

    python benchmarks/ifmdm_statistics.py SPEECH PHOTO [PHOTO ...] [--system ifmdm] [--seeds 2]

Frames are compared in grey at 128 x 128 and 25 frames a second, values 0 to 255: the mean difference of consecutive
frames, and the deviation of each pixel over time. Published: both columns of `PUBLISHED`, six subjects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loquent import Controls, TalkingHead
from loquent.models.ifmdm.statistics import SETTINGS
from loquent.systems import load_system

PUBLISHED = {"free": (1.26, 11.4), "mean_portrait": (1.18, 6.8), "mean_last": (1.13, 10.8), "std_0.1": (2.14, 15.6),
             "std_0.3": (6.13, 32.4)}  # fmt: skip
SIDE_PX = 128


def movement(frames: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean difference of consecutive frames, and mean deviation of pixels over time, of frames (T, H, W, 3)."""
    grey = np.stack(
        [
            cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
            for f in frames
        ]
    ).astype(np.float32)
    return float(np.abs(np.diff(grey, axis=0)).mean()), float(grey.std(0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--system", default="ifmdm")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    print(
        f"{'setting':16} {'ours: step':>10} {'spread':>8} {'codes: spread':>14} {'published: step':>16} {'spread':>8}"
    )
    for setting, published in PUBLISHED.items():
        head = TalkingHead(load_system(args.system, options={"statistics": setting}))
        figures, spreads = [], []
        for photo in args.photos:
            for seed in range(args.seeds):
                clip = head.animate(photo, args.speech, Controls(seed=seed))
                assert clip.frames is not None
                figures.append(movement(clip.frames))
                spreads.append(clip.motion.to_vector().std(0).mean())
        step, spread = np.mean(figures, axis=0)
        print(
            f"{setting:16} {step:10.2f} {spread:8.1f} {np.mean(spreads):14.3f} {published[0]:16.2f} {published[1]:8.1f}",
            flush=True,
        )
    assert set(PUBLISHED) == set(SETTINGS)


if __name__ == "__main__":
    main()
