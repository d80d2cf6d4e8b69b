"""Batches for the IF-MDM renderer: a few frames of one person at a time, from the cache of `ifmdm_data` or any video."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.data.video_shards import VideoCorpus, change_light
from loquent.errors import LoquentError
from loquent.face.topology import (
    EYELIDS,
    LEFT_EYE_LOWER,
    LEFT_EYE_OUTER,
    LEFT_EYE_UPPER,
    LIPS,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    MIRRORED,
    NUM_LANDMARKS,
    NUM_MESH_LANDMARKS,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_OUTER,
    RIGHT_EYE_UPPER,
)
from loquent.models.ifmdm.photo_layers import PhotoLayers, join_layers
from loquent.render.matte import split_layers
from loquent.training.ifmdm_data import (
    FLOW_PX,
    FLOW_STEPS,
    FRAME_ARRAYS,
    MOVED,
    PHOTO_ARRAYS,
    STILL,
    UNSURE,
    add_openings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FRAMES = 4  # of one person in a group; the first is the photo
PAIRS = (
    (0, 1),
    (0, 2),
    (0, 3),
    (0, 0),
)  # source and target in a group: from the photo, as in use, and the photo itself
FINE_WEIGHT = 4.0  # of lips and lids among the landmarks
# Landmarks above and below that meet when an opening shuts, and how much each pair counts: lids move less than lips.
GAP_UPPER = [*LIPS_INNER_UPPER[1:-1], *RIGHT_EYE_UPPER[1:-1], *LEFT_EYE_UPPER[1:-1]]
GAP_LOWER = [*LIPS_INNER_LOWER[1:-1], *RIGHT_EYE_LOWER[1:-1], *LEFT_EYE_LOWER[1:-1]]
GAP_WEIGHTS = [1.0] * len(LIPS_INNER_UPPER[1:-1]) + [2.0] * (2 * len(RIGHT_EYE_UPPER[1:-1]))
_GAPS = ((13, 14, 0.05), (159, 145, 0.06), (386, 374, 0.06))  # openings, and changes that count as one, interocular
_MOST_CHANGE = 3.0
_SHUT = 0.03  # interocular distances between the lips
_REACH = 16  # of flow continued beyond the person, pixels of 128


@dataclass(frozen=True, eq=False)
class PairBatch:
    """G groups of four frames, flattened: row 4·g + i is frame i of group g."""

    pictures: Tensor  # (4 G, 3, S, S) in [−1, 1]
    flow: Tensor  # (4 G, 2, 128, 128), from each frame to the group's photo, half pictures
    kinds: Tensor  # (4 G, 128, 128), see `ifmdm_data`
    known: Tensor  # (4 G, 128, 128) bool: where flow is known
    landmarks: Tensor  # (4 G, 478, 2), −1 to 1 from edge to edge
    layers: PhotoLayers | None = None  # of the G photos

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

    Args:
        cache: folder of `ifmdm_data`.
        groups: of a batch.
        split: "train" or "test".
        seed: of what is chosen.
        layered: with the layers of each photo.
        shut: how many times as often people are chosen whose photo shows the mouth shut.

    Raises:
        LoquentError: the cache is empty.
    """

    def __init__(
        self,
        cache: Path,
        groups: int,
        split: str = "train",
        seed: int = 0,
        *,
        layered: bool = False,
        shut: float = 1.0,
    ) -> None:
        folders = sorted(cache.glob(f"{split}-*"))
        if not folders:
            raise LoquentError(
                f"{cache} holds no {split}-* folder; make one by `python -m loquent.training.ifmdm_data`"
            )
        self._tables = [
            {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in FRAME_ARRAYS} for folder in folders
        ]
        self._photos = [
            {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in PHOTO_ARRAYS} if layered else {}
            for folder in folders
        ]
        self._people: list[tuple[int, int, int, int]] = []  # folder, number in it, first row, last row
        for folder_number, folder in enumerate(folders):
            starts = np.load(folder / "starts.npy").tolist()
            self._people += [(folder_number, number, *rows) for number, rows in enumerate(pairwise(starts))]
        self._groups = groups
        self._seed = seed
        chances = np.array([shut if self._is_shut(number) else 1.0 for number in range(len(self))])
        self._chances = None if shut == 1 else chances / chances.sum()

    def __len__(self) -> int:
        return len(self._people)

    def batch(self, number: int) -> PairBatch:
        rng = np.random.default_rng((self._seed, number))
        return join_groups([self._group(rng) for _ in range(self._groups)])

    def _is_shut(self, number: int) -> bool:
        table, _, first, _ = self._people[number]
        points = self._tables[table]["landmarks"][first]
        gap, unit = (np.linalg.norm(points[a] - points[b]) for a, b in ((13, 14), (LEFT_EYE_OUTER, RIGHT_EYE_OUTER)))
        return bool(gap < _SHUT * unit)

    def landmarks(self, number: int) -> NDArray[np.float32]:
        """Of all frames of a person, the photo first, (T, 478, 2) in pictures."""
        table, _, first, last = self._people[number]
        return np.asarray(self._tables[table]["landmarks"][first:last]) / self._tables[table]["frames"].shape[1]

    def person(self, number: int) -> dict[str, NDArray]:
        """All frames of one person, arrays as in `DrawnPeople`; those of the photo too, if layered."""
        table, place, first, last = self._people[number]
        photo = {name: np.asarray(values[place]) for name, values in self._photos[table].items()}
        return {name: np.array(values[first:last]) for name, values in self._tables[table].items()} | photo

    def _group(self, rng: np.random.Generator) -> tuple[NDArray, ...]:
        person = rng.integers(len(self)) if self._chances is None else rng.choice(len(self), p=self._chances)
        table, number, first, last = self._people[int(person)]
        change = opening_change(np.asarray(self._tables[table]["landmarks"][first:last]))
        chosen = rng.choice(len(change), FRAMES - 1, replace=False, p=change / change.sum())
        rows = [first, *(first + 1 + chosen)]
        arrays = {name: np.stack([values[row] for row in rows]) for name, values in self._tables[table].items()}
        photo = {name: values[number] for name, values in self._photos[table].items()}
        return as_floats(arrays | photo, rng)


def opening_change(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """How much to choose each frame but the first, of landmarks (T, 478, 2): more where mouth or lids open or shut."""
    unit = np.linalg.norm(landmarks[:, LEFT_EYE_OUTER] - landmarks[:, RIGHT_EYE_OUTER], axis=-1)
    change = np.ones(len(landmarks) - 1)
    for upper, lower, step in _GAPS:
        gap = np.linalg.norm(landmarks[:, upper] - landmarks[:, lower], axis=-1) / unit
        change += np.minimum(np.abs(gap[1:] - gap[0]) / step, _MOST_CHANGE)
    return change


class VideoGroups:
    """The same from a video corpus (`loquent.data.video_shards`), whose flow is not known, such as footage.

    Raises:
        LoquentError: no person has four frames.
    """

    def __init__(self, folder: Path, groups: int, seed: int = 0, *, layered: bool = False) -> None:
        self._layered = layered
        self._corpus = VideoCorpus(folder)
        entries = self._corpus.clips
        clips = [[n for n in numbers if entries[n].kind != "photo"] for numbers in self._corpus.people.values()]
        self._people = [numbers for numbers in clips if sum(entries[n].num_frames for n in numbers) >= FRAMES]
        if not self._people:
            raise LoquentError(f"{folder}: no person has {FRAMES} frames; give longer clips")
        self._groups = groups
        self._seed = seed

    def __len__(self) -> int:
        return len(self._people)

    def batch(self, number: int) -> PairBatch:
        rng = np.random.default_rng((self._seed, number))
        return join_groups([self._group(rng) for _ in range(self._groups)])

    def landmarks(self, number: int) -> NDArray[np.float32]:
        """Of all frames of a person, (T, 478, 2) in pictures."""
        points = [self._corpus.landmarks(clip) for clip in self._people[number]]
        return (np.concatenate(points)[..., :2] / self._corpus.size_px).astype(np.float32)

    def _group(self, rng: np.random.Generator) -> tuple[NDArray, ...]:
        places = [(n, t) for n in self._people[int(rng.integers(len(self._people)))]
                  for t in range(self._corpus.clips[n].num_frames)]  # fmt: skip
        chosen = [places[row] for row in rng.choice(len(places), FRAMES, replace=False)]
        frames = np.concatenate([self._corpus.frames(clip, t, t + 1) for clip, t in chosen])
        solid = np.concatenate([self._corpus.landmarks(clip, t, t + 1) for clip, t in chosen])
        landmarks = solid[..., :2]
        kinds = np.full((FRAMES, FLOW_PX, FLOW_PX), UNSURE, np.uint8)
        for kind, points in zip(kinds, landmarks, strict=True):
            add_openings(kind, points * (FLOW_PX / frames.shape[1]))
        flow = np.zeros((FRAMES, FLOW_PX, FLOW_PX, 2), np.int16)
        arrays = {"frames": frames, "landmarks": landmarks, "kinds": kinds, "flow": flow}
        if self._layered:
            layers = split_layers(np.ascontiguousarray(frames[0]), landmarks[0])
            arrays |= {"background": layers.background, "alpha": layers.person[..., 3], "depth": solid[0, :, 2]}
        return as_floats(arrays, rng)


def open_groups(
    folder: Path, groups: int, seed: int = 0, *, layered: bool = False, shut: float = 1.0
) -> PairGroups | VideoGroups:
    """Groups from a folder of either kind; arguments as of `PairGroups`, whose last one a video corpus has no use for."""
    if (folder / "index.json").is_file():
        return VideoGroups(folder, groups, seed, layered=layered)
    return PairGroups(folder, groups, seed=seed, layered=layered, shut=shut)


def join_groups(groups: list[tuple[NDArray, ...]]) -> PairBatch:
    """One batch of groups as `as_floats` makes them."""
    pictures, flow, kinds, known, landmarks, backgrounds, alphas, depths = (
        np.concatenate(values) for values in zip(*groups, strict=True)
    )
    layers = None
    if len(alphas):
        photos = pictures[::FRAMES].transpose(0, 2, 3, 1)
        points = (landmarks[::FRAMES] + 1) * (photos.shape[1] / 2) - 0.5
        layers = join_layers(photos, backgrounds, alphas, np.concatenate([points, depths[..., None]], axis=2))
    pictures, flow, kinds, known, landmarks = map(torch.from_numpy, (pictures, flow, kinds, known, landmarks))
    return PairBatch(pictures, flow, kinds, known, landmarks, layers)


def as_floats(arrays: dict[str, NDArray], rng: np.random.Generator | None = None) -> tuple[NDArray, ...]:
    """Pictures, flow, kinds, known and landmarks as `PairBatch` holds them, then background (1, S, S, 3) in [−1, 1], alpha
    (1, S, S) in 0..1 and landmarks' depth (1, 478) in pixels of the photo, or empty arrays without them; with another
    light and mirrored if `rng` is given."""
    frames, kinds = arrays["frames"], arrays["kinds"].astype(np.int64)
    flow, known = (np.stack(x) for x in zip(*map(continue_flow, arrays["flow"], arrays["kinds"]), strict=True))
    flow = flow.astype(np.float32).transpose(0, 3, 1, 2) / FLOW_STEPS
    landmarks = (arrays["landmarks"] + 0.5) * (2 / frames.shape[1]) - 1
    background, alpha = arrays.get("background"), arrays.get("alpha")
    count = len(frames)
    if background is not None:
        frames = np.concatenate([frames, background[None]])  # in the same light
    alpha = np.zeros((0, 0, 0), np.float32) if alpha is None else alpha[None].astype(np.float32) / 255
    depth = np.asarray(arrays.get("depth", np.zeros((0, NUM_LANDMARKS))), np.float32).reshape(-1, NUM_LANDMARKS)
    if rng is not None:
        frames = degrade(change_light(frames, rng), rng)
        if rng.random() < 0.5:
            frames, kinds, flow = frames[:, :, ::-1], kinds[:, :, ::-1].copy(), flow[..., ::-1].copy()
            known = known[:, :, ::-1].copy()
            flow[:, 0] *= -1
            landmarks = landmarks[:, list(MIRRORED)] * np.array([-1, 1], np.float32)
            alpha, depth = alpha[:, :, ::-1], depth[:, list(MIRRORED)]
    scaled = frames.astype(np.float32) / 127.5 - 1
    pictures = np.ascontiguousarray(scaled[:count].transpose(0, 3, 1, 2))
    return pictures, flow, kinds, known, np.ascontiguousarray(landmarks, np.float32), scaled[count:], alpha, depth


def continue_flow(flow: NDArray[np.int16], kinds: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Flow (128, 128, 2) of the person continued beyond their outline, and where it is known then, (128, 128).

    So the outline moves as what it encloses, and nothing of the person is seen beside it.
    """
    moved = kinds == MOVED
    if not moved.any():
        return flow, moved
    away, nearest = cv2.distanceTransformWithLabels(
        (~moved).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    beside = ((kinds == STILL) | (kinds == UNSURE)) & (away < _REACH)
    values = np.zeros((nearest.max() + 1, 2), flow.dtype)
    values[nearest[moved]] = flow[moved]
    return np.where(beside[..., None], values[nearest], flow), moved | beside


def degrade(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Frames (T, S, S, 3), now and then all of them softened, as enlarged photos are, or with the photo's grain."""
    if rng.random() < 0.2:
        sigma = rng.uniform(0.4, 1.2)
        return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames]).astype(np.uint8)
    return frames


def landmark_weights(fine: float = FINE_WEIGHT) -> Tensor:
    """(478,): how much each landmark counts: lips and lids `fine` times as much, irises nothing; mean 1."""
    weights = torch.ones(NUM_LANDMARKS)
    weights[[*LIPS, *EYELIDS]] = fine
    weights[NUM_MESH_LANDMARKS:] = 0
    return weights / weights.mean()


def side_weights(other_side: tuple[int, ...], fine: float) -> Tensor:
    """(478,): `landmark_weights` for the layer that the landmarks of `other_side` do not belong to."""
    weights = landmark_weights(fine)
    weights[list(other_side)] = 0
    return weights
