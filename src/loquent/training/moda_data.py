"""Speech features of a whole corpus beside its motion, computed once, so that a step of the transformer is cheap.

    python -m loquent.training.moda_data CORPUS ENCODER OUT --copies 3

Copy 0 is the sound as it is, the others pass the encoder under augmentation. A run that goes on with a larger corpus
keeps its normalisation: `--like` names the cache that it began with.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.data.shards import Corpus
from loquent.errors import LoquentError
from loquent.models.moda.config import get_preset
from loquent.speech.encoder import SUBFRAMES, LogMelEncoder
from loquent.speech.features import HOP, WINDOW, speech_level
from loquent.training.speech_augment import augment_log_mel
from loquent.types import EMOTIONS, MOTION_DIM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

logger = logging.getLogger(__name__)

_STD_FLOOR = 0.01  # a channel that hardly moves is not blown up further
_START_SHARE = 0.15  # of the windows begin where an utterance begins, as every video does
_TAIL_ROWS = 20  # a window may reach that far beyond an utterance's end
_NEUTRAL = EMOTIONS.index("neutral")


@dataclass(frozen=True, eq=False)
class MotionBatch:
    """What a step needs. N frames, M motion channels, L layers and C channels of speech features."""

    motion: Tensor  # (B, N, M), normalised
    previous: Tensor  # (B, M), normalised motion of the frame before; where an utterance begins, of rest
    audio: Tensor  # (B, N, L, C)
    emotion: Tensor  # (B, E), weights of the labels
    identity: Tensor  # (B, I), style of the person
    mask: Tensor  # (B, N), 1 where there is motion


def build_cache(
    corpus: Corpus, encoder: LogMelEncoder, folder: Path, copies: int, statistics: NDArray[np.float32] | None = None
) -> None:
    """Writes features, motion and labels of every utterance under `folder`.

    Args:
        statistics: (2, 62), mean and deviation to normalise with; by default those of the corpus.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.concatenate([[0], np.cumsum([corpus.num_frames(number) for number in range(len(corpus))])])
    shape = (int(starts[-1]), SUBFRAMES, encoder.network.config.feature_dim)
    outputs = [
        np.lib.format.open_memmap(folder / f"features-{copy}.npy", "w+", np.float16, shape) for copy in range(copies)
    ]
    motion = np.empty((shape[0], MOTION_DIM), np.float16)
    emotion = np.zeros((len(corpus), len(EMOTIONS) + 1), np.float32)
    style = []
    for number in range(len(corpus)):
        item = corpus.read(number)
        rows = slice(starts[number], starts[number + 1])
        motion[rows] = item.motion
        emotion[number, _NEUTRAL] += 1 - item.intensity
        emotion[number, item.emotion_id] += item.intensity
        style.append(item.style)
        for copy, output in enumerate(outputs):
            random = torch.Generator().manual_seed((number << 8) + copy) if copy else None
            output[rows] = _features(encoder, item.audio, random)
        if number % 200 == 0:
            logger.info("%d of %d utterances", number, len(corpus))
    mean, std = motion_statistics(motion.astype(np.float32)) if statistics is None else statistics
    np.save(folder / "statistics.npy", np.stack([mean, std]))
    np.save(folder / "motion.npy", motion)
    np.save(folder / "starts.npy", starts)
    np.save(folder / "emotion.npy", emotion)
    np.save(folder / "style.npy", np.stack(style))


@torch.inference_mode()
def _features(encoder: LogMelEncoder, audio: NDArray[np.int16], random: torch.Generator | None) -> NDArray[np.float16]:
    """(T, SUBFRAMES, C) of one utterance; silence is heard before and after it."""
    samples = np.divide(audio, 32768, dtype=np.float32)
    context = encoder.network.config.context_frames * HOP
    padded = np.pad(samples / speech_level(samples), (context + WINDOW // 2, context + WINDOW // 2 - HOP))
    mel = encoder.log_mel(torch.from_numpy(padded)[None])
    if random is not None:
        mel = augment_log_mel(mel, random)
    with torch.autocast("cpu", torch.bfloat16):
        output = encoder.network(mel)
    frames = encoder.network.config.context_frames
    rows = output.features().float()[0, frames:-frames].unflatten(0, (-1, SUBFRAMES))
    return rows.half().numpy()


class MotionWindows:
    """Random windows of a cache.

    Raises:
        LoquentError: the folder holds no cache.
    """

    def __init__(self, folder: Path, num_frames: int, batch_size: int, seed: int = 0) -> None:
        if not (folder / "style.npy").is_file():
            raise LoquentError(f"{folder} holds no finished feature cache; run `python -m loquent.training.moda_data`")
        self.num_frames = num_frames
        self.batch_size = batch_size
        self.seed = seed
        self.features = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("features-*.npy"))]
        self.starts = np.load(folder / "starts.npy")
        self.emotion = np.load(folder / "emotion.npy")
        self.style = np.load(folder / "style.npy")
        motion = np.load(folder / "motion.npy").astype(np.float32)
        self.mean, self.std = np.load(folder / "statistics.npy")
        self.motion = normalise(motion, self.mean, self.std)
        # Only face parameters have a rest. Before the first frame of keypoints is that frame itself, as in the photo.
        self.rest = normalise(np.zeros_like(self.mean), self.mean, self.std) if len(self.mean) == MOTION_DIM else None
        self._cumulative = np.cumsum(np.diff(self.starts)) / self.starts[-1]

    def batch(self, step: int) -> MotionBatch:
        """The batch of a step; utterances are drawn in proportion to their length."""
        rng = np.random.default_rng((self.seed, step))
        items = [self._window(rng) for _ in range(self.batch_size)]
        return MotionBatch(*(torch.from_numpy(np.stack(parts)) for parts in zip(*items, strict=True)))

    def _window(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
        number = int(np.searchsorted(self._cumulative[:-1], rng.random(), side="right"))
        features = self.features[rng.integers(len(self.features))]
        first, end = int(self.starts[number]), int(self.starts[number + 1])
        latest = max(0, min(end - first - 1, end - first - self.num_frames + _TAIL_ROWS))
        start = first if rng.random() < _START_SHARE else first + int(rng.integers(0, latest + 1))
        stop = min(end, start + self.num_frames)
        missing = self.num_frames - (stop - start)
        before = self.motion[max(first, start - 1)]
        previous = before if start > first or self.rest is None else self.rest
        return (
            np.pad(self.motion[start:stop], ((0, missing), (0, 0)), mode="edge"),
            previous,
            np.pad(features[start:stop].astype(np.float32), ((0, missing), (0, 0), (0, 0))),
            self.emotion[number],
            self.style[number],
            np.pad(np.ones(stop - start, np.float32), (0, missing)),
        )


def motion_statistics(motion: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation of every channel; the deviation of one that never moves is 0, so it stays at its mean."""
    mean, std = motion.mean(0, dtype=np.float64), motion.std(0, dtype=np.float64)
    std = np.where(std < 1e-4, 0, np.maximum(std, _STD_FLOOR))
    return mean.astype(np.float32), std.astype(np.float32)


def normalise(motion: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """Motion in deviations from its mean; 0 in channels that never move."""
    return np.where(std > 0, (motion - mean) / np.where(std > 0, std, 1), 0).astype(np.float32)


def write_debug_cache(folder: Path) -> None:
    """A cache for the preset "tiny": three utterances whose motion follows one feature."""
    config = get_preset("tiny")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((150, config.audio_layers, config.audio_dim)).astype(np.float16)
    motion = (features[:, 0, :1] * rng.standard_normal((1, config.motion_dim))).astype(np.float16)
    motion[:, 5] = 0
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features-0.npy", features)
    np.save(folder / "motion.npy", motion)
    np.save(folder / "statistics.npy", np.stack(motion_statistics(motion.astype(np.float32))))
    np.save(folder / "starts.npy", np.array([0, 70, 85, 150]))
    np.save(folder / "emotion.npy", np.eye(3, config.num_emotions + 1, dtype=np.float32))
    np.save(folder / "style.npy", rng.standard_normal((3, config.identity_dim)).astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--like", type=Path, help="cache whose normalisation is kept")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    encoder = LogMelEncoder.from_pretrained(arguments.encoder)
    statistics = np.load(arguments.like / "statistics.npy") if arguments.like else None
    build_cache(Corpus(arguments.corpus), encoder, arguments.out, arguments.copies, statistics)


if __name__ == "__main__":
    main()
