"""A folder of portraits with labels and a speech corpus, as small as what draws people can do with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from loquent.data.shards import ShardWriter, Utterance
from loquent.face.analyze import analyze
from loquent.media.image import read_image
from loquent.types import ARKIT_INDEX

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"
NUM_FRAMES = 90  # of the only utterance


def write_material(folder: Path, names: tuple[str, ...]) -> tuple[Path, Path, Path]:
    """One portrait under several names, its landmarks, and speech: PORTRAITS, LABELS and CORPUS of the commands."""
    photo = read_image(EXAMPLES / "portrait_a.jpg")
    small = cv2.resize(photo.pixels, (192, 192), interpolation=cv2.INTER_AREA)
    landmarks = analyze(photo).face.landmarks * (192 / photo.width_px)
    for name in names:
        cv2.imwrite(str(folder / f"{name}.jpg"), small[..., ::-1])
    np.savez(folder / "labels.npz", ids=np.array(names), landmarks=np.stack([landmarks] * len(names)))
    return folder, folder / "labels.npz", _write_speech(folder / "speech")


def _write_speech(folder: Path) -> Path:
    """A jaw that opens and shuts, with noise for its sound."""
    rng = np.random.default_rng(0)
    motion = np.zeros((NUM_FRAMES, 62), np.float32)
    motion[:, ARKIT_INDEX["jawOpen"]] = 0.5 + 0.5 * np.sin(np.arange(NUM_FRAMES) / 3)
    with ShardWriter(folder) as writer:
        writer.add(
            Utterance(
                audio=rng.integers(-1000, 1000, NUM_FRAMES * 640).astype(np.int16),
                motion=motion.astype(np.float16).astype(np.float32),
                phones=np.zeros(NUM_FRAMES * 4, np.uint8),
                emotion_id=5,
                intensity=0.0,
                style=np.zeros(8, np.float32),
                speaker="voice",
                language="en",
            )
        )
    return folder
