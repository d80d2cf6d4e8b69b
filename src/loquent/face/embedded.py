"""The embedded backend: the detector proposes, the landmarker places 478 points and refuses what is no face."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from loquent.errors import WeightsError
from loquent.face.blocks import channels_last
from loquent.face.crop import Square, cut, cut_mirrored, mirror_landmarks
from loquent.face.detector import Detection, Detector, DetectorConfig, detect, same_face
from loquent.face.landmarker import (
    FACE_MARGIN,
    Landmarker,
    LandmarkerConfig,
    Part,
    part_points,
    part_square,
    to_network,
)
from loquent.types import Face

if TYPE_CHECKING:
    from numpy.typing import NDArray

Model = TypeVar("Model", bound=nn.Module)

WEIGHTS = Path(__file__).parents[1] / "weights"
MIN_DETECTION, MIN_PRESENCE = 0.4, 0.85
MIN_FOLLOWED = 0.5  # presence at which a face that was there in the frame before is still there
NUM_APPROACHES = 3  # looks at one crop each, to centre the next one better
NEIGHBOURHOOD = 2.4  # side of what is looked at round a face, in units of the detection's side
MAX_FACE_PX = 320.0  # larger faces are shrunk to this: the nearest network sees 0.6 of it on 64 pixels

# Looks that are averaged: shift x and y in sides, zoom, turn in radians.
JITTERS = (
    (0.0, 0.0, 1.0, 0.0),
    (0.02, 0.015, 1.05, 0.05),
    (-0.02, -0.015, 0.97, -0.05),
    (0.015, -0.02, 0.93, 0.03),
    (-0.015, 0.02, 1.02, -0.03),
)


def find_landmarks(pixels: NDArray[np.uint8]) -> list[Face]:
    """Every face in a picture RGB (H, W, 3), the surest first.

    Raises:
        WeightsError: the shipped weights are missing or do not fit.
    """
    detector, landmarker = load_detector(), load_landmarker()
    faces: list[_Found] = []
    for detection in detect(detector, pixels, MIN_DETECTION):
        found = _find(landmarker, pixels, detection)
        if found and not any(same_face(found.square, other.square) for other in faces):
            faces.append(found)
    faces.sort(key=lambda item: -item.score)
    return [Face(found.landmarks, found.score, "embedded") for found in faces]


@torch.inference_mode()
def refine(model: Landmarker, pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Better landmarks from good ones: the face, then lips and eyes from near, averaged over jittered crops.

    Args:
        model: the networks, in evaluation mode.
        pixels: RGB, (H, W, 3).
        landmarks: (478, 3), photo pixels.
    """
    landmarks = _look(model, pixels, landmarks, "face")
    for _ in range(2):  # the second time from where the first one put them
        landmarks = _look(model, pixels, landmarks, "lips")
        landmarks = _look(model, pixels, landmarks, "eye")
    return landmarks


@lru_cache(maxsize=1)
def load_detector() -> Detector:
    """The shipped detector, ready to run."""
    model = Detector(DetectorConfig.from_dict(_read_config("face-detector")))
    return _fill(model, "face-detector")


@lru_cache(maxsize=1)
def load_landmarker() -> Landmarker:
    """The shipped landmarker, ready to run."""
    model = Landmarker(LandmarkerConfig.from_dict(_read_config("face-landmarker")))
    return _fill(model, "face-landmarker")


@dataclass(frozen=True, eq=False)
class _Found:
    """A detection that the landmarker confirms."""

    landmarks: NDArray[np.float32]
    square: Square
    score: float


@dataclass(frozen=True, eq=False)
class _View:
    """The part of a picture round a face, shrunk where the face is large."""

    pixels: NDArray[np.uint8]
    left: int
    top: int
    scale: float

    @staticmethod
    def round_face(pixels: NDArray[np.uint8], square: Square) -> _View | None:
        """Of a face whose tight square is given; None when that lies outside the picture."""
        reach = 0.5 * NEIGHBOURHOOD * square.side_px
        left, top = max(0, int(square.centre_x - reach)), max(0, int(square.centre_y - reach))
        window = pixels[top : int(square.centre_y + reach) + 1, left : int(square.centre_x + reach) + 1]
        if not window.size:
            return None
        scale = min(1.0, MAX_FACE_PX / square.side_px)
        if scale < 1:
            window = np.asarray(cv2.resize(window, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        return _View(window, left, top, scale)

    def square(self, square: Square) -> Square:
        """A square of the picture, in the view."""
        return Square(
            (square.centre_x - self.left + 0.5) * self.scale - 0.5,
            (square.centre_y - self.top + 0.5) * self.scale - 0.5,
            square.side_px * self.scale,
            square.roll_rad,
        )

    def to_photo(self, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Landmarks of the view (478, 3) in the picture."""
        placed = landmarks.copy()
        placed[:, :2] = (placed[:, :2] + 0.5) / self.scale - 0.5 + np.array([self.left, self.top], np.float32)
        placed[:, 2] /= self.scale
        return placed


def _find(model: Landmarker, pixels: NDArray[np.uint8], detection: Detection) -> _Found | None:
    """The face at a detection; None when the landmarker sees none. Large faces are looked at in a smaller picture."""
    view = _View.round_face(pixels, detection.square)
    if view is None:
        return None
    found = _approach(model, view.pixels, Detection(view.square(detection.square), detection.score))
    if found is None:
        return None
    landmarks = view.to_photo(refine(model, view.pixels, found.landmarks))
    return _Found(landmarks, part_square("face", landmarks), found.score)


@torch.inference_mode()
def follow_landmarks(pixels: NDArray[np.uint8], before: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Landmarks (478, 3) of the face that had the given ones in the frame before; None when it is gone."""
    model = load_landmarker()
    wide = part_square("face", before)
    view = _View.round_face(pixels, replace(wide, side_px=wide.side_px / FACE_MARGIN))
    if view is None:
        return None
    square = view.square(wide)
    points, logit = model.find_face(to_network(cut(view.pixels, square, model.config.face.crop_size).pixels[None]))
    if torch.sigmoid(logit) < MIN_FOLLOWED:
        return None
    return view.to_photo(refine(model, view.pixels, square.to_photo(points[0].numpy())))


@torch.inference_mode()
def _approach(model: Landmarker, pixels: NDArray[np.uint8], detection: Detection) -> _Found | None:
    """Lets the landmarker find its way from a rough square to the face; None when it sees no face there."""
    rough = detection.square
    square = Square(rough.centre_x, rough.centre_y, FACE_MARGIN * rough.side_px, rough.roll_rad)
    presence, landmarks = 0.0, np.zeros((0, 3), np.float32)
    for _ in range(NUM_APPROACHES):
        crop = cut(pixels, square, model.config.face.crop_size).pixels
        points, logit = model.find_face(to_network(crop[None]))
        presence = float(torch.sigmoid(logit))
        landmarks = square.to_photo(points[0].numpy())
        square = part_square("face", landmarks)
    if presence < MIN_PRESENCE or not 0.4 < square.side_px / (FACE_MARGIN * rough.side_px) < 2.5:
        return None
    return _Found(landmarks, part_square("face", landmarks), float(np.sqrt(presence * detection.score)))


def _look(
    model: Landmarker, pixels: NDArray[np.uint8], landmarks: NDArray[np.float32], part: Part
) -> NDArray[np.float32]:
    """Landmarks with those of one part placed anew, seen as it is and in the mirror.

    Face and lips are averaged over both views; of the eyes each view shows one.
    """
    width = pixels.shape[1]
    direct = _look_once(model, pixels, landmarks, part, mirrored=False)
    if part == "eye":
        in_mirror = _look_once(model, pixels, mirror_landmarks(direct, width), part, mirrored=True)
        return mirror_landmarks(in_mirror, width)
    in_mirror = _look_once(model, pixels, mirror_landmarks(landmarks, width), part, mirrored=True)
    return (direct + mirror_landmarks(in_mirror, width)) / np.float32(2)


def _look_once(
    model: Landmarker, pixels: NDArray[np.uint8], landmarks: NDArray[np.float32], part: Part, mirrored: bool
) -> NDArray[np.float32]:
    """One part placed anew in one view; `landmarks` are those of the view. Lips and eyes keep their depth."""
    net = model.part(part)
    size = net.config.crop_size
    squares = _jittered(part_square(part, landmarks))
    crops = [cut_mirrored(pixels, square, size) if mirrored else cut(pixels, square, size).pixels for square in squares]
    points, _ = net(to_network(np.stack(crops)))
    placed = np.mean([square.to_photo(one) for square, one in zip(squares, points.numpy(), strict=True)], axis=0)
    result = landmarks.copy()
    kept = 3 if part == "face" else 2
    result[part_points(part), :kept] = placed[:, :kept]
    return result


def _jittered(square: Square) -> list[Square]:
    return [
        Square(
            square.centre_x + right * square.side_px,
            square.centre_y + down * square.side_px,
            square.side_px * zoom,
            square.roll_rad + turn,
        )
        for right, down, zoom, turn in JITTERS
    ]


def _read_config(name: str) -> dict[str, Any]:
    path = WEIGHTS / name / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path} is missing; reinstall loquent, its wheel carries these weights")
    return json.loads(path.read_text())


def _fill(model: Model, name: str) -> Model:
    path = WEIGHTS / name / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"{path} is missing; reinstall loquent, its wheel carries these weights")
    state = {key: value.float() for key, value in load_file(path).items()}
    missing, extra = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or extra:
        raise WeightsError(f"{path} does not fit {type(model).__name__}: missing {missing}, unexpected {extra}")
    return channels_last(model.eval())
