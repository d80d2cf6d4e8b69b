"""What every training recipe must do, on its preset "debug": learn, stop, go on exactly, and be told in the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from loquent.training.checkpoint import load_checkpoint
from loquent.training.recipes import load_recipe, plan_run, run_plan


def check_debug_recipe(name: str, folder: Path) -> Path:
    """Runs a recipe once through, and once in two parts; returns the output folder of the first."""
    whole, parts = folder / "whole", folder / "parts"
    plan = plan_run(name, whole, preset="debug")
    torch.manual_seed(1)
    run_plan(plan, whole, "cpu")
    log = read_log(whole)
    falls = load_recipe(name).falls
    assert log[-1][falls] < log[0][falls], f"{falls} of {name} does not fall: {[line[falls] for line in log]}"

    stop = plan.config.train.save_every
    assert stop < plan.config.train.steps, "the debug preset must save before its end, so that resuming is tested"
    torch.manual_seed(2)  # nothing may depend on what was drawn before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loquent.training.loop.save_checkpoint", _saves_once())
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan_run(name, parts, preset="debug"), parts, "cpu")
    assert (load_checkpoint(parts) or {})["step"] == stop
    run_plan(plan_run(name, parts, resume=True), parts, "cpu")
    assert read_log(parts) == log
    first, second = ((load_checkpoint(output) or {})["network"] for output in (whole, parts))
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    return whole


def read_log(folder: Path) -> list[dict[str, float]]:
    """Lines of log.jsonl without their times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "s_per_step"} for line in lines]


def _saves_once():
    from loquent.training.checkpoint import save_checkpoint

    def save(folder, state):
        save_checkpoint(folder, state)
        raise KeyboardInterrupt

    return save
