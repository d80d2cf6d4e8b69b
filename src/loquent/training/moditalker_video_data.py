"""Windows of video for MToV's trainings: frames, the moved photo, landmarks. Made once, read by memory map.

    python -m loquent.training.moditalker_video_data PORTRAITS LABELS.npz SPEECH_CORPUS --out DIR

The mesh renderer draws the people of `data.people` as they speak and as they move at will; eyes look
where the photo's look, since the 68 landmarks do not tell of gaze.

Shape letters: N windows, T frames of a window, S side in which pictures are kept, R picture side of the network.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.data.movement import free_motion, spoken_motion
from loquent.data.people import enlarge
from loquent.data.shards import Corpus
from loquent.data.studio import Studio, people_arguments, read_arguments
from loquent.face.crop import HEAD_MARGIN
from loquent.models.moditalker import landmarks as space
from loquent.models.moditalker.moved_photo import GUIDE_CHANNELS, MovedPhoto, crop_guide, cut_crop, to_crop
from loquent.models.moditalker.pictures import dots_to_clip, draw_dots, hide_lower_face, to_clip
from loquent.render.mesh import MeshRenderer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.data.people import People, Sitter
    from loquent.models.moditalker.config import AutoencoderConfig

logger = logging.getLogger(__name__)

STORED_PX = 160  # what the portraits hold of detail
NUM_FRAMES = 16
_SPEECH_WINDOWS, _FREE_WINDOWS = 2, 1  # of each person


@dataclass(frozen=True, eq=False)
class StoredWindow:
    """One window as it is kept."""

    frames: NDArray[np.uint8]  # (T, S, S, 3)
    guide: NDArray[np.uint8]  # (T, S, S, GUIDE_CHANNELS), see `moved_photo.crop_guide`
    landmarks: NDArray[np.float32]  # (T, 68, 2), in pixels of a crop of side 1
    portrait: NDArray[np.uint8]  # (S, S, 3)

    def mirrored(self) -> StoredWindow:
        """The window seen in a mirror."""
        points = self.landmarks[:, list(space.MIRRORED)]
        points[..., 0] = 1 - 1 / STORED_PX - points[..., 0]
        pictures = (np.flip(value, -2) for value in (self.frames, self.guide, self.portrait))
        frames, guide, portrait = (np.ascontiguousarray(value) for value in pictures)
        return StoredWindow(frames, guide, points, portrait)


def make_windows(sitter: Sitter, corpus: Corpus, rng: np.random.Generator) -> list[StoredWindow]:
    """Windows of one person, speaking and moving at will.

    Raises:
        LoquentError: the face cannot be drawn.
    """
    portrait = enlarge(sitter, 256, HEAD_MARGIN)
    renderer = MeshRenderer(portrait)
    photo = MovedPhoto(portrait.photo.pixels, portrait.face.landmarks)
    crop_to_photo = photo.crop_to_photo(STORED_PX)
    still = cut_crop(photo.pixels, crop_to_photo, STORED_PX)
    windows = []
    for index in range(_SPEECH_WINDOWS + _FREE_WINDOWS):
        if index < _SPEECH_WINDOWS:
            motion = spoken_motion(portrait, corpus, NUM_FRAMES, rng).motion
        else:
            motion = free_motion(portrait, corpus, NUM_FRAMES, rng)
        motion.gaze[:] = 0
        canonical = space.canonical_of_expression(photo.shape, motion.expression)
        moved = photo.draw(canonical, motion.rotation, motion.translation)
        points = photo.landmarks_px(canonical, motion.rotation, motion.translation)
        frames = [cut_crop(frame, crop_to_photo, STORED_PX) for frame in renderer.render(motion)]
        guide = [crop_guide(layers, photo.face_box, crop_to_photo, STORED_PX) for layers in moved]
        landmarks = to_crop(points, crop_to_photo) / np.float32(STORED_PX)
        windows.append(StoredWindow(np.stack(frames), np.stack(guide), landmarks, still))
    return windows


_ARRAYS = {
    "frames": ((NUM_FRAMES, STORED_PX, STORED_PX, 3), np.uint8),
    "guide": ((NUM_FRAMES, STORED_PX, STORED_PX, GUIDE_CHANNELS), np.uint8),
    "landmarks": ((NUM_FRAMES, 68, 2), np.float32),
    "portrait": ((STORED_PX, STORED_PX, 3), np.uint8),
}


class Windows:
    """Windows in a folder, of which those already written can be read while more are made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        room = json.loads((folder / "room.json").read_text())
        self._arrays = {name: _open(folder, name, room, "r") for name in _ARRAYS}

    def __len__(self) -> int:
        return int((self._folder / "count").read_text())

    def __getitem__(self, number: int) -> StoredWindow:
        return StoredWindow(**{name: array[number] for name, array in self._arrays.items()})


def _open(folder: Path, name: str, room: int, mode: str) -> np.memmap:
    shape, kind = _ARRAYS[name]
    return np.memmap(folder / f"{name}.bin", kind, mode, shape=(room, *shape))  # type: ignore[call-overload]


class NetworkView:
    """A stored window as networks of one configuration read it."""

    def __init__(self, stored: StoredWindow, config: AutoencoderConfig) -> None:
        frames = slice(config.num_frames)
        self._frames, self._guide = stored.frames[frames], stored.guide[frames]
        self._portrait = stored.portrait
        self._size_px = config.size_px
        self._points = stored.landmarks[frames] * config.size_px

    def clip(self, frames: list[int] | None = None) -> Tensor:
        """Some frames, or all, (3, T, R, R) in [−1, 1]."""
        return to_clip(_enlarged(self._frames if frames is None else self._frames[frames], self._size_px))

    def guide(self, frames: list[int]) -> Tensor:
        """The moved photo in some frames, (GUIDE_CHANNELS, F, R, R) in [−1, 1]."""
        return to_clip(_enlarged(self._guide[frames], self._size_px))

    def openings(self) -> Tensor:
        """Frames that are grey away from mouth and eyes, (3, T, R, R)."""
        near = self._guide[..., 11:].astype(np.float32) / 255
        shown = np.rint(127.5 + near * (self._frames - np.float32(127.5))).astype(np.uint8)
        return to_clip(_enlarged(shown, self._size_px))

    def small(self, size_px: int) -> tuple[Tensor, Tensor]:
        """Frames (3, T, s, s) and guide (GUIDE_CHANNELS, T, s, s) at another size."""
        frames = _resized(self._frames, size_px, cv2.INTER_AREA)
        return to_clip(frames), to_clip(_resized(self._guide, size_px, cv2.INTER_LINEAR))

    def dots(self) -> Tensor:
        """Dot pictures, (3, T, R, R) of −1 and 1."""
        return dots_to_clip(draw_dots(self._points, self._size_px, self._size_px))

    def pose(self) -> Tensor:
        """The moved photo with its lower face hidden, (3, T, R, R)."""
        base = _enlarged(self._guide[..., :3], self._size_px).float()
        return to_clip(hide_lower_face(base, self._points))

    def portrait(self) -> Tensor:
        """The portrait, held still, (3, T, R, R)."""
        still = to_clip(_enlarged(self._portrait[None], self._size_px))
        return still.expand(-1, len(self._frames), -1, -1)


def _enlarged(pictures: NDArray[np.uint8], size_px: int) -> Tensor:
    return _resized(pictures, size_px, cv2.INTER_LINEAR)


def _resized(pictures: NDArray[np.uint8], size_px: int, method: int) -> Tensor:
    """(T, S, S, C) to (T, C, R, R), uint8."""
    resized = np.stack([cv2.resize(picture, (size_px, size_px), interpolation=method) for picture in pictures])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)


def write_windows(out: Path, windows: list[StoredWindow]) -> None:
    """Writes windows that are all there."""
    out.mkdir(parents=True, exist_ok=True)
    for name in _ARRAYS:
        _open(out, name, len(windows), "w+")[:] = np.stack([getattr(window, name) for window in windows])
    (out / "room.json").write_text(str(len(windows)))
    (out / "count").write_text(str(len(windows)))


def build(people: People, corpus: Corpus, out: Path, seed: int, workers: int = 1) -> None:
    """Writes the windows of all people, in the order in which they come."""
    out.mkdir(parents=True, exist_ok=True)
    room = len(people) * (_SPEECH_WINDOWS + _FREE_WINDOWS)
    arrays = {name: _open(out, name, room, "w+") for name in _ARRAYS}
    (out / "room.json").write_text(str(room))
    count = 0
    for number, windows in enumerate(Studio(people, corpus, make_windows, seed).everyone(workers), start=1):
        for window in windows or []:
            for name, array in arrays.items():
                array[count] = getattr(window, name)
            count += 1
        (out / "count.part").write_text(str(count))
        (out / "count.part").rename(out / "count")
        if number % 50 == 0:
            logger.info("%d of %d people, %d windows", number, len(people), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    people_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    arguments, people = read_arguments(parser)
    build(people, Corpus(arguments.corpus), arguments.out, arguments.seed, arguments.workers)


if __name__ == "__main__":
    main()
