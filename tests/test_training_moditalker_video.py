"""MToV's recipes at debug size, and the windows that they learn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from loquent.errors import WeightsError
from loquent.models.moditalker import TriplaneAutoencoder, get_autoencoder_preset
from loquent.training import moditalker_autoencoder, moditalker_diffusion
from loquent.training.moditalker_autoencoder import take_over, write_debug_windows
from loquent.training.moditalker_diffusion import cache_latents
from loquent.training.moditalker_video_data import NetworkView, Windows
from loquent.training.recipes import Recipe

RECIPES = {
    "pictures": moditalker_autoencoder.RECIPE,
    "dots": moditalker_autoencoder.LANDMARK_RECIPE,
    "denoiser": moditalker_diffusion.RECIPE,
}


@pytest.mark.parametrize("name", RECIPES)
def test_debug_recipe_learns_and_writes_weights(name: str, tmp_path: Path):
    recipe: Recipe = RECIPES[name]
    recipe.write_debug_data(tmp_path / "data")
    recipe.run(recipe.presets["debug"], tmp_path / "data", tmp_path / "run", "cpu")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert {path.name for path in (tmp_path / "run" / "weights").iterdir()} == {"config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    write_debug_windows(folder)
    return folder


def test_windows_read_back_as_the_networks_want_them(folder: Path):
    config, windows = get_autoencoder_preset("tiny"), Windows(folder)
    assert len(windows) == 3
    view = NetworkView(windows[0], config)
    size = (config.num_frames, config.size_px, config.size_px)
    assert view.clip().shape == view.dots().shape == view.pose().shape == view.portrait().shape == (3, *size)
    assert view.guide([0, 2]).shape == (12, 2, *size[1:])
    assert view.halved_guide().shape == (12, size[0], size[1] // 2, size[2] // 2)
    assert set(view.dots().unique().tolist()) == {-1.0, 1.0}


def test_a_mirrored_window_keeps_dots_on_their_places(folder: Path):
    stored, config = Windows(folder)[0], get_autoencoder_preset("starter")
    plain, mirrored = (NetworkView(window, config).dots().numpy() for window in (stored, stored.mirrored()))
    rows, columns = (np.argwhere(dots[0, 0] > 0).mean(0) for dots in (plain, np.flip(mirrored, -1)))
    np.testing.assert_allclose(rows, columns, atol=2.5)  # dots are cut to whole pixels
    np.testing.assert_array_equal(stored.mirrored().mirrored().frames, stored.frames)


def test_latents_are_made_once(tmp_path: Path):
    moditalker_diffusion.RECIPE.write_debug_data(tmp_path)
    made = cache_latents(tmp_path)
    assert len(made["latent"]) == 3
    (tmp_path / "pictures" / "model.safetensors").unlink()
    assert torch.equal(cache_latents(tmp_path)["pose"], made["pose"])


def test_dots_begin_with_the_pictures_weights_or_not_at_all():
    pictures = TriplaneAutoencoder(get_autoencoder_preset("tiny-painter"))
    dots = TriplaneAutoencoder(get_autoencoder_preset("tiny"))
    take_over(dots, pictures.state_dict())
    assert torch.equal(dots.decoder.layers[0].feedforward.out.weight, pictures.decoder.layers[0].feedforward.out.weight)  # type: ignore[union-attr, arg-type]
    with pytest.raises(WeightsError, match="configurations of one size"):
        take_over(TriplaneAutoencoder(get_autoencoder_preset("starter-landmark")), pictures.state_dict())
