import numpy as np
import pytest

from loquent.motion.controls import BLINK_CHANNELS, BROW_CHANNELS, LIP_CHANNELS, apply_controls
from loquent.types import ARKIT_INDEX, Controls, Motion


@pytest.fixture
def motion():
    values = np.random.default_rng(0).uniform(0.05, 0.4, (20, 62)).astype(np.float32)
    return Motion.from_vector(values)


def applied(generated, rest=None, **amounts):
    return Motion.concatenate(list(apply_controls([generated[:7], generated[7:]], Controls(**amounts), rest)))


def test_default_amounts_change_nothing(motion):
    np.testing.assert_array_equal(applied(motion).to_vector(), motion.to_vector())


def test_head_moves_nothing_else(motion):
    still = applied(motion, head=0)
    assert not still.rotation.any()
    assert not still.translation.any()
    np.testing.assert_array_equal(still.expression, motion.expression)
    np.testing.assert_array_equal(still.gaze, motion.gaze)


def test_motion_leaves_lips_and_blinks(motion):
    still = applied(motion, amount=0)
    kept = sorted([*LIP_CHANNELS, *BLINK_CHANNELS])
    np.testing.assert_array_equal(still.expression[:, kept], motion.expression[:, kept])
    assert not np.delete(still.expression, kept, axis=1).any()
    assert not still.rotation.any()
    assert not still.gaze.any()


def test_brows_and_lips_are_factors_that_stay_in_range(motion):
    strong = applied(motion, brows=1.5, lips=2)
    np.testing.assert_allclose(strong.expression[:, BROW_CHANNELS], 1.5 * motion.expression[:, BROW_CHANNELS])
    np.testing.assert_allclose(strong.expression[:, LIP_CHANNELS], 2 * motion.expression[:, LIP_CHANNELS])
    loud = Motion.neutral(3)
    loud.expression[:] = 0.9
    assert applied(loud, lips=2).expression.max() == 1


def test_kept_expression_never_opens_the_lips():
    rest = np.ones(52, np.float32)
    kept = applied(Motion.neutral(4), rest, keep_expression=0.5).expression
    for name in ("mouthSmileLeft", "cheekSquintRight", "browInnerUp", "eyeSquintLeft"):
        np.testing.assert_array_equal(kept[:, ARKIT_INDEX[name]], 0.5)
    for name in ("jawOpen", "mouthUpperUpLeft", "mouthLowerDownRight", "mouthFunnel", "eyeBlinkLeft"):
        np.testing.assert_array_equal(kept[:, ARKIT_INDEX[name]], 0)


def test_kept_smile_gives_way_to_rounded_lips():
    motion = Motion.neutral(2)
    motion.expression[1, ARKIT_INDEX["mouthPucker"]] = 1
    kept = applied(motion, np.ones(52), keep_expression=1).expression
    assert kept[0, ARKIT_INDEX["mouthSmileLeft"]] == 1
    assert kept[1, ARKIT_INDEX["mouthSmileLeft"]] == 0
    assert kept[1, ARKIT_INDEX["browInnerUp"]] == 1


@pytest.mark.parametrize(
    ("emotion", "strength", "smile"), [("happiness", 1, 1), ("sadness", 0, 1), ("sadness", 0.5, 0.5), ("anger", 2, 0)]
)
def test_kept_smile_gives_way_to_other_emotions(emotion, strength, smile):
    kept = applied(Motion.neutral(8), np.ones(52), keep_expression=1, emotion=emotion, emotion_strength=strength)
    assert np.all(kept.expression[:, ARKIT_INDEX["mouthSmileLeft"]] == smile)
    assert np.all(kept.expression[:, ARKIT_INDEX["browInnerUp"]] == 1)
