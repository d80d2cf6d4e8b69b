"""Compares our networks with the recorded numbers of the published ones, file by file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from loquent.errors import LoquentError
from loquent.evaluation import (
    parity_ifmdm,
    parity_keypoints,
    parity_moda,
    parity_moditalker,
    parity_renderer,
    parity_speech,
)
from loquent.evaluation.fixtures import KEY_LIST_SUFFIX, ParityError, read_fixture, read_key_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from loquent.evaluation.fixtures import Fixture

TOLERANCE = 1e-4  # absolute, or relative for values above 1

# Module name -> what our code gives for the fixture's inputs, under the fixture's output names.
EVALUATORS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    **parity_moda.EVALUATORS,
    **parity_keypoints.EVALUATORS,
    **parity_renderer.EVALUATORS,
    **parity_speech.EVALUATORS,
    **parity_ifmdm.EVALUATORS,
    **parity_moditalker.EVALUATORS,
}
# Module name -> loads a state dict of the released names and shapes, strictly.
KEY_LOADERS: dict[str, Callable[[dict[str, Tensor]], None]] = {
    **parity_moda.KEY_LOADERS,
    **parity_renderer.KEY_LOADERS,
    **parity_speech.KEY_LOADERS,
    **parity_ifmdm.KEY_LOADERS,
    **parity_moditalker.KEY_LOADERS,
}
# Outputs held to something else; the reason stands where each is given.
TOLERANCES: dict[str, dict[str, float]] = {
    **parity_keypoints.TOLERANCES,
    **parity_ifmdm.TOLERANCES,
    **parity_moditalker.TOLERANCES,
}


@dataclass(frozen=True)
class ParityResult:
    """How one file fared."""

    file: str
    status: Literal["ok", "differs", "missing"]  # missing: we have no such module yet
    max_abs: float = 0.0
    max_rel: float = 0.0  # over recorded values above 1
    note: str = ""

    @property
    def met(self) -> bool:
        return self.status == "ok"

    def __str__(self) -> str:
        if self.status == "missing":
            return f"{self.file:48} no implementation yet"
        verdict = "ok" if self.met else "NOT OK"
        figures = "" if self.file.endswith(KEY_LIST_SUFFIX) else f"abs {self.max_abs:.1e}  rel {self.max_rel:.1e}  "
        return f"{self.file:48} {figures}{verdict}{'  ' + self.note if self.note else ''}"


def check_folder(folder: Path) -> Iterator[ParityResult]:
    """Checks every fixture and key list of a folder, in the order of their names.

    Raises:
        ParityError: there are none.
    """
    paths = sorted([*folder.glob("*.safetensors"), *folder.glob(f"*{KEY_LIST_SUFFIX}")])
    if not paths:
        raise ParityError(f"{folder} holds no *.safetensors or *{KEY_LIST_SUFFIX}; name a folder of recorded numbers")
    return (check_file(path) for path in paths)


def check_file(path: Path) -> ParityResult:
    """Runs our module on one file.

    Raises:
        ParityError: the file cannot be read.
    """
    return _check_key_list(path) if path.name.endswith(KEY_LIST_SUFFIX) else _check_fixture(path)


def _check_key_list(path: Path) -> ParityResult:
    load = KEY_LOADERS.get(path.name.removesuffix(KEY_LIST_SUFFIX))
    if load is None:
        return ParityResult(path.name, "missing")
    state = read_key_list(path)
    try:
        load(state)
    except LoquentError as error:
        return ParityResult(path.name, "differs", note=str(error))
    return ParityResult(path.name, "ok", note=f"{len(state)} released names load")


def _check_fixture(path: Path) -> ParityResult:
    evaluate = EVALUATORS.get(path.name.removesuffix(".safetensors"))
    if evaluate is None:
        return ParityResult(path.name, "missing")
    fixture = read_fixture(path)
    try:
        with torch.no_grad():
            ours = evaluate(fixture)
    except (LoquentError, RuntimeError, KeyError, ValueError, TypeError) as error:
        # A fixture of another configuration can fail anywhere in a network; the other files are still to be checked.
        return ParityResult(path.name, "differs", note=f"{type(error).__name__}: {error}")
    return compare(path.name, ours, fixture.outputs, TOLERANCES.get(fixture.module, {}))


def compare(
    file: str, ours: Mapping[str, Tensor], recorded: Mapping[str, Tensor], tolerances: Mapping[str, float]
) -> ParityResult:
    """Compares every recorded output; one that we do not give, or of another shape, is not met.

    Args:
        file: name for the result.
        ours: outputs of our module.
        recorded: outputs of the published module.
        tolerances: for outputs that are not held to `TOLERANCE`.
    """
    max_abs = max_rel = 0.0
    notes = []
    for name, wanted in recorded.items():
        if name not in ours:
            notes.append(f"{name} is not given")
            continue
        given, wanted = ours[name].double(), wanted.double()
        if given.shape != wanted.shape:
            notes.append(f"{name} is {tuple(given.shape)} for {tuple(wanted.shape)}")
            continue
        off = (given - wanted).abs()
        scale = wanted.abs().clamp(min=1)
        tolerance = tolerances.get(name, TOLERANCE)
        if not bool((off <= tolerance * scale).all()):  # NaN is not within anything
            notes.append(f"{name} is off by up to {off.max():.2e}")
        max_abs = max(max_abs, float(off.max()))
        max_rel = max(max_rel, float(torch.where(scale > 1, off / scale, 0.0).max()))
    return ParityResult(file, "differs" if notes else "ok", max_abs, max_rel, "; ".join(notes))
