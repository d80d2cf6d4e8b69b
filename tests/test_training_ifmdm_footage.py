"""Codes of every frame of somebody's own videos, for the IF-MDM motion transformer."""

from functools import partial

import numpy as np
import pytest
import torch

from loquent.data.puppets import write_puppets
from loquent.data.shards import CorpusError
from loquent.data.video_shards import VideoCorpus
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset
from loquent.models.ifmdm.code_space import before_tanh
from loquent.training import ifmdm_footage_data as footage
from loquent.training.ifmdm_motion_data import CodeWindows, fit_writer, read_codes
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
