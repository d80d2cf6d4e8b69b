import numpy as np
import pytest

from loquent.data.phones import PHONE_INDEX, PhoneTrack
from loquent.evaluation.lips import LipTrack, called_for_opening, lip_track_from_landmarks, measure, pool

RATE_HZ = 25.0


def make_phones(names: list[str], length_s: float = 0.12) -> PhoneTrack:
    ids = np.array([PHONE_INDEX[name] for name in names], np.int16)
    lengths_s = np.where(ids == PHONE_INDEX["sil"], 4 * length_s, length_s)
    return PhoneTrack(ids, np.concatenate([[0.0], np.cumsum(lengths_s)]))


def speak(phones: PhoneTrack, delay_frames: int = 0) -> LipTrack:
    """Lips that open as the phones ask, wide on spread vowels."""
    frames = round(phones.duration_s * RATE_HZ)
    gap = np.roll(called_for_opening(phones, frames, RATE_HZ), delay_frames) * 0.2
    at = phones.frames(frames, RATE_HZ)
    width = np.where(at == PHONE_INDEX["uw"], 0.45, 0.55).astype(np.float32)
    points = np.stack([np.tile(gap[:, None], 40), np.zeros((frames, 40))], axis=-1)
    return LipTrack(gap, width, points.astype(np.float32), RATE_HZ)


@pytest.fixture
def phones() -> PhoneTrack:
    rng = np.random.default_rng(3)
    words = [["b", "aa", "m", "iy"], ["d", "uw", "p", "ae"], ["sil"], ["m", "ao", "s", "ih"]]
    return make_phones([name for k in rng.integers(0, len(words), 60) for name in words[k]])


def test_lips_that_do_as_the_phones_ask_are_right(phones):
    figures = measure(speak(phones), phones)
    assert figures.closures_reached == 1.0
    assert figures.num_closures == phones.is_any(("p", "b", "m")).sum()
    assert figures.opening_correlation > 0.99
    assert figures.opening_lag_s == 0
    assert figures.silence_movement < 0.2
    assert figures.rounded_over_spread_width < 0.9


def test_a_delay_is_measured(phones):
    assert measure(speak(phones, delay_frames=3), phones).opening_lag_s == pytest.approx(0.12)
    assert measure(speak(phones, delay_frames=-2), phones).opening_lag_s == pytest.approx(-0.08)


def test_lips_that_never_close_are_found_out(phones):
    lips = speak(phones)
    fast = np.abs(np.sin(np.arange(len(lips.gap)) * 0.05)).astype(np.float32) * 0.05 + 0.2
    fast[0] = 0  # the range starts at closed lips
    figures = measure(LipTrack(fast, lips.width, lips.points, RATE_HZ), phones)
    assert figures.closures_reached < 0.05
    assert figures.opening_correlation < 0.4


def test_noise_in_silence_is_movement(phones):
    lips = speak(phones)
    noise = np.random.default_rng(0).normal(0, 0.05, lips.points.shape).astype(np.float32)
    assert measure(LipTrack(lips.gap, lips.width, noise, RATE_HZ), phones).silence_movement == pytest.approx(1, abs=0.1)


def test_head_motion_is_not_lip_motion():
    rng = np.random.default_rng(1)
    face = rng.normal(0, 50, (478, 2))
    frames = []
    for angle in np.linspace(-0.3, 0.3, 20):
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        frames.append(face @ rotation.T * (1 + angle / 3) + (angle * 100, 20))
    lips = lip_track_from_landmarks(np.array(frames, np.float32), RATE_HZ)
    assert np.ptp(lips.points, axis=0).max() < 1e-3
    assert np.ptp(lips.width) < 1e-4


def test_eyes_that_blink_move_no_lips():
    face = np.random.default_rng(1).normal(0, 50, (478, 3))
    frames = np.repeat(face[None], 20, 0)
    corners = [33, 133, 362, 263]
    frames[5:9, corners, 1] += 4
    lips = lip_track_from_landmarks(frames.astype(np.float32), RATE_HZ)
    assert np.ptp(lips.points, axis=0).max() < 1e-6
    assert np.ptp(lips.width) < 1e-6


def test_a_head_that_turns_moves_no_lips():
    face = np.random.default_rng(1).normal(0, 50, (478, 3))
    turns = [
        np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]) for a in np.linspace(-0.2, 0.2, 20)
    ]
    lips = lip_track_from_landmarks(np.array([face @ turn for turn in turns], np.float32), RATE_HZ)
    assert np.ptp(lips.points, axis=0).max() < 1e-3


def test_pool_counts_closures_together(phones):
    good = measure(speak(phones), phones)
    short = make_phones(["sil", "aa", "sil", "iy"], 0.2)
    none = measure(speak(short), short)
    assert none.num_closures == 0
    assert np.isnan(none.closures_reached)
    assert pool([good, none]).closures_reached == good.closures_reached
