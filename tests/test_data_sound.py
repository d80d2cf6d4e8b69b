import numpy as np
import pytest

from loquent.data import sound
from loquent.data.phones import track_from_segments
from loquent.data.sound import change_voice, record_somewhere
from loquent.data.voices import Recording


def _tone(pitch_hz: float = 150.0, duration_s: float = 2.0):
    times_s = np.arange(int(duration_s * 16_000)) / 16_000
    waves = sum(np.sin(2 * np.pi * pitch_hz * k * times_s) / k for k in range(1, 20))
    return (0.1 * waves).astype(np.float32)


def _recording(samples) -> Recording:
    return Recording(samples, track_from_segments([(("aa",), 0.5, 1.5)], len(samples) / 16_000), "tone")


def _pitch_hz(samples) -> float:
    middle = samples[len(samples) // 2 - 4000 : len(samples) // 2 + 4000]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(middle, 16_384)) ** 2)
    return 16_000 / (40 + int(correlation[40:400].argmax()))


def _voice(recording, throat=1.0, pitch=1.0, pace=1.0):
    return change_voice(recording, throat, pitch, pace, np.ones(3))


def test_nothing_asked_is_nothing_changed():
    samples = _tone()
    changed = _voice(_recording(samples)).samples
    error = changed[2000:-2000] - samples[2000 : len(changed) - 2000]
    assert np.abs(error).max() < 1e-3


@pytest.mark.parametrize("pace", [0.8, 1.3])
def test_pace_changes_length_and_times_but_not_pitch(pace):
    changed = _voice(_recording(_tone()), pace=pace)
    assert len(changed.samples) / 16_000 == pytest.approx(2 / pace, abs=0.01)
    np.testing.assert_allclose(changed.track.bounds_s[1:3], [0.5 / pace, 1.5 / pace], atol=0.01)
    assert _pitch_hz(changed.samples) == pytest.approx(150, rel=0.02)


@pytest.mark.parametrize("pitch", [0.7, 1.4])
def test_pitch_changes_alone(pitch):
    changed = _voice(_recording(_tone()), pitch=pitch)
    assert len(changed.samples) / 16_000 == pytest.approx(2, abs=0.01)
    assert _pitch_hz(changed.samples) == pytest.approx(150 * pitch, rel=0.03)


def test_local_speed_moves_what_sounds_with_its_label():
    samples = np.zeros(32_000, np.float32)
    samples[8000:24_000] = _tone(150, 1.0)
    changed = change_voice(_recording(samples), 1.0, 1.0, 1.1, np.array([0.8, 1.2, 1.0]))
    loud = np.flatnonzero(np.abs(changed.samples) > 0.02) / 16_000
    np.testing.assert_allclose([loud[0], loud[-1]], changed.track.bounds_s[1:3], atol=0.025)


@pytest.mark.parametrize("seed", range(8))
def test_a_recording_keeps_length_time_and_range(seed):
    rng = np.random.default_rng(seed)
    samples = _tone() * np.repeat(rng.uniform(0, 1, 40), 800).astype(np.float32)
    heard = record_somewhere(samples, np.random.default_rng(seed))
    assert heard.shape == samples.shape
    assert np.abs(heard).max() <= 1
    assert heard.dtype == np.float32


def test_codecs_do_not_delay():
    rng = np.random.default_rng(1)
    samples = rng.standard_normal(32_000) * np.repeat(rng.uniform(0, 0.2, 40), 800)
    for seed in range(4):  # both codecs
        coded = sound._through_codec(samples, np.random.default_rng(seed))
        assert len(coded) == len(samples)
        assert abs(sound._delay(samples, coded)) <= 1
