"""The shipped system on the example files: the path that every user takes, at a small size."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from loquent import Controls, TalkingHead
from loquent.cli import app
from loquent.face import topology
from loquent.media.video import probe

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"
SIZE = 192


@pytest.fixture(scope="module")
def head():
    return TalkingHead.from_pretrained("starter", device="cpu")


@pytest.fixture(scope="module")
def portrait(head):
    return head.portrait(EXAMPLES / "portrait_a.jpg")


@pytest.fixture(scope="module")
def speech():
    """The example recording's first 1.6 s, after 0.8 s of silence: samples and rate."""
    samples, rate_hz = soundfile.read(EXAMPLES / "speech.flac", dtype="float32")
    return np.concatenate([np.zeros(int(0.8 * rate_hz), np.float32), samples[: int(1.6 * rate_hz)]]), rate_hz


@pytest.fixture(scope="module")
def clip(head, portrait, speech):
    return head.animate(portrait, speech, Controls(seed=5), size=SIZE)


def region(frames: np.ndarray, portrait, points: tuple[int, ...]) -> np.ndarray:
    """The frames' part around some landmarks, as floats."""
    scale = SIZE / max(portrait.photo.width_px, portrait.photo.height_px)
    (left, top), (right, bottom) = (extreme(portrait.face.landmarks[list(points), :2], 0) * scale
                                    for extreme in (np.min, np.max))  # fmt: skip
    return frames[:, int(top) : int(bottom) + 1, int(left) : int(right) + 1].astype(float)


def movement(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames, axis=0)).mean())


def test_as_many_frames_as_sound(clip, speech):
    assert clip.num_frames == round(len(speech[0]) / speech[1] * 25) == len(clip.frames)
    assert max(clip.size_px) == SIZE


def test_the_mouth_moves_with_speech_and_rests_in_silence(clip, portrait):
    mouth = region(clip.frames, portrait, topology.LIPS_OUTER_UPPER + topology.LIPS_OUTER_LOWER)
    assert movement(mouth[25:]) > 2 * movement(mouth[2:15])


def test_the_background_is_still(clip):
    corner = clip.frames[:, :12, :12].astype(int)
    assert np.abs(corner - corner[:1]).max() <= 2


def test_a_seed_is_a_take(head, portrait, speech, clip):
    again = head.motion(speech, portrait, Controls(seed=5)).to_vector()
    other = head.motion(speech, portrait, Controls(seed=6)).to_vector()
    np.testing.assert_array_equal(again, clip.motion.to_vector())
    assert np.abs(other - again).max() > 0.02


def test_the_command_makes_a_playable_video(speech, tmp_path):
    soundfile.write(tmp_path / "speech.wav", *speech)
    arguments = ["animate", str(EXAMPLES / "portrait_b.jpg"), str(tmp_path / "speech.wav"), "--size", str(SIZE)]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "talk.mp4")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    info = probe(tmp_path / "talk.mp4")
    assert (info.num_frames, info.codec, info.audio_codec) == (60, "h264", "aac")
    assert abs(info.audio_duration_s - info.duration_s) < 0.04 + 1024 / info.audio_rate_hz
