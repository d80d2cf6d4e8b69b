"""Blinks as events over the generated motion.

A blink is over in a few frames and its moment is nearly free, so a flow trained for an hour closes the lids in one of
three only; and how often a person blinks is a control of its own. So the network says where blinks are likely
(at pauses and when the gaze moves, as it learned) and how far the lids hang between them; the events themselves are
drawn at human rates and always close.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loquent.motion.control_track import values_at
from loquent.types import ARKIT_INDEX, MOTION_RATE_HZ, Motion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from loquent.types import Controls

_RATE_HZ = 17 / 60  # blinks of a person in conversation (Bentivoglio et al. 1997)
_SHORTEST_GAP_S = 0.7
_GAP_SHAPE = 1.6  # of the gamma distribution of gaps beyond the shortest
_REACH = 15  # frames by which a blink moves to a moment that the network finds likely
_LIKELY = 0.1  # rise of the lids that counts as such a moment
_BEFORE, _AFTER = 3, 8  # frames that a blink's shape covers
_LID_REACH = 5  # frames on either side over which the lids' rest is their lowest value
_MOST_HANGING = 0.35
LIDS = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
_WIDE = [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]
_SQUINT = [ARKIT_INDEX["eyeSquintLeft"], ARKIT_INDEX["eyeSquintRight"]]


class BlinkLayer:
    """Replaces the blinks of a stream of motion.

    Args:
        controls: how often, over time; 0 is never. Blinks that a track asks for are not drawn here
            (`loquent.motion.controls` does), but the others keep away from them.
        random: draws moments and shapes.
    """

    def __init__(self, controls: Controls, random: np.random.Generator) -> None:
        self._random = random
        self._controls = controls
        track = controls.track
        self._asked = track.blink_times_s * MOTION_RATE_HZ if track is not None else np.zeros(0)
        self._settled = track.end_s * MOTION_RATE_HZ if track is not None else 0.0  # frame from which nothing changes
        self._next = self._next_after(0, 0.5)  # frame around which the next blink will be
        self._last = -_BEFORE  # frame of the last blink
        self._events: list[tuple[int, NDArray[np.float32]]] = []  # first frame and shape

    def apply(self, pieces: Iterable[Motion]) -> Iterator[Motion]:
        """Yields the same motion with blinks; about a second is held back until the blinks in it are known."""
        held: Motion | None = None  # begins with up to _LID_REACH frames of context
        context, first = 0, 0  # frames of context, and the number of the first frame after them
        for piece in pieces:
            held = piece if held is None else Motion.concatenate([held, piece])
            lids = held.expression[:, LIDS].mean(1)
            known = first - context + len(held)
            while self._next + _REACH < known:
                self._place(lids, first - context, known)
            ready = int(min(known - _LID_REACH, self._next - _REACH - _BEFORE))
            if ready > first:
                yield self._draw(held, first, context, ready - first)
                keep = min(_LID_REACH, context + ready - first)
                held = held[context + ready - first - keep :]
                context, first = keep, ready
        if held is not None:
            known = first - context + len(held)
            while self._next < known:
                self._place(held.expression[:, LIDS].mean(1), first - context, known)
            if len(held) > context:
                yield self._draw(held, first, context, len(held) - context)

    def _next_after(self, frame: float, share: float = 1.0) -> float:
        """Frame of the next blink after another frame; infinite when there are no more."""
        frames = np.arange(frame, max(frame, self._settled) + 1)
        amounts = values_at(self._controls, frames / MOTION_RATE_HZ).blinks
        wanted = np.flatnonzero(amounts > 0)
        if not len(wanted):
            return np.inf
        beyond_s = max(1 / (_RATE_HZ * amounts[wanted[0]]) - _SHORTEST_GAP_S, 0.3) / _GAP_SHAPE
        gap_s = _SHORTEST_GAP_S + self._random.gamma(_GAP_SHAPE, beyond_s)
        return float(frames[wanted[0]] + share * gap_s * MOTION_RATE_HZ)

    def _place(self, lids: NDArray[np.float32], offset: int, known: int) -> None:
        """Fixes the next blink: at the likeliest moment near the drawn one, or there. lids[0] is frame `offset`."""
        earliest = self._last + round(_SHORTEST_GAP_S * MOTION_RATE_HZ)
        low, high = max(int(self._next) - _REACH, earliest, offset), min(int(self._next) + _REACH, known)
        at = max(int(self._next), earliest)
        if high - low > 2:
            near = lids[low - offset : high - offset]
            if near.max() - near.min() > _LIKELY:
                at = low + int(near.argmax())
        shape = self._shape()
        if self._is_free(at):
            self._events.append((at - _BEFORE, shape))
        self._last = at
        self._next = self._next_after(at)

    def _is_free(self, frame: int) -> bool:
        """Whether blinks are wanted there, and none was asked for nearby."""
        near = np.abs(self._asked - frame) < _SHORTEST_GAP_S * MOTION_RATE_HZ
        return not near.any() and values_at(self._controls, frame / MOTION_RATE_HZ).blinks[0] > 0

    def _shape(self) -> NDArray[np.float32]:
        """Lid closure around the closed frame: closes fast, opens slowly."""
        close_s, hold_s, open_s = (self._random.uniform(*span) for span in ((0.07, 0.10), (0.01, 0.05), (0.12, 0.22)))
        late_s = np.arange(-_BEFORE, _AFTER + 1) / MOTION_RATE_HZ
        closing = _minimum_jerk(1 + late_s / close_s)
        opening = 1 - _minimum_jerk((late_s - hold_s) / open_s)
        return np.minimum(closing, opening).astype(np.float32)

    def _draw(self, held: Motion, first: int, context: int, count: int) -> Motion:
        """`count` frames from frame `first` on, which is row `context` of `held`, with their blinks."""
        blink = np.zeros((count, 1), np.float32)
        for start, shape in self._events:
            low, high = max(start, first), min(start + len(shape), first + count)
            if low < high:
                part = blink[low - first : high - first, 0]
                np.maximum(part, shape[low - start : high - start], out=part)
        self._events = [(start, shape) for start, shape in self._events if start + len(shape) > first + count]
        expression = held.expression[context : context + count].copy()
        rest = _resting_lids(held.expression[:, LIDS])[context : context + count]
        expression[:, LIDS] = rest * (1 - blink) + blink
        expression[:, _WIDE] *= 1 - blink
        expression[:, _SQUINT] += 0.08 * blink
        return replace(held[context : context + count], expression=np.clip(expression, 0, 1))


def _resting_lids(lids: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, 2), how far the lids hang where nothing blinks: the lowest value around each frame."""
    padded = np.pad(lids, ((_LID_REACH, _LID_REACH), (0, 0)), mode="edge")
    lowest = np.lib.stride_tricks.sliding_window_view(padded, 2 * _LID_REACH + 1, axis=0).min(-1)
    return np.minimum(lowest, _MOST_HANGING)


def _minimum_jerk(part: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.clip(part, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)
