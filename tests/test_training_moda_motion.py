"""The debug recipe: a tiny generator on made-up data, trained, stopped and resumed on a CPU."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from loquent.errors import LoquentError
from loquent.models.moda.config import get_preset
from loquent.training.loop import TrainSettings
from loquent.training.moda_data import MotionWindows, motion_statistics, normalise
from loquent.training.moda_motion import train_generator

TINY = get_preset("tiny")
DEBUG = TrainSettings(steps=6, learning_rate=3e-3, warmup_steps=2, save_every=3, log_every=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Motion that follows one feature, in three utterances."""
    folder = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((150, TINY.audio_layers, TINY.audio_dim))
    motion = features[:, 0, :1] * rng.standard_normal((1, 62))
    motion[:, 5] = 0
    np.save(folder / "features-0.npy", features.astype(np.float16))
    np.save(folder / "motion.npy", motion.astype(np.float16))
    np.save(folder / "statistics.npy", np.stack(motion_statistics(motion.astype(np.float16).astype(np.float32))))
    np.save(folder / "starts.npy", np.array([0, 70, 85, 150]))
    np.save(folder / "emotion.npy", np.eye(3, 9, dtype=np.float32))
    np.save(folder / "style.npy", rng.standard_normal((3, 8)).astype(np.float32))
    return folder


@pytest.fixture
def windows(cache):
    return MotionWindows(cache, TINY.num_frames, batch_size=4)


def weights(generator) -> torch.Tensor:
    return torch.cat([value.flatten() for value in generator.network.state_dict().values()])


def test_windows_start_at_rest_or_after_the_frame_before(windows):
    for step in range(20):
        batch = windows.batch(step)
        assert batch.motion.shape == (4, TINY.num_frames, 62)
        assert (batch.mask.sum(1) >= 1).all()
        assert not batch.audio[batch.mask == 0].any()
        assert not batch.motion[..., 5].any()
        rest = torch.from_numpy(windows.rest)
        for previous, motion in zip(batch.previous, batch.motion, strict=True):
            at = np.abs(windows.motion - motion[0].numpy()).sum(1).argmin()
            expected = rest if at in windows.starts else torch.from_numpy(windows.motion[at - 1])
            torch.testing.assert_close(previous, expected)


def test_statistics_and_normalising_agree():
    motion = np.random.default_rng(1).normal(3, 2, (500, 4)).astype(np.float32)
    motion[:, 2] = 0.5
    mean, std = motion_statistics(motion)
    values = normalise(motion, mean, std)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(values.std(0), [1, 1, 0, 1], atol=1e-3)
    assert std[2] == 0


@pytest.mark.parametrize("bfloat16", [False, True])
def test_stopped_and_resumed_equals_uninterrupted(windows, tmp_path, bfloat16):
    settings = replace(DEBUG, bfloat16=bfloat16)
    whole = train_generator(windows, TINY, settings, tmp_path / "whole", None)
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_generator(_StopsAt(windows, 4), TINY, settings, stopped, None)
    resumed = train_generator(windows, TINY, settings, stopped, None)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


class _StopsAt:
    """Windows whose batch of one step never comes."""

    def __init__(self, windows: MotionWindows, step: int) -> None:
        self._windows, self._step = windows, step

    def __getattr__(self, name: str):
        return getattr(self._windows, name)

    def batch(self, step: int):
        if step == self._step:
            raise KeyboardInterrupt
        return self._windows.batch(step)


def test_the_loss_falls_and_weights_are_exported(windows, tmp_path):
    settings = replace(DEBUG, steps=45, learning_rate=1e-2, log_every=9, save_every=45)
    train_generator(windows, TINY, settings, tmp_path / "run", tmp_path / "export")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["denoise"] < 0.9 * lines[0]["denoise"]
    assert (tmp_path / "export" / "model.safetensors").is_file()


def test_rate_warms_up_and_falls():
    settings = TrainSettings(steps=100, learning_rate=1.0, warmup_steps=10, decay_share=0.5)
    assert settings.rate_at(0, 100) == pytest.approx(0.1)
    assert settings.rate_at(30, 100) == 1.0
    assert settings.rate_at(75, 100) == pytest.approx(0.5)
    assert settings.rate_at(99, 100) == pytest.approx(0.05)


def test_an_unfinished_cache_is_an_error(tmp_path):
    with pytest.raises(LoquentError, match="run `python -m"):
        MotionWindows(tmp_path, 20, 4)
