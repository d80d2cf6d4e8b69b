"""Trains MToV's denoiser on latents that both autoencoders make once: the recipe `moditalker-diffusion`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from loquent.diffusion.gaussian import Schedule
from loquent.diffusion.stochastic import root_linear_betas
from loquent.models.moditalker import LatentUNet, TriplaneAutoencoder
from loquent.models.moditalker.config import AUTOENCODER_PRESETS, UNET_PRESETS, AutoencoderConfig, UNetConfig
from loquent.models.moditalker.rendering import SCALE_NAME, LatentScale
from loquent.models.moditalker.video_sampling import Conditions
from loquent.nn.weights import load_exactly, read_weights
from loquent.training.loop import TrainSettings, train
from loquent.training.moditalker_autoencoder import GREY_SHARE, save_network, write_debug_windows
from loquent.training.moditalker_losses import latent_clean_loss, latent_noise_loss
from loquent.training.moditalker_video_data import NetworkView, Windows
from loquent.training.recipes import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from loquent.training.moditalker_video_data import StoredWindow

logger = logging.getLogger(__name__)

SPREAD = 2.5  # deviations that fill [0, 1]


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe:
    """Configuration of the recipe `moditalker-diffusion`."""

    network: UNetConfig
    train: TrainSettings
    batch_size: int = 10
    scaled: bool = True  # latents are brought to [−1, 1] first; published: not


@dataclass(frozen=True, eq=False)
class LatentBatch:
    """Latents (B, L, P) of clips, and what the denoiser is told of them."""

    latent: Tensor
    landmark: Tensor
    pose: Tensor
    identity: Tensor  # (B, L, xy positions)


def cache_latents(folder: Path, kind: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Latents (N, L, P) of every window of a folder by its autoencoders; kept in latents.safetensors there.

    For autoencoders that paint over a photo every window counts twice, as it is and mirrored, and some without colour.
    """
    path = folder / "latents.safetensors"
    if path.is_file():
        return load_file(path)
    pictures, dots = (_read_autoencoder(folder / name).to(kind) for name in ("pictures", "dots"))
    config, windows = pictures.config, Windows(folder)
    encoders = _Encoders(pictures, dots, kind)
    found: dict[str, list[Tensor]] = {name: [] for name in LatentBatch.__dataclass_fields__}
    with torch.no_grad():
        for number in range(len(windows)):
            stored = windows[number]
            for window in _variants(stored, number) if config.guide_channels else [stored]:
                for name, latent in encoders.encode(window).items():
                    found[name].append(latent)
            if (number + 1) % 200 == 0:
                logger.info("latents of %d of %d windows", number + 1, len(windows))
    latents = {name: torch.cat(parts).half() for name, parts in found.items()}
    save_file(latents, path)
    return latents


class _Encoders:
    """Both autoencoders; portraits that they saw lately are not encoded again."""

    def __init__(self, pictures: TriplaneAutoencoder, dots: TriplaneAutoencoder, kind: torch.dtype) -> None:
        self._pictures, self._dots, self._kind = pictures, dots, kind
        self._identities: dict[bytes, Tensor] = {}

    def encode(self, window: StoredWindow) -> dict[str, Tensor]:
        """What `LatentBatch` holds of a window, (1, L, P) each."""
        config, view = self._pictures.config, NetworkView(window, self._pictures.config)
        clip = view.openings() if config.guide_channels else view.clip()
        latent, pose = (self._pictures.encode(part[None].to(self._kind)) for part in (clip, view.pose()))
        key = window.portrait.tobytes()
        if key not in self._identities:
            still = self._pictures.encode(view.portrait()[None].to(self._kind))
            recent = list(self._identities.items())[-3:]
            self._identities = dict(recent) | {key: still[..., : config.side**2].contiguous()}
        landmark = self._dots.encode(view.dots()[None].to(self._kind))
        return {"latent": latent, "landmark": landmark, "pose": pose, "identity": self._identities[key]}


def _variants(window: StoredWindow, number: int) -> list[StoredWindow]:
    """The window and its mirror image, both without colour where its number is a multiple of ten."""
    seen = window.without_colour() if number % round(1 / GREY_SHARE) == 0 else window
    return [seen, seen.mirrored()]


def _read_autoencoder(folder: Path) -> TriplaneAutoencoder:
    network = TriplaneAutoencoder(AutoencoderConfig.load(folder / "config.json"))
    path = folder / "model.safetensors"
    load_exactly(network, read_weights(path), str(path))
    return network.eval()


def latent_scale(latent: Tensor) -> LatentScale:
    """What brings latents (N, L, P) to [−1, 1] but for the outermost."""
    deviation = latent.float().std(0)
    return LatentScale(latent.float().mean(0), SPREAD * deviation.clamp(min=0.2 * float(deviation.mean()) + 1e-6))


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

    def save(average: nn.Module, step: int) -> None:
        save_network(average, recipe.network, output / "weights")
        if recipe.scaled:
            save_file({"middle": scale.middle, "spread": scale.spread}, output / "weights" / SCALE_NAME)

    batches = LatentBatches(latents, scale, recipe)
    return train(LatentUNet(recipe.network), diffusion_loss, batches, recipe.train, output, save, device=device)


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
                steps=4000, learning_rate=2e-3, warmup_steps=50, decay_share=0.5, betas=(0.9, 0.99), ema_decay=0.99,
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
