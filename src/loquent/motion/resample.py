"""Motion at another frame rate, as a stream: interpolated in motion space, seamless where pieces meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from loquent.errors import MotionError
from loquent.types import SomeMotion

if TYPE_CHECKING:
    from numpy.typing import NDArray


def resample(pieces: Iterable[SomeMotion], fps: float, num_frames: int | None = None) -> Iterator[SomeMotion]:
    """Interpolates motion to `fps`; frame i shows time i / fps.

    The curve through the given frames is a monotone cubic (Fritsch and Carlson 1980, with Brodlie's weighted harmonic
    mean for the slopes): it goes through every given frame and never beyond its neighbours, so that a blink closes
    exactly as far as it was asked to. The result does not depend on how the motion is cut into pieces.

    Args:
        pieces: consecutive motion of one kind and rate; empty pieces are allowed.
        fps: frames a second of the result.
        num_frames: length of the result; the last frame is held where the motion is shorter. None covers the motion's
            duration, rounded to the nearest frame.

    Yields:
        Consecutive motion at `fps`, one piece for each given piece that completes frames.

    Raises:
        MotionError: no motion at all, pieces of different rates, or an fps that is not positive.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise MotionError(f"frame rate {fps} is not a positive number")
    if num_frames is not None and num_frames < 0:
        raise MotionError(f"{num_frames} frames were asked for; the number must not be negative")
    known = np.zeros((0, 0), np.float32)  # frames first .. first + len(known) - 1
    kind, first, done, rate_hz = None, 0, 0, 0.0
    for piece in pieces:
        if not len(piece):
            continue
        if rate_hz not in (0.0, piece.rate_hz):
            raise MotionError(f"motion of {piece.rate_hz:g} frames a second follows motion of {rate_hz:g}")
        kind, rate_hz = piece, piece.rate_hz
        known = np.concatenate([known, piece.to_vector()]) if len(known) else piece.to_vector()
        # A position needs the frame two after its own, which the slope at its right end is made of.
        complete = _frames_before(first + len(known) - 2, fps / rate_hz)
        until = complete if num_frames is None else min(complete, num_frames)
        if until > done:
            yield kind.with_vector(_sample(known, first, np.arange(done, until), rate_hz, fps), float(fps))
            done = until
            if done == num_frames:
                return
        keep_from = max(int(np.floor(done * rate_hz / fps)) - 1, first)
        known, first = known[keep_from - first :], keep_from
    if kind is None:
        raise MotionError("there is no motion to resample; give at least one frame")
    if num_frames is None:
        num_frames = max(1, int(np.floor((first + len(known)) * fps / rate_hz + 0.5)))
    if num_frames > done:
        yield kind.with_vector(_sample(known, first, np.arange(done, num_frames), rate_hz, fps), float(fps))


def _frames_before(position: int, ratio: float) -> int:
    """Number of output frames whose place among the given frames is before `position`; `ratio` is output over input."""
    if position <= 0:
        return 0
    count = int(np.ceil(position * ratio))
    while count > 0 and (count - 1) / ratio >= position:
        count -= 1
    return count


def _sample(known: NDArray, first: int, frames: NDArray, rate_hz: float, fps: float) -> NDArray[np.float32]:
    """Values at the output frames, from given frames first .. first + len(known) - 1; held beyond the last one."""
    return values_at(known, frames * (rate_hz / fps), first)


def values_at(known: NDArray, places: NDArray, first: int = 0) -> NDArray[np.float32]:
    """Values of the monotone cubic of `resample` at any places of the frame axis, (len(places), C).

    Args:
        known: (T, C), the frames first .. first + T - 1; held beyond them.
        places: positions in frames, whole or not.
        first: number of the first known frame.
    """
    place = np.clip(places - first, 0, len(known) - 1)
    left = np.minimum(np.floor(place + 1e-9).astype(np.int64), max(len(known) - 2, 0))
    right = np.minimum(left + 1, len(known) - 1)
    u = np.clip(place - left, 0, 1)[:, None]
    slope_left, slope_right = _slopes(known, left, first), _slopes(known, right, first)
    a, b = known[left].astype(np.float64), known[right].astype(np.float64)
    u2, u3 = u * u, u * u * u
    value = (2 * u3 - 3 * u2 + 1) * a + (u3 - 2 * u2 + u) * slope_left
    value += (3 * u2 - 2 * u3) * b + (u3 - u2) * slope_right
    value = np.clip(value, np.minimum(a, b), np.maximum(a, b))  # rounding only
    return value.astype(np.float32)


def _slopes(known: NDArray, at: NDArray, first: int) -> NDArray[np.float64]:
    """Slopes per frame at given frames: the harmonic mean of both sides' steps, 0 at turning points and at the ends."""
    before = known[at].astype(np.float64) - known[np.maximum(at - 1, 0)]
    after = known[np.minimum(at + 1, len(known) - 1)].astype(np.float64) - known[at]
    product = before * after
    total = before + after
    slope = np.where(product > 0, 2 * product / np.where(total == 0, 1, total), 0)
    is_start = (at + first == 0)[:, None]
    is_end = (at == len(known) - 1)[:, None]
    return np.where(is_start | is_end, 0, slope)
