from dataclasses import replace

import numpy as np
import pytest
import torch

from loquent.errors import WeightsError
from loquent.models.moda import ModaConfig, MotionFlowGenerator, MotionTransformer, get_preset
from loquent.types import Controls, Motion, SpeechFeatures

TINY = get_preset("tiny")


@pytest.fixture(scope="module")
def generator() -> MotionFlowGenerator:
    torch.manual_seed(0)
    network = MotionTransformer(TINY)
    for weight in network.parameters():  # zero gates would hide every condition
        torch.nn.init.normal_(weight, std=0.2)
    std = torch.full((62,), 0.1)
    std[7] = 0
    return MotionFlowGenerator(network, torch.full((62,), 0.2), std)


def features(num_frames: int, block: int = 50, seed: int = 0) -> list[SpeechFeatures]:
    shape = (num_frames, TINY.audio_layers, TINY.audio_dim)
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return [SpeechFeatures(values[at : at + block], start_frame=at) for at in range(0, num_frames, block)]


def generate(generator, blocks, **controls) -> np.ndarray:
    settings = Controls(**({"steps": 3} | controls))
    return Motion.concatenate(list(generator.generate(blocks, None, settings))).to_vector()


@pytest.mark.parametrize("num_frames", [1, 5, 20, 21, 36, 37, 100])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_motion_is_as_long_as_the_features(generator, num_frames, guidance):
    motion = generate(generator, features(num_frames), guidance=guidance)
    assert motion.shape == (num_frames, 62)
    assert np.isfinite(motion).all()
    assert motion[:, :52].min() >= 0
    assert motion[:, :52].max() <= 1


def test_a_seed_means_the_same_motion_however_features_arrive(generator):
    a = generate(generator, features(60, block=60))
    b = generate(generator, features(60, block=7))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(a - generate(generator, features(60), seed=7)).max() > 0.01


def test_speech_emotion_and_guidance_matter(generator):
    base = generate(generator, features(40))
    for other in (
        generate(generator, features(40, seed=1)),
        generate(generator, features(40), emotion="anger"),
        generate(generator, features(40), guidance=3.0),
    ):
        assert np.abs(base - other).max() > 1e-3


def test_emotion_without_strength_is_neutral(generator):
    neutral = generate(generator, features(30))
    np.testing.assert_array_equal(neutral, generate(generator, features(30), emotion="fear", emotion_strength=0.0))


def test_channels_that_never_move_stay_at_their_mean(generator):
    np.testing.assert_allclose(generate(generator, features(30))[:, 7], 0.2, atol=1e-6)


def test_save_and_load(generator, tmp_path):
    generator.save_pretrained(tmp_path)
    again = MotionFlowGenerator.from_pretrained(tmp_path)
    assert again.network.config == TINY
    np.testing.assert_allclose(generate(again, features(30)), generate(generator, features(30)), atol=0.02)


def test_missing_and_foreign_weights_are_errors(generator, tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json is not a readable configuration"):
        MotionFlowGenerator.from_pretrained(tmp_path)
    generator.save_pretrained(tmp_path)
    replace(TINY, audio_dim=7).save(tmp_path / "config.json")
    with pytest.raises(WeightsError, match="wrong shapes"):
        MotionFlowGenerator.from_pretrained(tmp_path)


def test_configurations_that_cannot_be_are_errors():
    with pytest.raises(WeightsError, match="even multiple of num_heads"):
        ModaConfig(hidden_dim=30, num_heads=4)
    with pytest.raises(WeightsError, match="overlap is 80"):
        ModaConfig(overlap=80)
    with pytest.raises(WeightsError, match="cannot be smoothed"):
        ModaConfig(motion_dim=62)
    with pytest.raises(WeightsError, match=r"nearest: \['starter'\]"):
        get_preset("startr")
