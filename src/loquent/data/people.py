"""Someone to draw: the portraits of one split and people blended of two, cut out as a user's photo is.

`loquent.data.video` and the caches of the trainings draw the same people, so that nobody of the test split is ever
learnt from, whatever is trained.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loquent.data.average_portrait import BORDER_PX, align, collapse, face_mask, pyramid, warp_to_shape
from loquent.data.shards import CorpusError
from loquent.face.crop import head_square, mirror_landmarks
from loquent.face.lip_line import refine_inner_lips
from loquent.motion.face_model import fit_face
from loquent.render.matte import split_layers
from loquent.types import Face, Photo, Portrait

_CONTEXT = 1.09  # side of the drawn picture over that of the frames


@dataclass(frozen=True, eq=False)
class Sitter:
    """Someone to draw: a picture with one face."""

    name: str
    pixels: NDArray[np.uint8]  # RGB, (H, W, 3)
    landmarks: NDArray[np.float32]  # (478, 3), pixels


def is_test(identity: str) -> bool:
    """True for the eighth of the portraits that is never trained on."""
    return hashlib.sha1(identity.encode()).hexdigest()[-1] in "01"


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture file as RGB (H, W, 3).

    Raises:
        CorpusError: it is not there, or is no picture.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise CorpusError(f"{path} is missing or is no picture; every id of the labels needs its ID.jpg")
    return np.asarray(pixels, np.uint8)


class People:
    """The sitters of one split by number: every portrait, then `num_new` blends of two.

    Args:
        portraits: folder of ID.jpg, one face each.
        labels: npz with `ids` (N,) and `landmarks` (N, 478, 3) in pixels.
        test: the test split instead of the training split.

    Raises:
        CorpusError: the labels are missing, or name nobody of the split (fewer than two, where people are blended).
    """

    def __init__(self, portraits: Path, labels: Path, test: bool, num_new: int, seed: int) -> None:
        if not labels.is_file():
            raise CorpusError(f"{labels} is missing; `python -m loquent.training.face_data` makes such a file")
        table = np.load(labels)
        self._folder, self._seed, self._num_new = portraits, seed, num_new
        self._landmarks = {
            str(name): points.astype(np.float32)
            for name, points in zip(table["ids"], table["landmarks"], strict=True)
            if is_test(str(name)) == test
        }
        self._names = sorted(self._landmarks)
        if len(self._names) < (2 if num_new else 1):
            split = "test" if test else "training"
            raise CorpusError(f"{labels} names {len(self._names)} people of the {split} split; that is too few")
        np.random.default_rng(seed).shuffle(self._names)

    def __len__(self) -> int:
        return len(self._names) + self._num_new

    def __getitem__(self, number: int) -> Sitter:
        if number < len(self._names):
            return self._read(self._names[number])
        rng = np.random.default_rng((self._seed, 7, number))
        first, second = (self._read(str(name)) for name in rng.choice(self._names, 2, replace=False))
        if rng.random() < 0.5:
            first = _mirrored(first)
        return blend(first, second, float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.2, 0.7)))

    def _read(self, name: str) -> Sitter:
        pixels = read_rgb(self._folder / f"{name}.jpg")[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
        landmarks = self._landmarks[name] - np.array([BORDER_PX, BORDER_PX, 0], np.float32)
        return Sitter(name, np.ascontiguousarray(pixels), landmarks)


def blend(first: Sitter, second: Sitter, shape_share: float, looks_share: float, size_px: int = 384) -> Sitter:
    """A person between two: hair, clothes and background of the first, the face partly of the second."""
    aligned, warped = [], []
    for sitter in (first, second):
        to_result = align(sitter.landmarks[:, :2], size_px, interocular=0.26, eye_line=0.44)
        depth = sitter.landmarks[:, 2:] * np.sqrt(np.linalg.det(to_result[:, :2]))
        aligned.append(np.hstack([sitter.landmarks[:, :2] @ to_result[:, :2].T + to_result[:, 2], depth]))
    shape = aligned[0] + shape_share * (aligned[1] - aligned[0])
    for sitter in (first, second):
        room = sitter.pixels.shape[1] // 4
        wide = cv2.copyMakeBorder(sitter.pixels, room, room, room, room, cv2.BORDER_REPLICATE)
        large = cv2.resize(wide, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)
        warped.append(warp_to_shape(large, (sitter.landmarks[:, :2] + room) * 2 + 0.5, shape[:, :2], size_px))
    mask = face_mask(shape[:, :2], size_px) * looks_share
    tones = [(picture * mask).sum((0, 1)) / mask.sum() for picture in warped]
    levels = []
    for a, b in zip(pyramid(warped[0]), pyramid(warped[1] * np.float32(tones[0] / tones[1])), strict=True):
        levels.append(a + (b - a) * mask)
        mask = cv2.pyrDown(mask)[..., None]
    pixels = np.clip(collapse(levels) + 0.5, 0, 255).astype(np.uint8)
    return Sitter(f"{first.name}+{second.name}", pixels, shape.astype(np.float32))


def _mirrored(sitter: Sitter) -> Sitter:
    pixels = np.ascontiguousarray(sitter.pixels[:, ::-1])
    return Sitter(f"{sitter.name}m", pixels, mirror_landmarks(sitter.landmarks, pixels.shape[1]))


def enlarge(sitter: Sitter, size_px: int, margin: float) -> Portrait:
    """The head and its surroundings at the scale of the frames: the head square is `size_px` in the middle of it."""
    landmarks = refine_inner_lips(sitter.pixels, sitter.landmarks)
    side = head_square(landmarks, margin * _CONTEXT)
    drawn_px = 2 * round(size_px * _CONTEXT / 2)
    to_photo = side.crop_to_photo(drawn_px)
    pixels = cv2.warpAffine(
        sitter.pixels,
        to_photo,
        (drawn_px, drawn_px),
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,  # as face.crop.cut does
    )
    points = side.from_photo(landmarks) * drawn_px
    points[:, :2] += (drawn_px - 1) / 2
    shape = fit_face(points)
    return Portrait(
        photo=Photo(np.asarray(pixels, np.uint8), name=sitter.name),
        face=Face(points),
        rest_expression=shape.rest_expression,
        pose_rad=np.asarray(shape.pose_rad, np.float32),
    )


def before_another_background(portrait: Portrait, rng: np.random.Generator) -> Portrait:
    """The person before plain colour, a gradient or soft patches; the same portrait where no cut is found."""
    pixels = portrait.photo.pixels
    layers = split_layers(pixels, portrait.face.landmarks)
    if not layers.reliable:
        return portrait
    side = int(rng.choice([1, 2, 3, 12]))
    patches = rng.uniform(0, 255, (side, side, 3)).astype(np.float32)
    background = cv2.resize(patches, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    alpha = layers.person[..., 3:].astype(np.float32) / 255
    mixed = layers.person[..., :3] + (1 - alpha) * background
    return replace(portrait, photo=replace(portrait.photo, pixels=np.clip(mixed + 0.5, 0, 255).astype(np.uint8)))
