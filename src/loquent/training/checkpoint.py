"""State of a training run on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes beside the old checkpoint and then takes its place, so that a stop never leaves a broken one."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_NAME}.part"
    torch.save(state, temporary)
    temporary.rename(folder / _NAME)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint of a run, or None when it has not made one."""
    path = folder / _NAME
    return torch.load(path, weights_only=True, map_location="cpu") if path.is_file() else None
