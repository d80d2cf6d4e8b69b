"""Pairs of frames of one person, with what the renderer's losses know of them, from a video corpus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.data.video_shards import VideoCorpus, change_light, mirror_pictures
from loquent.face.topology import FACE_OVAL
from loquent.motion.face_model import face_tables
from loquent.motion.pose import angles_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

# Points that neither speech nor expression moves much: temples and cheekbones, forehead, nose, eye corners.
_STEADY = (*FACE_OVAL[:6], *FACE_OVAL[-5:], 1, 4, 5, 6, 168, 197, 195, 98, 327, 33, 133, 362, 263)


@dataclass(frozen=True, eq=False)
class FacePairs:
    """Two frames of each of B people: first the source, then the target. S is the side of drawn pictures."""

    pictures: Tensor  # (B, 2, 3, S, S) in [0, 1]
    landmarks: Tensor  # (B, 2, 478, 2), −1..1 over the picture
    angles_deg: Tensor  # (B, 2, 3): pitch, yaw, roll in the sense of `models.moda.keypoints`


class PairBatches:
    """Random pairs of a video corpus by number, the same for the same seed.

    Half of the pairs are mirrored, most see another light. The frames of a pair may be of different clips.
    """

    def __init__(self, folder: Path, size_px: int, batch_size: int, seed: int = 0) -> None:
        self.corpus = VideoCorpus(folder)
        self._size_px, self._batch_size, self._seed = size_px, batch_size, seed
        self._people = list(self.corpus.people.values())

    def batch(self, number: int) -> FacePairs:
        rng = np.random.default_rng((self._seed, number))
        pairs = [self._pair(rng) for _ in range(self._batch_size)]
        return FacePairs(*(torch.from_numpy(np.stack(parts)) for parts in zip(*pairs, strict=True)))

    def _pair(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], ...]:
        clips = self._people[int(rng.integers(len(self._people)))]
        lengths = np.array([self.corpus.clips[clip].num_frames for clip in clips])
        frames = rng.choice(lengths.sum(), 2, replace=False)
        first = np.cumsum(lengths) - lengths
        numbers = np.searchsorted(first, frames, side="right") - 1
        places = [(clips[number], int(frame - first[number])) for number, frame in zip(numbers, frames, strict=True)]
        pictures = np.concatenate([self.corpus.frames(clip, at, at + 1) for clip, at in places])
        landmarks = np.concatenate([self.corpus.landmarks(clip, at, at + 1) for clip, at in places])
        if rng.random() < 0.5:
            pictures, landmarks = mirror_pictures(pictures, landmarks)
        return as_networks_see(change_light(pictures, rng), landmarks, self._size_px)

    def clip(self, number: int, num_frames: int) -> FacePairs:
        """The longest clip of the person of a number, for samples: (1, T, ...), its first frame being the source."""
        clips = self._people[number % len(self._people)]
        longest = max(clips, key=lambda clip: self.corpus.clips[clip].num_frames)
        stop = min(num_frames, self.corpus.clips[longest].num_frames)
        parts = as_networks_see(
            self.corpus.frames(longest, 0, stop), self.corpus.landmarks(longest, 0, stop), self._size_px
        )
        return FacePairs(*(torch.from_numpy(part)[None] for part in parts))


def as_networks_see(
    pictures: NDArray[np.uint8], landmarks: NDArray[np.float32], size_px: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Frames (T, S', S', 3) and their landmarks (T, 478, 3) in pixels as the fields of `FacePairs`, without B."""
    side = pictures.shape[1]
    angles = np.stack([head_angles_deg(points) for points in landmarks])
    if side != size_px:
        method = cv2.INTER_AREA if side > size_px else cv2.INTER_CUBIC
        pictures = np.stack([np.asarray(cv2.resize(one, (size_px, size_px), interpolation=method)) for one in pictures])
    return (
        np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32) / np.float32(255),
        np.ascontiguousarray((landmarks[..., :2] + 0.5) * (2 / side) - 1, np.float32),
        angles.astype(np.float32),
    )


def head_angles_deg(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pitch, yaw and roll of landmarks (478, 3) in the sense of `models.moda.keypoints.rotation_matrix`.

    With keypoints in the camera frame (z away from it), its matrix is the transpose of ours, so that pitch and yaw
    change their sign: chin up and nose to the picture's right are negative.
    """
    neutral = _steady_points()
    points = np.asarray(landmarks, np.float64)[list(_STEADY)]
    u, _, vt = np.linalg.svd((points - points.mean(0)).T @ neutral)
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt  # column vectors of the head to the camera's
    return np.degrees(angles_of(turn)) * [-1, -1, 1]


@lru_cache(maxsize=1)
def _steady_points() -> NDArray[np.float64]:
    points = face_tables().neutral[list(_STEADY)]
    return points - points.mean(0)
