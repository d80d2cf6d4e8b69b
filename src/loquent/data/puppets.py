"""A tiny video corpus of puppets that talk, drawn in a second: what debug recipes and tests learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.data.video_shards import SAMPLES_PER_FRAME, VideoClip, VideoShardWriter, encode_picture
from loquent.face.topology import (
    FACE_OVAL,
    LEFT_EYE_LOWER,
    LEFT_EYE_UPPER,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    LIPS_OUTER_LOWER,
    LIPS_OUTER_UPPER,
    NUM_LANDMARKS,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_UPPER,
)
from loquent.motion.face_model import face_tables, fit_face
from loquent.types import ARKIT_INDEX, Motion

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


_SPEECH_FRAMES, _FREE_FRAMES = 20, 8
_FACE_SHARE = 0.3  # interocular distance of the picture's side


def write_puppets(folder: Path, size_px: int = 64, people: int = 3, seed: int = 0) -> None:
    """A video corpus of a photo, a clip of speech and one of free movement for each puppet."""
    rng = np.random.default_rng(seed)
    with VideoShardWriter(folder, size_px, about={"puppets": people}) as writer:
        for number in range(people):
            writer.add(_clips(f"puppet-{number}", size_px, rng))


def _clips(person: str, size_px: int, rng: np.random.Generator) -> list[VideoClip]:
    shape = fit_face(neutral_landmarks(size_px, rng))
    colours = rng.integers(60, 220, (4, 3)).tolist()  # background, skin, lips and eyes
    clips = []
    for kind, num_frames in (("photo", 1), ("speech", _SPEECH_FRAMES), ("free", _FREE_FRAMES)):
        opening = rng.random(num_frames).astype(np.float32)
        motion = _motion(opening if kind != "photo" else np.zeros(1, np.float32), rng)
        landmarks = shape.landmarks(motion.expression, motion.rotation, motion.translation, motion.gaze)
        sound = np.repeat(opening, SAMPLES_PER_FRAME) * rng.normal(0, 8000, num_frames * SAMPLES_PER_FRAME)
        clips.append(
            VideoClip(
                pictures=[encode_picture(_draw(points, size_px, colours)) for points in landmarks],
                landmarks=landmarks.astype(np.float32),
                motion=motion.to_vector(),
                audio=np.clip(sound, -32767, 32767).astype(np.int16),
                person=person,
                kind=kind,
            )
        )
    return clips


def neutral_landmarks(size_px: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A face of its own proportions that looks ahead, (478, 3) in pixels."""
    points = face_tables().neutral * rng.uniform(0.9, 1.1, 3)
    assert points.shape == (NUM_LANDMARKS, 3)
    return points * _FACE_SHARE * size_px + [0.5 * size_px, 0.42 * size_px, 0]


def _motion(opening: NDArray[np.float32], rng: np.random.Generator) -> Motion:
    """The jaw opens as told; the head sways."""
    motion = Motion.neutral(len(opening))
    motion.expression[:, ARKIT_INDEX["jawOpen"]] = opening
    phase, sway = rng.uniform(0, 6), rng.uniform(-0.3, 0.3, 3)
    waves = np.sin(0.4 * np.arange(len(opening)) + phase) if len(opening) > 1 else np.zeros(1)
    motion.rotation[:] = waves[:, None] * sway
    return motion


def _draw(landmarks: NDArray, size_px: int, colours: list[list[int]]) -> NDArray[np.uint8]:
    """Flat areas of a face (478, 3) on a plain background."""
    background, skin, lips, eyes = colours
    picture = np.full((size_px, size_px, 3), background, np.uint8)
    areas = [
        (FACE_OVAL, skin),
        (LIPS_OUTER_UPPER + LIPS_OUTER_LOWER[::-1], lips),
        (LIPS_INNER_UPPER + LIPS_INNER_LOWER[::-1], [20, 10, 10]),
        (LEFT_EYE_UPPER + LEFT_EYE_LOWER[::-1], eyes),
        (RIGHT_EYE_UPPER + RIGHT_EYE_LOWER[::-1], eyes),
    ]
    for points, colour in areas:
        polygon = np.round(landmarks[list(points), :2] * 16).astype(np.int32)
        cv2.fillPoly(picture, [polygon], colour, lineType=cv2.LINE_AA, shift=4)
    return picture
