"""How often the eyes blink: blinks taken out of a stream of motion, or put in. A blink that stays keeps its depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from loquent.types import ARKIT_INDEX, MOTION_DIM, MOTION_RATE_HZ, Motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
_BEGUN, _CLOSED = 0.15, 0.4  # a blink is a rise above the first that passes the second
_AHEAD = round(0.8 * MOTION_RATE_HZ)  # frames to look ahead: longer than any blink
_APART = round(0.4 * MOTION_RATE_HZ)  # open frames that an added blink needs before and after itself
_LATER = (round(0.6 * MOTION_RATE_HZ), round(2.2 * MOTION_RATE_HZ))  # when one may follow the blink it goes with
_ADDED = np.array([0.35, 0.9, 1.0, 0.85, 0.5, 0.2], np.float32)  # quick to close, slower to open, 240 ms


def scale_blinks(pieces: Iterable[Motion], factor: float, seed: int) -> Iterator[Motion]:
    """Keeps that share of the blinks, or adds some: at 0 the eyes never blink, at 2 they do so about twice as often.

    The result has the length of the motion, lags it by 0.8 s, and does not depend on how it is cut into pieces. Eyes
    that stay shut are left alone.

    Args:
        pieces: consecutive motion at 25 frames a second.
        factor: 0 to 2; 1 changes nothing.
        seed: which blinks go and where others come.
    """
    if factor == 1:
        yield from pieces
        return
    editor = _Editor(factor, np.random.default_rng(seed))
    held = np.zeros((0, MOTION_DIM), np.float32)
    handed_out = 0  # rows of `held` that are only there to look back
    for piece in pieces:
        held = np.concatenate([held, piece.to_vector()])
        ready = editor.edit(held, handed_out, len(held) - _AHEAD)
        if ready > handed_out:
            yield Motion.from_vector(held[handed_out:ready])
            start = max(0, ready - _APART)
            held, handed_out = held[start:].copy(), ready - start
            editor.shift(start)
    editor.edit(held, handed_out, len(held))
    if len(held) > handed_out:
        yield Motion.from_vector(held[handed_out:])


class _Editor:
    """Goes through the frames once, in order, and edits the lids in place."""

    def __init__(self, factor: float, random: np.random.Generator) -> None:
        self._factor = factor
        self._random = random
        self._until = 0  # frames before this one belong to a blink that has been decided
        self._due: int | None = None  # where a blink is to be added, or as soon after as the eyes are open

    def shift(self, frames: int) -> None:
        """Says that so many frames were cut off at the beginning."""
        self._until -= frames
        self._due = None if self._due is None else self._due - frames

    def edit(self, vectors: NDArray[np.float32], start: int, stop: int) -> int:
        """Decides frames from `start` to `stop`; returns how far the vectors are final."""
        for frame in range(start, stop):
            if frame < self._until:
                continue
            end = _blink_end(vectors, frame)
            if end > frame:
                self._until = end
                self._decide(vectors, frame, end)
            elif self._due is not None and frame >= self._due and _is_open(vectors, frame):
                self._until = min(frame + len(_ADDED), len(vectors))
                self._due = None
                lids = vectors[frame : self._until, CHANNELS]
                vectors[frame : self._until, CHANNELS] = np.maximum(lids, _ADDED[: len(lids), None])
        return max(start, stop)

    def _decide(self, vectors: NDArray[np.float32], start: int, end: int) -> None:
        """Takes a blink out, or says where another one follows it."""
        chance = float(self._random.random())
        if chance >= self._factor:
            _open_lids(vectors, start, end)
        elif chance < self._factor - 1:
            self._due = end + int(self._random.integers(*_LATER))


def _closure(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors[:, CHANNELS].max(1)


def _blink_end(vectors: NDArray[np.float32], frame: int) -> int:
    """First frame after the blink that begins at `frame`; `frame` itself when none does."""
    if frame and _closure(vectors[frame - 1 : frame])[0] > _BEGUN:
        return frame
    closure = _closure(vectors[frame : frame + _AHEAD])
    below = np.flatnonzero(closure <= _BEGUN)
    length = int(below[0]) if len(below) else len(closure)
    if length and length < _AHEAD and closure[:length].max() > _CLOSED:
        return frame + length
    return frame


def _open_lids(vectors: NDArray[np.float32], start: int, end: int) -> None:
    """Replaces the lids' closing by a straight line between the frames around it."""
    before = vectors[max(start - 1, 0), CHANNELS] if start else np.zeros(2, np.float32)
    after = vectors[end, CHANNELS] if end < len(vectors) else before
    share = np.arange(1, end - start + 1, dtype=np.float32)[:, None] / (end - start + 1)
    vectors[start:end, CHANNELS] = before * (1 - share) + after * share


def _is_open(vectors: NDArray[np.float32], frame: int) -> bool:
    around = vectors[max(0, frame - _APART) : frame + len(_ADDED) + _APART]
    return bool(_closure(around).max() <= _BEGUN)
