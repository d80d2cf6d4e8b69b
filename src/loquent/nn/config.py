"""Configurations of networks: saved as JSON beside the weights, and picked by name."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, TypeVar

from loquent.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

C = TypeVar("C")


class SavedConfig:
    """Base of frozen dataclasses of plain numbers and tuples of them."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            WeightsError: the file is missing or holds unknown names.
        """
        try:
            values = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise WeightsError(
                f"{path} is not a readable configuration ({error}); restore the weights folder"
            ) from error
        unknown = sorted(set(values) - {item.name for item in fields(cls)})  # type: ignore[arg-type]
        if unknown:
            raise WeightsError(
                f"{path} holds the unknown names {unknown}; it belongs to another network than {cls.__name__} says, or "
                f"to another version of loquent"
            )
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def pick_preset(presets: Mapping[str, C], name: str) -> C:
    """The configuration called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    if name not in presets:
        near = difflib.get_close_matches(name, presets, n=1)
        raise WeightsError(f"unknown preset {name!r}; known: {sorted(presets)}; nearest: {near}")
    return presets[name]
