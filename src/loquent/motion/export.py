"""Motion as files that other tools read and write: ARKit CSV as the Live Link Face app records it, and JSON.

docs/motion.md describes both. Angles in files are radians with the signs of docs/conventions.md.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loquent.errors import MotionError
from loquent.motion._json import read_document
from loquent.types import ARKIT_INDEX, ARKIT_NAMES, MOTION_RATE_HZ, Motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

JSON_FORMAT = "loquent-motion"
JSON_VERSION = 1
MAX_BYTES = 512 * 2**20
MAX_FRAMES = 2_000_000  # nine hours at 60 a second

# The app's own order of the weights.
_CSV_WEIGHTS = (
    "EyeBlinkLeft", "EyeLookDownLeft", "EyeLookInLeft", "EyeLookOutLeft", "EyeLookUpLeft", "EyeSquintLeft",
    "EyeWideLeft", "EyeBlinkRight", "EyeLookDownRight", "EyeLookInRight", "EyeLookOutRight", "EyeLookUpRight",
    "EyeSquintRight", "EyeWideRight", "JawForward", "JawRight", "JawLeft", "JawOpen", "MouthClose", "MouthFunnel",
    "MouthPucker", "MouthRight", "MouthLeft", "MouthSmileLeft", "MouthSmileRight", "MouthFrownLeft",
    "MouthFrownRight", "MouthDimpleLeft", "MouthDimpleRight", "MouthStretchLeft", "MouthStretchRight",
    "MouthRollLower", "MouthRollUpper", "MouthShrugLower", "MouthShrugUpper", "MouthPressLeft", "MouthPressRight",
    "MouthLowerDownLeft", "MouthLowerDownRight", "MouthUpperUpLeft", "MouthUpperUpRight", "BrowDownLeft",
    "BrowDownRight", "BrowInnerUp", "BrowOuterUpLeft", "BrowOuterUpRight", "CheekPuff", "CheekSquintLeft",
    "CheekSquintRight", "NoseSneerLeft", "NoseSneerRight", "TongueOut",
)  # fmt: skip
_CSV_HEAD = ("HeadYaw", "HeadPitch", "HeadRoll")
_CSV_EYES = ("LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll", "RightEyeYaw", "RightEyePitch", "RightEyeRoll")
_CSV_TRANSLATION = ("HeadX", "HeadY", "HeadZ")  # ours: the app does not record it
_NOMINAL_RATES = (24, 25, 30, 48, 50, 60)
_KNOWN_RATES_HZ = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0)
_APP_RATE_HZ = 60.0
_WEIGHT_RANGE = (-0.5, 2.0)  # beyond it a file does not hold ARKit weights; within, values are clipped to 0..1
_MAX_ANGLE_RAD = 3.2
_GAZE_RAD = 0.5  # eye rotation at a weight of 1, used where a file has eyeLook weights but no eye rotations


def check_motion_name(path: Path) -> None:
    """Raises MotionError when motion cannot be written under that name."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise MotionError(f"{path}: motion is written as .csv (ARKit) or .json; choose one of these suffixes")
    if not path.absolute().parent.is_dir():
        raise MotionError(f"{path}: there is no folder {path.parent}; make it, or choose a folder that is there")


def write_motion(motion: Motion, path: str | os.PathLike[str]) -> None:
    """Writes motion to a `.csv` or `.json` file, which appears under its name only when it is complete.

    Raises:
        MotionError: another suffix, or the folder cannot be written to.
    """
    path = Path(path)
    check_motion_name(path)
    text = (_to_csv if path.suffix.lower() == ".csv" else _to_json)(motion)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False, newline="") as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise MotionError(f"{path}: cannot be written ({error.strerror}); choose a folder that can be") from error


def read_motion(path: str | os.PathLike[str], rate_hz: float | None = None) -> Motion:
    """Reads motion from a `.csv` or `.json` file, written by `write_motion` or captured elsewhere.

    Missing weights are 0, columns may stand in any order and letter case, and unknown columns are passed over. Head and
    eyes of a file that was captured elsewhere are taken relative to its first frame, because motion is relative to
    the photo.

    Args:
        path: the file.
        rate_hz: rows a second of a CSV file; None works it out from the time codes.

    Raises:
        MotionError: the file cannot be read, or does not hold motion; the message names the line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise MotionError(f"{path}: motion is read from .csv (ARKit) or .json files; this is neither")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise MotionError(f"{path}: {size / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are read, split the file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MotionError(f"{path}: cannot be read ({error.strerror}); check the name") from error
    except UnicodeDecodeError as error:
        raise MotionError(f"{path}: is not text in UTF-8; export it again as CSV or JSON") from error
    return _from_csv(text, str(path), rate_hz) if suffix == ".csv" else _from_json(text, str(path))


def _to_csv(motion: Motion) -> str:
    weights = [ARKIT_INDEX[_arkit_name(name)] for name in _CSV_WEIGHTS]
    left, right = motion.gaze[:, 0], motion.gaze[:, 1]
    roll = np.zeros((len(motion), 1), np.float32)
    columns = [motion.expression[:, weights], motion.rotation[:, [1, 0, 2]],
               left[:, ::-1], roll, right[:, ::-1], roll, motion.translation]  # fmt: skip
    table = np.concatenate(columns, axis=1)
    names = (*_CSV_WEIGHTS, *_CSV_HEAD, *_CSV_EYES)
    out = io.StringIO()
    out.write(",".join(("Timecode", "BlendShapeCount", *names, *_CSV_TRANSLATION)) + "\n")
    nominal = _nominal_rate(motion.rate_hz)
    for index, row in enumerate(table.tolist()):
        values = ",".join(f"{value:.6g}" for value in row)
        out.write(f"{_timecode(index / motion.rate_hz, nominal)},{len(names)},{values}\n")
    return out.getvalue()


def _nominal_rate(rate_hz: float) -> int:
    """Frames that a time code counts in a second."""
    return max(1, math.ceil(rate_hz - 1e-6))


def _timecode(time_s: float, nominal: int) -> str:
    """HH:MM:SS:FF.fff, where FF.fff counts frames of `nominal` in the second."""
    thousandths = round(time_s * nominal * 1000)
    seconds, frames = divmod(thousandths, nominal * 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frames // 1000:02d}.{frames % 1000:03d}"


def _arkit_name(column: str) -> str:
    return column[0].lower() + column[1:]


def _to_json(motion: Motion) -> str:
    def rounded(values: NDArray) -> list:
        return np.round(values.astype(np.float64), 6).tolist()

    document = {
        "format": JSON_FORMAT,
        "version": JSON_VERSION,
        "fps": motion.rate_hz,
        "names": list(ARKIT_NAMES),
        "expression": rounded(motion.expression),
        "rotation_rad": rounded(motion.rotation),
        "translation": rounded(motion.translation),
        "gaze_rad": rounded(motion.gaze),
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def _from_json(text: str, name: str) -> Motion:
    document = read_document(
        text, name, what="motion", wanted_format=JSON_FORMAT, version=JSON_VERSION, error=MotionError
    )
    fps = document.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or not 1 <= fps <= 1000:
        raise MotionError(f"{name}: fps is {fps!r}; wanted a number from 1 to 1000")
    names = document.get("names", list(ARKIT_NAMES))
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise MotionError(f"{name}: names is no list of ARKit names")
    weights = _json_array(document, "expression", (len(names),), None, name)
    expression = np.zeros((len(weights), len(ARKIT_NAMES)))
    index_of = {known.lower(): index for known, index in ARKIT_INDEX.items()}
    for column, item in enumerate(names):
        if item.lower() in index_of:
            expression[:, index_of[item.lower()]] = weights[:, column]
    _check_range(expression, _WEIGHT_RANGE, f"{name}: expression", 0)
    return Motion(
        expression=np.clip(expression, 0, 1).astype(np.float32),
        rotation=_json_array(document, "rotation_rad", (3,), len(weights), name),
        translation=_json_array(document, "translation", (3,), len(weights), name),
        gaze=_json_array(document, "gaze_rad", (2, 2), len(weights), name),
        rate_hz=float(fps),
    )


def _json_array(document: dict[str, Any], key: str, shape: tuple, length: int | None, name: str) -> NDArray[np.float32]:
    """An array (length, *shape) of the document; zeros where the key is missing and the length is known."""
    if key not in document and length is not None:
        return np.zeros((length, *shape), np.float32)
    try:
        array = np.asarray(document.get(key), np.float32)
    except (TypeError, ValueError) as error:
        raise MotionError(f"{name}: {key} is no table of numbers with rows of one length") from error
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape or length not in (None, len(array)) or not len(array):
        wanted = (length or "frames, at least 1", *shape)
        raise MotionError(f"{name}: {key} has shape {array.shape}, wanted {wanted}")
    if not np.isfinite(array).all():
        frame = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0])
        raise MotionError(f"{name}: {key} of frame {frame} holds a value that is no finite number")
    return array


def _from_csv(text: str, name: str, rate_hz: float | None) -> Motion:
    dialect_separator = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    rows = csv.reader(io.StringIO(text), delimiter=dialect_separator)
    try:
        header = [column.strip().lower() for column in next(rows)]
    except (StopIteration, csv.Error) as error:
        raise MotionError(f"{name}: is empty; wanted a header line and one line a frame") from error
    wanted = [column.lower() for column in (*_CSV_WEIGHTS, *_CSV_HEAD, *_CSV_EYES, *_CSV_TRANSLATION)]
    place_of = {column: place for place, column in enumerate(header) if column in wanted}
    if not any(column.lower() in place_of for column in _CSV_WEIGHTS):
        raise MotionError(
            f"{name}: line 1 names no ARKit weight such as JawOpen; wanted a header as Live Link Face writes"
        )
    timecode_place = header.index("timecode") if "timecode" in header else None
    places = list(place_of.values())
    values: list[list[float]] = []
    lines: list[int] = []
    codes: list[str] = []
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(values) >= MAX_FRAMES:
                raise MotionError(f"{name}: more than {MAX_FRAMES} frames; split the file")
            if len(row) < len(header) and max(places) >= len(row):
                raise MotionError(f"{name}: line {rows.line_num} has {len(row)} columns, the header has {len(header)}")
            values.append([_number(row[place], dialect_separator, name, rows.line_num) for place in places])
            lines.append(rows.line_num)
            codes.append(row[timecode_place] if timecode_place is not None else "")
    except csv.Error as error:
        raise MotionError(f"{name}: line {rows.line_num} is not CSV ({error})") from error
    if not values:
        raise MotionError(f"{name}: has a header but no frames")
    table = np.zeros((len(values), len(wanted)))
    table[:, [wanted.index(column) for column in place_of]] = values
    motion = _motion_of_table(table, place_of, name, lines)
    times_s, rate = _times_of(codes, name, lines, rate_hz)
    return _evenly(motion, times_s, rate)


def _number(cell: str, separator: str, name: str, line: int) -> float:
    """A finite number of a cell; an empty cell is 0."""
    text = cell.strip()
    if separator == ";":
        text = text.replace(",", ".")
    try:
        value = float(text or 0)
    except ValueError as error:
        raise MotionError(f"{name}: line {line} holds {cell.strip()[:40]!r}, wanted a number") from error
    if not math.isfinite(value):
        raise MotionError(f"{name}: line {line} holds {cell.strip()[:40]!r}, wanted a finite number")
    return value


def _motion_of_table(table: NDArray, place_of: dict[str, int], name: str, lines: list[int]) -> NDArray[np.float32]:
    """Motion vectors (T, 62) of the wanted columns, with head and eyes relative as `read_motion` says."""
    num_weights = len(_CSV_WEIGHTS)
    expression = np.zeros((len(table), len(ARKIT_NAMES)))
    expression[:, [ARKIT_INDEX[_arkit_name(column)] for column in _CSV_WEIGHTS]] = table[:, :num_weights]
    _check_range(expression, _WEIGHT_RANGE, f"{name}: weights", lines)
    expression = np.clip(expression, 0, 1)
    head_yaw_pitch_roll, eyes, translation = np.split(table[:, num_weights:], [3, 9], axis=1)
    _check_range(table[:, num_weights : num_weights + 9], (-_MAX_ANGLE_RAD, _MAX_ANGLE_RAD),
                 f"{name}: angles in radians", lines)  # fmt: skip
    rotation = head_yaw_pitch_roll[:, [1, 0, 2]]
    gaze = eyes[:, [1, 0, 4, 3]]
    if not any(column.lower() in place_of for column in _CSV_EYES):
        gaze = _gaze_of_weights(expression)
    if not any(column.lower() in place_of for column in _CSV_TRANSLATION):
        rotation = _unwrap(rotation - rotation[0])
        gaze = gaze - gaze[0]
    return np.concatenate([expression, rotation, translation, gaze], axis=1).astype(np.float32)


def _unwrap(angles_rad: NDArray) -> NDArray:
    return (angles_rad + np.pi) % (2 * np.pi) - np.pi


def _gaze_of_weights(expression: NDArray) -> NDArray:
    """Left pitch, left yaw, right pitch, right yaw (T, 4) in radians from the eyeLook weights."""

    def weight(name: str) -> NDArray:
        return expression[:, ARKIT_INDEX[name]]

    left_yaw = weight("eyeLookOutLeft") - weight("eyeLookInLeft")
    right_yaw = weight("eyeLookInRight") - weight("eyeLookOutRight")
    left_pitch = weight("eyeLookUpLeft") - weight("eyeLookDownLeft")
    right_pitch = weight("eyeLookUpRight") - weight("eyeLookDownRight")
    return _GAZE_RAD * np.stack([left_pitch, left_yaw, right_pitch, right_yaw], 1)


def _check_range(values: NDArray, bounds: tuple[float, float], what: str, lines: list[int] | int) -> None:
    outside = (values < bounds[0]) | (values > bounds[1])
    if outside.any():
        row = int(np.flatnonzero(outside.any(1))[0])
        value = float(values[row][outside[row]][0])
        where = f"frame {row}" if isinstance(lines, int) else f"line {lines[row]}"
        raise MotionError(f"{what} hold {value:g} in {where}; wanted {bounds[0]:g} to {bounds[1]:g}")


def _times_of(
    codes: list[str], name: str, lines: list[int], rate_hz: float | None
) -> tuple[NDArray[np.float64], float]:
    """Time of each row in seconds from the first, and the rows' rate."""
    if rate_hz is not None or not any(code.strip() for code in codes):
        rate = rate_hz if rate_hz is not None else _APP_RATE_HZ
        return np.arange(len(codes)) / rate, rate
    fields = []
    for code, line in zip(codes, lines, strict=True):
        match = re.fullmatch(r"\s*(\d{1,3}):(\d{1,2}):(\d{1,2})[:;](\d{1,3}(?:\.\d+)?)\s*", code)
        if match is None:
            raise MotionError(f"{name}: line {line} holds the time code {code.strip()[:40]!r}, wanted HH:MM:SS:FF.fff")
        fields.append([float(part) for part in match.groups()])
    hours, minutes, seconds, frames = np.array(fields).T
    whole_s = hours * 3600 + minutes * 60 + seconds
    whole_s += 86400 * np.concatenate([[0], np.cumsum(np.diff(whole_s) < -43200)])  # past midnight
    nominal = _nominal_of(whole_s, frames)
    times_s = whole_s + frames / nominal
    backwards = np.flatnonzero(np.diff(times_s) < 0)
    if len(backwards):
        raise MotionError(f"{name}: line {lines[backwards[0] + 1]} goes back in time; sort the rows by time code")
    times_s -= times_s[0]
    if len(times_s) == 1 or times_s[-1] == 0:
        return np.arange(len(times_s)) / nominal, float(nominal)
    rate = 1 / float(np.median(np.diff(times_s)[np.diff(times_s) > 0]))
    nearest = min(_KNOWN_RATES_HZ, key=lambda known: abs(known - (len(times_s) - 1) / times_s[-1]))
    if abs(nearest / ((len(times_s) - 1) / times_s[-1]) - 1) < 5e-4:
        return times_s, nearest
    nearest = min(_KNOWN_RATES_HZ, key=lambda known: abs(known - rate))
    return times_s, nearest if abs(nearest / rate - 1) < 0.05 else rate


def _nominal_of(whole_s: NDArray, frames: NDArray) -> float:
    """Frames that the time code counts in a second."""
    least = math.floor(float(frames.max())) + 1
    if whole_s[-1] == whole_s[0]:  # shorter than a second: tell our own files, which begin at 0, from the app's
        usual = MOTION_RATE_HZ if whole_s[0] == 0 and frames[0] == 0 else _APP_RATE_HZ
        if usual >= least:
            return usual
    return float(next((rate for rate in _NOMINAL_RATES if rate >= least), least))


def _evenly(vectors: NDArray[np.float32], times_s: NDArray, rate_hz: float) -> Motion:
    """Motion at an even rate: rows whose times stray by more than half a frame, as after lost frames, are interpolated."""
    even_s = np.arange(len(vectors)) / rate_hz
    if np.abs(times_s - even_s).max() < 0.5 / rate_hz:
        return Motion.from_vector(vectors, rate_hz)
    even_s = np.arange(round(times_s[-1] * rate_hz) + 1) / rate_hz
    if len(even_s) > MAX_FRAMES:
        raise MotionError(f"time codes span {times_s[-1]:.0f} s, more than {MAX_FRAMES} frames; split the file")
    columns = [np.interp(even_s, times_s, column) for column in vectors.T]
    return Motion.from_vector(np.stack(columns, 1).astype(np.float32), rate_hz)
