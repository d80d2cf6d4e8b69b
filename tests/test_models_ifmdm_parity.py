"""Recorded numbers of the published networks, whole tensors at 1e-4."""

import json
from pathlib import Path

import pytest
import torch

from loquent.errors import WeightsError
from loquent.evaluation.fixtures import read_fixture, read_key_list
from loquent.evaluation.parity_ifmdm import EVALUATORS, KEY_LOADERS
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset
from loquent.models.ifmdm.weights import autoencoder_names, from_published

FOLDER = Path(__file__).parent / "parity" / "ifmdm"
FIXTURES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
KEY_LISTS = sorted(path.name.removesuffix(".keys.json") for path in FOLDER.glob("*.keys.json"))


@pytest.mark.parametrize("name", FIXTURES)
@torch.no_grad()
def test_recorded_numbers(name):
    fixture = read_fixture(FOLDER / f"{name}.safetensors")
    ours = EVALUATORS[name](fixture)
    assert set(ours) == set(fixture.outputs)
    for output, recorded in fixture.outputs.items():
        torch.testing.assert_close(ours[output], recorded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KEY_LISTS)
def test_published_names_and_shapes_load_strictly(name):
    KEY_LOADERS[name](read_key_list(FOLDER / f"{name}.keys.json"))


@pytest.mark.parametrize("size", [256, 512])
def test_every_published_number_is_ours_or_without_effect(size):
    path = FOLDER / f"generator_{size}.keys.json"
    recorded, state = json.loads(path.read_text()), read_key_list(path)
    config = get_autoencoder_preset(f"published-{size}")
    dropped = {name for name, ours in autoencoder_names(config).items() if ours is None}
    buffers = set(recorded["buffer_keys"])
    assert buffers < dropped
    with torch.device("meta"):
        network = Autoencoder(config)
    without_effect = sum(state[name].numel() for name in dropped - buffers)
    assert sum(value.numel() for value in network.parameters()) + without_effect == recorded["parameters"]


@pytest.mark.parametrize("change", ["add", "drop"])
def test_names_that_do_not_belong_or_are_missing_are_errors(change):
    config = get_autoencoder_preset("tiny")
    state = dict.fromkeys(autoencoder_names(config), torch.zeros(1))
    if change == "add":
        state["dec.surprise"] = torch.zeros(1)
    else:
        del state["dec.direction.weight"]
    with pytest.raises(WeightsError, match=r"gen\.pt .*'(dec\.surprise|dec\.direction\.weight)'"):
        from_published(state, autoencoder_names(config), "gen.pt")
