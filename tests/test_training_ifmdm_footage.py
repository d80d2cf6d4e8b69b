"""Codes of every frame of somebody's own videos, for the IF-MDM motion transformer."""

from functools import partial

import numpy as np
import pytest
import torch

from loquent.data.puppets import write_puppets
from loquent.data.shards import CorpusError
from loquent.data.video_shards import VideoCorpus
from loquent.errors import LoquentError
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.code_space import before_tanh
from loquent.models.ifmdm.system import PUBLISHED_ENCODER, open_encoder
from loquent.speech.encoder import LogMelEncoder
from loquent.speech.pretrained import PretrainedEncoder
from loquent.training import ifmdm_footage_data as footage
from loquent.training.ifmdm_motion import MotionRecipe, train_transformer
from loquent.training.ifmdm_motion_data import CodeWindows, fit_writer, read_codes, write_debug_moves
from loquent.training.loop import TrainSettings
from loquent.types import Speech, SpeechFeatures

FRAMES, LAYERS, CHANNELS = 20, 4, 6


class LoudnessEncoder:
    """Hears how loud each frame is."""

    def encode(self, speech: Speech):
        loudness = np.abs(speech.samples).reshape(-1, 640).mean(1)
        values = np.tile(loudness[:, None, None], (1, LAYERS, CHANNELS)).astype(np.float32)
        for start in range(0, len(values), 7):
            yield SpeechFeatures(values[start : start + 7], start_frame=start)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> VideoCorpus:
    folder = tmp_path_factory.mktemp("video")
    write_puppets(folder, people=3)
    return VideoCorpus(folder)


def test_every_spoken_frame_is_read_and_goes_with_its_sound(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(footage, "fit_writer", partial(fit_writer, steps=60))
    torch.manual_seed(0)
    network = Autoencoder(get_autoencoder_preset("tiny-blend")).eval()
    assert footage.build(network, corpus, LoudnessEncoder(), tmp_path) == 3 * FRAMES
    moves = torch.from_numpy(np.load(tmp_path / "moves-0.npy").astype(np.float32)).unflatten(0, (3, FRAMES))
    features = np.load(tmp_path / "features-0.npy").reshape(3, FRAMES, LAYERS, CHANNELS)
    photos = torch.from_numpy(np.load(tmp_path / "photos-0.npy").astype(np.float32))
    spoken = [number for number, clip in enumerate(corpus.clips) if clip.kind == "speech"]
    for row, clip in enumerate(spoken):
        photo = corpus.people[corpus.clips[clip].person][0]
        codes = before_tanh(read_codes(network, corpus.frames(clip)))
        own = before_tanh(read_codes(network, corpus.frames(photo)))
        torch.testing.assert_close(moves[row] - photos[row], codes - own, atol=2e-3, rtol=2e-3)
        loudness = np.abs(corpus.audio(clip).reshape(FRAMES, 640) / 32768).mean(1)
        np.testing.assert_allclose(features[row, :, 0, 0], loudness, rtol=2e-3, atol=1e-4)
    windows = CodeWindows(tmp_path, 16, 2, 5)
    batch = windows.batch(0)
    assert batch.speech.shape == (5, 16, 2, LAYERS * CHANNELS // 2)
    assert batch.motion.isfinite().all()


def test_videos_without_speech_are_an_error(corpus, monkeypatch):
    silent = [clip for clip in corpus.clips if clip.kind != "speech"]
    monkeypatch.setattr(corpus, "clips", silent)
    with pytest.raises(CorpusError, match="no clip has speech; give videos with sound"):
        footage.build(Autoencoder(get_autoencoder_preset("tiny-blend")), corpus, LoudnessEncoder(), corpus.folder)


def test_a_transformer_hears_the_encoder_whose_features_fit(monkeypatch):
    asked = []
    monkeypatch.setattr(PretrainedEncoder, "from_pretrained", lambda *args, **kwargs: asked.append((args, kwargs)))
    assert isinstance(open_encoder(get_motion_preset("starter")), LogMelEncoder)
    assert not asked
    open_encoder(get_motion_preset("a0"))
    assert asked == [((PUBLISHED_ENCODER, [-1]), {"vectors_per_row": 2, "device": "cpu"})]


def test_material_of_other_sizes_is_an_error(tmp_path):
    write_debug_moves(tmp_path)
    recipe = MotionRecipe(train=TrainSettings(steps=1), network=get_motion_preset("starter"))
    with pytest.raises(LoquentError, match=r"holds 12 speech features and 3 motion numbers .* takes 512 and 20"):
        train_transformer(recipe, tmp_path, tmp_path / "run")
