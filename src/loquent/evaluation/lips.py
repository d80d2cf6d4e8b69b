"""Do the lips follow the speech? Measured on a finished video, by landmarks that took no part in making it.

A video's lips are measured with MediaPipe (extra), its phones come from forced alignment with pocketsphinx (extra).
The figures are computed from two curves and a phone track alone, so that they can be tested without either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loquent.data.phones import BILABIALS, PHONES, ROUNDED_VOWELS, SILENCE, SPREAD_VOWELS, PhoneTrack
from loquent.errors import LoquentError
from loquent.face.topology import LEFT_EYE_OUTER, LIPS, RIGHT_EYE_OUTER

# Inner-lip pairs, upper and lower, at the middle of the mouth.
_GAP_PAIRS = ((82, 87), (13, 14), (312, 317))
# Nose and cheekbones move with the skull. The corners of the eyes do not for a landmarker: a blink shifts them, and
# people blink in pauses.
_SKULL = (234, 454, 93, 323, 227, 447, 137, 366, 116, 345, 123, 352, 168, 6, 197, 195, 5, 4, 1)

CLOSURE_SLACK_S = 0.04  # one motion frame either side of the phone
CLOSURE_SHARE = 0.2  # "closed" is the lowest fifth of the gap's range
SMOOTHING_S = 0.12
HIGH_PASS_HZ = 0.3
MAX_LAG_S = 0.2
MIN_SILENCE_S = 0.25
SILENCE_EDGE_S = 0.1  # lips that close after a word, or open for the next one, still belong to speech

# How far a phone asks the lips to open, 0 closed, 1 widest. Vowels by height, consonants by place.
_OPENING = {
    "a": 1.0, "aa": 1.0, "ae": 0.9, "ao": 0.75, "ah": 0.75, "eh": 0.65, "oe": 0.5, "oo": 0.5, "ax": 0.45, "ee": 0.45,
    "er": 0.4, "ih": 0.4, "ix": 0.35, "iy": 0.3, "uh": 0.35, "uw": 0.2, "yy": 0.2,
    "p": 0.0, "b": 0.0, "m": 0.0, "f": 0.1, "v": 0.1, "bf": 0.05, "w": 0.15, "sil": 0.05, "q": 0.3, "hh": 0.45,
}  # fmt: skip
_OTHER_CONSONANT = 0.27


@dataclass(frozen=True, eq=False)
class LipTrack:
    """Lips over time, in interocular distances, head motion taken out."""

    gap: NDArray[np.float32]  # (T,), inner-lip distance
    width: NDArray[np.float32]  # (T,), distance of the mouth's corners
    points: NDArray[np.float32]  # (T, 40, 2), the lip landmarks in a frame that follows the skull
    rate_hz: float


@dataclass(frozen=True)
class LipFigures:
    """The figures of one video. A figure is nan where the speech holds nothing to measure it on."""

    closures_reached: float  # share of m, b, p in which the gap comes into the lowest fifth of its range
    num_closures: int
    opening_correlation: float  # at the best lag
    opening_lag_s: float  # positive: the lips come after the sound
    silence_movement: float  # lip movement in silences over that in speech
    silence_movement_inside: float  # the same without the first and last SILENCE_EDGE_S of each silence
    rounded_over_spread_width: float  # mean mouth width in rounded vowels over that in spread ones

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def lip_track_from_landmarks(landmarks: NDArray[np.float32], rate_hz: float) -> LipTrack:
    """Takes head motion out of landmarks (T, 478, 2 or 3) by a rigid fit of the skull's points, and measures lips."""
    points = landmarks.astype(np.float64)
    eyes = points[:, RIGHT_EYE_OUTER, :2] - points[:, LEFT_EYE_OUTER, :2]
    unit = np.linalg.norm(eyes, axis=-1).mean()
    skull = points[:, _SKULL]
    centre = skull.mean(1, keepdims=True)
    turn, scale = _rigid_fit(skull - centre)
    scale = scale / scale.mean()  # of lengths in a frame: beside the mean frame's
    gap = np.mean([np.linalg.norm(points[:, a, :2] - points[:, b, :2], axis=-1) for a, b in _GAP_PAIRS], axis=0)
    width = np.linalg.norm(points[:, 61, :2] - points[:, 291, :2], axis=-1)
    lips = (points[:, list(LIPS)] - centre) @ turn * scale[:, None, None]
    return LipTrack(
        gap=(gap * scale / unit).astype(np.float32),
        width=(width * scale / unit).astype(np.float32),
        points=(lips[..., :2] / unit).astype(np.float32),
        rate_hz=rate_hz,
    )


def _rigid_fit(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (T, D, D) and scales (T,) that carry centred points (T, N, D) to their mean shape.

    Source: Umeyama 1991. Twice: the mean is first taken over points that still turn.
    """
    turn, scale = _fit_to(points, points.mean(0))
    return _fit_to(points, (points @ turn * scale[:, None, None]).mean(0))


def _fit_to(points: NDArray[np.float64], shape: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    u, s, vt = np.linalg.svd(points.transpose(0, 2, 1) @ shape)
    sign = np.ones_like(s)
    sign[:, -1] = np.linalg.det(u @ vt)  # turned, never mirrored
    return (u * sign[:, None]) @ vt, (s * sign).sum(1) / (points**2).sum((1, 2))


def called_for_opening(phones: PhoneTrack, num_frames: int, rate_hz: float) -> NDArray[np.float32]:
    """(T,), the opening that the phones ask for at each frame, averaged over the frame's duration."""
    fine = 8
    table = np.array([_OPENING.get(name, _OTHER_CONSONANT) for name in PHONES], np.float32)
    opening = table[phones.frames(num_frames * fine, rate_hz * fine)]
    half = fine // 2  # frame i shows time i / rate, so its duration is centred there
    opening = np.concatenate([opening[:1].repeat(half), opening])[: num_frames * fine]
    return opening.reshape(num_frames, fine).mean(1)


def measure(lips: LipTrack, phones: PhoneTrack) -> LipFigures:
    """Computes all figures from a lip track and the phones of its speech."""
    movement_silent, movement_inside, movement_speaking = _movement(lips, phones)
    correlation, lag_s = _correlation(lips, phones)
    closed, count = _closures(lips, phones)
    return LipFigures(
        closures_reached=closed / count if count else math.nan,
        num_closures=count,
        opening_correlation=correlation,
        opening_lag_s=lag_s,
        silence_movement=movement_silent / movement_speaking,
        silence_movement_inside=movement_inside / movement_speaking,
        rounded_over_spread_width=_width_ratio(lips, phones),
    )


def pool(figures: Sequence[LipFigures]) -> LipFigures:
    """Figures of several videos as one: closures are counted together, the rest is the mean over the videos."""
    count = sum(item.num_closures for item in figures)
    closed = sum(item.closures_reached * item.num_closures for item in figures if item.num_closures)

    def mean(name: str) -> float:
        return _mean_or_nan([value for item in figures if not math.isnan(value := getattr(item, name))])

    return LipFigures(
        closures_reached=closed / count if count else math.nan,
        num_closures=count,
        opening_correlation=mean("opening_correlation"),
        opening_lag_s=mean("opening_lag_s"),
        silence_movement=mean("silence_movement"),
        silence_movement_inside=mean("silence_movement_inside"),
        rounded_over_spread_width=mean("rounded_over_spread_width"),
    )


def track_video(video: Path, model: Path | None = None) -> LipTrack:
    """Measures the lips of a video with MediaPipe.

    Args:
        video: file with one face.
        model: `face_landmarker.task`; without it the environment variable LOQUENT_FACE_LANDMARKER names it.

    Raises:
        MissingExtraError: mediapipe is not installed.
        LoquentError: more than a tenth of the frames show no face.
    """
    from loquent.evaluation.landmarks import landmarks_of_frames
    from loquent.media.video import probe, read_video_frames

    rate_hz = float(probe(video).fps)
    found = list(landmarks_of_frames(read_video_frames(video), model))
    seen = [index for index, landmarks in enumerate(found) if landmarks is not None]
    if len(seen) < 0.9 * len(found) or not seen:
        raise LoquentError(f"{video}: a face was found in {len(seen)} of {len(found)} frames; nine in ten are needed")
    stacked = np.stack([landmarks for landmarks in found if landmarks is not None])
    flat = stacked.reshape(len(seen), -1)
    filled = np.stack([np.interp(np.arange(len(found)), seen, column) for column in flat.T], axis=1)
    return lip_track_from_landmarks(filled.reshape(len(found), *stacked.shape[1:]).astype(np.float32), rate_hz)


def _closures(lips: LipTrack, phones: PhoneTrack) -> tuple[int, int]:
    low, high = float(lips.gap.min()), float(lips.gap.max())
    limit = low + CLOSURE_SHARE * (high - low)
    closed = count = 0
    for index in np.flatnonzero(phones.is_any(BILABIALS)):
        start = max(0, math.ceil((phones.bounds_s[index] - CLOSURE_SLACK_S) * lips.rate_hz))
        end = math.floor((phones.bounds_s[index + 1] + CLOSURE_SLACK_S) * lips.rate_hz) + 1
        window = lips.gap[start:end]
        if len(window):
            count += 1
            closed += bool(window.min() <= limit)
    return closed, count


def _correlation(lips: LipTrack, phones: PhoneTrack) -> tuple[float, float]:
    wanted = _band(called_for_opening(phones, len(lips.gap), lips.rate_hz), lips.rate_hz)
    shown = _band(lips.gap, lips.rate_hz)
    best = (math.nan, math.nan)
    most = min(round(MAX_LAG_S * lips.rate_hz), len(shown) // 4)
    for lag in range(-most, most + 1):
        a = wanted[max(0, -lag) : len(wanted) - max(0, lag)]
        b = shown[max(0, lag) : len(shown) - max(0, -lag)]
        if len(a) < 3 or a.std() == 0 or b.std() == 0:
            continue
        value = float(np.corrcoef(a, b)[0, 1])
        if math.isnan(best[0]) or value > best[0]:
            best = (value, lag / lips.rate_hz)
    return best


def _movement(lips: LipTrack, phones: PhoneTrack) -> tuple[float, float, float]:
    """Mean speed of the lip points in silences longer than MIN_SILENCE_S, inside them, and in speech."""
    speed = np.linalg.norm(np.diff(lips.points, axis=0), axis=-1).mean(1) * lips.rate_hz
    times_s = (np.arange(len(speed)) + 0.5) / lips.rate_hz
    silent, inside = np.zeros((2, len(speed)), bool)
    speaking = np.ones(len(speed), bool)
    for index in np.flatnonzero(phones.is_any((SILENCE,))):
        start_s, end_s = phones.bounds_s[index], phones.bounds_s[index + 1]
        within = (times_s >= start_s) & (times_s < end_s)
        speaking &= ~within
        if end_s - start_s > MIN_SILENCE_S:
            silent |= within
            inside |= (times_s >= start_s + SILENCE_EDGE_S) & (times_s < end_s - SILENCE_EDGE_S)
    return _mean_or_nan(speed[silent]), _mean_or_nan(speed[inside]), _mean_or_nan(speed[speaking])


def _width_ratio(lips: LipTrack, phones: PhoneTrack) -> float:
    def mean_width(names: tuple[str, ...]) -> float:
        widths = []
        for index in np.flatnonzero(phones.is_any(names)):
            middle = (phones.bounds_s[index] + phones.bounds_s[index + 1]) / 2
            frame = round(middle * lips.rate_hz)
            if frame < len(lips.width):
                widths.append(lips.width[frame])
        return _mean_or_nan(widths)

    return mean_width(ROUNDED_VOWELS) / mean_width(SPREAD_VOWELS)


def _mean_or_nan(values: ArrayLike) -> float:
    return float(np.mean(np.asarray(values))) if np.size(values) else math.nan


def _band(values: NDArray, rate_hz: float) -> NDArray[np.float64]:
    """Moving average over SMOOTHING_S, then everything slower than HIGH_PASS_HZ taken off by a Gaussian."""
    smooth = _convolve(values, np.ones(max(1, round(SMOOTHING_S * rate_hz))))
    sigma = rate_hz / (2 * math.pi * HIGH_PASS_HZ)  # a Gaussian's half-power point lies near this frequency
    reach = math.ceil(3 * sigma)
    return smooth - _convolve(smooth, np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2))


def _convolve(values: NDArray, kernel: NDArray) -> NDArray[np.float64]:
    """Weighted mean under `kernel`, weights renewed at the ends so that a constant stays what it is."""
    ones = np.ones(len(values))

    def same(signal: NDArray) -> NDArray:
        offset = (len(kernel) - 1) // 2
        return np.convolve(signal, kernel)[offset : offset + len(values)]

    return same(np.asarray(values, np.float64)) / same(ones)
