"""The whole loading path, on small files in the released layout."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loquent.errors import MissingExtraError, WeightsError
from loquent.evaluation.fixtures import read_fixture
from loquent.models.moda import ModaConfig, MotionFlowGenerator
from loquent.models.moda.released import FILES, convert_released, fetch_released, find_released, read_checkpoint
from loquent.models.moda.renderer import TINY, weights
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.speech.hubert import Hubert, speech_features

RECORDED = Path(__file__).parent / "parity" / "moda"
# Sizes of the recorded motion_sampling network.
GENERATOR = ModaConfig(
    hidden_dim=32,
    num_heads=2,
    mlp_ratio=2.0,
    audio_layers=3,
    audio_dim=16,
    four_stream_blocks=1,
    double_stream_blocks=1,
    single_stream_blocks=1,
)
PARTS = {
    "appearance": ("appearance_feature_extractor", weights.APPEARANCE),
    "motion": ("motion_extractor", weights.MOTION_EXTRACTOR),
    "warping": ("warping_network", weights.WARPING),
    "decoder": ("spade_decoder", weights.DECODER),
    "stitching": ("stitching_mlp", weights.KEYPOINT_MLP),
    "lips": ("retarget_lip", weights.KEYPOINT_MLP),
    "eyes": ("retarget_eye", weights.KEYPOINT_MLP),
}


def published_names(part: str) -> dict[str, str]:
    """Our name -> published name, from the list of released names."""
    file, table = PARTS[part]
    keys = json.loads((RECORDED / f"{file}.keys.json").read_text())["keys"]
    names = {}
    for published in keys:
        if published.endswith((".weight_u", ".weight_v")):
            continue
        state = {published.removesuffix("_orig"): torch.empty(0)}
        names[next(iter(weights.rename(state, table, part)))] = published
    return names


def as_published(network: torch.nn.Module, part: str) -> dict[str, torch.Tensor]:
    """The network's weights under published names, with spectral norm where the release has it."""
    names = published_names(part)
    state = {}
    for ours, tensor in network.state_dict().items():
        published = names[ours]
        state[published] = tensor
        if published.endswith("weight_orig"):
            flat = tensor.flatten(1)
            u = torch.ones(len(flat))
            v = flat.T @ u / (flat.T @ u).square().sum()
            state[published] = 3 * tensor  # u·W·v is then 3, so that a forgotten division shows
            state |= {published[: -len("orig")] + "u": u, published[: -len("orig")] + "v": v}
    return state


@pytest.fixture(scope="module")
def networks() -> RendererNetworks:
    torch.manual_seed(0)
    return RendererNetworks(TINY).eval()


@pytest.fixture
def downloads(networks, tmp_path) -> Path:
    folder = tmp_path / "downloads"

    def save(content, place):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / place)

    save(read_fixture(RECORDED / "motion_sampling.safetensors").weights, "moda/net-200.pth")
    motion = read_fixture(RECORDED / "motion_parameters.safetensors").inputs
    save({"mean": motion["mean"], "std": motion["std"]}, "mean.pt")
    base = "decode/v1/first_stage"
    for part, name in (
        ("appearance", "appearance_feature_extractor"),
        ("motion", "motion_extractor"),
        ("warping", "warping_module"),
        ("decoder", "spade_generator"),
    ):
        save(as_published(networks.get_submodule(part), part), f"{base}/base_models/{name}.pth")
    small = {
        released: {f"module.{name}": value for name, value in as_published(networks.get_submodule(part), part).items()}
        for released, part in (("retarget_shoulder", "stitching"), ("retarget_mouth", "lips"), ("retarget_eye", "eyes"))
    }
    save(small, f"{base}/retargeting_models/stitching_retargeting_module.pth")
    speech = read_fixture(RECORDED / "audio_features.safetensors")
    old_names = {"original0": "weight_g", "original1": "weight_v"}
    state = {}
    for name, value in speech.weights.items():
        for new, old in old_names.items():
            name = name.replace(f"parametrizations.weight.{new}", old)
        state[name] = value
    save(state, "audio/chinese-hubert-base/pytorch_model.bin")
    (folder / "audio/chinese-hubert-base/config.json").write_text(json.dumps(speech.config))
    return folder


def test_released_files_become_ours(downloads, networks, tmp_path):
    output = tmp_path / "converted"
    convert_released(downloads, output, GENERATOR, TINY)
    loaded = RendererNetworks.from_pretrained(output / "renderer")
    assert loaded.config == TINY
    for name, value in networks.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, msg=name)
    generator = MotionFlowGenerator.from_pretrained(output / "generator")
    recorded = read_fixture(RECORDED / "motion_sampling.safetensors").weights
    torch.testing.assert_close(generator.network.null_audio, recorded["null_audio_feat"].flatten())
    assert generator.mean[63] == pytest.approx(1.28646, abs=1e-4)
    speech = read_fixture(RECORDED / "audio_features.safetensors")
    features = speech_features(Hubert.from_pretrained(output / "speech-encoder"), speech.inputs["waveform"])
    torch.testing.assert_close(features, speech.outputs["layers"], rtol=1e-4, atol=1e-4)
    checksums = json.loads((output / "sha256.json").read_text())
    assert set(checksums) == {file.part for file in FILES}


def test_a_file_that_changed_since_its_first_use_is_an_error(downloads, tmp_path):
    convert_released(downloads, tmp_path / "converted", GENERATOR, TINY)
    torch.save({"mean": torch.zeros(1, 70), "std": torch.ones(1, 70)}, downloads / "mean.pt")
    with pytest.raises(WeightsError, match="has changed since it was first used"):
        convert_released(downloads, tmp_path / "converted", GENERATOR, TINY)


def test_the_layout_of_the_other_release_is_found_too(downloads):
    (downloads / "decode/v1/first_stage").rename(downloads / "liveportrait")
    assert find_released(downloads)["decoder"] == downloads / "liveportrait/base_models/spade_generator.pth"


def test_missing_files_are_named_with_their_places(downloads):
    (downloads / "moda/net-200.pth").unlink()
    with pytest.raises(WeightsError, match=r"1 more file; put there:\n.*moda/net-200\.pth   from lixinyizju/moda"):
        find_released(downloads)


def test_without_network_or_extra_the_message_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        fetch_released(tmp_path)


def test_fetching_keeps_what_is_there(downloads, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)  # would fail if it were asked
    assert fetch_released(downloads) == find_released(downloads)


def test_pickles_that_run_code_and_damaged_files_are_refused(tmp_path):
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    for name, message in (("code", "no checkpoint"), ("cut", "no checkpoint"), ("tensor", "holds a Tensor")):
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(tmp_path / f"{name}.pth")


def test_a_checkpoint_of_another_network_is_an_error(downloads, tmp_path):
    base = downloads / "decode/v1/first_stage/base_models"
    (base / "spade_generator.pth").write_bytes((base / "warping_module.pth").read_bytes())
    with pytest.raises(WeightsError, match="does not belong to the SpadeDecoder"):
        convert_released(downloads, tmp_path / "converted", GENERATOR, TINY)


def test_saved_renderers_load_strictly(networks, tmp_path):
    networks.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert set(state) == set(networks.state_dict())
    with pytest.raises(WeightsError, match="is no renderer configuration"):
        RendererNetworks.from_pretrained(tmp_path / "nowhere")
