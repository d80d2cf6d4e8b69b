"""Batches for the IF-MDM renderer from the cache of `ifmdm_data`: a few frames of one person at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.data.video_shards import change_light
from loquent.errors import LoquentError
from loquent.face.topology import EYELIDS, LIPS, MIRRORED, NUM_LANDMARKS, NUM_MESH_LANDMARKS
from loquent.training.ifmdm_data import FLOW_STEPS, SIZE_PX, DrawnPeople

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FRAMES = 4  # of one person in a group; the first is the photo
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2))  # source and target in a group: mostly from the photo, as in use
FINE_WEIGHT = 4.0  # of lips and lids among the landmarks


@dataclass(frozen=True, eq=False)
class PairBatch:
    """G groups of four frames, flattened: row 4·g + i is frame i of group g."""

    pictures: Tensor  # (4 G, 3, 256, 256) in [−1, 1]
    flow: Tensor  # (4 G, 2, 128, 128), from each frame to the group's photo, half pictures
    kinds: Tensor  # (4 G, 128, 128), see `ifmdm_data`
    landmarks: Tensor  # (4 G, 478, 2), −1 to 1 from edge to edge

    def sources(self) -> Tensor:
        """Rows of the pairs' sources, (4 G,)."""
        return self._rows(0)

    def targets(self) -> Tensor:
        """Rows of the pairs' targets, (4 G,)."""
        return self._rows(1)

    def from_photo(self) -> Tensor:
        """Whether a pair's source is the photo, so that its flow is known, (4 G,) bool."""
        return self.sources() % FRAMES == 0

    def _rows(self, side: int) -> Tensor:
        starts = torch.arange(0, len(self.pictures), FRAMES)[:, None]
        return (starts + torch.tensor([pair[side] for pair in PAIRS])).flatten()


class PairGroups:
    """Groups of frames by number, the same for the same seed.

    Raises:
        LoquentError: the cache is empty.
    """

    def __init__(self, cache: Path, groups: int, split: str = "train", seed: int = 0) -> None:
        folders = sorted(cache.glob(f"{split}-*"))
        if not folders:
            raise LoquentError(f"{cache} holds no {split}-* folder; run `python -m loquent.training.ifmdm_data` first")
        self._tables = [
            {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in DrawnPeople.names()} for folder in folders
        ]
        self._people = [
            (number, int(first), int(last))
            for number, folder in enumerate(folders)
            for first, last in zip(
                *(lambda starts: (starts[:-1], starts[1:]))(np.load(folder / "starts.npy")), strict=True
            )
        ]
        self._groups = groups
        self._seed = seed

    def __len__(self) -> int:
        return len(self._people)

    def batch(self, number: int) -> PairBatch:
        rng = np.random.default_rng((self._seed, number))
        parts = [self._group(rng) for _ in range(self._groups)]
        return PairBatch(*(torch.from_numpy(np.concatenate(values)) for values in zip(*parts, strict=True)))

    def person(self, number: int) -> dict[str, NDArray]:
        """All frames of one person, arrays as in `DrawnPeople`."""
        table, first, last = self._people[number]
        return {name: np.asarray(values[first:last]) for name, values in self._tables[table].items()}

    def _group(self, rng: np.random.Generator) -> tuple[NDArray, ...]:
        table, first, last = self._people[int(rng.integers(len(self._people)))]
        rows = [first, *(first + 1 + rng.choice(last - first - 1, FRAMES - 1, replace=False))]
        arrays = {name: np.stack([values[row] for row in rows]) for name, values in self._tables[table].items()}
        return as_floats(arrays, rng)


def as_floats(arrays: dict[str, NDArray], rng: np.random.Generator | None = None) -> tuple[NDArray, ...]:
    """Pictures, flow, kinds and landmarks as `PairBatch` holds them, with another light and mirrored if `rng` is given."""
    frames, kinds = arrays["frames"], arrays["kinds"].astype(np.int64)
    flow = arrays["flow"].astype(np.float32).transpose(0, 3, 1, 2) / FLOW_STEPS
    landmarks = (arrays["landmarks"] + 0.5) * (2 / SIZE_PX) - 1
    if rng is not None:
        frames = degrade(change_light(frames, rng), rng)
        if rng.random() < 0.5:
            frames, kinds, flow = frames[:, :, ::-1], kinds[:, :, ::-1].copy(), flow[..., ::-1].copy()
            flow[:, 0] *= -1
            landmarks = landmarks[:, list(MIRRORED)] * np.float32((-1, 1))
    pictures = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).astype(np.float32) / 127.5 - 1
    return pictures, flow, kinds, np.ascontiguousarray(landmarks, np.float32)


def degrade(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Frames (T, S, S, 3), now and then all of them softened, as enlarged photos are, or with the photo's grain."""
    if rng.random() < 0.2:
        sigma = rng.uniform(0.4, 1.2)
        return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames]).astype(np.uint8)
    return frames


def landmark_weights() -> Tensor:
    """(478,): how much each landmark counts: lips and lids more, irises nothing; mean 1."""
    weights = torch.ones(NUM_LANDMARKS)
    weights[[*LIPS, *EYELIDS]] = FINE_WEIGHT
    weights[NUM_MESH_LANDMARKS:] = 0
    return weights / weights.mean()
