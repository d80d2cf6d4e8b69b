import itertools

import numpy as np
import pytest

from loquent.motion.blinks import BlinkLayer
from loquent.motion.control_track import ControlTrack
from loquent.types import ARKIT_INDEX, Controls, Motion

LID = ARKIT_INDEX["eyeBlinkLeft"]


def blinked(motion: Motion, sizes: list[int], amount: float = 1.0, seed: int = 0, track=None) -> Motion:
    bounds = np.cumsum([0, *sizes])
    pieces = [motion[a:b] for a, b in itertools.pairwise(bounds)]
    controls = Controls(blinks=amount, track=track)
    return Motion.concatenate(list(BlinkLayer(controls, np.random.default_rng(seed)).apply(pieces)))


def moments(lids: np.ndarray) -> np.ndarray:
    return np.flatnonzero((lids[1:] > 0.5) & (lids[:-1] <= 0.5))


@pytest.mark.parametrize("num_frames", [1, 3, 20, 70, 400])
def test_length_stays_however_the_motion_arrives(num_frames):
    motion = Motion.neutral(num_frames)
    motion.expression[:] = np.random.default_rng(1).uniform(0, 0.3, motion.expression.shape)
    whole = blinked(motion, [num_frames])
    one_by_one = blinked(motion, [1] * num_frames)
    assert len(whole) == len(one_by_one) == num_frames
    if num_frames > 100:
        np.testing.assert_allclose(moments(whole.expression[:, LID]), moments(one_by_one.expression[:, LID]), atol=15)


@pytest.mark.parametrize(("amount", "low", "high"), [(0.0, 0, 0), (0.5, 5, 12), (1.0, 13, 21), (2.0, 24, 42)])
def test_rate_follows_the_amount_and_every_blink_closes(amount, low, high):
    lids = blinked(Motion.neutral(25 * 600), [64] * 234 + [24], amount).expression[:, LID]
    starts = moments(lids)
    assert low <= len(starts) / 10 <= high
    assert all(lids[at : at + 6].max() > 0.99 for at in starts)
    assert all(np.diff(starts) >= 12)


def test_blinks_go_where_the_network_would_blink():
    motion = Motion.neutral(25 * 120)
    likely = np.arange(20, 3000, 40)
    motion.expression[likely, LID] = 0.5
    motion.expression[likely, LID + 1] = 0.5
    closed = np.flatnonzero(blinked(motion, [75] * 40).expression[:, LID] > 0.99)
    assert np.mean([np.abs(likely - at).min() <= 1 for at in closed]) > 0.8


def test_half_blinks_of_the_network_vanish_and_hanging_lids_stay():
    motion = Motion.neutral(200)
    motion.expression[:, LID] = 0.1
    motion.expression[50:54, LID] = 0.6
    lids = blinked(motion, [200], amount=0.0).expression[:, LID]
    np.testing.assert_allclose(lids, 0.1)


def test_the_rate_may_change_over_time():
    rows = [{"time_s": 0, "blinks": 0}, {"time_s": 60, "blinks": 0}, {"time_s": 61, "blinks": 2},
            {"time_s": 120, "blinks": 2}, {"time_s": 121, "blinks": 0}]  # fmt: skip
    lids = blinked(Motion.neutral(25 * 300), [75] * 100, track=ControlTrack(rows)).expression[:, LID]
    starts_s = moments(lids) / 25
    assert 20 <= len(starts_s) <= 45
    assert starts_s.min() > 59
    assert starts_s.max() < 122


def test_blinks_keep_away_from_those_that_are_asked_for():
    asked_s = np.arange(2.0, 118)
    track = ControlTrack([{"time_s": time_s, "blink": 1} for time_s in asked_s])
    lids = blinked(Motion.neutral(25 * 120), [75] * 40, track=track).expression[:, LID]
    away_s = np.abs(moments(lids)[:, None] / 25 - asked_s).min(1)
    assert len(away_s) < 5  # at the ends only
