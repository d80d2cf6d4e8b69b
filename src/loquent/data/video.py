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
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loquent.data.movement import free_motion, photo_motion, spoken_motion
from loquent.data.people import People, Sitter, enlarge
from loquent.data.shards import Corpus
from loquent.data.studio import Camera, Studio, people_arguments, read_arguments
from loquent.data.video_shards import SAMPLES_PER_FRAME, VideoClip, VideoShardWriter, encode_picture
from loquent.face.crop import HEAD_MARGIN
from loquent.types import Motion

logger = logging.getLogger(__name__)

SIZE_PX = 256
SPEECH_FRAMES = 72
FREE_FRAMES = 24
_SHIFT = 0.025  # of the frame in a clip, deviation, frame sides


@dataclass(frozen=True)
class ClipPlan:
    """How much of each kind a person gets."""

    speech: int = 1
    free: int = 2
    size_px: int = SIZE_PX


def make_clips(sitter: Sitter, corpus: Corpus, rng: np.random.Generator, plan: ClipPlan) -> list[VideoClip]:
    """Everything that is drawn of one person: the photo itself, then the clips of the plan.

    Raises:
        LoquentError: the face cannot be drawn.
    """
    portrait = enlarge(sitter, plan.size_px, HEAD_MARGIN * float(np.exp(rng.normal(0, 0.03))))
    camera = Camera(portrait, plan.size_px)
    shoot = partial(_shoot, camera, sitter.name)
    clips = [shoot("photo", photo_motion(portrait))]
    for _ in range(plan.speech):
        spoken = spoken_motion(portrait, corpus, SPEECH_FRAMES, rng)
        clip = shoot("speech", spoken.motion, _shift(plan, rng))
        clips.append(replace(clip, audio=spoken.audio, recording=spoken.recording, first_frame=spoken.first_frame))
    for _ in range(plan.free):
        clips.append(shoot("free", free_motion(portrait, corpus, FREE_FRAMES, rng), _shift(plan, rng)))
    return clips


def _shift(plan: ClipPlan, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(0, _SHIFT * plan.size_px, 2)


def _shoot(camera: Camera, person: str, kind: str, motion: Motion, shift_px: NDArray | float = 0.0) -> VideoClip:
    return VideoClip(
        pictures=[encode_picture(frame) for frame in camera.frames(motion, shift_px)],
        landmarks=camera.landmarks(motion, shift_px),
        motion=motion.to_vector(),
        audio=np.zeros(len(motion) * SAMPLES_PER_FRAME, np.int16),
        person=person,
        kind=kind,
    )


def build(
    people: People, corpus_folder: Path, out: Path, plan: ClipPlan, seed: int = 0, workers: int = 1
) -> Iterator[int]:
    """Writes a video corpus; yields the number of frames written so far after every person."""
    about = {"seed": seed, "head_margin": HEAD_MARGIN, "speech_corpus": corpus_folder.name}
    studio = Studio(people, Corpus(corpus_folder), partial(make_clips, plan=plan), seed)
    num_frames = 0
    with VideoShardWriter(out, plan.size_px, about=about) as writer:
        for clips in studio.everyone(workers):
            writer.add(clips or [])
            num_frames += sum(len(clip) for clip in clips or [])
            yield num_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    people_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--speech-clips", type=int, default=1, help=f"of {SPEECH_FRAMES} frames, a person")
    parser.add_argument("--free-clips", type=int, default=2, help=f"of {FREE_FRAMES} frames, a person")
    parser.add_argument("--size", type=int, default=SIZE_PX)
    arguments, people = read_arguments(parser)
    plan = ClipPlan(arguments.speech_clips, arguments.free_clips, arguments.size)
    for number, frames in enumerate(
        build(people, arguments.corpus, arguments.out, plan, arguments.seed, arguments.workers), start=1
    ):
        if number % 50 == 0 or number == len(people):
            logger.info("%d of %d people, %d frames", number, len(people), frames)


if __name__ == "__main__":
    main()
