"""MToV's recipes at debug size, and the windows that they learn from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loquent.data.shards import CorpusError
from loquent.errors import WeightsError
from loquent.models.moditalker import LatentUNet, TriplaneAutoencoder, get_autoencoder_preset, get_unet_preset
from loquent.training import moditalker_autoencoder, moditalker_diffusion
from loquent.training.loop import TrainSettings
from loquent.training.moditalker_autoencoder import (
    ClipBatches,
    save_network,
    take_over,
    write_debug_dots,
    write_debug_windows,
)
from loquent.training.moditalker_latents import cache_latents, draw_latents
from loquent.training.moditalker_video_data import NetworkView, Windows
from loquent.training.optimizers import OptimizerSettings
from recipe_check import check_debug_recipe


@pytest.mark.parametrize("name", ["moditalker-autoencoder", "moditalker-landmark-autoencoder", "moditalker-diffusion"])
def test_debug_recipe(name: str, tmp_path: Path):
    output = check_debug_recipe(name, tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in (output / "weights").iterdir()}


def test_the_published_autoencoder_is_trained_against_discriminators(tmp_path: Path):
    write_debug_windows(tmp_path / "data")
    recipe = moditalker_autoencoder.AutoencoderRecipe(
        network=get_autoencoder_preset("tiny"),
        train=TrainSettings(steps=2, save_every=2, log_every=2),
        judge=OptimizerSettings(betas=(0.5, 0.9)),
    )
    first = moditalker_autoencoder.train_pictures(recipe, tmp_path / "data", tmp_path / "first")
    line = json.loads((tmp_path / "first" / "log.jsonl").read_text())
    assert {"reconstruction", "perceptual", "adversarial", "features", "judges.loss"} <= set(line)
    further = replace(
        recipe,
        judge=None,
        begin_with=str(tmp_path / "first" / "weights"),
        train=replace(recipe.train, learning_rate=0.0, ema_decay=0.0),
    )
    second = moditalker_autoencoder.train_pictures(further, tmp_path / "data", tmp_path / "second")
    for name, value in second.state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name], atol=1e-3, rtol=1e-3)


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
    assert view.openings().shape == view.clip().shape
    painter = NetworkView(windows[0], get_autoencoder_preset("tiny-painter"))
    assert [part.shape for part in painter.mouth([0, 2])] == [(2, 20, 28, 32), (2, 3, 28, 32), (2, 2)]
    assert set(view.dots().unique().tolist()) == {-1.0, 1.0}


def test_a_mirrored_window_keeps_dots_on_their_places(folder: Path):
    stored, config = Windows(folder)[0], get_autoencoder_preset("starter")
    plain, mirrored = (NetworkView(window, config).dots().numpy() for window in (stored, stored.mirrored()))
    rows, columns = (np.argwhere(dots[0, 0] > 0).mean(0) for dots in (plain, np.flip(mirrored, -1)))
    np.testing.assert_allclose(rows, columns, atol=2.5)  # dots are cut to whole pixels
    again = stored.mirrored().mirrored()
    for name in ("frames", "mouth", "corners"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stored, name))


def test_windows_without_colour_are_grey_in_every_layer(folder: Path):
    grey = NetworkView(Windows(folder)[0].without_colour(), get_autoencoder_preset("tiny-painter"))
    guide, real, _ = grey.mouth([0, 1])
    for first in (0, 3, 7, 12):
        torch.testing.assert_close(guide[:, first], guide[:, first + 2])
    torch.testing.assert_close(real[:, 0], real[:, 1])
    torch.testing.assert_close(grey.pose()[0], grey.pose()[2])


def test_openings_show_the_mouth_where_the_frames_show_it(folder: Path):
    stored = Windows(folder)[0]
    view = NetworkView(stored, get_autoencoder_preset("tiny-painter"))
    seen, whole = view.openings(), view.clip()
    shown = (seen[:, 0] - whole[:, 0]).abs().amax(0) < 0.02
    row, column = stored.corners[0] * 4
    assert shown[row + 1 : row + 27, column + 1 : column + 31].all()
    assert seen[:, 0, : row - 1].abs().max() < 0.02


def test_folders_without_windows_or_of_another_layout_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(CorpusError, match="holds no windows"):
        Windows(tmp_path)
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "mouth.bin").write_bytes(bytes(1000))
    with pytest.raises(CorpusError, match="make the windows anew"):
        Windows(tmp_path / "old")


def test_the_painter_alone_learns_on_latents_that_stay(tmp_path: Path, folder: Path):
    network = get_autoencoder_preset("tiny-painter")
    train = TrainSettings(steps=2, learning_rate=0.1, warmup_steps=0, ema_decay=0.0, save_every=2, log_every=2)
    recipe = moditalker_autoencoder.AutoencoderRecipe(network=network, train=train, painted_frames=2, batch_size=2)
    first = moditalker_autoencoder.train_pictures(recipe, folder, tmp_path / "first").state_dict()
    further = replace(
        recipe,
        begin_with=str(tmp_path / "first" / "weights"),
        painter_only=True,
        mixing=1.0,
    )
    second = moditalker_autoencoder.train_pictures(further, folder, tmp_path / "second").state_dict()
    moved = {name for name, value in second.items() if not torch.allclose(value, first[name], atol=1e-3)}
    assert "painter.textures" in moved
    assert all(name.startswith("painter.") for name in moved)


def test_latents_are_made_once(tmp_path: Path):
    moditalker_diffusion.RECIPE.write_debug_data(tmp_path)
    made = cache_latents(tmp_path)
    assert len(made["latent"]) == 3
    (tmp_path / "pictures" / "model.safetensors").unlink()
    assert torch.equal(cache_latents(tmp_path)["pose"], made["pose"])


def test_a_painters_windows_count_twice(tmp_path: Path):
    write_debug_dots(tmp_path)
    shutil.copytree(tmp_path / "pictures", tmp_path / "dots")
    latents = cache_latents(tmp_path)["latent"]
    assert len(latents) == 6
    assert not torch.equal(latents[0], latents[1])


def test_a_painter_is_given_what_a_denoiser_draws(tmp_path: Path):
    write_debug_dots(tmp_path)
    shutil.copytree(tmp_path / "pictures", tmp_path / "dots")
    torch.manual_seed(0)
    config = get_unet_preset("tiny-painter")
    save_network(LatentUNet(config), config, tmp_path / "denoiser")
    drawn = draw_latents(cache_latents(tmp_path), tmp_path / "denoiser")
    recipe = moditalker_autoencoder.AutoencoderRecipe(
        network=get_autoencoder_preset("tiny-painter"),
        train=TrainSettings(steps=2),
        batch_size=3,
        painted_frames=2,
        drawn_by=str(tmp_path / "denoiser"),
    )
    batch = ClipBatches(tmp_path, recipe)(0)
    assert batch.painted is not None
    assert batch.painted.guide.shape[0] == batch.painted.real.shape[0] == 6
    for latent in batch.clip:
        assert (drawn - latent).abs().flatten(1).amax(1).min() == 0


def test_dots_begin_with_the_pictures_weights_or_not_at_all():
    pictures = TriplaneAutoencoder(get_autoencoder_preset("tiny-painter"))
    dots = TriplaneAutoencoder(get_autoencoder_preset("tiny-landmark"))
    take_over(dots, pictures.state_dict())
    assert torch.equal(dots.decoder.layers[0].feedforward.out.weight, pictures.decoder.layers[0].feedforward.out.weight)  # type: ignore[union-attr, arg-type]
    with pytest.raises(WeightsError, match="configurations of one size"):
        take_over(TriplaneAutoencoder(get_autoencoder_preset("starter-landmark")), pictures.state_dict())
