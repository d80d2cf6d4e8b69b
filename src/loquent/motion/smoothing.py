"""Smoothing of a stream of motion, without delay in the result and without seams where pieces meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from loquent.errors import MotionError
from loquent.types import ARKIT_INDEX, Motion, SomeMotion

_REACH = 3.0  # the window reaches this many standard deviations to each side

# Blinks are over in 100 to 400 ms: smoothing would leave the lids ajar.
_UNSMOOTHED = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]


def smooth(pieces: Iterable[SomeMotion], sigma_s: float) -> Iterator[SomeMotion]:
    """Smooths motion with a Gaussian window, centred, so that nothing is late; blinks of `Motion` stay as they are.

    Each yielded piece lags the given ones by three `sigma_s`; together they are as long as what was given. Beyond its
    ends the motion is taken as held.

    Args:
        pieces: consecutive motion of one kind and rate; empty pieces are allowed.
        sigma_s: the window's standard deviation in seconds; 0 changes nothing.

    Raises:
        MotionError: `sigma_s` is negative or not finite.
    """
    if not (np.isfinite(sigma_s) and sigma_s >= 0):
        raise MotionError(f"smoothing of {sigma_s} s was asked for; choose 0 or more")
    given = np.zeros((0, 0))
    kind, reach = None, 0
    kernel = np.ones(1)
    for piece in pieces:
        if not len(piece):
            continue
        vectors = piece.to_vector().astype(np.float64)
        if kind is None:
            reach = int(np.ceil(_REACH * sigma_s * piece.rate_hz))
            kernel = _gaussian(reach, sigma_s * piece.rate_hz)
            given = np.repeat(vectors[:1], reach, axis=0)
        kind = piece
        given = np.concatenate([given, vectors]) if len(given) else vectors
        if len(given) > 2 * reach:
            yield _filtered(kind, given, kernel)
            given = given[len(given) - 2 * reach :]
    if kind is not None and reach:
        yield _filtered(kind, np.concatenate([given, np.repeat(given[-1:], reach, axis=0)]), kernel)


def _gaussian(reach: int, sigma_frames: float) -> np.ndarray:
    """Window of 2 reach + 1 weights that sum to 1."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma_frames, 1e-9)) ** 2)
    return weights / weights.sum()


def _filtered(kind: SomeMotion, given: np.ndarray, kernel: np.ndarray) -> SomeMotion:
    """The frames of `given` (T + 2 reach, C) that have a whole window, (T, C), as motion of that kind."""
    reach = len(kernel) // 2
    windows = np.lib.stride_tricks.sliding_window_view(given, len(kernel), axis=0)  # (T, C, 2 reach + 1)
    smoothed = windows @ kernel
    if kind.space == Motion.space:
        smoothed[:, _UNSMOOTHED] = given[reach : len(given) - reach, _UNSMOOTHED]
    return kind.with_vector(smoothed.astype(np.float32), kind.rate_hz)
