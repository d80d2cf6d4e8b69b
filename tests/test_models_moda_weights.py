"""Published names of the generator to ours. Recorded numbers are met in test_parity.py."""

import json
from pathlib import Path

import pytest
import torch

from loquent.errors import WeightsError
from loquent.models.moda.config import BASE, get_preset
from loquent.models.moda.network import MotionTransformer
from loquent.models.moda.weights import from_published, load_exactly, load_published

KEY_LIST = Path(__file__).parent / "parity" / "moda" / "talking_head_dit.keys.json"


def test_released_names_and_shapes_load_strictly_with_and_without_the_null_vector():
    released = json.loads(KEY_LIST.read_text())
    with torch.device("meta"):
        network = MotionTransformer(BASE)
        state = {f"talking_head_dit.{name}": torch.empty(shape) for name, shape in released["keys"].items()}
        load_published(network, state, "released key list")
        load_published(network, state | {"null_audio_feat": torch.empty(1, 1, 1, 1, 768)}, "released key list")
    own = {name for name, _ in network.named_parameters()} - {"null_audio"}
    assert len(own) == released["tensors"]
    assert sum(value.numel() for name, value in network.named_parameters() if name in own) == released["parameters"]


def test_a_label_is_the_same_as_all_weight_on_it():
    network = MotionTransformer(get_preset("tiny"))
    labels = torch.tensor([0, 4, 8])
    weights = torch.nn.functional.one_hot(labels, 9).float()
    audio, identity = torch.zeros(3, 20, 2, 6), torch.zeros(3, 8)
    torch.testing.assert_close(
        network.embed(audio, labels, identity).emotion, network.embed(audio, weights, identity).emotion
    )


def test_names_outside_the_table_are_an_error():
    with pytest.raises(WeightsError, match="does not belong to the MoDA generator"):
        from_published({"talking_head_dit.blocks.0.surprise.weight": torch.zeros(1)}, audio_dim=4)


def test_weights_of_another_size_are_an_error():
    network = MotionTransformer(get_preset("tiny"))
    state = network.state_dict() | {"null_audio": torch.zeros(7)}
    with pytest.raises(WeightsError, match=r"null_audio \(7,\) for \(6,\)"):
        load_exactly(network, state, "file.safetensors")
