import itertools

import numpy as np
import pytest

from loquent.motion.controls import LIP_CHANNELS
from loquent.motion.pauses import FACE_PARAMETERS, PauseLayer
from loquent.types import ARKIT_INDEX, Motion, SpeechFeatures

JAW = ARKIT_INDEX["jawOpen"]


def silent(num_frames: int, *pauses: tuple[int, int]) -> np.ndarray:
    """(T, 4), probability 1 in pauses given by their first and last frame."""
    silence = np.zeros((num_frames, 4), np.float32)
    for start, stop in pauses:
        silence[start:stop] = 1
    return silence


def calmed(motion: Motion, silence: np.ndarray | None, size: int = 10_000) -> Motion:
    """Motion that arrives in pieces of `size` frames, each just after its features."""
    layer = PauseLayer(FACE_PARAMETERS)
    bounds = [*range(0, len(motion), size), len(motion)]
    blocks = (
        SpeechFeatures(np.zeros((b - a, 1, 1), np.float32), silence=None if silence is None else silence[a:b])
        for a, b in itertools.pairwise(bounds)
    )
    heard = layer.listen(blocks)
    pieces = (motion[a:b] for (a, b), _ in zip(itertools.pairwise(bounds), heard, strict=False))
    return Motion.concatenate(list(layer.apply(pieces)))


def moving(num_frames: int) -> Motion:
    """Lips and a head that never rest."""
    motion = Motion.neutral(num_frames)
    wave = np.sin(np.arange(num_frames) * 0.9)
    motion.expression[:, JAW] = 0.2 + 0.1 * wave
    motion.rotation[:, 1] = 0.1 * np.sin(np.arange(num_frames) * 0.2)
    motion.gaze[:, :, 1] = -0.85 * motion.rotation[:, 1:2]
    return motion


@pytest.mark.parametrize("num_frames", [1, 4, 16, 17, 200])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_result_does_not_depend_on_how_motion_arrives(num_frames, size):
    motion = moving(num_frames)
    silence = silent(num_frames, (0, 6), (30, 38), (44, 49), (90, 140), (190, 200))
    whole = calmed(motion, silence)
    assert len(whole) == num_frames
    np.testing.assert_allclose(calmed(motion, silence, size).to_vector(), whole.to_vector(), atol=1e-6)


def test_lips_hardly_move_in_a_pause_and_are_unchanged_away_from_it():
    motion = moving(120)
    jaw = calmed(motion, silent(120, (50, 60))).expression[:, JAW]
    speed = np.abs(np.diff(jaw))
    assert speed[51:59].mean() < 0.4 * speed[:45].mean()
    for far in (slice(0, 47), slice(63, 120)):
        np.testing.assert_allclose(jaw[far], motion.expression[far, JAW], atol=1e-6)


def test_lips_reach_everything_that_was_generated():
    motion = moving(120)
    motion.expression[61:63, JAW] = 0  # a closure just after the pause
    assert calmed(motion, silent(120, (50, 60))).expression[58:66, JAW].min() == pytest.approx(0, abs=1e-6)


def test_other_channels_and_speech_without_pauses_stay():
    motion = moving(100)
    others = [index for index in range(52) if index not in LIP_CHANNELS]
    motion.expression[:, others] = np.random.default_rng(0).uniform(size=(100, len(others)))
    for silence in (None, silent(100), silent(100, (40, 43))):  # 0.12 s is no pause
        np.testing.assert_allclose(calmed(motion, silence).expression, motion.expression, atol=1e-6)
    np.testing.assert_array_equal(
        calmed(motion, silent(100, (40, 60))).expression[:, others], motion.expression[:, others]
    )


def test_head_starts_in_the_photos_pose_rests_in_pauses_and_at_the_end():
    motion = moving(200)
    motion.rotation[:, 0] = 0.05
    head = calmed(motion, silent(200, (80, 120)))
    np.testing.assert_allclose(head.rotation[0], 0, atol=1e-6)
    np.testing.assert_allclose(head.rotation[20:70], motion.rotation[20:70], atol=1e-6)
    speed = np.abs(np.diff(head.rotation[:, 1]))
    assert speed[85:115].mean() < 0.5 * np.abs(np.diff(motion.rotation[:, 1]))[85:115].mean()
    assert speed[-1] < 0.1 * speed.max()
    assert np.abs(np.diff(head.rotation[:, 1], n=2)).max() < 2.5 * np.abs(np.diff(motion.rotation[:, 1], n=2)).max()


def test_the_eyes_hold_their_aim_while_the_head_is_held():
    motion = moving(200)
    shown = calmed(motion, silent(200, (80, 120)))
    aim = shown.gaze[:, 0, 1] + 0.85 * shown.rotation[:, 1]
    np.testing.assert_allclose(aim, motion.gaze[:, 0, 1] + 0.85 * motion.rotation[:, 1], atol=1e-5)
