"""Recipes: what `loquent train NAME` runs. docs/training.md lists them; this module finds, changes and starts them.

A recipe is a table of presets (frozen dataclasses of plain numbers with the field `train: TrainSettings`) and a function
that trains by one. It is the last thing in the module that trains its network, and has a line in `RECIPES`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from loquent.errors import LoquentError
from loquent.training.machines import launched_rank

if TYPE_CHECKING:
    from torch import nn

    from loquent.training.loop import TrainSettings

# Name -> where it is, and what it trains. Modules are imported when their recipe is run.
RECIPES = {
    "moda-motion": ("loquent.training.moda_motion:RECIPE", "MoDA's motion generator"),
    "moda-renderer": ("loquent.training.moda_renderer:RECIPE", "MoDA's warping renderer"),
    "ifmdm-autoencoder": ("loquent.training.ifmdm_autoencoder:RECIPE", "IF-MDM's renderer"),
    "ifmdm-motion": ("loquent.training.ifmdm_motion:RECIPE", "IF-MDM's motion transformer"),
    "moditalker-atom": ("loquent.training.moditalker_atom:RECIPE", "MoDiTalker's AToM, speech to landmarks"),
    "moditalker-autoencoder": ("loquent.training.moditalker_autoencoder:RECIPE", "MToV's autoencoder of pictures"),
    "moditalker-landmark-autoencoder": (
        "loquent.training.moditalker_autoencoder:LANDMARK_RECIPE",
        "MToV's autoencoder of dot pictures",
    ),
    "moditalker-diffusion": ("loquent.training.moditalker_diffusion:RECIPE", "MToV's denoiser of latent clips"),
}

SETTINGS_NAME = "recipe.yaml"
DEBUG = "debug"


class Config(Protocol):
    """What every recipe's configuration has; beside it, what the recipe needs: sizes, weights of losses, ..."""

    @property
    def train(self) -> TrainSettings: ...


C = TypeVar("C", bound=Config)


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[C]):
    """How something is trained."""

    presets: Mapping[str, C]  # the first is taken by default; "debug" is tiny and learns something in seconds
    run: Callable[[C, Path, Path, str], nn.Module]  # configuration, data folder, output folder, device -> network
    data: str  # what the data folder holds and how it is made, for the help
    write_debug_data: Callable[[Path], None]  # fills a folder for the preset "debug"
    falls: str = "loss"  # the number in log.jsonl that the preset "debug" brings down


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run as it was asked for, kept in the output folder."""

    recipe: str
    preset: str
    data: Path
    config: Config

    def save(self, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        config = asdict(self.config)  # type: ignore[call-overload]
        content = {"recipe": self.recipe, "preset": self.preset, "data": str(self.data), "config": config}
        (output / SETTINGS_NAME).write_text(yaml.safe_dump(content, sort_keys=False))


def load_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        LoquentError: there is none.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f", nearest is {near[0]!r}" if near else ""
        raise LoquentError(f"unknown recipe {name!r}{hint}; known: {', '.join(RECIPES)}")
    module, attribute = RECIPES[name][0].split(":")
    return getattr(importlib.import_module(module), attribute)


def plan_run(
    name: str,
    output: Path,
    data: Path | None = None,
    preset: str | None = None,
    file: Path | None = None,
    changes: Sequence[str] = (),
    *,
    resume: bool = False,
) -> Plan:
    """Puts a run together: preset, then the YAML file's values, then `changes`.

    Args:
        output: folder of the run.
        data: folder to learn from; the preset "debug" makes its own in `output`.
        preset: name in the recipe's table.
        file: YAML with values to change, nested as the configuration is.
        changes: "key=value", with dots between nested keys: "train.steps=1000".
        resume: go on with the run in `output`, with its data and its configuration as the ground of changes.

    Raises:
        LoquentError: something is unknown, missing, of the wrong kind, or in the way.
    """
    recipe = load_recipe(name)
    saved = _read_saved(name, output) if resume else {}
    if not resume and (output / "checkpoint.pt").exists():
        raise LoquentError(f"{output} holds a run already; add --resume to go on with it, or choose another --output")
    preset = str(preset or saved.get("preset") or next(iter(recipe.presets)))
    if preset not in recipe.presets:
        raise LoquentError(f"{name} has no preset {preset!r}; known: {', '.join(recipe.presets)}")
    if preset != saved.get("preset", preset):
        raise LoquentError(
            f"{output} holds a run of the preset {saved['preset']!r}, which it keeps; leave out --preset"
        )
    values = asdict(recipe.presets[preset])  # type: ignore[call-overload]
    _merge(values, saved.get("config", {}), str(output / SETTINGS_NAME))
    if file is not None:
        _merge(values, _read_yaml(file), str(file))
    for change in changes:
        _merge(values, _parse_change(change), "--set")
    config = _check(type(recipe.presets[preset]), values)
    if data is None and resume:
        data = Path(saved["data"])
    if data is None and preset == DEBUG:
        data = output / (f"data-{rank}" if (rank := launched_rank()) else "data")
        recipe.write_debug_data(data)
    if data is None:
        raise LoquentError(f"{name} learns from a folder, --data: {recipe.data}")
    if not data.is_dir():
        raise LoquentError(f"{data}: no such folder; {name} wants {recipe.data}")
    return Plan(recipe=name, preset=preset, data=data, config=config)


def run_plan(plan: Plan, output: Path, device: str = "auto") -> nn.Module:
    """Trains; returns the averaged network. Several processes may run the same plan (docs/training.md)."""
    if launched_rank() == 0:
        plan.save(output)
    return load_recipe(plan.recipe).run(plan.config, plan.data, output, device)


def _read_saved(name: str, output: Path) -> dict[str, Any]:
    path = output / SETTINGS_NAME
    if not path.is_file():
        raise LoquentError(f"{output} holds no run to resume; leave out --resume to start one")
    saved = _read_yaml(path)
    if saved.get("recipe") != name:
        raise LoquentError(f"{output} holds a run of {saved.get('recipe')!r}, not of {name!r}")
    return saved


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LoquentError(f"{path} cannot be read as YAML ({error})") from error
    if not isinstance(values, dict):
        raise LoquentError(f"{path} holds no keys and values; write lines such as 'train:' and '  steps: 1000'")
    return values


def _parse_change(change: str) -> dict[str, Any]:
    """'a.b=1' as {'a': {'b': 1}}."""
    key, sign, value = change.partition("=")
    if not sign:
        raise LoquentError(f"--set {change!r} has no value; write key=value, such as train.steps=1000")
    try:
        nested = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise LoquentError(f"--set {change!r}: the value cannot be read ({error})") from error
    for name in reversed(key.strip().split(".")):
        nested = {name: nested}
    return nested


def _merge(values: dict[str, Any], changes: Mapping[str, Any], source: str, above: str = "") -> None:
    """Puts `changes` into `values`, level by level."""
    for name, change in changes.items():
        if name not in values:
            near = difflib.get_close_matches(str(name), values, n=1)
            hint = f", nearest is {above}{near[0]}" if near else ""
            raise LoquentError(f"{source}: unknown key {above}{name}{hint}; known: {', '.join(values)}")
        if isinstance(values[name], dict) and isinstance(change, Mapping):
            _merge(values[name], change, source, f"{above}{name}.")
        else:
            values[name] = change


def _check(kind: type, values: dict[str, Any]) -> Any:
    """The configuration of these values, with their types checked."""
    assert is_dataclass(kind)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "value_error":  # of a configuration itself, which says what it was given
            raise LoquentError(f"{place}: {first.get('ctx', {}).get('error')}") from error
        raise LoquentError(f"{place}: {first['msg']}; got {first.get('input')!r}") from error
