"""Recorded numbers of the published networks, whole tensors at 1e-4."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from loquent.diffusion.gaussian import Schedule, add_noise, linear_betas
from loquent.errors import WeightsError
from loquent.evaluation.fixtures import read_fixture, read_key_list
from loquent.evaluation.parity_ifmdm import EVALUATORS, KEY_LOADERS, TOLERANCES
from loquent.models.ifmdm import Autoencoder, MotionDiffusionTransformer, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.transformer import position_table
from loquent.models.ifmdm.weights import autoencoder_names, from_published
from loquent.training.diffusion_losses import noise_losses
from loquent.training.ifmdm_motion_losses import split_window

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
        tolerance = TOLERANCES.get(name, {}).get(output, 1e-4)
        torch.testing.assert_close(ours[output], recorded, rtol=1e-4, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize("name", KEY_LISTS)
def test_published_names_and_shapes_load_strictly(name):
    KEY_LOADERS[name](read_key_list(FOLDER / f"{name}.keys.json"))


@torch.no_grad()
def test_recorded_training_loss():
    """The recorded file without weights and speech, which made up most of it."""
    fixture = read_fixture(FOLDER / "terms" / "training_loss.safetensors")
    recorded, step, noise = fixture.outputs, fixture.inputs["t"], fixture.inputs["noise"]
    motion = fixture.inputs["motion"]
    window = split_window(motion, torch.zeros(3, 65, 2, 1))
    for name in ("hint", "mean", "std"):
        torch.testing.assert_close(getattr(window, name)[:, None], recorded[f"x_{name}"])
    schedule = Schedule.full(linear_betas())
    noisy = add_noise(schedule, window.motion, noise, step)
    torch.testing.assert_close(noisy, recorded["x_t"], rtol=1e-5, atol=1e-5)
    predicted, logits = recorded["model_output"].chunk(2, dim=-1)
    terms = noise_losses(schedule, window.motion, noisy, noise, step, predicted, logits)
    torch.testing.assert_close(terms["noise"], recorded["mse"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["bound"], recorded["vb"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["noise"] + terms["bound"], recorded["loss"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["a0", "a1"])
def test_number_of_parameters_of_the_transformer(variant):
    recorded = json.loads((FOLDER / f"dit_{variant}.keys.json").read_text())
    with torch.device("meta"):
        network = MotionDiffusionTransformer(get_motion_preset(variant))
    assert sum(value.numel() for value in network.parameters()) == recorded["trainable_parameters"]


def test_positions_are_published():
    # recorded as a parameter; ours is rebuilt at construction
    with safe_open(FOLDER / "dit.safetensors", "pt") as file:
        recorded = file.get_tensor("weights.pos_embed")[0]
    torch.testing.assert_close(position_table(67, 64), recorded, rtol=0, atol=1e-6)


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
