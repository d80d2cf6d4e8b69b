import numpy as np
import pytest

from loquent.errors import MotionError
from loquent.motion.resample import resample
from loquent.types import Motion


def wave(num_frames, seed=0, rate_hz=25.0):
    values = np.random.default_rng(seed).uniform(0, 1, (num_frames, 62)).astype(np.float32)
    return Motion.from_vector(values, rate_hz)


def cut(motion, sizes):
    start = 0
    for size in sizes:
        yield motion[start : start + size]
        start += size
    yield motion[start:]


@pytest.mark.parametrize("fps", [10, 23.976, 24, 25, 30000 / 1001, 30, 50, 60])
def test_result_does_not_depend_on_the_cutting(fps):
    motion = wave(113)
    whole = Motion.concatenate(list(resample([motion], fps)))
    pieces = Motion.concatenate(list(resample(cut(motion, [1, 1, 2, 0, 3, 40, 7]), fps)))
    np.testing.assert_allclose(pieces.to_vector(), whole.to_vector(), atol=1e-6)
    assert len(whole) == round(113 / 25 * fps)
    assert whole.rate_hz == fps


def test_same_rate_is_the_motion_itself():
    motion = wave(20)
    same = Motion.concatenate(list(resample(cut(motion, [5, 5]), 25)))
    np.testing.assert_array_equal(same.to_vector(), motion.to_vector())


def test_curve_goes_through_the_frames_and_stays_between_neighbours():
    motion = wave(30)
    dense = Motion.concatenate(list(resample([motion], 250))).to_vector()
    given = motion.to_vector()
    np.testing.assert_allclose(dense[::10], given, atol=1e-6)
    for frame in range(29):
        between = dense[10 * frame : 10 * frame + 11]
        low, high = np.minimum(given[frame], given[frame + 1]), np.maximum(given[frame], given[frame + 1])
        assert (between >= low - 1e-6).all()
        assert (between <= high + 1e-6).all()


def test_a_straight_line_stays_straight_inside():
    motion = Motion.from_vector(np.linspace(0, 1, 26)[:, None].repeat(62, 1).astype(np.float32))
    fast = Motion.concatenate(list(resample([motion], 50))).to_vector()
    np.testing.assert_allclose(np.diff(fast[2:-4, 0]), 0.02, atol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 7, 60, 90])
def test_exact_length_and_held_end(num_frames):
    motion = wave(50)
    result = Motion.concatenate(list(resample(cut(motion, [20]), 30, num_frames)))
    assert len(result) == num_frames
    if num_frames == 90:
        np.testing.assert_array_equal(result.to_vector()[-10:], np.repeat(motion.to_vector()[-1:], 10, 0))


def test_one_frame_is_held():
    assert len(Motion.concatenate(list(resample([wave(1)], 60, 12)))) == 12


def test_memory_stays_flat():
    consumed = []

    def endless():
        for index in range(200):
            consumed.append(index)
            yield wave(25, index)

    stream = resample(endless(), 30)
    for _ in range(3):
        next(stream)
    assert len(consumed) <= 4


def test_errors_say_what_is_wrong():
    with pytest.raises(MotionError, match="at least one frame"):
        list(resample([], 30))
    with pytest.raises(MotionError, match="positive"):
        list(resample([wave(3)], 0))
    with pytest.raises(MotionError, match="50 frames a second follows"):
        list(resample([wave(3), wave(3, rate_hz=50.0)], 30))
