import numpy as np
import pytest

from loquent.motion.control_track import ControlTrack
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


def test_a_track_changes_amounts_from_frame_to_frame(motion):
    track = ControlTrack([{"time_s": 0, "lips": 0, "head": 2}, {"time_s": 0.76, "lips": 1, "head": 0}])
    changed = applied(motion, track=track)
    ramp = np.arange(20)[:, None] / 19
    np.testing.assert_allclose(
        changed.expression[:, LIP_CHANNELS], ramp * motion.expression[:, LIP_CHANNELS], atol=1e-6
    )
    np.testing.assert_allclose(changed.rotation, 2 * (1 - ramp) * motion.rotation, atol=1e-6)
    np.testing.assert_array_equal(changed.expression[:, BROW_CHANNELS], motion.expression[:, BROW_CHANNELS])


def turned(rows, pose_deg=(0, 0, 0)):
    controls = Controls(track=ControlTrack(rows))
    return next(iter(apply_controls([Motion.neutral(50)], controls, pose_rad=np.radians(pose_deg))))


def test_angles_are_degrees_and_added_whatever_the_amount(motion):
    row = {"time_s": 0, "head_pitch_deg": 5, "head_yaw_deg": -10, "gaze_yaw_deg": 20, "amount": 0}
    still = applied(motion, track=ControlTrack([row]))
    np.testing.assert_allclose(np.degrees(still.rotation), np.tile([5, -10, 0], (20, 1)), atol=1e-4)
    np.testing.assert_allclose(np.degrees(still.gaze), np.tile([0, 20], (20, 2, 1)), atol=1e-4)
    assert still.translation[0, 0] < 0  # the head sways to where it turns
    assert still.expression[0, ARKIT_INDEX["eyeLookOutLeft"]] > 0.4
    assert still.expression[0, ARKIT_INDEX["eyeLookInRight"]] > 0.4


def test_absolute_angles_straighten_the_photos_head_and_the_eyes_stay_on_the_camera():
    row = {"time_s": 0, "head_mode": "absolute", "gaze_mode": "absolute"}
    straight = turned([row], pose_deg=(6, 15, -3))
    np.testing.assert_allclose(np.degrees(straight.rotation[0]), [-6, -15, 3], atol=1e-4)
    np.testing.assert_allclose(np.degrees(straight.gaze[0]), [[6, 15], [6, 15]], atol=1e-4)


def test_blinks_and_closed_eyes_on_command():
    lids = turned([{"time_s": 0, "blink": 0}, {"time_s": 0.8, "blink": 1}]).expression[:, BLINK_CHANNELS]
    assert lids[20].min() == 1
    assert not lids[:17].any()
    assert not lids[26:].any()
    held = turned([{"time_s": 0, "eyes_closed": 1}, {"time_s": 1}]).expression
    np.testing.assert_array_equal(held[:, BLINK_CHANNELS], 1)
