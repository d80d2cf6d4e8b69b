"""How runs are put together from presets, files and the command line."""

from dataclasses import dataclass, field

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

from loquent.cli import app
from loquent.errors import LoquentError
from loquent.training.loop import TrainSettings, train
from loquent.training.machines import Machines, join_machines, to_device
from loquent.training.recipes import RECIPES, Recipe, load_recipe, plan_run, run_plan


@dataclass(frozen=True, kw_only=True)
class LineNetwork:
    width: int = 1
    layers: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise LoquentError(f"width is {self.width}; choose 1 or more")


@dataclass(frozen=True, kw_only=True)
class LineRecipe:
    train: TrainSettings
    network: LineNetwork = field(default_factory=LineNetwork)
    noise: float = 0.0


def fit_line(config: LineRecipe, data, output, device):
    """Learns to double a number."""
    torch.manual_seed(config.train.seed)

    def batch(number):
        return torch.randn(8, 1, generator=torch.Generator().manual_seed(number))

    def loss(network, x, random):
        return {"loss": (network(x) - 2 * x).square().mean()}

    return train(nn.Linear(1, config.network.width), loss, batch, config.train, output, device=device)


RECIPE = Recipe(
    presets={
        "large": LineRecipe(train=TrainSettings(steps=100)),
        "debug": LineRecipe(train=TrainSettings(steps=6, save_every=3, log_every=3), noise=0.5),
    },
    run=fit_line,
    data="numbers",
    write_debug_data=lambda folder: folder.mkdir(parents=True),
)


@pytest.fixture(autouse=True)
def line_recipe(monkeypatch):
    monkeypatch.setitem(RECIPES, "line", ("test_training_recipes:RECIPE", "A line"))


def test_a_plan_is_preset_then_file_then_changes(tmp_path):
    file = tmp_path / "changes.yaml"
    file.write_text("train:\n  steps: 50\n  learning_rate: 1e-4\nnetwork:\n  layers: [3, 4, 5]\n")
    plan = plan_run("line", tmp_path / "run", tmp_path, file=file, changes=["train.steps=70", "noise=0.25"])
    assert plan.preset == "large"
    assert plan.config == LineRecipe(
        train=TrainSettings(steps=70, learning_rate=1e-4), network=LineNetwork(layers=(3, 4, 5)), noise=0.25
    )


def test_a_run_keeps_its_settings_and_goes_on_with_them(tmp_path):
    output = tmp_path / "run"
    run_plan(plan_run("line", output, preset="debug", changes=["network.width=2"]), output, "cpu")
    assert yaml.safe_load((output / "recipe.yaml").read_text())["config"]["network"]["width"] == 2
    with pytest.raises(LoquentError, match="add --resume"):
        plan_run("line", output, preset="debug")
    with pytest.raises(LoquentError, match="a run of the preset 'debug', which it keeps"):
        plan_run("line", output, preset="large", resume=True)
    plan = plan_run("line", output, changes=["train.steps=9"], resume=True)
    assert (plan.preset, plan.config.network.width, plan.config.train.steps) == ("debug", 2, 9)
    assert plan.data == output / "data"
    run_plan(plan, output, "cpu")
    assert (output / "log.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "lime"}, "nearest is 'line'"),
        ({"preset": "larger"}, "no preset 'larger'; known: large, debug"),
        ({"changes": ["train.stepz=1"]}, "unknown key train.stepz, nearest is train.steps"),
        ({"changes": ["train.steps=many"]}, r"train\.steps: .* got 'many'"),
        ({"changes": ["noise"]}, "write key=value"),
        ({"changes": ["train.optimizer=sgd"]}, r"train\.optimizer"),
        ({"changes": ["network.layers=[1, x]"]}, r"network\.layers"),
        ({"changes": ["network.width=0"]}, "^network: width is 0; choose 1 or more$"),
        ({"data": None}, "learns from a folder, --data: numbers"),
        ({"data": "missing"}, "no such folder"),
        ({"resume": True}, "holds no run to resume"),
        ({"file": "missing.yaml"}, "cannot be read as YAML"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, given, message):
    given = {"name": "line", "data": tmp_path} | given
    given |= {key: tmp_path / given[key] for key in ("data", "file") if isinstance(given.get(key), str)}
    with pytest.raises(LoquentError, match=message):
        plan_run(given.pop("name"), tmp_path / "run", **given)


def test_a_run_of_another_recipe_is_not_resumed(tmp_path):
    (tmp_path / "recipe.yaml").write_text("recipe: circle\n")
    with pytest.raises(LoquentError, match="a run of 'circle'"):
        plan_run("line", tmp_path, resume=True)


def test_the_command_lists_and_trains(tmp_path):
    runner = CliRunner()
    listed = runner.invoke(app, ["train", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in RECIPES)
    done = runner.invoke(app, ["train", "line", "--debug", "--output", str(tmp_path / "run"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    again = runner.invoke(app, ["train", "line", "--debug", "--output", str(tmp_path / "run")])
    assert again.exit_code == 2
    assert runner.invoke(app, ["train", "line", "--debug", "--preset", "large"]).exit_code == 2
    assert runner.invoke(app, ["train"]).exit_code == 2


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_can_be_loaded_and_written(name, tmp_path):
    recipe = load_recipe(name)
    assert "debug" in recipe.presets
    for preset in recipe.presets:
        plan = plan_run(name, tmp_path / preset, tmp_path, preset)
        plan.save(tmp_path / preset)
        assert plan_run(name, tmp_path / preset, resume=True).config == recipe.presets[preset]
    debug = recipe.presets["debug"].train
    assert debug.save_every < debug.steps


def test_a_process_of_its_own_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    machines = join_machines("cpu")
    assert (machines.rank, machines.count, machines.is_main, machines.accelerator) == (0, 1, True, None)
    with pytest.raises(LoquentError, match="unknown device"):
        join_machines("tpu")


def test_a_launched_process_asks_accelerate(monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    machines = join_machines("cpu")
    assert machines.accelerator is not None
    assert machines.count == 1
    assert machines.mean(torch.tensor(3.0)) == 3
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    PartialState._reset_state()
    with pytest.raises((LoquentError, ValueError)):
        join_machines("cpu")
    AcceleratorState._reset_state()
    PartialState._reset_state()


def test_gradients_are_averaged_over_processes():
    """Two processes that are played by one: the other has no gradient for the bias, and none has one for `idle`."""

    class Pair:
        def reduce(self, values, how):
            other = torch.zeros_like(values)
            other[0] = 1  # the weight's presence
            other[3] = 4.0  # the weight's gradient
            other[-1] = 1.0  # the running value
            return (values + other) / 2

    network = nn.ParameterDict({"weight": torch.zeros(1), "bias": torch.zeros(1), "idle": torch.zeros(1)})
    network.register_buffer("running", torch.tensor([3.0]))
    weights = [network["weight"], network["bias"], network["idle"]]
    weights[0].grad, weights[1].grad = torch.tensor([2.0]), torch.tensor([6.0])
    Machines(torch.device("cpu"), 0, 2, accelerator=Pair()).average(network, weights)  # type: ignore[arg-type]
    assert weights[0].grad == 3
    assert weights[1].grad == 3
    assert weights[2].grad is None
    assert network.running == 2


def test_batches_of_any_shape_are_moved():
    @dataclass(frozen=True)
    class Batch:
        x: torch.Tensor
        name: str

    moved = to_device((Batch(torch.ones(1), "a"), {"y": [torch.zeros(2)]}, 3), torch.device("meta"))
    assert moved[0].x.device.type == "meta"
    assert moved[0].name == "a"
    assert moved[1]["y"][0].device.type == "meta"
    assert moved[2] == 3
