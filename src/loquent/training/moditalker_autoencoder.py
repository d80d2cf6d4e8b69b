"""Trains MToV's autoencoder of pictures: `loquent train moditalker-autoencoder`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from loquent.models.moditalker import TriplaneAutoencoder
from loquent.models.moditalker.config import AUTOENCODER_PRESETS, AutoencoderConfig
from loquent.models.moditalker.painter import Guide
from loquent.training.image_losses import slope_difference
from loquent.training.loop import TrainSettings, train
from loquent.training.moditalker_losses import autoencoder_losses
from loquent.training.moditalker_video_data import NetworkView, Windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

logger = logging.getLogger(__name__)

COLOUR_WEIGHT = 0.25  # of the painter's own colour, everywhere near mouth and eyes, so that it is learnt before it is used
SLOPE_WEIGHT = 2.0


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """What is trained, and how."""

    network: AutoencoderConfig
    train: TrainSettings
    batch_size: int = 1
    painted_frames: int = 4  # of a window, on which the loss of a painter is taken; the published loss takes all


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Clips, and the moved photo if the decoder paints over one."""

    clip: Tensor  # (B, 3, T, R, R)
    guide: Tensor | None  # (B, G, T, R, R)


class ClipBatches:
    """Batches of a folder of windows by number, drawn at random from those that are there."""

    def __init__(self, folder: Path, recipe: AutoencoderRecipe) -> None:
        self._windows = Windows(folder)
        self._recipe = recipe

    def __call__(self, number: int) -> ClipBatch:
        config, seed = self._recipe.network, self._recipe.train.seed
        rng = np.random.default_rng((seed, number))
        chosen = rng.integers(len(self._windows), size=self._recipe.batch_size)
        views = [NetworkView(self._windows[int(index)], config.size_px) for index in chosen]
        guide = torch.stack([view.guide() for view in views]) if config.guide_channels else None
        return ClipBatch(torch.stack([view.clip() for view in views]), guide)


def published_loss(network: TriplaneAutoencoder, batch: ClipBatch, random: torch.Generator) -> dict[str, Tensor]:
    """The published loss before its adversarial phase, without the perceptual term, whose weights we may not use."""
    frame = torch.randint(batch.clip.shape[2], (len(batch.clip),), generator=random)
    made = network(batch.clip.to(network.patch_in.weight))
    terms = autoencoder_losses(batch.clip, made.float(), frame, None, None)
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def painter_loss(num_frames: int) -> Callable[[TriplaneAutoencoder, ClipBatch, torch.Generator], dict[str, Tensor]]:
    """Loss of an autoencoder that paints over a moved photo, on some frames of each clip."""

    def loss(network: TriplaneAutoencoder, batch: ClipBatch, random: torch.Generator) -> dict[str, Tensor]:
        assert batch.guide is not None
        weight = network.patch_in.weight
        guide = batch.guide.to(weight)
        tokens = network.decode_tokens(network.encode(batch.clip.to(weight)), guide)
        frames = torch.randperm(batch.clip.shape[2], generator=random)[:num_frames]
        shown = guide[:, :, frames].transpose(1, 2).flatten(0, 1)  # (B·F, G, R, R)
        real = batch.clip[:, :, frames].transpose(1, 2).flatten(0, 1)
        paint = network.painter.paint(tokens[:, frames], shown)
        made, near = paint.over(shown).float(), (Guide.of(shown).near.float() + 1) / 2
        weights = near / near.mean().clamp(min=1e-3)
        terms = {
            "picture": (weights * (made - real).abs()).mean(),
            "slopes": slope_difference(real, made, weights),
            "colour": (weights * (paint.colour.float() - real).abs()).mean(),
        }
        whole = terms["picture"] + SLOPE_WEIGHT * terms["slopes"] + COLOUR_WEIGHT * terms["colour"]
        return {"loss": whole, **terms, "own": (weights * paint.shares[:, 3:].float()).mean().detach()}

    return loss


def run(recipe: AutoencoderRecipe, data: Path, output: Path, device: str = "cpu") -> nn.Module:
    """Trains; weights are written to `output` at every checkpoint."""
    torch.manual_seed(recipe.train.seed)
    network = TriplaneAutoencoder(recipe.network)
    loss = painter_loss(recipe.painted_frames) if recipe.network.guide_channels else published_loss

    def save(average: nn.Module, step: int) -> None:
        save_network(average, recipe.network, output / "weights")

    return train(network, loss, ClipBatches(data, recipe), recipe.train, output, save, device=device)


def save_network(network: nn.Module, config: AutoencoderConfig, folder: Path) -> None:
    """Writes config.json and model.safetensors, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")


STARTER = AutoencoderRecipe(
    network=AUTOENCODER_PRESETS["starter"],
    batch_size=2,
    train=TrainSettings(
        steps=1800, learning_rate=1.5e-3, warmup_steps=60, decay_share=0.35, betas=(0.9, 0.98), ema_decay=0.995,
        bfloat16=True, save_every=100, log_every=20,
    ),
)  # fmt: skip
