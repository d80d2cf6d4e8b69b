"""Changes to speech: other throats (pitch, formants, pace) and other microphones (room, noise, codec, level).

Voice changes move time, so they return the map of the clock; microphone changes keep time exactly.
"""

from __future__ import annotations

import io

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from loquent.data.voices import Recording
from loquent.types import SPEECH_RATE_HZ

_WINDOW, _HOP = 512, 128  # of the phase vocoder: 32 ms and 8 ms
_MAX_CODEC_DELAY = 4000  # samples searched for the delay that a codec adds


def change_voice(recording: Recording, throat: float, pitch: float, pace: float, wobble: NDArray) -> Recording:
    """The same words by another throat.

    Args:
        recording: what was said.
        throat: above 1 is a shorter vocal tract: all formants are that factor higher.
        pitch: factor on the pitch.
        pace: factor on speed.
        wobble: (K,), local factors on speed at K equally spaced places, around 1.
    """
    samples = recording.samples
    if abs(pitch / throat - 1) > 0.02:
        samples = _shift_pitch(samples, pitch / throat)
    # Resampling by the throat factor moves pitch and formants and shortens the sound by it; the vocoder restores pace.
    samples = soxr.resample(samples, SPEECH_RATE_HZ * throat, SPEECH_RATE_HZ)
    speed = np.interp(np.linspace(0, 1, 200), np.linspace(0, 1, len(wobble)), wobble) * pace / throat
    old_s = np.linspace(0, recording.track.duration_s, 200)
    steps_s = np.diff(old_s) / throat / ((speed[1:] + speed[:-1]) / 2)
    new_s = np.concatenate([[0.0], np.cumsum(steps_s)])
    samples = _stretch(samples, old_s / throat, new_s)
    return Recording(samples, recording.track.mapped(old_s, new_s), recording.speaker)


def _stretch(samples: NDArray[np.float32], old_s: NDArray, new_s: NDArray) -> NDArray[np.float32]:
    """Phase vocoder: what sounded at `old_s` sounds at `new_s`; pitch and formants stay."""
    num_out = int(new_s[-1] * SPEECH_RATE_HZ)
    num_frames = num_out // _HOP + 1
    centres = np.interp(np.arange(num_frames) * _HOP / SPEECH_RATE_HZ, new_s, old_s) * SPEECH_RATE_HZ
    starts = np.round(centres).astype(int)  # in the padded signal, a frame starts where its centre was
    padded = np.pad(samples, (_WINDOW // 2 + _HOP, _WINDOW + _HOP))
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)
    starts = np.clip(starts + _HOP, _HOP, len(frames) - 1)
    now = np.fft.rfft(frames[starts] * window, axis=1)
    before = np.fft.rfft(frames[starts - _HOP] * window, axis=1)
    advance = np.angle(now * np.conj(before))  # phase gained over one hop at the place read from
    # Locked phases: the gain of the strongest bin near each bin, so that partials keep together.
    phase = np.cumsum(advance, axis=0)
    phase += np.angle(now[0])[None] - advance[0]
    spectrum = np.abs(now) * np.exp(1j * _lock_phases(np.abs(now), phase, np.angle(now)))
    return _overlap_add(np.fft.irfft(spectrum, axis=1) * window, num_out)


def _lock_phases(magnitude: NDArray, phase: NDArray, original: NDArray) -> NDArray:
    """Identity phase locking (Laroche and Dolson 1999): bins keep their original phase relative to the nearest peak."""
    left, right = np.roll(magnitude, 1, axis=1), np.roll(magnitude, -1, axis=1)
    peaks = (magnitude >= left) & (magnitude >= right)
    bins = np.arange(magnitude.shape[1])
    last = np.maximum.accumulate(np.where(peaks, bins, -1000), axis=1)
    following = np.minimum.accumulate(np.where(peaks, bins, 5000)[:, ::-1], axis=1)[:, ::-1]
    nearest = np.where(bins - last <= following - bins, last, following)
    nearest = np.clip(nearest, 0, len(bins) - 1)
    turn = np.take_along_axis(phase - original, nearest, axis=1)
    return original + turn


def _overlap_add(frames: NDArray, num_samples: int) -> NDArray[np.float32]:
    total = np.zeros((len(frames) + _WINDOW // _HOP, _HOP))
    parts = frames.reshape(len(frames), _WINDOW // _HOP, _HOP)
    for index in range(_WINDOW // _HOP):
        total[index : index + len(frames)] += parts[:, index]
    # Four overlapping squared Hann windows add to 1.5.
    return (total.reshape(-1)[_WINDOW // 2 :][:num_samples] / 1.5).astype(np.float32)


def _shift_pitch(samples: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Moves the pitch and keeps the formants: stretch, resample, then give every frame its old envelope back."""
    duration_s = len(samples) / SPEECH_RATE_HZ
    ends_s = np.array([0.0, duration_s])
    moved = _stretch(samples, ends_s, ends_s * factor)
    moved = soxr.resample(moved, SPEECH_RATE_HZ * factor, SPEECH_RATE_HZ)
    moved = np.pad(moved, (0, max(0, len(samples) - len(moved))))[: len(samples)]
    window = np.hanning(_WINDOW + 1)[:-1]
    spectra = []
    for signal in (samples, moved):
        padded = np.pad(signal, (_WINDOW // 2, _WINDOW))
        frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(samples) // _HOP + 1]
        spectra.append(np.fft.rfft(frames * window, axis=1))
    old, new = spectra
    gain = _log_envelope(old) - _log_envelope(new)
    new = new * np.exp(np.clip(gain, -3, 3))
    return _overlap_add(np.fft.irfft(new, axis=1) * window, len(samples))


def _log_envelope(spectrum: NDArray) -> NDArray:
    """Smooth log magnitude by the low cepstrum (below 1.5 ms: the throat, not the voice)."""
    cepstrum = np.fft.irfft(np.log(np.abs(spectrum) + 1e-4), axis=1)
    keep = np.zeros(_WINDOW)
    keep[:24] = keep[-23:] = 1
    return np.fft.rfft(cepstrum * keep, axis=1).real


def record_somewhere(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The same sound through a random microphone, room and channel; same length, same times.

    About one in eight stays clean.
    """
    samples = samples / (np.abs(samples).max() + 1e-6) * 0.7
    if rng.random() > 0.12:
        if rng.random() < 0.75:
            samples = _equalise(samples, rng)
        if rng.random() < 0.5:
            samples = _in_a_room(samples, rng)
        if rng.random() < 0.75:
            samples = _with_noise(samples, rng)
        if rng.random() < 0.22:
            samples = _band_limited(samples, rng)
        if rng.random() < 0.10:
            samples = _through_codec(samples, rng)
    level = 10 ** (rng.uniform(-20, 0) / 20)
    samples = samples / (np.abs(samples).max() + 1e-6) * level
    if rng.random() < 0.05:
        samples = np.clip(samples * rng.uniform(1.2, 2.5), -level, level)
    return samples.astype(np.float32)


def _equalise(samples: NDArray, rng: np.random.Generator) -> NDArray:
    """A random smooth frequency response within about 8 dB."""
    knots_hz = np.array((0, 120, 300, 700, 1500, 3000, 5000, 8000))
    gains_db = rng.normal(0, 4, len(knots_hz)) + rng.normal(0, 4) * np.linspace(-1, 1, len(knots_hz))
    frequencies_hz = np.fft.rfftfreq(len(samples), 1 / SPEECH_RATE_HZ)
    # Interpolated on a log axis, as ears and rooms are.
    gain_db = np.interp(np.log(frequencies_hz + 60), np.log(knots_hz + 60), gains_db)
    return np.fft.irfft(np.fft.rfft(samples) * 10 ** (gain_db / 20), len(samples))


def _in_a_room(samples: NDArray, rng: np.random.Generator) -> NDArray:
    """Direct sound, a few early reflections and an exponentially decaying tail."""
    decay_s = rng.uniform(0.12, 0.7)  # to -60 dB
    length = int(decay_s * SPEECH_RATE_HZ)
    times_s = np.arange(length) / SPEECH_RATE_HZ
    response = rng.standard_normal(length) * np.exp(-6.9 * times_s / decay_s)
    response[: int(0.004 * SPEECH_RATE_HZ)] = 0
    response *= np.sqrt(10 ** (rng.uniform(-18, -2) / 10) / ((response**2).sum() + 1e-9))
    for _ in range(int(rng.integers(2, 7))):
        response[int(rng.uniform(0.001, 0.03) * SPEECH_RATE_HZ)] += rng.normal(0, 0.25)
    response[0] += 1
    return _convolve(samples, response)[: len(samples)]


def _with_noise(samples: NDArray, rng: np.random.Generator) -> NDArray:
    """Coloured noise, sometimes swelling, sometimes with mains hum; 8 to 45 dB below the speech."""
    white = np.fft.rfft(rng.standard_normal(len(samples)))
    frequencies_hz = np.fft.rfftfreq(len(samples), 1 / SPEECH_RATE_HZ)
    noise = np.fft.irfft(white / (frequencies_hz + 40) ** rng.uniform(0, 1.1), len(samples))
    times_s = np.arange(len(samples)) / SPEECH_RATE_HZ
    if rng.random() < 0.3:
        noise *= 1 + 0.7 * np.sin(2 * np.pi * rng.uniform(0.1, 2) * times_s + rng.uniform(0, 6.28))
    noise /= noise.std() + 1e-9
    if rng.random() < 0.12:
        noise += sum(rng.uniform(0, 1) * np.sin(2 * np.pi * part * 50 * times_s) for part in (1, 2, 3, 4))
    below_db = rng.triangular(8, 28, 45)
    speech_level = np.sqrt(np.mean(samples[np.abs(samples) > 0.02 * np.abs(samples).max()] ** 2) + 1e-12)
    return samples + noise * speech_level * 10 ** (-below_db / 20)


def _band_limited(samples: NDArray, rng: np.random.Generator) -> NDArray:
    """As over a telephone or from a cheap recorder."""
    high_hz = rng.choice((3400, 3800, 5500, 7000))
    low_hz = rng.choice((20, 120, 300))
    frequencies_hz = np.fft.rfftfreq(len(samples), 1 / SPEECH_RATE_HZ)
    keep = 1 / (1 + (frequencies_hz / high_hz) ** 24) * (1 - 1 / (1 + (frequencies_hz / low_hz) ** 8))
    return np.fft.irfft(np.fft.rfft(samples) * keep, len(samples))


def _through_codec(samples: NDArray, rng: np.random.Generator) -> NDArray:
    """Encoded and decoded at a low rate, and moved back by the codec's delay."""
    codec, container, bit_rates = (
        ("libmp3lame", "mp3", (24_000, 32_000, 48_000))
        if rng.random() < 0.5
        else ("libopus", "ogg", (8_000, 12_000, 20_000))
    )
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=SPEECH_RATE_HZ, layout="mono")
        stream.bit_rate = int(rng.choice(bit_rates))
        block = np.clip(samples * 32767, -32767, 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        frame.sample_rate = SPEECH_RATE_HZ
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=SPEECH_RATE_HZ, frame_size=stream.frame_size or 320
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as source:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SPEECH_RATE_HZ)
        pieces = [out.to_ndarray()[0] for decoded in source.decode(audio=0) for out in resampler.resample(decoded)]
    decoded = np.concatenate(pieces)
    delay = _delay(samples, decoded)
    decoded = decoded[delay:] if delay >= 0 else np.pad(decoded, (-delay, 0))
    return np.pad(decoded, (0, max(0, len(samples) - len(decoded))))[: len(samples)]


def _delay(samples: NDArray, delayed: NDArray) -> int:
    """By how many samples the second sound lags behind the first, from their cross-correlation."""
    size = 1 << int(np.ceil(np.log2(len(samples) + len(delayed))))
    correlation = np.fft.irfft(np.fft.rfft(delayed, size) * np.conj(np.fft.rfft(samples, size)), size)
    correlation = np.concatenate([correlation[-_MAX_CODEC_DELAY:], correlation[:_MAX_CODEC_DELAY]])
    return int(correlation.argmax()) - _MAX_CODEC_DELAY


def _convolve(samples: NDArray, response: NDArray) -> NDArray:
    size = 1 << int(np.ceil(np.log2(len(samples) + len(response))))
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
