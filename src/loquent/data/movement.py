"""How drawn people move: as the photo is, at will between random goals, or as somebody speaks in the speech corpus."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from loquent.data.shards import CorpusError
from loquent.motion.controls import apply_controls
from loquent.types import ARKIT_INDEX, Controls, Motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.data.shards import Corpus
    from loquent.types import Portrait

KNOT_FRAMES = 8  # free motion reaches a new goal after so many frames
_WIDEST_POSE_DEG = np.array([15.0, 25.0, 15.0])  # pitch, yaw, roll relative to the photo
_WIDEST_ANGLE_DEG = np.array([22.0, 32.0, 25.0])  # of the head, with the photo's own
_MOUTHS = ("jawOpen", "mouthPucker", "mouthFunnel", "mouthSmile", "mouthStretch", "mouthLowerDown", "mouthUpperUp",
           "mouthRollLower", "mouthPress", "mouthFrown", "mouthLeft", "mouthRight")  # fmt: skip
_UPPER_FACE = ("eyeBlink", "eyeSquint", "eyeWide", "browDown", "browInnerUp", "browOuterUp", "cheekSquint", "noseSneer")


@dataclass(frozen=True, eq=False)
class SpokenMotion:
    """Consecutive frames of an utterance, livelier or calmer than they were, on somebody's own expression."""

    motion: Motion
    audio: NDArray[np.int16]  # (T * 640,), 16 kHz
    recording: int  # utterance of the speech corpus
    first_frame: int  # of the utterance


def photo_motion(portrait: Portrait) -> Motion:
    """One frame: the photo as it is."""
    return replace(Motion.neutral(1), expression=portrait.rest_expression[None])


def spoken_motion(portrait: Portrait, corpus: Corpus, num_frames: int, rng: np.random.Generator) -> SpokenMotion:
    """Frames of an utterance picked at will.

    Raises:
        CorpusError: no utterance is so long.
    """
    number, first = _pick_speech(corpus, num_frames, rng)
    spoken = corpus.read(number, first, first + num_frames)
    controls = Controls(
        keep_expression=float(rng.uniform(0, 0.8)),
        head=float(rng.uniform(0.7, 1.6)),
        lips=float(rng.uniform(0.9, 1.3)),
    )
    motion = next(apply_controls([Motion.from_vector(spoken.motion)], controls, portrait.rest_expression))
    return SpokenMotion(motion, spoken.audio, number, first)


def _pick_speech(corpus: Corpus, num_frames: int, rng: np.random.Generator) -> tuple[int, int]:
    """Number of an utterance, and a first frame after which it goes on for `num_frames`."""
    if all(corpus.num_frames(number) < num_frames for number in range(len(corpus))):
        raise CorpusError(f"{corpus.folder}: no utterance has {num_frames} frames")
    while True:
        number = int(rng.integers(len(corpus)))
        spare = corpus.num_frames(number) - num_frames
        if spare >= 0:
            return number, int(rng.integers(spare + 1))


def spoken_frame(corpus: Corpus, rng: np.random.Generator) -> NDArray[np.float32]:
    """The motion vector (62,) of any frame of the corpus."""
    number = int(rng.integers(len(corpus)))
    frame = int(rng.integers(corpus.num_frames(number)))
    return corpus.read(number, frame, frame + 1).motion[0]


def free_motion(portrait: Portrait, corpus: Corpus, num_frames: int, rng: np.random.Generator) -> Motion:
    """Movement at will between random goals, one every KNOT_FRAMES: poses to 25 degrees, expressions, blinks, gaze."""
    num_goals = int(np.ceil(num_frames / KNOT_FRAMES)) + 1
    amount = rng.uniform(0.4, 1.2)
    pose = np.clip(amount * rng.normal(0, 0.6, (num_goals, 3)), -1, 1) * np.radians(_WIDEST_POSE_DEG)
    limit = np.radians(_WIDEST_ANGLE_DEG)
    pose = np.clip(portrait.pose_rad + pose, -limit, limit) - portrait.pose_rad
    goals = Motion(
        expression=np.stack([_free_expression(portrait, corpus, rng) for _ in range(num_goals)]),
        rotation=pose.astype(np.float32),
        translation=rng.normal(0, (0.07, 0.05, 0.0), (num_goals, 3)).astype(np.float32),
        gaze=np.repeat(np.radians(rng.normal(0, (5.0, 8.0), (num_goals, 1, 2))), 2, axis=1).astype(np.float32),
    ).to_vector()
    place = np.arange(num_frames) / KNOT_FRAMES
    low = place.astype(int)
    part = (place - low)[:, None]
    part = part**2 * (3 - 2 * part)
    return Motion.from_vector((goals[low] + part * (goals[low + 1] - goals[low])).astype(np.float32))


def _free_expression(portrait: Portrait, corpus: Corpus, rng: np.random.Generator) -> NDArray[np.float32]:
    """(52,): a frame of the speech corpus exaggerated, or weights at will; often with some of the photo's own."""
    expression = spoken_frame(corpus, rng)[:52] * rng.uniform(0.8, 1.6)
    if rng.random() < 0.5:
        for name in rng.choice(_MOUTHS, 2, replace=False):
            _add(expression, name, rng.uniform(0, 0.7))
    if rng.random() < 0.5:
        _add(expression, str(rng.choice(_UPPER_FACE)), rng.uniform(0, 1.0))
    expression = expression + rng.choice([0.0, rng.uniform(0, 1)]) * portrait.rest_expression
    return np.clip(expression, 0, 1).astype(np.float32)


def _add(expression: NDArray, name: str, value: float) -> None:
    for side in (name, f"{name}Left", f"{name}Right"):
        if side in ARKIT_INDEX:
            expression[ARKIT_INDEX[side]] += value
