"""What the voice does besides the phones: loudness, pitch and prominence, which drive head and brows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loquent.data.phones import SILENCE, VOWELS, PhoneTrack
from loquent.types import SPEECH_RATE_HZ

_RATE_HZ = 100
_WINDOW = 640  # 40 ms: two periods at 50 Hz
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 420.0


@dataclass(frozen=True, eq=False)
class Prosody:
    """Prosody of one recording."""

    level_db: NDArray[np.float64]  # (F,), at 100 Hz, above the recording's 5 % quantile
    pitch: NDArray[np.float64]  # (F,), octaves from the speaker's median, held through unvoiced sound
    prominence: NDArray[np.float64]  # (N,), one value a phone; 0 for all but vowels, about 1 for stressed ones
    pauses_s: list[tuple[float, float]]  # silences of at least 0.18 s: start, end


def analyse_prosody(samples: NDArray[np.float32], track: PhoneTrack) -> Prosody:
    """Measures 16 kHz speech (N,) whose phones are known."""
    level_db, pitch = _level_and_pitch(samples)
    prominence = _prominence(track, level_db, pitch)
    silent = track.is_any((SILENCE,))
    bounds = track.bounds_s
    pauses_s = [(bounds[i], bounds[i + 1]) for i in np.flatnonzero(silent) if bounds[i + 1] - bounds[i] >= 0.18]
    return Prosody(level_db, pitch, prominence, pauses_s)


def _level_and_pitch(samples: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """Level in dB and pitch in octaves at 100 Hz, by autocorrelation."""
    hop = SPEECH_RATE_HZ // _RATE_HZ
    padded = np.pad(samples, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop][: len(samples) // hop + 1]
    frames = frames - frames.mean(axis=1, keepdims=True)
    power = (frames**2).mean(axis=1) + 1e-9
    level_db = 10 * np.log10(power)
    level_db = level_db - np.quantile(level_db, 0.05)
    spectrum = np.fft.rfft(frames * np.hanning(_WINDOW).astype(np.float32), 1024, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)
    low, high = int(SPEECH_RATE_HZ / _HIGHEST_HZ), int(SPEECH_RATE_HZ / _LOWEST_HZ)
    # A taper favours short lags, so that the first peak wins over its multiples.
    lags = correlation[:, low:high] / (correlation[:, :1] + 1e-12) * np.linspace(1.0, 0.75, high - low)
    best = lags.argmax(axis=1)
    voiced = (lags.max(axis=1) > 0.45) & (level_db > np.quantile(level_db, 0.95) - 24)
    voiced &= np.convolve(voiced, np.ones(5), mode="same") >= 4  # single frames are not to be trusted
    if voiced.sum() < 5:
        return level_db, np.zeros(len(level_db))
    octaves = np.log2(SPEECH_RATE_HZ / (best + low))
    octaves = octaves - np.median(octaves[voiced])
    voiced &= np.abs(octaves) < 0.8  # further away are octave errors
    if not voiced.any():
        return level_db, np.zeros(len(level_db))
    at = np.arange(len(octaves))
    held = np.interp(at, at[voiced], _median_of_five(octaves[voiced]))
    return level_db, np.convolve(np.pad(held, 4, mode="edge"), np.ones(9) / 9, mode="valid")


def _prominence(track: PhoneTrack, level_db: NDArray, pitch: NDArray) -> NDArray:
    """Vowels that are longer, louder and higher than the others around them stand out."""
    prominence = np.zeros(len(track))
    vowels = np.flatnonzero(track.is_any(VOWELS))
    if len(vowels) < 3:
        return prominence
    start = np.clip((track.bounds_s[vowels] * _RATE_HZ).astype(int), 0, len(level_db) - 1)
    end = np.maximum((track.bounds_s[vowels + 1] * _RATE_HZ).astype(int), start + 1)
    level = np.array([level_db[a:b].max() for a, b in zip(start, end, strict=True)])
    height = np.array([pitch[a:b].max() for a, b in zip(start, end, strict=True)])
    length = np.log(track.bounds_s[vowels + 1] - track.bounds_s[vowels])
    score = sum(weight * _standardise(value) for weight, value in ((0.45, level), (0.6, height), (0.45, length)))
    prominence[vowels] = np.clip(0.45 + 0.55 * score, 0, 2)
    return prominence


def _median_of_five(values: NDArray) -> NDArray:
    return np.median(np.lib.stride_tricks.sliding_window_view(np.pad(values, 2, mode="edge"), 5), axis=1)


def _standardise(value: NDArray) -> NDArray:
    return (value - value.mean()) / (value.std() + 1e-6)
