"""Material for the IF-MDM renderer: frames of drawn people, with where each pixel comes from.

    python -m loquent.training.ifmdm_data PORTRAITS LABELS.npz SPEECH_CORPUS CACHE [--new-people 300]

The mesh renderer draws portraits and people blended of two, before their own and before other backgrounds, with random
movement and speech. It knows its own flow, which the first steps of training learn from.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.data.movement import KNOT_FRAMES, free_motion, photo_motion, spoken_frame
from loquent.data.people import before_another_background, enlarge
from loquent.data.puppets import neutral_landmarks
from loquent.data.shards import Corpus
from loquent.data.studio import Camera, Studio, people_arguments, read_arguments
from loquent.face.crop import HEAD_MARGIN
from loquent.face.topology import (
    LEFT_EYE_LOWER,
    LEFT_EYE_UPPER,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    LIPS_OUTER_LOWER,
    LIPS_OUTER_UPPER,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_UPPER,
)
from loquent.render.matte import split_layers
from loquent.types import ARKIT_INDEX, MOTION_DIM, Motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.data.people import Sitter
    from loquent.types import Portrait

logger = logging.getLogger(__name__)

SIZE_PX = 256
FLOW_PX = 128
FREE_FRAMES = 8
SPEECH_FRAMES = 5
PEOPLE_PER_FILE = 32
FLOW_STEPS = 4096  # of a half picture: flow is kept in whole steps
# What a pixel of `kinds` is. Where lips or lids slide over something, flow is left to the landmarks.
UNSURE, STILL, MOVED, MOUTH, SLIDING = range(5)
_OPAQUE, _CLEAR = 250, 3  # share of the person, of 255, from which a pixel counts as theirs, or as background
_BACKGROUND_SHARE = 0.35  # of the people stand before another background
_BLINK_SHARE = 0.25  # of the free frames, besides those that blink anyway
FRAME_ARRAYS = ("frames", "flow", "kinds", "landmarks", "motion")
PHOTO_ARRAYS = ("background", "alpha", "depth")
# Upper and lower outline, what is within, and how much larger it is taken.
_OPENINGS = (
    (LIPS_OUTER_UPPER, LIPS_OUTER_LOWER, SLIDING, 1.5),
    (RIGHT_EYE_UPPER, RIGHT_EYE_LOWER, SLIDING, 1.5),
    (LEFT_EYE_UPPER, LEFT_EYE_LOWER, SLIDING, 1.5),
    (LIPS_INNER_UPPER, LIPS_INNER_LOWER, MOUTH, 1.0),
)


@dataclass(frozen=True, eq=False)
class DrawnPeople:
    """Frames of a few people; row 0 of each person is the photo."""

    frames: NDArray[np.uint8]  # (N, 256, 256, 3) RGB
    flow: NDArray[
        np.int16
    ]  # (N, 128, 128, 2): place in the photo less own place, x and y, in 1/FLOW_STEPS half pictures
    kinds: NDArray[np.uint8]  # (N, 128, 128)
    landmarks: NDArray[np.float32]  # (N, 478, 2) pixels
    motion: NDArray[np.float32]  # (N, 62)
    background: NDArray[np.uint8]  # (people, 256, 256, 3): of the photo, completed behind the person
    alpha: NDArray[np.uint8]  # (people, 256, 256): how much of the photo's pixels is the person
    depth: NDArray[np.float32]  # (people, 478): of the photo's landmarks, pixels


def draw_person(sitter: Sitter, corpus: Corpus, rng: np.random.Generator) -> DrawnPeople:
    """The photo and frames of one person.

    Raises:
        LoquentError: the face cannot be drawn.
    """
    portrait = enlarge(sitter, SIZE_PX, HEAD_MARGIN * float(np.exp(rng.normal(0, 0.04))))
    if rng.random() < _BACKGROUND_SHARE:
        portrait = before_another_background(portrait, rng)
    camera = Camera(portrait, SIZE_PX)
    motion = _choose_motion(portrait, corpus, rng)
    landmarks = camera.landmarks(motion)
    points = landmarks[..., :2]
    flow, kinds = [], []
    for (places, share), seen in zip(camera.origins(motion), points, strict=True):
        flow.append(_flow(places))
        kinds.append(_kinds(share, seen))
    frames = np.stack(list(camera.frames(motion)))
    layers = split_layers(frames[0], points[0])
    return DrawnPeople(
        frames,
        np.stack(flow),
        np.stack(kinds),
        points,
        motion.to_vector(),
        background=layers.background[None],
        alpha=layers.person[None, ..., 3],
        depth=landmarks[:1, :, 2],
    )


def _choose_motion(portrait: Portrait, corpus: Corpus, rng: np.random.Generator) -> Motion:
    """The photo, goals of free motion, and frames of speech."""
    free = free_motion(portrait, corpus, FREE_FRAMES * KNOT_FRAMES, rng).to_vector()[::KNOT_FRAMES]
    for row in free[rng.random(len(free)) < _BLINK_SHARE]:
        row[[ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]] = rng.uniform(0.5, 1)
    spoken = [spoken_frame(corpus, rng) for _ in range(SPEECH_FRAMES)]
    return Motion.from_vector(np.vstack([photo_motion(portrait).to_vector(), free, spoken]))


def _flow(places: NDArray[np.float32]) -> NDArray[np.int16]:
    """Places (256, 256, 2) in pixels to flow (128, 128, 2), each of the mean of four pixels."""
    own = np.stack(np.meshgrid(np.arange(SIZE_PX), np.arange(SIZE_PX)), axis=-1)
    offset = cv2.resize((places - own).astype(np.float32), (FLOW_PX, FLOW_PX), interpolation=cv2.INTER_AREA)
    return np.round(offset * (2 / SIZE_PX * FLOW_STEPS)).clip(-32767, 32767).astype(np.int16)


def _kinds(share: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What each of 128 x 128 places shows, from the person's share (256, 256) and the landmarks (478, 2)."""
    kinds = np.where(share >= _OPAQUE, MOVED, np.where(share <= _CLEAR, STILL, UNSURE)).astype(np.uint8)
    grown = cv2.erode(kinds, np.ones((3, 3))), cv2.dilate(kinds, np.ones((3, 3)))
    kinds = np.where(grown[0] == grown[1], kinds, UNSURE).astype(np.uint8)[::2, ::2].copy()
    add_openings(kinds, (landmarks + 0.5) / 2 - 0.5)
    return kinds


def add_openings(kinds: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> None:
    """Marks mouth, lips and eyes in `kinds` (s, s), in place; landmarks (478, 2) in its pixels."""
    for upper, lower, kind, growth in _OPENINGS:
        outline = landmarks[[*upper, *lower[::-1]]]
        middle = outline.mean(0)
        outline = middle + growth * (outline - middle)
        cv2.fillPoly(kinds, [np.round(outline * 16).astype(np.int32)], kind, shift=4)


def write_file(people: list[DrawnPeople], folder: Path) -> None:
    """Writes one folder of arrays; it gets its name when it is whole."""
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for name in (*FRAME_ARRAYS, *PHOTO_ARRAYS):
        np.save(part / f"{name}.npy", np.concatenate([getattr(person, name) for person in people]))
    np.save(part / "starts.npy", np.cumsum([0] + [len(person.frames) for person in people]))
    part.rename(folder)


def write_sliding_pictures(folder: Path, people: int = 3, frames: int = 6) -> None:
    """A tiny cache of soft pictures, and faces' landmarks, that slide as a whole, for debug recipes and tests."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(people):
        large = cv2.resize(rng.uniform(0, 255, (9, 9, 3)).astype(np.float32), (SIZE_PX + 64, SIZE_PX + 64))
        shifts = np.vstack([[0, 0], rng.integers(-32, 33, (frames - 1, 2))])
        cuts = [large[32 - y : 32 - y + SIZE_PX, 32 - x : 32 - x + SIZE_PX] for x, y in shifts]
        flow = np.round(-shifts * (2 / SIZE_PX * FLOW_STEPS)).astype(np.int16)
        face = neutral_landmarks(SIZE_PX, rng)
        landmarks = face[:, :2] + shifts[:, None]
        drawn.append(
            DrawnPeople(
                frames=np.stack(cuts).astype(np.uint8),
                flow=np.broadcast_to(flow[:, None, None], (frames, FLOW_PX, FLOW_PX, 2)),
                kinds=np.full((frames, FLOW_PX, FLOW_PX), MOVED, np.uint8),
                landmarks=landmarks.astype(np.float32),
                motion=np.zeros((frames, MOTION_DIM), np.float32),
                background=cuts[0][None].astype(np.uint8),
                alpha=np.full((1, SIZE_PX, SIZE_PX), 255, np.uint8),
                depth=face[None, :, 2].astype(np.float32),
            )
        )
    write_file(drawn, folder / "train-0-00000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    people_arguments(parser)
    parser.add_argument("cache", type=Path)
    arguments, people = read_arguments(parser)
    studio = Studio(people, Corpus(arguments.corpus), draw_person, arguments.seed)
    order = np.random.default_rng(arguments.seed).permutation(len(people)).tolist()
    pending: list[DrawnPeople] = []
    for number, drawn in enumerate(studio.everyone(arguments.workers, order), start=1):
        pending += [] if drawn is None else [drawn]
        if len(pending) == PEOPLE_PER_FILE or (number == len(people) and pending):
            write_file(pending, arguments.cache / f"{arguments.split}-{arguments.seed}-{number:05d}")
            logger.info("%d of %d people", number, len(people))
            pending = []


if __name__ == "__main__":
    main()
