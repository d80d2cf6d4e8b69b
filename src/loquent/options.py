"""Options of one system beyond `Controls`: a frozen dataclass, filled from what people type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from loquent.errors import ControlsError

T = TypeVar("T")


def split_options(texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE texts of the command line.

    Raises:
        ControlsError: a text has no "=", or a name comes twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ControlsError(f"the option {text!r} has no value; write NAME=VALUE")
        if name.strip() in values:
            raise ControlsError(f"the option {name.strip()!r} was given twice")
        values[name.strip()] = value.strip()
    return values


def parse_options(kind: type[T], values: Mapping[str, Any], system: str) -> T:
    """A system's options; texts are read as the type that is wanted.

    Raises:
        ControlsError: an unknown name, or a value that cannot be; the message names it.
    """
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ControlsError(f"the system {system!r} has no option {name!r}; known: {', '.join(known)}")
    given = {name: None if value == "none" else value for name, value in values.items()}
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), ControlsError):
            raise cause from error
        name = ".".join(str(part) for part in first["loc"])
        raise ControlsError(f"option {name} is {first['input']!r}: {first['msg']}") from error
