"""A video by the published-size MoDA, from random weights in the released layout: it looks like noise; the path holds.

    python benchmarks/moda_end_to_end.py --key-lists tests/parity/moda --folder /tmp/moda --seconds 0.2 -o noise.mp4

Writes files of the released names, nesting and shapes (about 2.3 GB), converts them as `loquent fetch moda --from` does
(as much again), and animates an example portrait. Needs about 12 GB of memory.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # must be set before torch is imported

import argparse
import time
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent import TalkingHead
from loquent.evaluation.released_layout import write_release
from loquent.fetch import find_release, prepare
from loquent.models.moda.config import BASE
from loquent.models.moda.network import MotionTransformer
from loquent.models.moda.renderer.config import PUBLISHED
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.speech.hubert import Hubert, HubertConfig

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def timed(name: str) -> Iterator[None]:
    wall, own = time.perf_counter(), time.process_time()
    yield
    print(f"{name:28} {time.perf_counter() - wall:8.1f} s, {time.process_time() - own:8.1f} s of work", flush=True)


def write_random_release(folder: Path, key_lists: Path) -> None:
    """Untrained networks of the published sizes; statistics that keep the head's pose small."""
    torch.manual_seed(0)
    statistics = {"mean": torch.zeros(1, 70), "std": torch.full((1, 70), 0.01)}
    statistics["mean"][0, 63] = 1.3  # scale
    statistics["std"][0, 67:] = 3.0  # degrees
    write_release(
        folder, key_lists, MotionTransformer(BASE), RendererNetworks(PUBLISHED), Hubert(HubertConfig()), statistics
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--key-lists", type=Path, required=True, help="folder of the released names and shapes")
    parser.add_argument("--folder", type=Path, required=True, help="for the files and the cache")
    parser.add_argument("--seconds", type=float, default=0.2, help="of speech; a frame is 40 ms")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("noise.mp4"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["LOQUENT_CACHE"] = str(arguments.folder / "cache")
    release = find_release("moda")
    if not release.is_ready:
        with timed("writing random files"):
            write_random_release(arguments.folder / "downloads", arguments.key_lists)
        with timed("converting"):
            prepare(release, source=arguments.folder / "downloads")
    with timed("loading"):
        head = TalkingHead.from_pretrained("moda", "cpu")
    speech = 0.1 * np.random.default_rng(0).standard_normal(round(16_000 * arguments.seconds)).astype(np.float32)
    portrait = head.portrait(str(files("loquent.examples").joinpath("portrait_a.jpg")))
    with timed("speech, motion and frames"):
        clip = head.animate(portrait, (speech, 16_000), output=arguments.output)
    print(f"{clip.path}: {clip.num_frames} frames of {clip.size_px[0]}x{clip.size_px[1]}")


if __name__ == "__main__":
    main()
