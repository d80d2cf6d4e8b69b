"""A face through a video: landmarks for every frame."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.errors import FaceError, VideoError
from loquent.face.analyze import FaceBackend, find_faces
from loquent.face.embedded import follow_landmarks
from loquent.face.eye_patches import closure, cut_eyes, lid_lines
from loquent.face.lip_line import refine_inner_lips
from loquent.media import limits
from loquent.media.video import read_video_frames
from loquent.types import Photo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAX_RATE_HZ = 30.0  # of frames that are looked at; a face says nothing new between them
MAX_SIDE_PX = 1280  # larger frames are shrunk to this
MAX_LOST_SHARE = 0.5  # of frames without the face


@dataclass(frozen=True, eq=False)
class FollowedFace:
    """The landmarks of one face at an even rate."""

    landmarks: NDArray[np.float32]  # (T, 478, 3), pixels of the frames as they were looked at
    closure: NDArray[np.float32]  # (T, 2), how far the lids of the picture's left and right eye are down, 0 to 1
    rate_hz: float

    def __len__(self) -> int:
        return len(self.landmarks)


def follow_face(
    path: str | os.PathLike[str], backend: FaceBackend = "embedded", model_path: str | os.PathLike[str] | None = None
) -> FollowedFace:
    """Finds the largest face of a video and follows it to the end. Where it is hidden, it is interpolated.

    Args:
        path: of the video.
        backend: what finds landmarks, as in `face.analyze`.
        model_path: MediaPipe's model file.

    Raises:
        VideoError: not a video, or a longer one than `limits.MAX_DRIVE_S`.
        FaceError: no face, or one that is hidden most of the time.
    """
    seen: list[_Seen] = []
    num_frames, last_s = 0, 0.0
    for pixels, time_s in frames_to_look_at(path):
        num_frames, last_s = num_frames + 1, time_s
        follows = bool(seen) and seen[-1].frame == num_frames - 2  # it was there in the frame before
        found = _find(pixels, seen[-1].landmarks if follows else None, backend, model_path)
        if found is not None:
            landmarks = refine_inner_lips(pixels, found)
            eyes, lids = cut_eyes(pixels, landmarks), lid_lines(landmarks)
            seen.append(_Seen(num_frames - 1, time_s, landmarks, eyes, lids))
    _check_seen(os.fspath(path), len(seen), num_frames)
    return _evenly(seen, num_frames, (num_frames - 1) / last_s)


@dataclass(frozen=True, eq=False)
class _Seen:
    """The face in one frame."""

    frame: int
    time_s: float
    landmarks: NDArray[np.float32]  # (478, 3)
    eyes: NDArray[np.uint8]  # of `cut_eyes`
    lids: NDArray[np.float32]  # of `lid_lines`


def _find(
    pixels: NDArray[np.uint8],
    before: NDArray[np.float32] | None,
    backend: FaceBackend,
    model_path: str | os.PathLike[str] | None,
) -> NDArray[np.float32] | None:
    """Landmarks of the face that was at the given ones before, or of the largest one."""
    if before is not None and backend == "embedded":
        found = follow_landmarks(pixels, before)
        if found is not None:
            return found
    faces = [face.landmarks for face in find_faces(Photo(pixels), backend, model_path)]
    if before is None:
        return max(faces, key=lambda points: float(np.prod(np.ptp(points[:, :2], axis=0))), default=None)
    return min(faces, key=lambda points: float(np.linalg.norm(points.mean(0) - before.mean(0))), default=None)


def frames_to_look_at(path: str | os.PathLike[str]) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Frames of a video, thinned to `MAX_RATE_HZ` and shrunk to `MAX_SIDE_PX`, with their times from 0 on.

    Raises:
        VideoError: not a video, or a longer one than `limits.MAX_DRIVE_S`.
    """
    first_s, last_s = None, -np.inf
    for pixels, time_s in read_video_frames(path):
        first_s = time_s if first_s is None else first_s
        time_s -= first_s
        if time_s > limits.MAX_DRIVE_S:
            raise VideoError(f"{path}: longer than {limits.MAX_DRIVE_S:g} s; cut the driving video into parts")
        if time_s - last_s < 0.99 / MAX_RATE_HZ:
            continue
        last_s = time_s
        scale = MAX_SIDE_PX / max(pixels.shape[:2])
        if scale < 1:
            pixels = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        yield np.ascontiguousarray(pixels), time_s


def _check_seen(name: str, num_seen: int, num_frames: int) -> None:
    """Raises FaceError when the face was seen too seldom; warns when it was not always."""
    if num_seen < 2:
        raise FaceError(
            f"{name}: no face was found in {num_frames} frames; use a video of one person, close enough that the face"
            " is at least a tenth of the picture's height"
        )
    lost = num_frames - num_seen
    if lost > MAX_LOST_SHARE * num_frames:
        raise FaceError(f"{name}: the face is out of sight in {lost} of {num_frames} frames; use a video that shows it")
    if lost:
        logger.warning("%s: the face is out of sight in %d of %d frames; they are filled in", name, lost, num_frames)


def _evenly(seen: list[_Seen], num_frames: int, rate_hz: float) -> FollowedFace:
    """What was seen, at an even rate, interpolated where it lacks or lies elsewhere."""
    known_s = np.array([one.time_s for one in seen])
    wanted_s = np.arange(num_frames) / rate_hz
    right = np.clip(np.searchsorted(known_s, wanted_s), 1, len(seen) - 1)
    share = np.clip((wanted_s - known_s[right - 1]) / (known_s[right] - known_s[right - 1]), 0, 1).astype(np.float32)

    def between(values: NDArray[np.float32]) -> NDArray[np.float32]:
        part = share.reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray((1 - part) * values[right - 1] + part * values[right], np.float32)

    closed = closure(np.stack([one.eyes for one in seen]), np.stack([one.lids for one in seen]))
    return FollowedFace(between(np.stack([one.landmarks for one in seen])), between(closed), rate_hz)
