import numpy as np
import pytest
import torch

from loquent.errors import WeightsError
from loquent.speech.encoder import SUBFRAMES, LogMelEncoder, SpeechEncoderConfig, SpeechNetwork
from loquent.speech.features import HOP, WINDOW, LogMel, mel_filters, speech_level
from loquent.types import Speech

TINY = SpeechEncoderConfig(num_mels=16, width=8, dilations=(1, 2), embedding_dim=4)


@pytest.fixture(scope="module")
def encoder() -> LogMelEncoder:
    torch.manual_seed(0)
    return LogMelEncoder(SpeechNetwork(TINY))


def noise(duration_s: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * duration_s))).astype(np.float32)


def test_a_tone_lands_in_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000 + WINDOW) / 16_000).astype(np.float32)
    mel = LogMel(64)(torch.from_numpy(tone)[None])[0]
    peak = int(mel.mean(1).argmax())
    centre_hz = np.linspace(0, 8000, 257)[int(mel_filters(64)[:, peak].argmax())]
    assert abs(centre_hz - 1000) < 80


def test_a_click_is_heard_in_its_own_frame():
    samples = np.zeros(50 * HOP + WINDOW, np.float32)
    samples[20 * HOP + WINDOW // 2] = 100.0
    mel = LogMel(16)(torch.from_numpy(samples)[None])[0]
    assert int(mel.sum(0).argmax()) == 20


def test_level_is_that_of_the_loud_parts():
    quiet_with_speech = np.concatenate([1e-4 * noise(8), noise(2)])
    assert speech_level(quiet_with_speech) == pytest.approx(0.1, rel=0.05)


def test_silence_is_not_amplified():
    assert speech_level(np.zeros(16_000, np.float32)) == pytest.approx(1e-3)
    assert speech_level(np.zeros(0, np.float32)) == pytest.approx(1e-3)


@pytest.mark.parametrize("duration_s", [0.2, 1.0, 9.99, 10.0, 10.05, 21.3])
def test_blocks_hold_one_row_a_frame_in_order(encoder, duration_s):
    speech = Speech(noise(duration_s))
    blocks = list(encoder.encode(speech))
    starts = [block.start_frame for block in blocks]
    assert starts == list(np.cumsum([0, *(len(block.values) for block in blocks[:-1])]))
    assert sum(len(block.values) for block in blocks) == speech.num_frames()
    assert blocks[0].values.shape[1:] == (SUBFRAMES, TINY.feature_dim)


def test_blocks_join_without_a_seam(encoder):
    samples = noise(21.0)
    joined = np.concatenate([block.values for block in encoder.encode(Speech(samples))])
    whole = encoder.hear(samples).features()[0].numpy().reshape(joined.shape)
    np.testing.assert_allclose(joined, whole, atol=1e-4)


def test_features_do_not_depend_on_the_level(encoder):
    samples = noise(2.0)
    loud, quiet = (next(encoder.encode(Speech(samples * gain))).values for gain in (1.0, 0.1))
    np.testing.assert_allclose(loud, quiet, atol=1e-3)


def test_a_frame_hears_no_further_than_its_context(encoder):
    samples = noise(2.0)
    changed = np.concatenate([samples[:16_000], noise(1.0, seed=1)])
    reach = TINY.context_frames + WINDOW // HOP + 1
    before, after = (encoder._run(x, 0.1, 0, 200).embedding[0] for x in (samples, changed))
    torch.testing.assert_close(after[: 100 - reach], before[: 100 - reach], rtol=0, atol=1e-5)
    assert not torch.allclose(after[100:], before[100:], atol=1e-3)


def test_save_and_load(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    again = LogMelEncoder.from_pretrained(tmp_path)
    samples = noise(1.0)
    torch.testing.assert_close(again.hear(samples).embedding, encoder.hear(samples).embedding, rtol=0.02, atol=0.02)


def test_missing_weights_are_an_error(tmp_path):
    with pytest.raises(WeightsError, match="restore the folder"):
        LogMelEncoder.from_pretrained(tmp_path)
