import numpy as np
import pytest

from loquent.data.articulation import lip_opening
from loquent.data.behaviour import STYLE_NAMES, Person, act, draw_style
from loquent.data.phones import BILABIALS, track_from_segments
from loquent.data.prosody import analyse_prosody
from loquent.types import ARKIT_INDEX, EMOTIONS


@pytest.fixture(scope="module")
def phrase():
    """Twenty seconds of made-up speech with two pauses: samples and track."""
    rng = np.random.default_rng(0)
    names = ["m", "aa", "t", "iy", "b", "ao", "s", "uw", "p", "eh", "l", "ae"]
    segments, at_s = [], 0.4
    while at_s < 19:
        if 6 < at_s < 6.3 or 13 < at_s < 13.3:
            at_s += 1.4
        length_s = rng.uniform(0.06, 0.16)
        segments.append(((names[len(segments) % len(names)],), at_s, at_s + length_s))
        at_s += length_s
    track = track_from_segments(segments, 20.0)
    times_s = np.arange(320_000) / 16_000
    voiced = np.repeat(track.frames(2000, 100) != 0, 160)
    pitch_hz = 120 + 30 * np.sin(2 * np.pi * 0.4 * times_s)
    samples = np.sign(np.sin(2 * np.pi * np.cumsum(pitch_hz) / 16_000)) * 0.2 * voiced
    return samples.astype(np.float32), track


def _act(phrase, seed: int = 0, emotion: str = "neutral", style=None):
    samples, track = phrase
    prosody = analyse_prosody(samples, track)
    style = np.zeros(8, np.float32) if style is None else style
    return act(track, prosody, Person(style, emotion, 1.0), 500, np.random.default_rng(seed))


def test_pitch_and_pauses_are_measured(phrase):
    prosody = analyse_prosody(*phrase)
    pauses = [pause for pause in prosody.pauses_s if pause[1] - pause[0] > 1]
    assert len(pauses) >= 2
    quarter = prosody.pitch[40:60].mean(), prosody.pitch[170:190].mean()  # where the tone is high, where it is low
    assert quarter[0] > quarter[1] + 0.2


def test_same_seed_same_motion_other_seed_other_motion(phrase):
    first, again, other = _act(phrase, 1), _act(phrase, 1), _act(phrase, 2)
    np.testing.assert_array_equal(first.to_vector(), again.to_vector())
    assert np.abs(first.rotation - other.rotation).max() > np.radians(1)


def test_the_face_is_calm_in_pauses(phrase):
    motion = _act(phrase)
    start_s, end_s = max(analyse_prosody(*phrase).pauses_s, key=lambda pause: pause[1] - pause[0])
    inside = slice(int((start_s + 0.3) * 25), int((end_s - 0.45) * 25))
    lips = np.abs(np.diff(lip_opening(motion.expression)))
    head = np.linalg.norm(np.diff(motion.rotation, axis=0), axis=1)
    assert lips[inside].mean() < 0.25 * lips.mean()
    assert head[inside].mean() < 0.6 * head.mean()


def test_blinks_come_at_human_rates_and_close(phrase):
    lids = np.concatenate([_act(phrase, seed).expression[:, ARKIT_INDEX["eyeBlinkLeft"]] for seed in range(6)])
    starts = np.flatnonzero((lids[1:] > 0.5) & (lids[:-1] <= 0.5))
    assert 10 <= len(starts) / (len(lids) / 25 / 60) <= 30
    assert lids.max() > 0.95
    closed = np.diff(np.flatnonzero(np.diff((lids > 0.15).astype(int))))[::2] / 25
    assert np.median(closed) <= 0.4


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_no_emotion_opens_a_closure(phrase, emotion):
    motion = _act(phrase, 3, emotion)
    opening = lip_opening(motion.expression)
    track = phrase[1]
    for index in np.flatnonzero(track.is_any(BILABIALS)):
        start, end = int((track.bounds_s[index] - 0.02) * 25), int(np.ceil((track.bounds_s[index + 1] + 0.02) * 25))
        assert opening[start : end + 1].min() < 0.01


def test_emotions_show(phrase):
    happy, angry, plain = (_act(phrase, 0, name) for name in ("happiness", "anger", "neutral"))
    smile, brow = ARKIT_INDEX["mouthSmileLeft"], ARKIT_INDEX["browDownLeft"]
    assert happy.expression[:, smile].mean() > plain.expression[:, smile].mean() + 0.2
    assert angry.expression[:, brow].mean() > plain.expression[:, brow].mean() + 0.3


@pytest.mark.parametrize("name", ["head_amount", "blink_rate", "brow_amount", "smile", "articulation"])
def test_style_shapes_the_motion(phrase, name):
    def measure(value: float) -> float:
        style = np.zeros(8, np.float32)
        style[STYLE_NAMES.index(name)] = value
        total = 0.0
        for seed in range(3):
            motion = _act(phrase, seed, style=style)
            total += {
                "head_amount": lambda m: m.rotation.std(0).sum(),
                "blink_rate": lambda m: m.expression[:, ARKIT_INDEX["eyeBlinkLeft"]].mean(),
                "brow_amount": lambda m: m.expression[:, ARKIT_INDEX["browInnerUp"]].mean(),
                "smile": lambda m: m.expression[:, ARKIT_INDEX["mouthSmileLeft"]].mean(),
                "articulation": lambda m: lip_opening(m.expression).mean(),
            }[name](motion)
        return total

    assert measure(1.8) > 1.15 * measure(-1.8)


def test_eyes_hold_the_viewer_while_the_head_turns(phrase):
    motion = _act(phrase, 4)
    yaw_head, yaw_eye = motion.rotation[:, 1], motion.gaze[:, 0, 1]
    assert np.corrcoef(yaw_head, yaw_eye)[0, 1] < -0.3
    assert np.abs(np.degrees(motion.rotation)).max() < 15


def test_styles_are_bounded_and_differ():
    rng = np.random.default_rng(0)
    styles = np.stack([draw_style(rng) for _ in range(200)])
    assert np.abs(styles).max() <= 2.2
    assert 0.8 < styles.std() < 1.1
