"""The published system end to end, at small sizes and with random weights."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from loquent.errors import ControlsError, SpeechError, WeightsError
from loquent.models.moda import ModaConfig, MotionFlowGenerator, MotionTransformer
from loquent.models.moda.published import PublishedModa
from loquent.models.moda.renderer import TINY
from loquent.models.moda.renderer.draw import DrivingOptions
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.speech.hubert import Hubert, HubertConfig

SPEECH = HubertConfig(
    dim=16, num_layers=2, num_heads=2, feed_forward_dim=16, conv_dims=(8,) * 7, position_kernel=8, position_groups=2
)
GENERATOR = ModaConfig(
    audio_layers=2,
    audio_dim=16,
    hidden_dim=16,
    num_heads=2,
    four_stream_blocks=1,
    double_stream_blocks=1,
    single_stream_blocks=1,
    num_frames=20,
    overlap=4,
)
POINTS = np.array([[90.0, 80.0], [150.0, 84.0], [120.0, 110.0], [98.0, 140.0], [140.0, 143.0]])


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("converted")
    network = MotionTransformer(GENERATOR)
    for weight in network.parameters():  # zero gates would hide every condition
        torch.nn.init.normal_(weight, std=0.2)
    MotionFlowGenerator(network, torch.zeros(70), torch.full((70,), 0.01)).save_pretrained(folder / "generator")
    RendererNetworks(TINY).save_pretrained(folder / "renderer")
    Hubert(SPEECH).save_pretrained(folder / "speech-encoder")
    return folder


@pytest.fixture(scope="module")
def system(converted) -> PublishedModa:
    return PublishedModa.from_pretrained(converted)


@pytest.fixture(scope="module")
def source(system):
    noise = np.random.default_rng(0).integers(0, 255, (240, 260, 3), dtype=np.uint8)
    return system.renderer.prepare(cv2.GaussianBlur(noise, (0, 0), 4), POINTS)


def speech(num_frames: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(640 * num_frames, generator=torch.Generator().manual_seed(seed))


def test_speech_and_photo_become_frames(system, source):
    motion = system.generate(speech(25), source, steps=2)
    assert len(motion) == 25
    frame = next(system.animate(source, motion))
    assert frame.shape == (240, 260, 3)
    still = next(system.animate(source, motion, DrivingOptions(strength=0.0)))
    assert (frame != still).any()


def test_seed_speech_and_emotion_decide(system, source):
    first = system.generate(speech(25), source, steps=2).expression
    torch.testing.assert_close(first, system.generate(speech(25), source, steps=2).expression)
    for other in (
        system.generate(speech(25), source, steps=2, seed=1),
        system.generate(speech(25, seed=1), source, steps=2),
        system.generate(speech(25), source, steps=2, emotion="anger"),
    ):
        assert (first - other.expression).abs().max() > 1e-5
    weak = system.generate(speech(25), source, steps=2, emotion="anger", emotion_strength=0.0)
    torch.testing.assert_close(first, weak.expression)


def test_what_cannot_be_done_is_an_error(system, source, converted):
    with pytest.raises(SpeechError, match="at least 640"):
        system.generate(speech(1)[:600], source)
    with pytest.raises(ControlsError, match="choose one of anger"):
        system.generate(speech(2), source, emotion="bored")
    with pytest.raises(WeightsError, match="convert one release"):
        PublishedModa(Hubert(replace(SPEECH, num_layers=1)), system.generator, system.statistics, system.renderer)
    with pytest.raises(WeightsError):
        PublishedModa.from_pretrained(converted / "nowhere")
