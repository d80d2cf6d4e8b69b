import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loquent.errors import MissingExtraError, SpeechError, WeightsError
from loquent.speech.hubert import Hubert, HubertConfig
from loquent.speech.pretrained import PretrainedEncoder
from loquent.types import Speech, SpeechFeatures

BASE = HubertConfig(
    dim=16, num_layers=3, num_heads=2, feed_forward_dim=16, conv_dims=(8,) * 7, position_kernel=8, position_groups=2
)
LARGE = replace(BASE, conv_norm="layer", conv_bias=True, norm_first=True)


def tiny(config: HubertConfig) -> Hubert:
    """A network initialised as the transformers library initialises one."""
    torch.manual_seed(0)
    network = Hubert(config).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.02)
            torch.nn.init.zeros_(module.bias)
    return network


def noise(duration_s: float, seed: int = 0) -> Speech:
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(duration_s * 16_000))
    return Speech(samples.astype(np.float32))


def joined(blocks) -> np.ndarray:
    blocks = list(blocks)
    assert [block.start_frame for block in blocks] == np.cumsum([0, *(len(b.values) for b in blocks[:-1])]).tolist()
    return np.concatenate([block.values for block in blocks])


@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
def test_long_speech_is_as_in_one_pass(config):
    network, speech = tiny(config), noise(64.3)
    whole = joined(PretrainedEncoder(network).encode(speech))
    pieces = list(PretrainedEncoder(network, span_s=20, context_s=15).encode(speech))
    assert len(pieces) == 4
    np.testing.assert_allclose(joined(pieces), whole, atol=1e-3)
    steps = np.abs(np.diff(joined(pieces) - whole, axis=0)).max((1, 2))
    assert steps.max() < 5e-4  # no seam where spans meet


@pytest.mark.parametrize("duration_s", [0.01, 0.03, 0.2, 0.5, 1.02, 7.0])
@pytest.mark.parametrize("vectors", [1, 2])
def test_a_row_for_every_frame(duration_s, vectors):
    speech = noise(duration_s)
    encoder = PretrainedEncoder(tiny(BASE), vectors_per_row=vectors, span_s=2, context_s=1)
    values = joined(encoder.encode(speech))
    assert values.shape == (speech.num_frames(), 3 * vectors, 16)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


def test_rows_belong_to_their_times():
    network = tiny(BASE)
    speech = Speech(np.zeros(16_000 * 4, np.float32))
    click = speech.samples.copy()
    click[32_000] = 1  # at 2 s, frame 50
    change = [
        joined(PretrainedEncoder(network, [0], normalise=False, vectors_per_row=2).encode(Speech(samples)))
        for samples in (speech.samples, click)
    ]
    moved = np.abs(change[1] - change[0]).sum(-1).ravel()  # (100 rows · 2 vectors)
    centre = (moved * np.arange(len(moved))).sum() / moved.sum()
    assert centre == pytest.approx(100, abs=1.5)


def test_layers_are_chosen_by_number():
    network, speech = tiny(BASE), noise(1)
    every = joined(PretrainedEncoder(network, [0, 1, 2, 3]).encode(speech))
    for layers, columns in (([3], [3]), ([-1], [3]), ([2, 0], [2, 0]), (None, [1, 2, 3])):
        np.testing.assert_array_equal(joined(PretrainedEncoder(network, layers).encode(speech)), every[:, columns])
    with pytest.raises(SpeechError, match="layer 4 of the speech encoder was asked for; it has 3"):
        PretrainedEncoder(network, [4])


def test_loudness_does_not_matter_where_speech_is_normalised():
    network, speech = tiny(LARGE), noise(2)
    quiet = Speech(speech.samples * np.float32(0.1))
    same, other = (
        [joined(PretrainedEncoder(network, normalise=normalise).encode(s)) for s in (speech, quiet)]
        for normalise in (True, False)
    )
    np.testing.assert_allclose(*same, atol=2e-3)
    assert np.abs(other[0] - other[1]).max() > 0.02


def published(network: Hubert, family: str) -> dict[str, torch.Tensor]:
    from loquent.speech.hubert import _RENAMES

    places = {ours: name for name, ours in _RENAMES.items()}
    state = {}
    for name, value in network.state_dict().items():
        parts = name.split(".")
        number = next((part for part in parts if part.isdigit()), "")
        pattern = ".".join("{}" if part == number else part for part in parts[:-1]) + "."
        state[f"{family}.{places[pattern].format(number)}{parts[-1]}"] = value.clone()
    return state


@pytest.mark.parametrize(("config", "family"), [(BASE, "hubert"), (LARGE, "wav2vec2")])
def test_folders_of_the_transformers_library_load(tmp_path, config, family):
    network = tiny(config)
    values = {name: getattr(config, ours) for name, ours in HubertConfig.PUBLISHED_NAMES.items()}
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": family}))
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    speech = noise(1)
    expected = joined(PretrainedEncoder(network, [-1], normalise=False).encode(speech))
    torch.save(published(network, family), tmp_path / "pytorch_model.bin")
    pickled = joined(PretrainedEncoder.from_pretrained(tmp_path, [-1]).encode(speech))
    np.testing.assert_array_equal(pickled, expected)
    save_file(published(network, family), tmp_path / "model.safetensors")
    np.testing.assert_array_equal(joined(PretrainedEncoder.from_pretrained(tmp_path, [-1]).encode(speech)), expected)


def test_other_networks_and_missing_files_are_errors(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"wanted config\.json and weights"):
        PretrainedEncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "wavlm"}')
    with pytest.raises(WeightsError, match="of type 'wavlm'; wanted hubert or wav2vec2"):
        PretrainedEncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(WeightsError, match="its weights cannot be read"):
        PretrainedEncoder.from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"loquent\[hub\]"):
        PretrainedEncoder.from_pretrained("somebody/some-network")


@pytest.mark.parametrize("family", ["Hubert", "Wav2Vec2"])
@pytest.mark.parametrize("large", [False, True])
def test_the_transformers_library_agrees(tmp_path, family, large):
    transformers = pytest.importorskip("transformers")
    variant = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True} if large else {}
    config = getattr(transformers, f"{family}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **variant,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config).eval()
    model.save_pretrained(tmp_path)
    speech = noise(1.3)
    encoder = PretrainedEncoder.from_pretrained(tmp_path, [-1], vectors_per_row=2)
    normalised = (speech.samples - speech.samples.mean()) / np.sqrt(speech.samples.var() + 1e-7)
    with torch.no_grad():
        theirs = model(torch.from_numpy(normalised)[None]).last_hidden_state[0].numpy()
    # Vector k of theirs is centred 200 samples after 320·k.
    rows = np.arange(2 * speech.num_frames()) - 200 / 320
    expected = np.stack([np.interp(rows, np.arange(len(theirs)), column) for column in theirs.T], 1)
    np.testing.assert_allclose(joined(encoder.encode(speech)).reshape(expected.shape), expected, atol=1e-4)


def test_blocks_are_what_the_pipeline_takes():
    block = next(iter(PretrainedEncoder(tiny(BASE)).encode(noise(0.4))))
    assert isinstance(block, SpeechFeatures)
    assert block.rate_hz == 25
