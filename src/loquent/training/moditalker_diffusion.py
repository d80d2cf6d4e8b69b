"""Trains MToV's denoiser on latents that both autoencoders make once: the recipe `moditalker-diffusion`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from loquent.diffusion.gaussian import Schedule
from loquent.diffusion.stochastic import root_linear_betas
from loquent.models.moditalker import LatentUNet, TriplaneAutoencoder
from loquent.models.moditalker.config import AUTOENCODER_PRESETS, UNET_PRESETS, UNetConfig
from loquent.models.moditalker.rendering import SCALE_NAME, LatentScale
from loquent.models.moditalker.video_sampling import Conditions
from loquent.nn.weights import load_exactly, read_weights
from loquent.training.loop import TrainSettings, train
from loquent.training.moditalker_autoencoder import save_network, write_debug_windows
from loquent.training.moditalker_latents import LatentBatch, cache_latents, latent_scale
from loquent.training.moditalker_losses import latent_clean_loss, latent_noise_loss
from loquent.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe:
    """Configuration of the recipe `moditalker-diffusion`."""

    network: UNetConfig
    train: TrainSettings
    batch_size: int = 10
    scaled: bool = True  # latents are brought to [−1, 1] first; published: not
    begin_with: str = ""  # folder of weights to go on from, with their scale; "": afresh


class LatentBatches:
    """Batches of latents by number; those of clips in the denoiser's scale."""

    def __init__(self, latents: dict[str, Tensor], scale: LatentScale, recipe: DiffusionRecipe) -> None:
        self._latents, self._recipe = latents | {"latent": scale.to_unit(latents["latent"].float())}, recipe

    def __call__(self, number: int) -> LatentBatch:
        rng = np.random.default_rng((self._recipe.train.seed, number))
        chosen = torch.from_numpy(rng.integers(len(self._latents["latent"]), size=self._recipe.batch_size))
        return LatentBatch(**{name: values[chosen].float() for name, values in self._latents.items()})


def diffusion_loss(network: LatentUNet, batch: LatentBatch, random: torch.Generator) -> dict[str, Tensor]:
    """The published loss, or the paper's where the network predicts clean latents; conditions are left out together."""
    config, schedule = network.config, Schedule.full(root_linear_betas())
    device, weight = batch.latent.device, network.out.weight
    size = len(batch.latent)
    noise = torch.randn(batch.latent.shape, generator=random).to(device)
    step = torch.randint(len(schedule), (size,), generator=random).to(device)
    keep = (torch.rand(size, generator=random) >= config.condition_dropout).to(device)
    conditions = Conditions(batch.landmark, batch.pose, batch.identity).dropped(keep)
    told = [condition.to(weight) for condition in conditions]

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        return network(x.to(weight), timestep, *told).float()

    of = latent_clean_loss if config.prediction == "clean" else latent_noise_loss
    return {"loss": of(predict, schedule, batch.latent, noise, step)}


def train_denoiser(recipe: DiffusionRecipe, data: Path, output: Path, device: str = "cpu") -> nn.Module:
    """Trains on the latents of windows; the averaged weights are written to `output`/weights at every save."""
    torch.manual_seed(recipe.train.seed)
    latents = cache_latents(data)
    scale = latent_scale(latents["latent"]) if recipe.scaled else LatentScale.none()
    network = LatentUNet(recipe.network)
    if recipe.begin_with:
        source = Path(recipe.begin_with)
        load_exactly(network, read_weights(source / "model.safetensors"), str(source))
        scale = LatentScale.load(source)

    def save(average: nn.Module, step: int) -> None:
        save_network(average, recipe.network, output / "weights")
        if recipe.scaled:
            save_file({"middle": scale.middle, "spread": scale.spread}, output / "weights" / SCALE_NAME)

    batches = LatentBatches(latents, scale, recipe)
    return train(network, diffusion_loss, batches, recipe.train, output, save, device=device)


def _write_debug_data(folder: Path) -> None:
    write_debug_windows(folder)
    torch.manual_seed(0)
    config = AUTOENCODER_PRESETS["tiny"]
    for name in ("pictures", "dots"):
        save_network(TriplaneAutoencoder(config), config, folder / name)


RECIPE = Recipe(
    presets={
        "starter": DiffusionRecipe(
            network=UNET_PRESETS["starter"],
            batch_size=8,
            train=TrainSettings(
                steps=3000, learning_rate=1e-3, warmup_steps=40, decay_share=0.5, betas=(0.9, 0.99), ema_decay=0.99,
                bfloat16=True, save_every=100, log_every=25,
            ),
        ),
        "published": DiffusionRecipe(
            network=UNET_PRESETS["published"],
            scaled=False,
            train=TrainSettings(
                steps=1_000_000, learning_rate=1e-4, warmup_steps=0, decay_share=0.0, betas=(0.9, 0.999),
                max_grad_norm=float("inf"), ema_decay=0.9999, save_every=1000,
            ),
        ),
        "debug": DiffusionRecipe(
            network=UNET_PRESETS["tiny"],
            batch_size=4,
            train=TrainSettings(steps=40, learning_rate=1e-2, warmup_steps=2, save_every=20, log_every=10),
        ),
    },
    run=train_denoiser,
    data="windows made by `python -m loquent.training.moditalker_video_data`, with both autoencoders' weights in the "
    "folders `pictures` and `dots`",
    write_debug_data=_write_debug_data,
)  # fmt: skip
