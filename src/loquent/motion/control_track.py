"""Controls that change over time: rows at times, and what they say at any moment between.

The columns and how each runs from row to row are listed in docs/controls.md. A cell that is None leaves its column
alone: the column runs on from the row before to the next row that states it. In the first row, None is what `Controls`
says. Before the first and after the last row everything is held.

Shape letters: T moments.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from loquent.errors import ControlsError
from loquent.types import EMOTIONS, MOTION_STATISTICS

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import ArrayLike, NDArray

    from loquent.types import Controls

Mode = Literal["offset", "absolute"]

MAX_ROWS = 5000
MAX_TEXT_BYTES = 512 * 1024  # of a file, and of a track as text: it goes into the video's metadata
MAX_TIME_S = 86_400.0
MAX_STATISTICS = 64  # numbers of `motion_mean` and `motion_std`

MODES = ("offset", "absolute")
LABELS = {"emotion": EMOTIONS, "head_mode": MODES, "gaze_mode": MODES, "statistics": MOTION_STATISTICS}
AMOUNTS = ("emotion_strength", "amount", "head", "brows", "lips", "blinks", "keep_expression")
HEAD_DEG = ("head_pitch_deg", "head_yaw_deg", "head_roll_deg")
GAZE_DEG = ("gaze_pitch_deg", "gaze_yaw_deg")
STATISTICS = ("motion_mean", "motion_std")
RANGES = {
    **dict.fromkeys(AMOUNTS, (0.0, 2.0)),
    "keep_expression": (0.0, 1.0),
    **dict.fromkeys(HEAD_DEG, (-60.0, 60.0)),
    **dict.fromkeys(GAZE_DEG, (-40.0, 40.0)),
    "eyes_closed": (0.0, 1.0),
    "blink": (0.0, 1.0),
    "motion_mean": (-10.0, 10.0),
    "motion_std": (0.0, 10.0),
}

_EMOTION_CHANGE_S = 0.6  # a face takes about this long to change
_MODE_CHANGE_S = 0.8
# A blink: lids fall, stay shut around the asked moment long enough for a frame at 15 a second, and rise.
_BLINK_CLOSE_S, _BLINK_HOLD_S, _BLINK_OPEN_S = 0.09, 0.035, 0.18


@dataclass(frozen=True, kw_only=True)
class ControlRow:
    """What is asked for at one moment. Angles have the signs of docs/conventions.md, in degrees.

    Raises:
        ControlsError: a value is out of its range; the message begins with the column's name.
    """

    time_s: float
    emotion: str | None = None
    emotion_strength: float | None = None
    amount: float | None = None
    head: float | None = None
    brows: float | None = None
    lips: float | None = None
    blinks: float | None = None
    keep_expression: float | None = None
    head_pitch_deg: float | None = None
    head_yaw_deg: float | None = None
    head_roll_deg: float | None = None
    head_mode: Mode | None = None
    gaze_pitch_deg: float | None = None
    gaze_yaw_deg: float | None = None
    gaze_mode: Mode | None = None
    blink: int | None = None  # 1: the eyes are shut at this very moment
    eyes_closed: float | None = None
    statistics: str | None = None  # IF-MDM: one of MOTION_STATISTICS
    motion_mean: float | tuple[float, ...] | None = None  # IF-MDM: of a window; one number, or one for each dimension
    motion_std: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_number("time_s", self.time_s, (0.0, MAX_TIME_S))
        for name, known in LABELS.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ControlsError(f"{name} is {value!r}; choose one of {', '.join(known)}")
        for name, bounds in RANGES.items():
            value = getattr(self, name)
            if name in STATISTICS and isinstance(value, tuple | list):
                object.__setattr__(self, name, _check_numbers(name, value, bounds))
            elif value is not None:
                _check_number(name, value, bounds)
        if self.blink not in (None, 0, 1):
            raise ControlsError(f"blink is {self.blink!r}; choose 1 for a blink at this moment, or leave it empty")

    def cells(self) -> dict[str, Any]:
        """The columns that the row states, by name, with the time."""
        return {name: value for name in COLUMNS if (value := getattr(self, name)) is not None}


COLUMNS = tuple(item.name for item in fields(ControlRow))


def _check_number(name: str, value: object, bounds: tuple[float, float]) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not bounds[0] <= float(value) <= bounds[1]:
        raise ControlsError(f"{name} is {value!r}; choose a number from {bounds[0]:g} to {bounds[1]:g}")


def _check_numbers(name: str, values: Iterable[object], bounds: tuple[float, float]) -> tuple[float, ...]:
    numbers = tuple(values)
    if not 1 <= len(numbers) <= MAX_STATISTICS:
        raise ControlsError(f"{name} holds {len(numbers)} numbers; give one, or one for each motion dimension")
    for value in numbers:
        _check_number(name, value, bounds)
    return numbers  # type: ignore[return-value]


@dataclass(frozen=True)
class ControlTrack:
    """Rows in time order; mappings of column names are taken as well.

    >>> ControlTrack([{"time_s": 0, "emotion": "neutral"}, {"time_s": 2, "emotion": "happiness", "head_yaw_deg": 12}])

    Raises:
        ControlsError: no rows, too many, rows out of order, or a value that cannot be; the message names the row.
    """

    rows: tuple[ControlRow, ...]

    def __init__(self, rows: Iterable[ControlRow | Mapping[str, Any]]) -> None:
        made: list[ControlRow] = []
        for number, row in enumerate(rows, 1):
            try:
                made.append(row if isinstance(row, ControlRow) else row_of(row))
                check_next(made)
            except ControlsError as error:
                raise ControlsError(f"control track, row {number}: {error}") from error
        if not made:
            raise ControlsError("the control track has no rows; give one or more")
        object.__setattr__(self, "rows", tuple(made))
        if len(self.to_csv().encode()) > MAX_TEXT_BYTES:
            raise ControlsError(f"the control track has more than {MAX_TEXT_BYTES // 1024} KiB of text; thin it out")

    @staticmethod
    def read(path: str | PathLike[str]) -> ControlTrack:
        """Reads a `.csv` or `.json` file; docs/controls.md shows both.

        Raises:
            ControlsError: the file cannot be read or holds no control track; the message names line and column.
        """
        from loquent.motion.control_files import read_control_track

        return read_control_track(path)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a `.csv` or `.json` file.

        Raises:
            ControlsError: another suffix, or the folder cannot be written to.
        """
        from loquent.motion.control_files import write_control_track

        write_control_track(self, path)

    @property
    def end_s(self) -> float:
        """Time of the last row."""
        return float(self.rows[-1].time_s)

    def to_csv(self) -> str:
        """The track as a CSV file's text, with those columns that are used."""
        stated = [row.cells() for row in self.rows]
        columns = [name for name in COLUMNS if any(name in cells for cells in stated)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(cells.get(name)) for name in columns] for cells in stated)
        return out.getvalue()

    def keys(self, name: str, start: Any) -> tuple[NDArray[np.float64], list[Any]]:
        """Times and values of the rows that state a column; the first row states `start` if it says nothing."""
        return _with_start(self._stated[name], float(self.rows[0].time_s), start)

    @cached_property
    def _stated(self) -> dict[str, list[tuple[float, Any]]]:
        table: dict[str, list[tuple[float, Any]]] = {name: [] for name in COLUMNS}
        for row in self.rows:
            for name, value in row.cells().items():
                table[name].append((float(row.time_s), value))
        return table

    @cached_property
    def blink_times_s(self) -> NDArray[np.float64]:
        """Moments at which a blink was asked for."""
        return np.array([row.time_s for row in self.rows if row.blink], np.float64)

    def label_at(self, name: str, time_s: float, start: Any = None) -> Any:
        """Value of a column that steps, at one moment: that of the last row up to then which states it."""
        times_s, values = self.keys(name, start)
        return values[max(int(np.searchsorted(times_s, time_s, side="right")) - 1, 0)]


def row_of(cells: Mapping[str, Any]) -> ControlRow:
    """A row from a mapping of column names; values that are None are not stated.

    Raises:
        ControlsError: an unknown column, no time, or a value that cannot be.
    """
    for name in cells:
        if name not in COLUMNS:
            raise ControlsError(f"there is no column {name!r}; known: {', '.join(COLUMNS)}")
    if cells.get("time_s") is None:
        raise ControlsError("time_s is missing; every row says when it is, in seconds")
    return ControlRow(**cells)


def check_next(rows: list[ControlRow]) -> None:
    """Raises ControlsError when the last row may not follow the others."""
    if len(rows) > MAX_ROWS:
        raise ControlsError(f"more than {MAX_ROWS} rows; thin them out, values between rows are interpolated")
    if len(rows) > 1 and rows[-1].time_s <= rows[-2].time_s:
        raise ControlsError(f"time_s is {rows[-1].time_s:g} after {rows[-2].time_s:g}; times must grow from row to row")


def _with_start(stated: list[tuple[float, Any]], first_s: float, start: Any) -> tuple[NDArray[np.float64], list[Any]]:
    if not stated or stated[0][0] > first_s:
        stated = [(first_s, start), *stated]
    return np.array([time_s for time_s, _ in stated], np.float64), [value for _, value in stated]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(_cell(number) for number in value)
    return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")  # every digit, so it comes back


@dataclass(frozen=True, eq=False)
class ControlValues:
    """What the controls say at T moments. Angles in radians. All float32."""

    emotion: NDArray[np.float32]  # (T, 8), shares of EMOTIONS, 1 together
    emotion_strength: NDArray[np.float32]  # (T,)
    amount: NDArray[np.float32]  # (T,), factors as in Controls
    head: NDArray[np.float32]
    brows: NDArray[np.float32]
    lips: NDArray[np.float32]
    blinks: NDArray[np.float32]
    keep_expression: NDArray[np.float32]
    head_rad: NDArray[np.float32]  # (T, 3), pitch, yaw, roll around which the head moves
    head_absolute: NDArray[np.float32]  # (T,), share in which they count from the camera, not from the photo
    gaze_rad: NDArray[np.float32]  # (T, 2), pitch, yaw
    gaze_absolute: NDArray[np.float32]  # (T,), share in which they count from the camera, not from the head
    closure: NDArray[np.float32]  # (T,), 1 where the eyes are shut on command

    def head_offset_rad(self, pose_rad: ArrayLike) -> NDArray[np.float32]:
        """(T, 3), what to add to head angles that are relative to the photo, whose own pose (3,) is given."""
        return (self.head_rad - self.head_absolute[:, None] * np.asarray(pose_rad, np.float32)).astype(np.float32)

    def gaze_offset_rad(self, head_offset_rad: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, 2), what to add to the gaze within the head, whose commanded turn (T, 3) is given."""
        return (self.gaze_rad - self.gaze_absolute[:, None] * head_offset_rad[:, :2]).astype(np.float32)


def values_at(controls: Controls, times_s: ArrayLike) -> ControlValues:
    """What `controls` say at times (T,) in seconds, with or without a track."""
    times = np.atleast_1d(np.asarray(times_s, np.float64))
    track = controls.track if controls.track is not None else ControlTrack([ControlRow(time_s=0.0)])

    def number(name: str, start: float) -> NDArray[np.float32]:
        return np.interp(times, *track.keys(name, start)).astype(np.float32)

    def angles_rad(names: Iterable[str]) -> NDArray[np.float32]:
        columns = [smooth_curve(times, *track.keys(name, 0.0)) for name in names]
        return np.radians(np.stack(columns, 1)).astype(np.float32)

    def shares(name: str, start: str, change_s: float) -> NDArray[np.float32]:
        return label_shares(times, *track.keys(name, start), LABELS[name], change_s).astype(np.float32)

    absolute = MODES.index("absolute")
    closed = smooth_curve(times, *track.keys("eyes_closed", 0.0))
    return ControlValues(
        emotion=shares("emotion", controls.emotion, _EMOTION_CHANGE_S),
        **{name: number(name, getattr(controls, name)) for name in AMOUNTS},
        head_rad=angles_rad(HEAD_DEG),
        head_absolute=shares("head_mode", "offset", _MODE_CHANGE_S)[:, absolute],
        gaze_rad=angles_rad(GAZE_DEG),
        gaze_absolute=shares("gaze_mode", "offset", _MODE_CHANGE_S)[:, absolute],
        closure=np.maximum(closed, blink_closure(times, track.blink_times_s)).astype(np.float32),
    )


def smooth_curve(times_s: NDArray, keys_s: NDArray, values: Iterable[float]) -> NDArray[np.float64]:
    """A curve through keys that never jerks: speed and acceleration are continuous, and it rests where keys repeat.

    Quintic Hermite pieces without acceleration at the keys, the slopes those of the monotone cubic (Fritsch and Butland
    1984) up to twice the smaller secant, beyond which a quintic overshoots: so it turns only at keys. Held beyond the ends.
    """
    y = np.asarray(values, np.float64)
    if len(y) == 1:
        return np.full(len(times_s), y[0])
    steps = np.diff(keys_s)
    secants = np.diff(y) / steps
    slopes = np.zeros(len(y))
    same_way = secants[:-1] * secants[1:] > 0
    left, right = (2 * steps[1:] + steps[:-1])[same_way], (steps[1:] + 2 * steps[:-1])[same_way]
    slopes[1:-1][same_way] = (left + right) / (left / secants[:-1][same_way] + right / secants[1:][same_way])
    steepest = 2 * np.minimum(np.abs(secants[:-1]), np.abs(secants[1:]))
    slopes[1:-1] = np.clip(slopes[1:-1], -steepest, steepest)
    at = np.clip(np.searchsorted(keys_s, times_s, side="right") - 1, 0, len(steps) - 1)
    u = np.clip((times_s - keys_s[at]) / steps[at], 0, 1)
    risen = minimum_jerk(u)
    start = u - u**3 * (6 - 8 * u + 3 * u**2)
    end = -(u**3) * (4 - 7 * u + 3 * u**2)
    return y[at] + risen * (y[at + 1] - y[at]) + steps[at] * (start * slopes[at] + end * slopes[at + 1])


def label_shares(
    times_s: NDArray, keys_s: NDArray, labels: list[str], known: tuple[str, ...], change_s: float
) -> NDArray[np.float64]:
    """Shares of labels that step at keys, (T, labels known); each change begins at its key and takes `change_s`."""
    numbers = [known.index(label) for label in labels]
    first = max(int(np.searchsorted(keys_s, times_s.min() - change_s, side="right")) - 1, 0)
    last = int(np.searchsorted(keys_s, times_s.max()))
    shares = np.zeros((len(times_s), len(known)))
    shares[:, numbers[first]] = 1
    for key_s, number in zip(keys_s[first + 1 : last], numbers[first + 1 : last], strict=True):
        risen = minimum_jerk((times_s - key_s) / change_s)
        shares *= 1 - risen[:, None]
        shares[:, number] += risen
    return shares


def blink_closure(times_s: NDArray, blinks_s: NDArray) -> NDArray[np.float64]:
    """How far blinks around given moments close the lids, (T,): 1 at those moments."""
    closure = np.zeros(len(times_s))
    for blink_s in blinks_s[(blinks_s > times_s.min() - 1) & (blinks_s < times_s.max() + 1)]:
        late_s = times_s - blink_s
        closing = minimum_jerk((late_s + _BLINK_HOLD_S + _BLINK_CLOSE_S) / _BLINK_CLOSE_S)
        opening = 1 - minimum_jerk((late_s - _BLINK_HOLD_S) / _BLINK_OPEN_S)
        closure = np.maximum(closure, np.minimum(closing, opening))
    return closure


def minimum_jerk(part: NDArray) -> NDArray[np.float64]:
    """0 to 1 as a hand or a head moves from rest to rest (Flash and Hogan 1985); 0 before and 1 after."""
    x = np.clip(part, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)
