"""What a user who installs the package relies on, checked on the repository's files."""

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "loquent"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="runs in a checkout")


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ]", item)[0].lower().replace("_", "-") for item in requirements}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def data_files() -> list[Path]:
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_file()]
    return [path for path in files if path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts]


def test_every_data_file_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["loquent"]
    packaged = {path.relative_to(PACKAGE) for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert sorted(set(data_files()) - packaged) == []


def test_every_dependency_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = requirement_names([*PROJECT["project"]["dependencies"], *itertools.chain(*extras.values())])
    assert sorted(wanted - set(pinned())) == []
    assert pinned()["torch"] == "2.13.0"  # the build for processors carries a suffix that a plain pin accepts


WEIGHTS = sorted(path for path in (PACKAGE / "weights").glob("*") if path.is_dir() and path.name != "__pycache__")


@pytest.mark.parametrize("folder", WEIGHTS, ids=lambda path: path.name)
def test_weights_have_all_files_and_a_card_of_the_usual_form(folder):
    assert (folder / "model.safetensors").is_file()
    assert json.loads((folder / "config.json").read_text())
    card = (folder / "CARD.md").read_text()
    assert card.startswith(f"# {folder.name}")
    rows = {line.split("|")[1].strip() for line in card.splitlines() if line.startswith("|")}
    wanted = {"network", "data", "recipe", "command", "steps", "hardware", "time", "licence"}
    assert wanted - rows == set()
    assert {line for line in card.splitlines() if line.startswith("## ")} >= {"## Measured", "## Limits"}


def test_weights_are_small():
    assert sum(path.stat().st_size for path in (PACKAGE / "weights").rglob("*.safetensors")) < 60e6


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_nothing_in_the_package_points_outside():
    for path in PACKAGE.rglob("*.py"):
        assert "/work/" not in path.read_text(encoding="utf-8"), path


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_ci_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_importing_is_cheap():
    code = "import sys, loquent; print(sorted(m for m in ('torch', 'cv2', 'av', 'numpy', 'PIL') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_modules_import_without_side_effects(tmp_path):
    """No module needs an extra, makes a file or sets up logging when it is imported."""
    modules = [PurePath(path.relative_to(PACKAGE.parent)).with_suffix("") for path in sorted(PACKAGE.rglob("*.py"))]
    names = [".".join(module.parts) for module in modules if module.name not in ("__main__", "__init__")]
    code = (
        "import importlib, logging, sys\n"
        "for extra in ('mediapipe', 'pocketsphinx', 'espeakng_loader', 'accelerate', 'huggingface_hub',"
        " 'scipy', 'tensorboard'):\n"
        "    sys.modules[extra] = None\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "assert not logging.getLogger().handlers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
