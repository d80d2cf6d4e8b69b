"""Motion in a system's own space: its interface, and its way through the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loquent.errors import LoquentError, MotionError
from loquent.motion.resample import resample
from loquent.pipeline import TalkingHead, average_portrait
from loquent.systems import System
from loquent.types import Controls, Motion, MotionCodes, Portrait, Speech, SpeechFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Silence:
    def encode(self, speech: Speech) -> Iterator[SpeechFeatures]:
        yield SpeechFeatures(np.zeros((speech.num_frames(), 1, 1), np.float32))


class _Ramp:
    """Codes that count frames."""

    def generate(
        self, features: Iterator[SpeechFeatures], portrait: Portrait, controls: Controls
    ) -> Iterator[MotionCodes]:
        for block in features:
            for half in np.array_split(np.arange(len(block.values), dtype=np.float32), 2):
                yield MotionCodes(half[:, None] * [1, controls.lips], "ramp")


class _Grey:
    """Draws the first code as a grey level."""

    size_px = (64, 64)

    def render(self, motion: MotionCodes) -> Iterator[NDArray[np.uint8]]:
        for row in motion.values:
            yield np.full((64, 64, 3), row[0], np.uint8)


def _head() -> TalkingHead:
    return TalkingHead(System("ramp", _Silence(), _Ramp(), lambda portrait, size: _Grey(), space="ramp"))


def _speech(seconds: float) -> Speech:
    return Speech(np.zeros(int(16_000 * seconds), np.float32))


def test_codes_slice_join_and_keep_their_space() -> None:
    codes = MotionCodes(np.arange(12, dtype=np.float32).reshape(6, 2), "ramp")
    joined = MotionCodes.concatenate([codes[:2], codes[2:]])
    assert joined.space == "ramp"
    assert len(joined) == 6
    np.testing.assert_array_equal(joined.values, codes.values)


@pytest.mark.parametrize("values", [np.zeros(3, np.float32), np.full((2, 2), np.nan, np.float32)])
def test_codes_refuse_what_is_no_finite_table(values: NDArray[np.float32]) -> None:
    with pytest.raises(MotionError):
        MotionCodes(values, "ramp")


def test_codes_are_resampled_like_face_parameters() -> None:
    codes = MotionCodes(np.arange(10, dtype=np.float32)[:, None], "ramp")
    pieces = list(resample([codes[:3], codes[3:]], fps=50.0, num_frames=19))
    joined = MotionCodes.concatenate(pieces)
    assert (joined.space, joined.rate_hz) == ("ramp", 50.0)
    np.testing.assert_allclose(joined.values[2:17, 0], np.arange(2, 17) / 2, atol=1e-5)


def test_a_system_with_its_own_space_is_drawn_frame_by_frame() -> None:
    clip = _head().animate(average_portrait(64), _speech(0.4), Controls(lips=0.5))
    assert clip.frames is not None
    assert clip.frames[:, 0, 0, 0].tolist() == list(range(10))
    assert isinstance(clip.motion, MotionCodes)
    np.testing.assert_allclose(clip.motion.values[:, 1], clip.motion.values[:, 0] / 2)


def test_face_parameters_are_refused_where_they_do_not_apply() -> None:
    with pytest.raises(LoquentError, match="space of its own"):
        _head().motion(_speech(0.4))
    with pytest.raises(LoquentError, match="space of its own"):
        _head().animate(average_portrait(64), motion=Motion.neutral(4))
