import numpy as np
import pytest

from loquent.errors import ControlsError, MotionError
from loquent.types import Controls, Motion, Speech


def test_controls_name_what_is_wrong():
    with pytest.raises(ControlsError, match=r"amount is 7; choose a number from 0.0 to 2.0"):
        Controls(amount=7)
    with pytest.raises(ControlsError, match="steps is '4'; choose a whole number"):
        Controls(steps="4")  # type: ignore[arg-type]
    with pytest.raises(ControlsError, match=r"seed is 1.5; choose a whole number"):
        Controls(seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(ControlsError, match="unknown emotion 'joy'; choose one of anger"):
        Controls(emotion="joy")


def test_controls_take_numpy_numbers():
    assert Controls(head=np.float32(0.5), seed=np.int64(3)).seed == 3


def test_motion_vector_and_back():
    vector = np.random.default_rng(0).normal(size=(5, 62)).astype(np.float32)
    np.testing.assert_array_equal(Motion.from_vector(vector).to_vector(), vector)


def test_motion_refuses_wrong_shapes_and_numbers():
    arrays = {"rotation": np.zeros((2, 3)), "translation": np.zeros((2, 3)), "gaze": np.zeros((2, 2, 2))}
    with pytest.raises(MotionError, match="expression has shape"):
        Motion(expression=np.zeros((2, 51)), **arrays)
    with pytest.raises(MotionError, match="rotation holds values that are not finite"):
        Motion(expression=np.zeros((2, 52)), **arrays | {"rotation": np.full((2, 3), np.nan)})


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"), [(1.0, 25, 25), (1.019, 25, 25), (1.021, 25, 26), (0.001, 25, 1)]
)
def test_frames_cover_the_sound_to_the_nearest(seconds, fps, frames):
    assert Speech(np.zeros(round(seconds * 16_000), np.float32)).num_frames(fps) == frames
