"""Recorded numbers of the published generator, whole tensors at 1e-4."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from loquent.errors import WeightsError
from loquent.models.moda.config import BASE, ModaConfig, get_preset
from loquent.models.moda.network import (
    AudioEmbedder,
    FinalLayer,
    JointBlock,
    MotionTransformer,
    SingleBlock,
)
from loquent.models.moda.sampling import WindowedSampler
from loquent.models.moda.weights import from_published, load_exactly, load_published, rename_published
from loquent.nn.attention import rotary_table, rotate
from loquent.nn.layers import TimeEmbedder, VectorEmbedder, sinusoids

FOLDER = Path(__file__).parent / "parity" / "moda"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class Fixture:
    def __init__(self, name: str) -> None:
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self.config = json.loads(file.metadata()["config"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        groups = [
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            for prefix in ("weights.", "input.", "output.")
        ]
        self.weights, self.input, self.output = groups

    def loaded(self, module, published_prefix: str, our_prefix: str):
        """`module` with the fixture's weights, renamed as part of a whole checkpoint."""
        state = {
            rename_published(published_prefix + name).removeprefix(our_prefix): value
            for name, value in self.weights.items()
        }
        load_exactly(module, state, published_prefix)
        return module.eval()


def block_config(fixture: Fixture) -> ModaConfig:
    names = {"hidden_size": "hidden_dim", "num_heads": "num_heads", "mlp_ratio": "mlp_ratio"}
    return ModaConfig(**{ours: fixture.config[name] for name, ours in names.items()})


def tables(fixture: Fixture, num_frames: int, tiles: int) -> torch.Tensor:
    head_dim = fixture.config["hidden_size"] // fixture.config["num_heads"]
    return rotary_table(torch.arange(num_frames).repeat(tiles), head_dim, 256.0)


def test_time_embedder():
    fixture = Fixture("timestep_embedder")
    embedder = fixture.loaded(TimeEmbedder(64), "time_embedder.", "time_embedder.")
    torch.testing.assert_close(sinusoids(fixture.input["t"], 256), fixture.output["freq"], **CLOSE)
    torch.testing.assert_close(embedder(fixture.input["t"]), fixture.output["emb"], **CLOSE)


def test_motion_embedder():
    fixture = Fixture("motion_embedder")
    embedder = fixture.loaded(VectorEmbedder(140, 64), "motion_embedder.", "motion_embedder.")
    torch.testing.assert_close(embedder(fixture.input["x"]), fixture.output["y"], **CLOSE)


def test_label_embedder_takes_labels_and_weights_of_labels():
    fixture = Fixture("label_embedder")
    network = MotionTransformer(ModaConfig(hidden_dim=64, num_heads=4, four_stream_blocks=0, double_stream_blocks=0))
    table = {rename_published("emo_embedder." + name): value for name, value in fixture.weights.items()}
    network.emotion_table.load_state_dict({"weight": table["emotion_table.weight"]})
    labels = fixture.input["labels"].long()
    torch.testing.assert_close(network._embed_emotion(labels), fixture.output["y"], **CLOSE)
    weights = torch.nn.functional.one_hot(labels, 9).float()
    torch.testing.assert_close(network._embed_emotion(weights), fixture.output["y"], **CLOSE)


def test_audio_embedder():
    fixture = Fixture("audio_embedder")
    embedder = fixture.loaded(AudioEmbedder(4 * 24, 64), "audio_embedder.", "audio_embedder.")
    torch.testing.assert_close(embedder(fixture.input["audio"][:, :, 0]), fixture.output["tokens"][:, :, 0], **CLOSE)


def test_rotary_positions():
    fixture = Fixture("rope")
    table = rotary_table(torch.arange(int(fixture.input["n"])), 16, 256.0)
    torch.testing.assert_close(table[0].repeat_interleave(2, -1), fixture.output["cos"], **CLOSE)
    torch.testing.assert_close(table[1].repeat_interleave(2, -1), fixture.output["sin"], **CLOSE)
    for name in ("q", "k"):
        torch.testing.assert_close(rotate(fixture.input[name], table), fixture.output[name], **CLOSE)


def test_final_layer():
    fixture = Fixture("final_layer")
    layer = fixture.loaded(FinalLayer(64, 70), "final_layer.", "final_layer.")
    torch.testing.assert_close(layer(fixture.input["x"], fixture.input["c"]), fixture.output["y"], **CLOSE)


def test_four_stream_block():
    fixture = Fixture("block_four_stream")
    block = fixture.loaded(JointBlock(block_config(fixture), 4), "blocks4.0.", "four_stream_blocks.0.")
    names = ("motion", "audio", "emotion", "identity")
    table = tables(fixture, 9, 1)
    out = block([fixture.input[name] for name in names], fixture.input["c"], [table, table, None, None])
    for name, value in zip(names, out, strict=True):
        torch.testing.assert_close(value, fixture.output[name], **CLOSE)


def test_double_stream_block():
    fixture = Fixture("block_double_stream")
    block = fixture.loaded(JointBlock(block_config(fixture), 2), "blocks2.0.", "double_stream_blocks.0.")
    pair = [fixture.input["motion"], fixture.input["cond"]]
    motion, cond = block(pair, fixture.input["c"], [tables(fixture, 9, 1), tables(fixture, 9, 3)])
    torch.testing.assert_close(motion, fixture.output["motion"], **CLOSE)
    torch.testing.assert_close(cond, fixture.output["cond"], **CLOSE)


def test_single_stream_block():
    fixture = Fixture("block_single_stream")
    block = fixture.loaded(SingleBlock(block_config(fixture)), "blocks.0.", "single_stream_blocks.0.")
    out = block(fixture.input["tokens"], fixture.input["c"], tables(fixture, 9, 4))
    torch.testing.assert_close(out, fixture.output["tokens"], **CLOSE)


def whole_network(fixture: Fixture, **sizes: int) -> MotionTransformer:
    config = fixture.config
    blocks = {name: config[name] for name in ("four_stream_blocks", "double_stream_blocks", "single_stream_blocks")}
    network = MotionTransformer(
        ModaConfig(
            hidden_dim=config["hidden_size"],
            num_heads=config["num_heads"],
            mlp_ratio=config["mlp_ratio"],
            audio_dim=config["audio_dim"],
            **blocks,
            **sizes,
        )
    )
    load_published(network, fixture.weights, "fixture")
    return network.eval()


def test_whole_network():
    fixture = Fixture("talking_head_dit")
    network = whole_network(fixture, audio_layers=fixture.config["audio_blocks"])
    previous, noisy = fixture.input["motion"].split(70, dim=-1)
    velocity = network(
        noisy,
        fixture.input["times"] / 1000,
        previous,
        fixture.input["audio"][:, :, 0],
        fixture.input["emo"].long(),
        fixture.input["audio_cond"].mean(1),
    )
    torch.testing.assert_close(velocity, fixture.output["velocity"], **CLOSE)


@pytest.mark.parametrize(("output", "guidance"), [("motion_cfg", 1.2), ("motion_nocfg", 1.0)])
@pytest.mark.parametrize("block_frames", [100, 7])
def test_windowed_sampling(output: str, guidance: float, block_frames: int):
    fixture = Fixture("motion_sampling")
    network = whole_network(fixture, audio_layers=3, num_frames=40, overlap=16)
    noise = iter(fixture.input["noise"][:, 0])
    pieces = WindowedSampler(network).sample(
        fixture.input["audio"].split(block_frames),
        previous=fixture.input["prev_motion"][0, 0],
        emotion=torch.nn.functional.one_hot(torch.tensor(fixture.config["emo"]), 9).float(),
        identity=fixture.input["ref_kp"][0],
        draw_noise=lambda: next(noise),
        steps=10,
        guidance=guidance,
    )
    torch.testing.assert_close(torch.cat(list(pieces)), fixture.output[output], **CLOSE)


def test_released_names_and_shapes_load_strictly():
    released = json.loads((FOLDER / "talking_head_dit.keys.json").read_text())
    with torch.device("meta"):
        network = MotionTransformer(BASE)
        state = {f"talking_head_dit.{name}": torch.empty(shape) for name, shape in released["keys"].items()}
        state["null_audio_feat"] = torch.empty(1, 1, 1, 1, 768)
    load_published(network, state, "released key list")
    own = {name for name, _ in network.named_parameters()} - {"null_audio"}
    assert len(own) == released["tensors"]
    assert sum(value.numel() for name, value in network.named_parameters() if name in own) == released["parameters"]


def test_names_outside_the_table_are_an_error():
    with pytest.raises(WeightsError, match="does not belong to the MoDA generator"):
        from_published({"talking_head_dit.blocks.0.surprise.weight": torch.zeros(1)}, audio_dim=4)


def test_weights_of_another_size_are_an_error():
    network = MotionTransformer(get_preset("tiny"))
    state = network.state_dict() | {"null_audio": torch.zeros(7)}
    with pytest.raises(WeightsError, match=r"null_audio \(7,\) for \(6,\)"):
        load_exactly(network, state, "file.safetensors")
