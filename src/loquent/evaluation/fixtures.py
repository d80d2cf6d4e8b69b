"""Recorded numbers of published networks: files of weights, inputs and outputs, and lists of released tensor names.

A `<module>.safetensors` file holds `weights.<published name>`, `input.<name>` and `output.<name>`; its metadata holds
`config` (JSON) and `call` (what was evaluated). A `<module>.keys.json` file holds `{"keys": {name: shape}}` of the
released checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from loquent.errors import LoquentError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

KEY_LIST_SUFFIX = ".keys.json"


class ParityError(LoquentError):
    """A file of recorded numbers cannot be read."""


@dataclass(frozen=True)
class Fixture:
    """One module with small random weights, what went in and what the published code gave."""

    module: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def read_fixture(path: Path) -> Fixture:
    """Reads a `.safetensors` file of recorded numbers.

    Raises:
        ParityError: it is not one.
    """
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ParityError(f"{path} does not hold recorded numbers ({error}); copy it again") from error
    weights, inputs, outputs = (
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for prefix in ("weights.", "input.", "output.")
    )
    return Fixture(path.name.removesuffix(".safetensors"), config, weights, inputs, outputs)


def read_key_list(path: Path) -> dict[str, Tensor]:
    """A state dict without memory (meta device) with the released names and shapes.

    Raises:
        ParityError: the file is not a key list.
    """
    try:
        shapes = json.loads(path.read_text())["keys"]
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParityError(f"{path} is not a list of released names ({error}); copy it again") from error
