"""HuBERT beyond the recorded numbers (those are in test_parity.py)."""

import pytest
import torch

from loquent.errors import SpeechError, WeightsError
from loquent.speech.hubert import Hubert, HubertConfig, from_published, pad_for_convolutions, speech_features

TINY = HubertConfig(
    dim=16, num_layers=2, num_heads=2, feed_forward_dim=16, conv_dims=(8,) * 7, position_kernel=8, position_groups=2
)


@pytest.fixture(scope="module")
def network() -> Hubert:
    torch.manual_seed(0)
    network = Hubert(TINY).eval()
    torch.nn.init.normal_(network.convs[0].norm.weight, 1, 0.3)
    torch.nn.init.normal_(network.convs[0].norm.bias, 0, 0.3)
    return network


def noise(num_samples: int) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [7, 20, 99])
def test_long_speech_in_blocks_is_as_in_one_pass(network, block):
    waveform = pad_for_convolutions(noise(640 * 50))[None]
    with torch.no_grad():
        whole = network.convolve(waveform)
        assert whole.shape[1] == 100
        torch.testing.assert_close(network.convolve(waveform, block=block), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_samples", [640, 1279, 1280, 16_001])
def test_a_row_for_every_whole_40_ms(network, num_samples):
    features = speech_features(network, noise(num_samples))
    assert features.shape == (num_samples // 640, 2, 16)
    assert features.isfinite().all()


def test_loudness_does_not_matter(network):
    quiet, loud = (speech_features(network, level * noise(6400)) for level in (0.01, 0.5))
    torch.testing.assert_close(quiet, loud, rtol=1e-2, atol=1e-2)


def test_less_than_a_row_is_an_error(network):
    with pytest.raises(SpeechError, match="at least 640"):
        speech_features(network, noise(639))


def test_saved_networks_load(network, tmp_path):
    network.save_pretrained(tmp_path)
    again = Hubert.from_pretrained(tmp_path)
    assert again.config == TINY
    torch.testing.assert_close(speech_features(again, noise(6400)), speech_features(network, noise(6400)))
    with pytest.raises(WeightsError, match="restore the folder"):
        Hubert.from_pretrained(tmp_path / "nowhere")


def test_other_architectures_are_errors():
    with pytest.raises(WeightsError, match="conv_pos_batch_norm = True"):
        HubertConfig.from_published({"conv_pos_batch_norm": True})
    with pytest.raises(WeightsError, match="check that this is a speech encoder"):
        from_published({"decoder.weight": torch.zeros(1)})


def test_prefixes_of_heads_and_of_wav2vec_are_understood():
    for prefix in ("", "hubert.", "wav2vec2."):
        state = {f"{prefix}encoder.layer_norm.weight": torch.zeros(1), f"{prefix}masked_spec_embed": torch.zeros(1)}
        assert set(from_published(state)) == {"norm.weight"}
