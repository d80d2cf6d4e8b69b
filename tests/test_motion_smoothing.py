import numpy as np
import pytest

from loquent.errors import MotionError
from loquent.motion.smoothing import smooth
from loquent.types import ARKIT_INDEX, Motion


def noise(num_frames):
    return Motion.from_vector(np.random.default_rng(0).normal(size=(num_frames, 62)).astype(np.float32))


def pieces_of(motion, sizes):
    start = 0
    for size in [*sizes, len(motion)]:
        yield motion[start : start + size]
        start += size


@pytest.mark.parametrize("num_frames", [1, 4, 90])
def test_length_and_values_do_not_depend_on_the_cutting(num_frames):
    motion = noise(num_frames)
    whole = Motion.concatenate(list(smooth([motion], 0.08)))
    cut = Motion.concatenate(list(smooth(pieces_of(motion, [1, 0, 2, 30]), 0.08)))
    assert len(whole) == num_frames
    np.testing.assert_allclose(cut.to_vector(), whole.to_vector(), atol=1e-6)


def test_a_line_is_kept_noise_is_not_and_blinks_are():
    line = Motion.from_vector(np.linspace(0, 1, 80)[:, None].repeat(62, 1).astype(np.float32))
    same = Motion.concatenate(list(smooth([line], 0.08)))
    np.testing.assert_allclose(same.to_vector()[6:-6], line.to_vector()[6:-6], atol=1e-6)
    motion = noise(200)
    smoothed = Motion.concatenate(list(smooth([motion], 0.08)))
    assert smoothed.rotation.std() < 0.5 * motion.rotation.std()
    blink = ARKIT_INDEX["eyeBlinkLeft"]
    np.testing.assert_array_equal(smoothed.expression[:, blink], motion.expression[:, blink])


def test_zero_changes_nothing_and_nonsense_is_refused():
    motion = noise(10)
    np.testing.assert_array_equal(Motion.concatenate(list(smooth([motion], 0))).to_vector(), motion.to_vector())
    with pytest.raises(MotionError, match="0 or more"):
        list(smooth([motion], -1))
