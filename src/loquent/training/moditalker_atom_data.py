"""Landmarks of a whole corpus beside its speech features, computed once, for AToM.

    python -m loquent.training.moda_data CORPUS ENCODER CACHE
    python -m loquent.training.moditalker_atom_data CACHE --faces 2

The corpus holds face parameters, which belong to nobody. They become landmarks on faces drawn from the 3-D model's
identities, another one for every utterance, so that the network learns to move whatever face it is given.

Shape letters: T frames, U utterances.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.errors import LoquentError
from loquent.models.moditalker.config import get_atom_preset
from loquent.models.moditalker.landmarks import VECTOR_DIM, canonical_of_expression, to_vector
from loquent.motion.face_model import face_tables, fit_face, without_expression
from loquent.types import ARKIT_INDEX, ARKIT_NAMES, EMOTIONS, MOTION_DIM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.moditalker.config import AtomConfig
    from loquent.motion.face_model import FaceShape

logger = logging.getLogger(__name__)

_SIZE_PX = 200.0  # the fit of a face wants pixels; any number serves
_START_SHARE = 0.15  # of the windows begin where an utterance begins, as every video does
_TAIL_FRAMES = 20  # a window may reach that far beyond an utterance's end


@dataclass(frozen=True, kw_only=True)
class AtomDataSettings:
    """Which windows are learnt."""

    neutral_share: float = 0.75  # whose reference is the speaker's neutral face; published: 0, the first frame's
    faces: int = 2  # sets of speakers
    # AToM is told no emotion, so strong ones only blur the others: only utterances that are at least so neutral.
    least_neutral: float = 0.4


@dataclass(frozen=True, eq=False)
class AtomBatch:
    """What a step needs. N frames, V vectors a frame, A speech channels."""

    residual: Tensor  # (B, N, 204), landmark vectors less the reference
    audio: Tensor  # (B, N, V, A)
    landmark: Tensor  # (B, 204), the reference
    real: Tensor  # (B, N), false for frames that only complete a window


def draw_face(random: np.random.Generator) -> FaceShape:
    """Somebody, at rest with the lips closed."""
    tables = face_tables()
    identity = random.standard_normal(len(tables.identities)).clip(-2.5, 2.5)
    shape = fit_face(_SIZE_PX * (tables.neutral + np.tensordot(identity, tables.identities, 1)))
    return without_expression(shape)


def build_landmarks(cache: Path, number: int) -> None:
    """Writes landmarks-NUMBER.npy (T, 204) and neutral-NUMBER.npy (U, 204) into a cache of `loquent.training.moda_data`.

    Both are landmark vectors of scale 1: landmarks relative to the speaker's neutral face, that face relative to the
    mean one.

    Raises:
        LoquentError: the folder holds no cache.
    """
    _check_cache(cache)
    motion, starts = np.load(cache / "motion.npy", mmap_mode="r"), np.load(cache / "starts.npy")
    landmarks = np.empty((len(motion), VECTOR_DIM), np.float16)
    neutral = np.empty((len(starts) - 1, VECTOR_DIM), np.float32)
    for utterance in range(len(neutral)):
        shape = draw_face(np.random.default_rng((number, utterance)))
        rows = slice(starts[utterance], starts[utterance + 1])
        expression = np.asarray(motion[rows, : len(ARKIT_NAMES)], np.float64)
        canonical = canonical_of_expression(shape, np.concatenate([np.zeros((1, len(ARKIT_NAMES))), expression]))
        vectors = to_vector(canonical, 1)
        neutral[utterance] = vectors[0]
        landmarks[rows] = vectors[1:] - vectors[0]
        if utterance % 500 == 0:
            logger.info("%d of %d utterances", utterance, len(neutral))
    np.save(cache / f"neutral-{number}.npy", neutral)
    np.save(cache / f"landmarks-{number}.npy", landmarks)


def _check_cache(cache: Path) -> None:
    if not (cache / "style.npy").is_file():
        raise LoquentError(f"{cache} holds no finished feature cache; run `python -m loquent.training.moda_data` first")


class AtomWindows:
    """Random windows of a cache.

    Args:
        cache: of `loquent.training.moda_data`; landmarks that it lacks are computed.
        config: of the network to train; its speech vectors are the features of a frame in equal parts.

    Raises:
        LoquentError: the folder holds no cache, features of another size, or nothing as neutral as asked for.
    """

    def __init__(
        self, cache: Path, config: AtomConfig, settings: AtomDataSettings, batch_size: int, seed: int = 0
    ) -> None:
        _check_cache(cache)
        self.config, self.settings, self.batch_size, self.seed = config, settings, batch_size, seed
        self.features = [np.load(path, mmap_mode="r") for path in sorted(cache.glob("features-*.npy"))]
        width = int(np.prod(self.features[0].shape[1:]))
        if width != config.vectors_per_frame * config.audio_dim:
            raise LoquentError(
                f"{cache} has {width} features a frame; the network takes {config.vectors_per_frame} vectors of "
                f"{config.audio_dim}: choose a configuration whose product is {width}"
            )
        self.starts = np.load(cache / "starts.npy")
        self._motion = np.load(cache / "motion.npy", mmap_mode="r")
        for number in range(settings.faces):
            if not (cache / f"landmarks-{number}.npy").is_file():
                build_landmarks(cache, number)
        self.landmarks = [np.load(cache / f"landmarks-{number}.npy", mmap_mode="r") for number in range(settings.faces)]
        self.neutral = [np.load(cache / f"neutral-{number}.npy") for number in range(settings.faces)]
        neutral = np.load(cache / "emotion.npy")[:, EMOTIONS.index("neutral")]
        self.used = neutral >= settings.least_neutral
        if not self.used.any():
            raise LoquentError(f"{cache} has no utterance as neutral as {settings.least_neutral}; lower least_neutral")
        lengths = np.cumsum(np.diff(self.starts) * self.used)
        self._cumulative = lengths / lengths[-1]

    def batch(self, step: int) -> AtomBatch:
        """The batch of a step; utterances are drawn in proportion to their length."""
        rng = np.random.default_rng((self.seed, step))
        items = [self._window(rng) for _ in range(self.batch_size)]
        return AtomBatch(*(torch.from_numpy(np.stack(parts)) for parts in zip(*items, strict=True)))

    def expression(self, every: int = 5) -> NDArray[np.float32]:
        """ARKit weights (T, 52) of every so many frames of the utterances in use."""
        frames = np.flatnonzero(np.repeat(self.used, np.diff(self.starts)))[::every]
        return self._motion[frames, : len(ARKIT_NAMES)].astype(np.float32)

    def _window(self, rng: np.random.Generator) -> tuple[NDArray, ...]:
        config = self.config
        number = int(np.searchsorted(self._cumulative[:-1], rng.random(), side="right"))
        features = self.features[rng.integers(len(self.features))]
        face = int(rng.integers(len(self.landmarks)))
        first, end = int(self.starts[number]), int(self.starts[number + 1])
        latest = max(0, min(end - first - 1, end - first - config.num_frames + _TAIL_FRAMES))
        start = first if rng.random() < _START_SHARE else first + int(rng.integers(0, latest + 1))
        stop = min(end, start + config.num_frames)
        missing = config.num_frames - (stop - start)
        moved = config.vector_scale * self.landmarks[face][start:stop].astype(np.float32)
        landmark = config.vector_scale * self.neutral[face][number]
        if rng.random() >= self.settings.neutral_share:
            landmark = landmark + moved[0]
            moved = moved - moved[0]
        audio = features[start:stop].astype(np.float32).reshape(-1, config.vectors_per_frame, config.audio_dim)
        return (
            np.pad(moved, ((0, missing), (0, 0)), mode="edge"),
            np.pad(audio, ((0, missing), (0, 0), (0, 0))),
            landmark.astype(np.float32),
            np.arange(config.num_frames) < stop - start,
        )


def write_debug_cache(folder: Path) -> None:
    """A cache for the preset "tiny": three utterances whose jaw follows one feature."""
    config = get_atom_preset("tiny")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((150, config.vectors_per_frame, config.audio_dim)).astype(np.float16)
    motion = np.zeros((150, MOTION_DIM), np.float16)
    motion[:, ARKIT_INDEX["jawOpen"]] = features[:, 0, 0] > 0
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features-0.npy", features)
    np.save(folder / "motion.npy", motion)
    np.save(folder / "starts.npy", np.array([0, 70, 85, 150]))
    np.save(folder / "emotion.npy", np.eye(len(EMOTIONS))[[EMOTIONS.index("neutral")] * 3])
    np.save(folder / "style.npy", np.zeros((3, 1), np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--faces", type=int, default=2, help="sets of speakers")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for number in range(arguments.faces):
        build_landmarks(arguments.cache, number)


if __name__ == "__main__":
    main()
