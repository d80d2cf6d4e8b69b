"""The other shipped systems on the example files, from photo and sound to frames: what every one of them must do."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from loquent import Controls, TalkingHead
from loquent.face import topology
from loquent.types import Motion, MotionCodes

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"
SIZE = 192
SILENT_FRAMES, NUM_FRAMES = 16, 38
LIPS = topology.LIPS_OUTER_UPPER + topology.LIPS_OUTER_LOWER
SYSTEMS = [("ifmdm", {}), ("moditalker", {"renderer": "video"}), ("moditalker", {"renderer": "mesh"})]


@pytest.fixture(scope="module")
def speech():
    """Silence, then the example recording from its first word on: samples and rate."""
    samples, rate_hz = soundfile.read(EXAMPLES / "speech.flac", dtype="float32", start=12_000)
    silence = np.zeros(int(SILENT_FRAMES / 25 * rate_hz), np.float32)
    return np.concatenate([silence, samples])[: int(NUM_FRAMES / 25 * rate_hz)], rate_hz


@pytest.fixture(scope="module", params=SYSTEMS, ids=lambda value: "-".join([value[0], *value[1].values()]))
def made(request, speech):
    """A system's clip, and the portrait that speaks in it."""
    name, options = request.param
    head = TalkingHead.from_pretrained(name, "cpu", options)
    portrait = head.portrait(EXAMPLES / "portrait_b.jpg")
    return head.animate(portrait, speech, Controls(seed=5), size=SIZE), portrait, head


def movement(frames: np.ndarray, places: tuple[int, ...], portrait) -> float:
    """Mean difference of neighbouring frames around some landmarks, grey levels."""
    points = portrait.face.landmarks[list(places), :2] * (SIZE / portrait.photo.width_px)
    (left, top), (right, bottom) = points.min(0).astype(int), points.max(0).astype(int) + 1
    return float(np.abs(np.diff(frames[:, top:bottom, left:right].astype(float), axis=0)).mean())


def test_there_are_as_many_frames_as_sound(made):
    clip, _, _ = made
    assert clip.num_frames == len(clip.frames) == NUM_FRAMES
    assert clip.size_px == (SIZE, SIZE)


def test_the_mouth_moves_most_and_with_the_speech(made):
    clip, portrait, _ = made
    spoken, silent = clip.frames[SILENT_FRAMES + 3 :], clip.frames[2 : SILENT_FRAMES - 5]
    assert movement(spoken, LIPS, portrait) > 1.2 * movement(silent, LIPS, portrait)
    assert movement(spoken, LIPS, portrait) > 1.2 * movement(spoken, topology.FACE_OVAL, portrait)


def test_the_person_stays_and_the_background_is_still(made):
    clip, portrait, _ = made
    corner = clip.frames[:, :12, :12].astype(int)
    assert np.abs(corner - corner[:1]).max() <= 2
    left, top, right, bottom = (np.array(portrait.face.box_px) * (SIZE / portrait.photo.width_px)).astype(int)
    photo = cv2.resize(portrait.photo.pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(int)
    face, wanted = clip.frames[:, top:bottom, left:right].astype(int), photo[top:bottom, left:right]
    assert np.median(np.abs(face - wanted)) < 16  # the head moves
    assert np.abs(face.mean((0, 1, 2)) - wanted.mean((0, 1))).max() < 4
    assert np.abs(face.std((1, 2)).mean(0) - wanted.std((0, 1))).max() < 6


def values(motion: Motion | MotionCodes) -> np.ndarray:
    return motion.values if isinstance(motion, MotionCodes) else motion.to_vector()


def test_a_seed_is_a_take(made, speech):
    clip, portrait, head = made
    same, other = (
        np.concatenate(
            [values(piece) for piece in head.motion_pieces(head.prepare(portrait, speech, Controls(seed=s)))]
        )
        for s in (5, 6)
    )
    np.testing.assert_array_equal(same, values(clip.motion))
    assert np.abs(other - same).max() > 0.02
