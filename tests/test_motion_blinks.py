import itertools

import numpy as np
import pytest

from loquent.motion.blinks import CHANNELS, scale_blinks
from loquent.types import Motion

BLINK = np.array([0.3, 0.9, 1.0, 0.7, 0.3], np.float32)


def blinking(num_blinks: int, every: int = 75) -> Motion:
    """A blink every three seconds, on lids that hang at 0.05."""
    motion = Motion.neutral(num_blinks * every)
    motion.expression[:, CHANNELS] = 0.05
    for start in range(30, len(motion), every):
        motion.expression[start : start + len(BLINK), CHANNELS] = BLINK[:, None]
    return motion


def count(motion: Motion) -> int:
    closed = motion.expression[:, CHANNELS].max(1) > 0.4
    return int((closed[1:] & ~closed[:-1]).sum())


def scaled(motion: Motion, factor: float, seed: int = 1, pieces: int = 7) -> Motion:
    cuts = np.linspace(0, len(motion), pieces + 1).astype(int)
    return Motion.concatenate(list(scale_blinks((motion[a:b] for a, b in itertools.pairwise(cuts)), factor, seed)))


def test_one_changes_nothing():
    motion = blinking(4)
    np.testing.assert_array_equal(scaled(motion, 1).to_vector(), motion.to_vector())


def test_zero_opens_the_eyes():
    motion = scaled(blinking(20), 0)
    assert len(motion) == 20 * 75
    assert motion.expression[:, CHANNELS].max() < 0.06


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_blinks_become_as_frequent_as_asked(factor):
    result = scaled(blinking(200, every=88), factor)  # 17 a minute, as people do
    assert len(result) == 200 * 88
    assert count(result) / 200 == pytest.approx(factor, abs=0.15)


def test_a_blink_that_stays_keeps_its_depth():
    motion = blinking(40)
    lids = scaled(motion, 0.5).expression[:, CHANNELS[0]].reshape(40, 75)
    peaks = lids.max(1)
    assert set(np.round(peaks, 2)) == {np.float32(0.05), np.float32(1.0)}


def test_pieces_and_seed():
    motion = blinking(30)
    np.testing.assert_array_equal(scaled(motion, 2, pieces=3).to_vector(), scaled(motion, 2, pieces=50).to_vector())
    assert (scaled(motion, 2, seed=1).to_vector() != scaled(motion, 2, seed=2).to_vector()).any()


def test_nothing_but_the_lids_changes():
    motion = blinking(30)
    motion.expression[:, 0] = np.linspace(0, 1, len(motion))
    difference = scaled(motion, 2).to_vector() != motion.to_vector()
    assert set(np.flatnonzero(difference.any(0))) == set(CHANNELS)


def test_eyes_that_stay_shut_are_left_alone():
    motion = Motion.neutral(200)
    motion.expression[50:150, CHANNELS] = 1
    np.testing.assert_array_equal(scaled(motion, 0).to_vector(), motion.to_vector())
