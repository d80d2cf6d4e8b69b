"""Calm in pauses: lips that move with the sound, a head that rests between phrases.

A flow trained on windows lets lips begin to move some 60 ms before a sound and come to rest some 100 ms after one; in
pauses of a third of a second nothing of the pause is left. The speech encoder hears where sound ends and begins to
10 ms. So the generated lips are kept as they are and only shown on another clock: it runs faster through the last
movements of a phrase and through the first ones of the next, and nearly stands in between. The head's speed is taken
back while nobody speaks, as people's is (Hadar et al. 1983), and what it has missed is made up for in a second or two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import numpy as np

from loquent.motion.controls import LIP_CHANNELS
from loquent.motion.resample import values_at
from loquent.types import MOTION_RATE_HZ, Motion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from loquent.types import SpeechFeatures

_SILENT = 0.4  # probability above which silence is heard
_HOLE_S = 0.04  # sounds up to this length do not end a pause
_SHORTEST_S = 0.16  # shorter silences are closures of stops, or passed through
_FULL_S = 0.3  # in shorter pauses all times below shrink in proportion

_HEAD_HELD = 0.85  # share of the head's speed that is taken back in a pause
_HEAD_RAMP_S = 0.12  # half of it before the pause, half of it inside
_HEAD_RETURN_S = 1.2  # time constant
_START_S = 0.6  # the head leaves the photo's pose over this time
_END_S = 0.6  # and comes to rest over this time
_GAZE_AGAINST_HEAD = 0.85  # share of the head's turn that the eyes make up for, as in the corpus

_HELD_FRAMES = 16  # frames held back: a pause is known _FULL_S after it begins, and the end _END_S before


@dataclass(frozen=True, kw_only=True)
class LipClock:
    """When generated lips are shown around a pause, in seconds; as MoDA's starter needs it.

    From `before_end` before a sound's end the clock runs faster, until what was generated `settled` after it is shown
    `still` after it. What was generated from `early` before the next sound is shown from its beginning; both clocks agree
    again `caught_up` after.
    """

    before_end: float = 0.10
    still: float = 0.02
    settled: float = 0.15
    early: float = 0.10
    caught_up: float = 0.10


class _Frames(Protocol):
    """Frames of any kind of motion: `Motion`, or an array (T, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Self: ...


FramesT = TypeVar("FramesT", bound=_Frames)


@dataclass(frozen=True, eq=False)
class LipsAndHead(Generic[FramesT]):
    """Where a kind of motion has its lips and its head.

    Args:
        split: frames to the values that move the lips (T, L) and the head (T, H); both are 0 in the photo's pose.
        join: frames with other such values.
        concatenate: pieces to one.
    """

    split: Callable[[FramesT], tuple[NDArray[np.floating], NDArray[np.floating]]]
    join: Callable[[FramesT, NDArray[np.floating], NDArray[np.floating]], FramesT]
    concatenate: Callable[[list[FramesT]], FramesT]


def _split_face(motion: Motion) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return motion.expression[:, LIP_CHANNELS], np.concatenate([motion.rotation, motion.translation], axis=1)


def _join_face(motion: Motion, lips: NDArray[np.floating], head: NDArray[np.floating]) -> Motion:
    """The eyes make up for what the head does otherwise."""
    expression = motion.expression.copy()
    expression[:, LIP_CHANNELS] = lips
    gaze = motion.gaze - _GAZE_AGAINST_HEAD * (head[:, :2] - motion.rotation[:, :2])[:, None]
    return replace(
        motion,
        expression=expression,
        rotation=head[:, :3].astype(np.float32),
        translation=head[:, 3:].astype(np.float32),
        gaze=gaze.astype(np.float32),
    )


FACE_PARAMETERS = LipsAndHead(_split_face, _join_face, Motion.concatenate)


class PauseLayer(Generic[FramesT]):
    """Calms a stream of motion in the pauses of its speech. Features go through `listen`, the motion through `apply`.

    Without the features' silences, only the head's start and end are calmed.

    Args:
        kind: where the motion has its lips and its head, `FACE_PARAMETERS` for `Motion`.
        times: when lips are shown.
    """

    def __init__(self, kind: LipsAndHead[FramesT], times: LipClock | None = None) -> None:
        self._kind = kind
        self._clock = _Clock(times or LipClock())
        self._head: NDArray | float = 0.0  # of the frame before, as generated
        self._start: NDArray | float = 0.0  # its first pose
        self._missed: NDArray | float = 0.0  # by how much the shown head is behind

    def listen(self, features: Iterable[SpeechFeatures]) -> Iterator[SpeechFeatures]:
        """Yields the features as they are, and hears their pauses."""
        for block in features:
            if block.silence is not None:
                self._clock.hear(block.silence.reshape(-1), block.silence.shape[1] * block.rate_hz)
            yield block
        self._clock.finish()

    def apply(self, pieces: Iterable[FramesT]) -> Iterator[FramesT]:
        """Yields the calmed motion of pieces whose features were listened to; about half a second is held back."""
        held: FramesT | None = None
        first = done = 0  # numbers of the first held frame and of the next frame to come out
        for piece in pieces:
            held = piece if held is None else self._kind.concatenate([held, piece])
            ready = first + len(held) - _HELD_FRAMES
            if ready > done:
                yield self._calmed(held, first, done, ready)
                done = ready
                drop = max(0, done - _HELD_FRAMES - first)
                held, first = held[drop:], first + drop
        if held is not None and first + len(held) > done:
            yield self._calmed(held, first, done, first + len(held), is_last=True)

    def _calmed(self, held: FramesT, first: int, start: int, stop: int, is_last: bool = False) -> FramesT:
        frames = np.arange(start, stop)
        times_s = frames / MOTION_RATE_HZ
        lips, head = self._kind.split(held)
        shown_at = _eased_end(frames, stop) if is_last else frames
        return self._kind.join(
            held[start - first : stop - first],
            values_at(lips, self._clock.at(times_s) * MOTION_RATE_HZ, first),
            self._calm_head(values_at(head, shown_at, first), times_s),
        )

    def _calm_head(self, head: NDArray[np.floating], times_s: NDArray) -> NDArray[np.float64]:
        """The head's values (T, H), their speed taken back in pauses."""
        quiet = _HEAD_HELD * self._clock.quiet(times_s)
        kept = 1 - 1 / (MOTION_RATE_HZ * _HEAD_RETURN_S)
        shown = np.empty(head.shape)
        for index, pose in enumerate(head.astype(np.float64)):
            if times_s[index] == 0:
                self._head, self._start = pose, pose
            self._missed = kept * self._missed + quiet[index] * (pose - self._head)
            self._head = pose
            shown[index] = pose - self._missed
        return shown - (1 - _minimum_jerk(times_s / _START_S))[:, None] * self._start


class _Clock:
    """When to show what was generated. Knots of a piecewise linear map from shown to generated time, in seconds."""

    def __init__(self, times: LipClock) -> None:
        self._times = times
        self._heard = 0  # parts heard so far
        self._rate_hz = 100.0
        self._start: int | None = None  # part in which the silence that is heard began
        self._stop = 0  # part after the last silent one
        self._scale = 0.0  # of the pause that is under way; 0: none is yet
        self._shown_s, self._made_s = [0.0], [0.0]
        self._pauses_s: list[list[float]] = []  # start, end and scale of each pause

    def hear(self, silence: NDArray[np.float32], rate_hz: float) -> None:
        """Takes the probability of silence in each further part, `rate_hz` parts a second."""
        self._rate_hz = rate_hz
        for is_silent in silence > _SILENT:
            self._heard += 1
            if is_silent:
                self._start = self._heard - 1 if self._start is None else self._start
                self._stop = self._heard
                if self._scale == 0 and self._length_s >= _FULL_S:
                    self._begin(1.0)
            elif self._start is not None and (self._heard - self._stop) / rate_hz > _HOLE_S:
                self._end()

    def finish(self) -> None:
        """Nothing more is heard: a silence that is under way lasts to the end."""
        if self._start is not None and self._scale == 0 and self._length_s >= _SHORTEST_S:
            self._begin(self._length_s / _FULL_S)

    def at(self, times_s: NDArray) -> NDArray[np.float64]:
        """The generated time that is shown at each time."""
        behind_s = self._shown_s[-1] - self._made_s[-1]
        beyond = times_s > self._shown_s[-1]
        return np.where(beyond, times_s - behind_s, np.interp(times_s, self._shown_s, self._made_s))

    def quiet(self, times_s: NDArray) -> NDArray[np.float64]:
        """(T,), 1 inside pauses, 0 while there is sound. Times are asked for in their order: older pauses are forgotten."""
        self._pauses_s = [pause for pause in self._pauses_s if pause[1] + _HEAD_RAMP_S > times_s[0]]
        quiet = np.zeros(len(times_s))
        for start_s, end_s, scale in self._pauses_s:
            ramp_s = scale * _HEAD_RAMP_S
            begun, left = (times_s - start_s) / ramp_s, (end_s - times_s) / ramp_s
            inside = _minimum_jerk(begun + 0.5) * _minimum_jerk(left + 0.5)
            quiet = np.maximum(quiet, inside)
        return quiet

    @property
    def _length_s(self) -> float:
        return 0.0 if self._start is None else (self._stop - self._start) / self._rate_hz

    def _begin(self, scale: float) -> None:
        assert self._start is not None
        times, start_s = self._times, self._start / self._rate_hz
        if start_s < _HOLE_S:  # the recording begins with it: the lips are at rest
            knots = [(scale * times.early, 0.0)]
        elif start_s - scale * times.before_end < self._shown_s[-1]:  # the pause before is not over for the lips
            return
        else:
            knots = [
                (start_s - scale * times.before_end, start_s - scale * times.before_end),
                (start_s + scale * times.still, start_s + scale * times.settled),
                (start_s + scale * (times.settled + times.early), start_s + scale * times.settled),
            ]
        self._scale = scale
        self._add(knots)
        self._pauses_s.append([start_s, np.inf, scale])

    def _end(self) -> None:
        if self._scale == 0 and self._length_s >= _SHORTEST_S:
            self._begin(min(1.0, self._length_s / _FULL_S))
        if self._scale > 0:
            end_s, scale = self._stop / self._rate_hz, self._scale
            back_s = end_s + scale * self._times.caught_up
            self._add([(end_s, end_s - scale * self._times.early), (back_s, back_s)])
            self._pauses_s[-1][1] = end_s
        self._start, self._scale = None, 0.0

    def _add(self, knots: list[tuple[float, float]]) -> None:
        for shown_s, made_s in knots:
            self._shown_s.append(shown_s)
            self._made_s.append(made_s)


def _eased_end(frames: NDArray, stop: int) -> NDArray[np.float64]:
    """Frames to show so that movement slows down and stands still at the last one."""
    length = _END_S * MOTION_RATE_HZ
    late = np.clip(frames - (stop - 1 - length), 0, length)
    return frames - late * late / (2 * length)


def _minimum_jerk(part: NDArray) -> NDArray[np.float64]:
    x = np.clip(part, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)
