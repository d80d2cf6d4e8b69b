import numpy as np
import pytest
import torch

from loquent.data.phones import PHONE_INDEX, PHONES
from loquent.data.shards import Corpus, ShardWriter, Utterance
from loquent.speech.encoder import ARTICULATORS, LogMelEncoder, SpeechEncoderConfig, SpeechNetwork
from loquent.training.moda_data import MotionWindows, build_cache
from loquent.training.speech_augment import augment_log_mel
from loquent.training.speech_encoder import EDGE_FRAMES, SpeechWindows, articulator_values, speech_loss
from loquent.types import ARKIT_INDEX

TINY = SpeechEncoderConfig(num_mels=16, width=8, dilations=(1, 2), embedding_dim=4, num_phones=len(PHONES))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Tones for the vowel, silence for silence: 0.4 s of each by turns."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for number, frames in enumerate((150, 60, 120)):
            on = (np.arange(frames) // 10) % 2
            tone = np.sin(2 * np.pi * 500 * np.arange(frames * 640) / 16_000) * on.repeat(640)
            motion = np.zeros((frames, 62), np.float32)
            motion[:, ARKIT_INDEX["jawOpen"]] = 0.3 * on
            writer.add(
                Utterance(
                    audio=(3000 * tone + 3 * rng.standard_normal(len(tone))).astype(np.int16),
                    motion=motion,
                    phones=(on.repeat(4) * PHONE_INDEX["aa"]).astype(np.uint8),
                    emotion_id=4,
                    intensity=0.25,
                    style=rng.standard_normal(8).astype(np.float32),
                    speaker=f"voice-{number}",
                    language="en",
                )
            )
    return Corpus(folder)


def test_both_sides_of_the_face_are_averaged():
    motion = np.zeros((1, 62), np.float32)
    motion[0, ARKIT_INDEX["mouthSmileLeft"]], motion[0, ARKIT_INDEX["mouthSmileRight"]] = 0.2, 0.4
    motion[0, ARKIT_INDEX["jawOpen"]] = 0.7
    values = dict(zip(ARTICULATORS, articulator_values(motion)[0], strict=True))
    assert values["mouthSmile"] == pytest.approx(0.3)
    assert values["jawOpen"] == pytest.approx(0.7)
    assert sum(value != 0 for value in values.values()) == 2


def test_windows_are_reproducible_and_judge_only_what_was_heard_whole(corpus):
    windows = SpeechWindows(corpus, TINY)
    a, b = windows.batch(3), windows.batch(3)
    torch.testing.assert_close(a.mel, b.mel)
    assert a.mel.shape[1:] == (16, 400)
    assert a.judged.any(1).all()
    assert (a.judged.sum(1) <= 400).all()
    assert any(not row[:EDGE_FRAMES].any() for row in a.judged)


def test_augmentation_is_seeded_and_changes_most_items():
    mel = torch.randn(40, 16, 50, generator=torch.Generator().manual_seed(0)) - 4
    a, b = (augment_log_mel(mel, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(a, b)
    same = (a == mel).all(2).all(1)
    assert 0 < same.sum() < 12
    assert torch.isfinite(a).all()


def test_a_few_steps_learn(corpus):
    torch.manual_seed(0)
    windows = SpeechWindows(corpus, TINY)
    network = SpeechNetwork(TINY)
    network.mel_mean, network.mel_std = windows.mel_statistics()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for step in range(20):
        terms = speech_loss(network, windows.batch(step), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_cache_holds_what_the_encoder_hears(corpus, tmp_path):
    torch.manual_seed(0)
    encoder = LogMelEncoder(SpeechNetwork(TINY))
    build_cache(corpus, encoder, tmp_path, copies=2)
    windows = MotionWindows(tmp_path, num_frames=80, batch_size=2)
    item = corpus.read(0)
    heard = encoder.hear(np.divide(item.audio, 32768, dtype=np.float32)).features()[0].reshape(150, 4, -1)
    torch.testing.assert_close(torch.from_numpy(windows.features[0][:150].copy()).float(), heard, rtol=0.05, atol=0.05)
    assert np.abs(windows.features[0][:150] - windows.features[1][:150]).max() > 0.1
    np.testing.assert_allclose(windows.emotion.sum(1), 1)
    assert windows.emotion[0, 4] == pytest.approx(0.25)
    assert len(windows.motion) == 330
