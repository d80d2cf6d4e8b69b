"""Windows of video for MToV's trainings: frames, the moved photo, landmarks. Made once, read by memory map.

    python -m loquent.training.moditalker_video_data PORTRAITS LABELS.npz SPEECH_CORPUS --out DIR

The mesh renderer draws the people of `data.people` as they speak and as they move at will.

Shape letters: N windows, T frames of a window, S side in which pictures are kept, R picture side of the network,
h, w height and width of the box round the mouth.
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
from loquent.data.shards import Corpus, CorpusError
from loquent.data.studio import Studio, people_arguments, read_arguments
from loquent.face.crop import HEAD_MARGIN
from loquent.models.moditalker import landmarks as space
from loquent.models.moditalker.config import GRID
from loquent.models.moditalker.moved_photo import (
    BOX_CELLS,
    MOUTH_CHANNELS,
    MovedPhoto,
    cut_crop,
    mouth_corners,
    to_crop,
)
from loquent.models.moditalker.pictures import dots_to_clip, draw_dots, hide_lower_face, to_clip
from loquent.render.mesh import MeshRenderer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.data.people import People, Sitter
    from loquent.models.moditalker.config import AutoencoderConfig

logger = logging.getLogger(__name__)

STORED_PX = 256
NUM_FRAMES = 16
DRAWN_PX = 384  # of the head's square, so that the network's crop is as fine as it is stored
_CELL = STORED_PX // GRID
NEAR = 8  # channel of `mouth`: where the network may paint
ALONG_ROWS = [13, 15]  # channels of `mouth`: place along the upper and the lower row of teeth
COLOURED = (0, 4, 9)  # first channels of `mouth` that are the colours of a layer
BOX_PX = (BOX_CELLS[0] * _CELL, BOX_CELLS[1] * _CELL)
_SPEECH_WINDOWS, _FREE_WINDOWS = 2, 1  # of each person
GREY_SHARE = 0.1  # of the windows that a painter and a denoiser see without colour
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, eq=False)
class StoredWindow:
    """One window as it is kept."""

    frames: NDArray[np.uint8]  # (T, S, S, 3)
    base: NDArray[np.uint8]  # (T, S, S, 3), the moved photo
    mouth: NDArray[np.uint8]  # (T, h, w, MOUTH_CHANNELS), see `MovedPhoto.mouth`
    corners: NDArray[np.int64]  # (T, 2) of the mouth's box, see `moved_photo.mouth_corners`
    landmarks: NDArray[np.float32]  # (T, 68, 2), in pixels of a crop of side 1
    portrait: NDArray[np.uint8]  # (S, S, 3)

    def mirrored(self) -> StoredWindow:
        """The window seen in a mirror."""
        points = self.landmarks[:, list(space.MIRRORED)]
        points[..., 0] = 1 - 1 / STORED_PX - points[..., 0]
        pictures = (np.flip(value, -2) for value in (self.frames, self.base, self.mouth, self.portrait))
        frames, base, mouth, portrait = (np.ascontiguousarray(value) for value in pictures)
        mouth[..., ALONG_ROWS] = 255 - mouth[..., ALONG_ROWS]
        corners = np.stack([self.corners[:, 0], GRID - BOX_CELLS[1] - self.corners[:, 1]], -1)
        return StoredWindow(frames, base, mouth, corners, points, portrait)

    def without_colour(self) -> StoredWindow:
        """The window in shades of grey."""
        mouth = self.mouth.copy()
        for first in COLOURED:
            mouth[..., first : first + 3] = _grey(mouth[..., first : first + 3])
        return StoredWindow(
            _grey(self.frames), _grey(self.base), mouth, self.corners, self.landmarks, _grey(self.portrait)
        )


def _grey(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 3) with the same luma in every channel."""
    luma = np.rint(pictures.astype(np.float32) @ _LUMA).astype(np.uint8)
    return np.broadcast_to(luma[..., None], pictures.shape)


def variant(window: StoredWindow, number: int, is_mirrored: bool) -> StoredWindow:
    """The window as trainings see it: as it is or mirrored, without colour where its number is a multiple of ten."""
    seen = window.without_colour() if number % round(1 / GREY_SHARE) == 0 else window
    return seen.mirrored() if is_mirrored else seen


def make_windows(sitter: Sitter, corpus: Corpus, rng: np.random.Generator) -> list[StoredWindow]:
    """Windows of one person, speaking and moving at will.

    Raises:
        LoquentError: the face cannot be drawn.
    """
    portrait = enlarge(sitter, DRAWN_PX, HEAD_MARGIN)
    renderer = MeshRenderer(portrait)
    photo = MovedPhoto(portrait.photo.pixels, portrait.face.landmarks)
    crop_to_photo = photo.crop_to_photo(STORED_PX)
    size = (STORED_PX, STORED_PX)
    still = cut_crop(photo.pixels, crop_to_photo, size)
    windows = []
    for index in range(_SPEECH_WINDOWS + _FREE_WINDOWS):
        if index < _SPEECH_WINDOWS:
            motion = spoken_motion(portrait, corpus, NUM_FRAMES, rng).motion
        else:
            motion = free_motion(portrait, corpus, NUM_FRAMES, rng)
        canonical = space.canonical_of_expression(photo.shape, motion.expression)
        points = photo.landmarks_px(canonical, motion.rotation, motion.translation)
        landmarks = to_crop(points, crop_to_photo) / np.float32(STORED_PX)
        corners = mouth_corners(landmarks)
        moved = list(photo.draw(canonical, motion.rotation, motion.translation, motion.gaze))
        windows.append(
            StoredWindow(
                frames=np.stack([cut_crop(frame, crop_to_photo, size) for frame in renderer.render(motion)]),
                base=np.stack([cut_crop(layers.base, crop_to_photo, size) for layers in moved]),
                mouth=np.stack(
                    [photo.mouth(layers, tuple(at), STORED_PX) for layers, at in zip(moved, corners, strict=True)]
                ),
                corners=corners,
                landmarks=landmarks,
                portrait=still,
            )
        )
    return windows


_ARRAYS = {
    "frames": ((NUM_FRAMES, STORED_PX, STORED_PX, 3), np.uint8),
    "base": ((NUM_FRAMES, STORED_PX, STORED_PX, 3), np.uint8),
    "mouth": ((NUM_FRAMES, *BOX_PX, MOUTH_CHANNELS), np.uint8),
    "corners": ((NUM_FRAMES, 2), np.int64),
    "landmarks": ((NUM_FRAMES, 68, 2), np.float32),
    "portrait": ((STORED_PX, STORED_PX, 3), np.uint8),
}


class Windows:
    """Windows in a folder, of which those already written can be read while more are made.

    Raises:
        CorpusError: the folder holds no windows, or windows of another layout.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / "room.json").is_file():
            raise CorpusError(
                f"{folder} holds no windows; make them by `python -m loquent.training.moditalker_video_data`"
            )
        room = json.loads((folder / "room.json").read_text())
        for name, (shape, kind) in _ARRAYS.items():
            path = folder / f"{name}.bin"
            if not path.is_file() or path.stat().st_size != room * int(np.prod(shape)) * np.dtype(kind).itemsize:
                raise CorpusError(f"{path} is not of the layout that this version reads; make the windows anew")
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
        self._stored, self._count = stored, config.num_frames
        self._size_px = config.size_px
        self._points = stored.landmarks[: config.num_frames] * config.size_px

    def clip(self) -> Tensor:
        """All frames, (3, T, R, R) in [−1, 1]."""
        return to_clip(_resized(self._stored.frames[: self._count], self._size_px))

    def mouth(self, frames: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The box round the mouth in some frames: the guide (F, GUIDE_CHANNELS, h, w) and the real frames (F, 3, h, w)
        in [−1, 1], and the corners (F, 2) in cells."""
        stored = self._stored
        corners = stored.corners[frames]
        base, real = (cut_boxes(pictures, frames, corners) for pictures in (stored.base, stored.frames))
        guide = np.concatenate([base, stored.mouth[frames]], -1)
        height, width = (cells * self._size_px // GRID for cells in BOX_CELLS)
        boxes = (_to_size(box, (width, height)) for box in (guide, real))
        guide, real = (box.float() / 127.5 - 1 for box in boxes)
        return guide, real, torch.from_numpy(corners)

    def openings(self) -> Tensor:
        """Frames that are grey away from the mouth, (3, T, R, R)."""
        stored, numbers = self._stored, list(range(self._count))
        boxes = cut_boxes(stored.frames, numbers, stored.corners).astype(np.float32)
        near = stored.mouth[: self._count, ..., NEAR, None] / np.float32(255)
        shown = np.full((self._count, STORED_PX, STORED_PX, 3), 127, np.uint8)
        filled = np.rint(127.5 + near * (boxes - 127.5)).astype(np.uint8)
        for picture, box, corner in zip(shown, filled, stored.corners, strict=False):
            picture[_box_at(corner)] = box
        return to_clip(_resized(shown, self._size_px))

    def dots(self) -> Tensor:
        """Dot pictures, (3, T, R, R) of −1 and 1."""
        return dots_to_clip(draw_dots(self._points, self._size_px, self._size_px))

    def pose(self) -> Tensor:
        """The moved photo with its lower face hidden, (3, T, R, R)."""
        base = _resized(self._stored.base[: self._count], self._size_px).float()
        return to_clip(hide_lower_face(base, self._points))

    def portrait(self) -> Tensor:
        """The portrait, held still, (3, T, R, R)."""
        still = to_clip(_resized(self._stored.portrait[None], self._size_px))
        return still.expand(-1, self._count, -1, -1)


def _box_at(corner: NDArray) -> tuple[slice, slice]:
    row, column = (int(value) * _CELL for value in corner)
    return slice(row, row + BOX_PX[0]), slice(column, column + BOX_PX[1])


def cut_boxes(pictures: NDArray[np.uint8], frames: list[int], corners: NDArray) -> NDArray[np.uint8]:
    """Boxes (F, h, w, C) of some of the pictures (T, S, S, C)."""
    return np.stack([pictures[frame][_box_at(corner)] for frame, corner in zip(frames, corners, strict=False)])


def _resized(pictures: NDArray[np.uint8], size_px: int) -> Tensor:
    """(T, S, S, C) to (T, C, R, R), uint8."""
    return _to_size(pictures, (size_px, size_px))


def _to_size(pictures: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """(T, H, W, C) to (T, C, h, w), uint8; `size` is width and height."""
    if pictures.shape[1:3] != size[::-1]:
        method = cv2.INTER_AREA if size[0] < pictures.shape[2] else cv2.INTER_LINEAR
        pictures = np.stack([cv2.resize(picture, size, interpolation=method) for picture in pictures])
    return torch.from_numpy(np.require(pictures, requirements=["C", "W"])).permute(0, 3, 1, 2)


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
