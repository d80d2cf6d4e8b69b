"""Smoothing of a stream of motion, without delay in the result and without seams where pieces meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from loquent.errors import MotionError
from loquent.types import ARKIT_INDEX, MOTION_DIM, Motion

_REACH = 3.0  # the window reaches this many standard deviations to each side

# Blinks are over in 100 to 400 ms: smoothing would leave the lids ajar.
_UNSMOOTHED = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]


def smooth(pieces: Iterable[Motion], sigma_s: float) -> Iterator[Motion]:
    """Smooths motion with a Gaussian window, centred, so that nothing is late; blinks stay as they are.

    Each yielded piece lags the given ones by three `sigma_s`; together they are as long as what was given. Beyond its
    ends the motion is taken as held.

    Args:
        pieces: consecutive motion of one rate; empty pieces are allowed.
        sigma_s: the window's standard deviation in seconds; 0 changes nothing.

    Raises:
        MotionError: `sigma_s` is negative or not finite.
    """
    if not (np.isfinite(sigma_s) and sigma_s >= 0):
        raise MotionError(f"smoothing of {sigma_s} s was asked for; choose 0 or more")
    given = np.zeros((0, MOTION_DIM))
    reach, rate_hz = 0, 0.0
    kernel = np.ones(1)
    for piece in pieces:
        if not len(piece):
            continue
        vectors = piece.to_vector().astype(np.float64)
        if rate_hz == 0.0:
            rate_hz = piece.rate_hz
            reach = int(np.ceil(_REACH * sigma_s * rate_hz))
            kernel = _gaussian(reach, sigma_s * rate_hz)
            given = np.repeat(vectors[:1], reach, axis=0)
        given = np.concatenate([given, vectors])
        if len(given) > 2 * reach:
            yield _filtered(given, kernel, rate_hz)
            given = given[len(given) - 2 * reach :]
    if reach and len(given):
        yield _filtered(np.concatenate([given, np.repeat(given[-1:], reach, axis=0)]), kernel, rate_hz)


def _gaussian(reach: int, sigma_frames: float) -> np.ndarray:
    """Window of 2 reach + 1 weights that sum to 1."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma_frames, 1e-9)) ** 2)
    return weights / weights.sum()


def _filtered(given: np.ndarray, kernel: np.ndarray, rate_hz: float) -> Motion:
    """The frames of `given` (T + 2 reach, 62) that have a whole window, (T, 62), as motion."""
    reach = len(kernel) // 2
    windows = np.lib.stride_tricks.sliding_window_view(given, len(kernel), axis=0)  # (T, 62, 2 reach + 1)
    smoothed = windows @ kernel
    smoothed[:, _UNSMOOTHED] = given[reach : len(given) - reach, _UNSMOOTHED]
    return Motion.from_vector(smoothed.astype(np.float32), rate_hz)
