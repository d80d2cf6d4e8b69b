"""Control tracks as files: CSV and JSON, as docs/controls.md shows them. Files come from outside and are not trusted."""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from loquent.errors import ControlsError
from loquent.motion._json import read_document
from loquent.motion.control_track import (
    COLUMNS,
    LABELS,
    MAX_TEXT_BYTES,
    STATISTICS,
    ControlRow,
    ControlTrack,
    check_next,
    row_of,
)

JSON_FORMAT = "loquent-controls"
JSON_VERSION = 1


def read_control_track(path: str | os.PathLike[str]) -> ControlTrack:
    """Reads a `.csv` or `.json` file.

    Raises:
        ControlsError: the file cannot be read or holds no control track; the message names line and column.
    """
    path = Path(path)
    readers = {".csv": _from_csv, ".json": _from_json}
    if path.suffix.lower() not in readers:
        raise ControlsError(f"{path}: a control track is read from a .csv or .json file; this is neither")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ControlsError(f"{path}: cannot be read ({error.strerror}); check the name") from error
    except UnicodeDecodeError as error:
        raise ControlsError(f"{path}: is not text in UTF-8; save it again as CSV or JSON") from error
    if len(content) > MAX_TEXT_BYTES:
        raise ControlsError(f"{path}: more than {MAX_TEXT_BYTES // 1024} KiB; thin out the rows")
    return _track_of(readers[path.suffix.lower()](text, str(path)), str(path))


def track_from_csv(text: str, name: str = "control track") -> ControlTrack:
    """The track in the text of a CSV file, as `ControlTrack.to_csv` makes it.

    Raises:
        ControlsError: it holds none; the message begins with `name` and says the line and column.
    """
    return _track_of(_from_csv(text, name), name)


def _track_of(rows: list[ControlRow], name: str) -> ControlTrack:
    if not rows:
        raise ControlsError(f"{name}: has no rows; write one or more, each with its time_s")
    return ControlTrack(rows)


def write_control_track(track: ControlTrack, path: str | os.PathLike[str]) -> None:
    """Writes a `.csv` or `.json` file, which appears under its name only when it is complete.

    Raises:
        ControlsError: another suffix, or the folder cannot be written to.
    """
    path = Path(path)
    writers = {".csv": ControlTrack.to_csv, ".json": _to_json}
    if path.suffix.lower() not in writers:
        raise ControlsError(f"{path}: a control track is written as .csv or .json; choose one of these suffixes")
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False, newline="") as file:
            temporary = Path(file.name)
            file.write(writers[path.suffix.lower()](track))
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise ControlsError(f"{path}: cannot be written ({error.strerror}); choose a folder that can be") from error


def _to_json(track: ControlTrack) -> str:
    rows = ",\n".join("    " + json.dumps(row.cells()) for row in track.rows)
    return f'{{\n  "format": "{JSON_FORMAT}",\n  "version": {JSON_VERSION},\n  "rows": [\n{rows}\n  ]\n}}\n'


def _from_json(text: str, name: str) -> list[ControlRow]:
    document = read_document(
        text, name, what="control track", wanted_format=JSON_FORMAT, version=JSON_VERSION, error=ControlsError
    )
    listed = document.get("rows")
    if not isinstance(listed, list):
        raise ControlsError(f'{name}: rows is no list; wanted one object a row, such as {{"time_s": 0}}')
    rows: list[ControlRow] = []
    for number, cells in enumerate(listed, 1):
        where = f"{name}: row {number}"
        if not isinstance(cells, dict):
            raise ControlsError(f'{where} is no object; write one such as {{"time_s": 0}}')
        _check_columns(list(cells), where)
        try:
            rows.append(row_of(cells))
            check_next(rows)
        except ControlsError as error:
            raise ControlsError(f"{where}, {error}") from error
    return rows


def _from_csv(text: str, name: str) -> list[ControlRow]:
    header_line = text.lstrip().partition("\n")[0]
    separator = ";" if header_line.count(";") > header_line.count(",") else ","
    lines = csv.reader(text.splitlines(), delimiter=separator, strict=True)
    rows: list[ControlRow] = []
    header: list[str] = []
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{name}: line {lines.line_num}"
            if not header:
                header = [cell.strip().lower() for cell in cells]
                _check_columns(header, where)
                continue
            if len(cells) > len(header):
                raise ControlsError(f"{where} has {len(cells)} cells, the header has {len(header)} columns")
            try:
                rows.append(_row_of_cells(header, cells, separator))
                check_next(rows)
            except ControlsError as error:
                raise ControlsError(f"{where}, {error}") from error
    except csv.Error as error:
        raise ControlsError(f"{name}: line {lines.line_num} is not CSV ({error})") from error
    return rows


def _row_of_cells(header: list[str], cells: list[str], separator: str) -> ControlRow:
    """A row from its cells; empty ones, and those that a short line lacks, are not stated."""
    values: dict[str, Any] = {}
    for column, cell in zip(header, cells, strict=False):
        if text := cell.strip():
            values[column] = text if column in LABELS else _numbers(column, text, separator)
    return row_of(values)


def _numbers(column: str, text: str, separator: str) -> float | tuple[float, ...]:
    """A number, or for motion statistics numbers between spaces."""
    if separator == ";":
        text = text.replace(",", ".")
    parts = text.split() if column in STATISTICS else [text]
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError as error:
        raise ControlsError(f"{column} is {text[:40]!r}; wanted a number") from error
    if not all(math.isfinite(number) for number in numbers):
        raise ControlsError(f"{column} is {text[:40]!r}; wanted a finite number")
    return numbers[0] if len(parts) == 1 else numbers


def _check_columns(columns: list[str], where: str) -> None:
    for place, column in enumerate(columns):
        if column not in COLUMNS:
            near = difflib.get_close_matches(column, COLUMNS, n=1)
            hint = f", nearest is {near[0]!r}" if near else ""
            raise ControlsError(f"{where}, column {column[:40]!r}: unknown{hint}; known: {', '.join(COLUMNS)}")
        if column in columns[:place]:
            raise ControlsError(f"{where}, column {column!r}: given twice; keep one of them")
    if "time_s" not in columns:
        raise ControlsError(f"{where}: no column time_s; every row says when it is, in seconds")
