"""Weights in files, and loading those that must fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from loquent.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name, in float32, in whatever precision they were kept.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} does not hold weights ({error}); restore the folder") from error


def write_weights(network: nn.Module, path: Path, others: Mapping[str, Tensor] | None = None) -> None:
    """Writes a .safetensors file of a network's weights in half precision, and of `others` as they are."""
    state = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    save_file(state | {name: value.cpu().contiguous() for name, value in (others or {}).items()}, path)


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads weights that must fit without a gap. A network on the device "meta" takes the given tensors over.

    Raises:
        WeightsError: a name or a shape does not fit.
    """
    expected = network.state_dict()
    missing = sorted(set(expected) - set(state))
    extra = sorted(set(state) - set(expected))
    misfits = [
        f"{name} {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if missing or extra or misfits:
        raise WeightsError(
            f"{source} does not fit {type(network).__name__}: missing {missing[:5]}, unexpected {extra[:5]}, "
            f"wrong shapes {misfits[:5]}; use the configuration that these weights were made with"
        )
    if any(value.is_meta for value in expected.values()):  # built without memory: it takes these tensors over
        network.load_state_dict({name: state[name].to(expected[name].dtype) for name in expected}, assign=True)
    else:
        network.load_state_dict(dict(state))
