"""Recorded numbers of the published systems, through the code that `benchmarks/parity.py` runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loquent.evaluation.fixtures import KEY_LIST_SUFFIX, ParityError
from loquent.evaluation.parity import check_file, check_folder, compare

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "parity"
FILES = sorted([*FOLDER.glob("*/*.safetensors"), *FOLDER.glob(f"*/*{KEY_LIST_SUFFIX}")])


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.name}" for path in FILES])
def test_recorded_numbers_are_met(path):
    result = check_file(path)
    assert result.met, result


def test_a_difference_is_found_and_measured():
    recorded = {"y": torch.tensor([0.5, 10.0])}
    assert compare("f", {"y": torch.tensor([0.50005, 10.0009])}, recorded, {}).met
    for off in ([0.5002, 10.0], [0.5, 10.002], [float("nan"), 10.0]):
        assert not compare("f", {"y": torch.tensor(off)}, recorded, {}).met
    result = compare("f", {"y": torch.tensor([0.5, 11.0])}, recorded, {})
    assert result.max_abs == pytest.approx(1.0)
    assert result.max_rel == pytest.approx(0.1)


def test_missing_and_misshapen_outputs_are_not_met():
    recorded = {"y": torch.zeros(2), "z": torch.zeros(2)}
    result = compare("f", {"y": torch.zeros(1, 2)}, recorded, {})
    assert "y is (1, 2) for (2,)" in result.note
    assert "z is not given" in result.note


def test_an_output_may_have_its_own_tolerance():
    assert compare("f", {"y": torch.tensor([100])}, {"y": torch.tensor([101])}, {"y": 1.0}).met


def test_modules_that_we_lack_are_told_apart_and_not_met(tmp_path):
    save_file({"input.x": torch.zeros(1)}, tmp_path / "warp_drive.safetensors", {"config": "{}"})
    (tmp_path / "warp_drive.keys.json").write_text("{}")
    results = list(check_folder(tmp_path))
    assert [result.status for result in results] == ["missing", "missing"]
    assert not any(result.met for result in results)
    assert "no implementation yet" in str(results[0])


def test_names_of_another_checkpoint_are_not_met(tmp_path):
    path = tmp_path / "talking_head_dit.keys.json"
    path.write_text(json.dumps({"keys": {"talking_head_dit.blocks.0.surprise.weight": [1]}}))
    assert "does not belong to the MoDA generator" in check_file(path).note


def test_folders_and_files_without_recordings_are_errors(tmp_path):
    with pytest.raises(ParityError, match="name a folder of recorded numbers"):
        check_folder(tmp_path)
    (tmp_path / "rope.safetensors").write_bytes(b"no")
    with pytest.raises(ParityError, match="does not hold recorded numbers"):
        check_file(tmp_path / "rope.safetensors")


def test_the_script_exits_with_one_when_a_file_is_not_met(tmp_path):
    (tmp_path / "rope.safetensors").write_bytes((FOLDER / "moda" / "rope.safetensors").read_bytes())
    save_file({"input.x": torch.zeros(1)}, tmp_path / "warp_drive.safetensors", {"config": "{}"})
    command = [sys.executable, str(ROOT / "benchmarks" / "parity.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("rope.safetensors")
    assert lines[0].endswith("ok")
    assert lines[1].endswith("no implementation yet")
    assert "1 of 2 met" in lines[2]
