"""The recipe `moda-motion` and its data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loquent.errors import LoquentError
from loquent.models.moda.config import get_preset
from loquent.training.moda_data import MotionWindows, motion_statistics, normalise, write_debug_cache
from loquent.training.moda_motion import train_generator
from loquent.training.recipes import load_recipe
from recipe_check import check_debug_recipe

TINY = get_preset("tiny")


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    write_debug_cache(folder)
    return MotionWindows(folder, TINY.num_frames, batch_size=4)


def test_debug_recipe(tmp_path):
    output = check_debug_recipe("moda-motion", tmp_path)
    assert (output / "weights" / "model.safetensors").is_file()


def test_bfloat16_resumes_exactly(tmp_path):
    config = load_recipe("moda-motion").presets["debug"]
    settings = replace(config.train, steps=6, save_every=3, bfloat16=True)
    write_debug_cache(tmp_path / "data")
    whole = train_generator(replace(config, train=settings), tmp_path / "data", tmp_path / "whole")
    train_generator(
        replace(config, train=replace(settings, steps=3, decay_share=0.15)), tmp_path / "data", tmp_path / "parts"
    )
    resumed = train_generator(replace(config, train=settings), tmp_path / "data", tmp_path / "parts")
    for value, wanted in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=0)


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


def test_an_unfinished_cache_is_an_error(tmp_path):
    with pytest.raises(LoquentError, match="run `python -m"):
        MotionWindows(tmp_path, 20, 4)
