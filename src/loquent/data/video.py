"""Builds video with exact labels from portraits and a speech corpus, without any footage.

    python -m loquent.data.video PORTRAITS LABELS.npz SPEECH_CORPUS --out DIR [--split train] [--new-people 400]

The mesh renderer draws every portrait, and people blended of two portraits, as they speak (motion of the speech
corpus) and as they move at will (poses, expressions and mouths wider than in speech).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loquent.data.average_portrait import align, collapse, face_mask, pyramid, warp_to_shape
from loquent.data.shards import Corpus
from loquent.data.video_shards import SAMPLES_PER_FRAME, VideoClip, VideoShardWriter, encode_picture
from loquent.errors import LoquentError
from loquent.face.crop import HEAD_MARGIN, head_square, mirror_landmarks
from loquent.face.lip_line import refine_inner_lips
from loquent.motion.controls import apply_controls
from loquent.motion.face_model import fit_face
from loquent.render.mesh import MeshRenderer
from loquent.training.face_data import is_test, read_rgb
from loquent.types import ARKIT_INDEX, Controls, Face, Motion, Photo, Portrait

logger = logging.getLogger(__name__)

SIZE_PX = 256
SPEECH_FRAMES = 72
FREE_FRAMES = 24
_BORDER_PX = 3  # scanned photos end in a light line
_CONTEXT = 1.09  # side of the drawn picture over that of the frames
_SHIFT = 0.025  # of the frame in a clip, deviation, frame sides
_KNOT_FRAMES = 8  # free motion reaches a new goal after so many frames
_WIDEST_POSE_DEG = np.array([15.0, 25.0, 15.0])  # pitch, yaw, roll relative to the photo
_WIDEST_ANGLE_DEG = np.array([22.0, 32.0, 25.0])  # of the head, with the photo's own
_MOUTHS = ("jawOpen", "mouthPucker", "mouthFunnel", "mouthSmile", "mouthStretch", "mouthLowerDown", "mouthUpperUp",
           "mouthRollLower", "mouthPress", "mouthFrown", "mouthLeft", "mouthRight")  # fmt: skip
_UPPER_FACE = ("eyeBlink", "eyeSquint", "eyeWide", "browDown", "browInnerUp", "browOuterUp", "cheekSquint", "noseSneer")


@dataclass(frozen=True, eq=False)
class Sitter:
    """Someone to draw: a picture with one face."""

    name: str
    pixels: NDArray[np.uint8]  # RGB, (H, W, 3)
    landmarks: NDArray[np.float32]  # (478, 3), pixels


@dataclass(frozen=True)
class ClipPlan:
    """How much of each kind a person gets."""

    speech: int = 1
    free: int = 2
    size_px: int = SIZE_PX


class People:
    """The sitters of one split by number: every portrait, then `num_new` blends of two."""

    def __init__(self, portraits: Path, labels: Path, test: bool, num_new: int, seed: int) -> None:
        table = np.load(labels)
        self._folder, self._seed, self._num_new = portraits, seed, num_new
        self._landmarks = {
            str(name): points.astype(np.float32)
            for name, points in zip(table["ids"], table["landmarks"], strict=True)
            if is_test(str(name)) == test
        }
        self._names = sorted(self._landmarks)
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
        pixels = read_rgb(self._folder / f"{name}.jpg")[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX]
        landmarks = self._landmarks[name] - np.array([_BORDER_PX, _BORDER_PX, 0], np.float32)
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


def free_motion(portrait: Portrait, corpus: Corpus, num_frames: int, rng: np.random.Generator) -> Motion:
    """Movement at will between random goals: poses to 25 degrees, expressions, mouths, blinks, gaze."""
    num_goals = int(np.ceil(num_frames / _KNOT_FRAMES)) + 1
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
    place = np.arange(num_frames) / _KNOT_FRAMES
    low = place.astype(int)
    part = (place - low)[:, None]
    part = part**2 * (3 - 2 * part)
    return Motion.from_vector((goals[low] + part * (goals[low + 1] - goals[low])).astype(np.float32))


def _free_expression(portrait: Portrait, corpus: Corpus, rng: np.random.Generator) -> NDArray[np.float32]:
    """(52,): a frame of the speech corpus exaggerated, or weights at will; often with some of the photo's own."""
    number = int(rng.integers(len(corpus)))
    frame = int(rng.integers(corpus.num_frames(number)))
    expression = corpus.read(number, frame, frame + 1).motion[0, :52] * rng.uniform(0.8, 1.6)
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


def make_clips(sitter: Sitter, corpus: Corpus, plan: ClipPlan, rng: np.random.Generator) -> list[VideoClip]:
    """Everything that is drawn of one person: the photo itself, then the clips of the plan."""
    portrait = enlarge(sitter, plan.size_px, HEAD_MARGIN * float(np.exp(rng.normal(0, 0.03))))
    renderer = MeshRenderer(portrait)
    still = replace(Motion.neutral(1), expression=portrait.rest_expression[None])
    clips = [_draw(renderer, sitter.name, "photo", still, plan, rng)]
    for _ in range(plan.speech):
        number, first = _pick_speech(corpus, rng)
        spoken = corpus.read(number, first, first + SPEECH_FRAMES)
        controls = Controls(
            keep_expression=float(rng.uniform(0, 0.8)),
            head=float(rng.uniform(0.7, 1.6)),
            lips=float(rng.uniform(0.9, 1.3)),
        )
        motion = next(apply_controls([Motion.from_vector(spoken.motion)], controls, portrait.rest_expression))
        clip = _draw(renderer, sitter.name, "speech", motion, plan, rng)
        clips.append(replace(clip, audio=spoken.audio, recording=number, first_frame=first))
    for _ in range(plan.free):
        clips.append(_draw(renderer, sitter.name, "free", free_motion(portrait, corpus, FREE_FRAMES, rng), plan, rng))
    return clips


def _pick_speech(corpus: Corpus, rng: np.random.Generator) -> tuple[int, int]:
    """Number of an utterance, and a first frame after which it goes on for SPEECH_FRAMES."""
    while True:
        number = int(rng.integers(len(corpus)))
        spare = corpus.num_frames(number) - SPEECH_FRAMES
        if spare >= 0:
            return number, int(rng.integers(spare + 1))


def _draw(
    renderer: MeshRenderer, person: str, kind: str, motion: Motion, plan: ClipPlan, rng: np.random.Generator
) -> VideoClip:
    """Draws a clip and cuts its frames out of the middle, a little beside it in every clip but the photo."""
    room = renderer.size_px[0] - plan.size_px
    shift = np.zeros(2) if kind == "photo" else rng.normal(0, _SHIFT * plan.size_px, 2)
    left, top = np.clip(np.round(room / 2 + shift), 0, room).astype(int)
    rows, columns = slice(top, top + plan.size_px), slice(left, left + plan.size_px)
    landmarks = renderer.shape.landmarks(motion.expression, motion.rotation, motion.translation, motion.gaze)
    return VideoClip(
        pictures=[encode_picture(frame[rows, columns]) for frame in renderer.render(motion)],
        landmarks=landmarks - np.array([left, top, 0], np.float32),
        motion=motion.to_vector(),
        audio=np.zeros(len(motion) * SAMPLES_PER_FRAME, np.int16),
        person=person,
        kind=kind,
    )


class _Studio:
    """Draws people by number; each worker process keeps one."""

    here: _Studio

    def __init__(self, people: People, corpus_folder: Path, plan: ClipPlan, seed: int) -> None:
        self._people, self._plan, self._seed = people, plan, seed
        self._corpus = Corpus(corpus_folder)

    def draw(self, number: int) -> list[VideoClip]:
        """One person's clips; none when the face cannot be drawn."""
        rng = np.random.default_rng((self._seed, number))
        try:
            return make_clips(self._people[number], self._corpus, self._plan, rng)
        except LoquentError as error:
            logger.warning("person %d is left out: %s", number, error)
            return []


def _open_studio(studio: _Studio) -> None:
    cv2.setNumThreads(1)
    _Studio.here = studio


def _draw_person(number: int) -> list[VideoClip]:
    return _Studio.here.draw(number)


def build(
    people: People, corpus_folder: Path, out: Path, plan: ClipPlan, seed: int = 0, workers: int = 1
) -> Iterator[int]:
    """Writes a video corpus; yields the number of frames written so far after every person."""
    about = {"seed": seed, "head_margin": HEAD_MARGIN, "speech_corpus": corpus_folder.name}
    studio = _Studio(people, corpus_folder, plan, seed)
    num_frames = 0
    with (
        get_context("spawn").Pool(workers, _open_studio, (studio,)) as pool,
        VideoShardWriter(out, plan.size_px, about=about) as writer,
    ):
        for clips in pool.imap(_draw_person, range(len(people))):
            writer.add(clips)
            num_frames += sum(len(clip) for clip in clips)
            yield num_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path, help="folder of ID.jpg, one face each")
    parser.add_argument("labels", type=Path, help="npz with ids and landmarks (N, 478, 3) in pixels")
    parser.add_argument("corpus", type=Path, help="folder made by loquent.data.corpus")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument(
        "--new-people", type=int, default=0, help="people blended of two portraits, besides the portraits"
    )
    parser.add_argument("--speech-clips", type=int, default=1, help=f"of {SPEECH_FRAMES} frames, a person")
    parser.add_argument("--free-clips", type=int, default=2, help=f"of {FREE_FRAMES} frames, a person")
    parser.add_argument("--size", type=int, default=SIZE_PX)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    people = People(
        arguments.portraits, arguments.labels, arguments.split == "test", arguments.new_people, arguments.seed
    )
    plan = ClipPlan(arguments.speech_clips, arguments.free_clips, arguments.size)
    for number, frames in enumerate(
        build(people, arguments.corpus, arguments.out, plan, arguments.seed, arguments.workers), start=1
    ):
        if number % 50 == 0 or number == len(people):
            logger.info("%d of %d people, %d frames", number, len(people), frames)


if __name__ == "__main__":
    main()
