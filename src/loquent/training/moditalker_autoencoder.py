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
    from pathlib import Path

    from torch import Tensor, nn

logger = logging.getLogger(__name__)

COLOUR_WEIGHT = (
    0.25  # of the painter's own colour, everywhere near mouth and eyes, so that it is learnt before it is used
)
SLOPE_WEIGHT = 1.0
LATENT_NOISE = 0.1  # deviation of what is added to latents, so that the decoder bears the denoiser's errors
LATENT_EDGE = 0.7  # latents beyond it are held back, or they stick at -1 and 1, where nothing is learnt
OPENING_WEIGHT = 5.0  # of pixels that neither layer's skin covers, in addition to 1


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
    painted: Tensor | None = None  # (F,), the frames to paint
    guide: Tensor | None = None  # in these frames, (B, G, F, R, R)
    halved_guide: Tensor | None = None  # (B, G, T, R/2, R/2)


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
        clip = torch.stack([view.clip() for view in views])
        if not config.guide_channels:
            return ClipBatch(clip)
        painted = np.sort(rng.permutation(config.num_frames)[: self._recipe.painted_frames])
        guide = torch.stack([view.guide(painted.tolist()) for view in views])
        halved_guide = torch.stack([view.halved_guide() for view in views])
        return ClipBatch(clip, torch.from_numpy(painted), guide, halved_guide)


def published_loss(network: TriplaneAutoencoder, batch: ClipBatch, random: torch.Generator) -> dict[str, Tensor]:
    """The published loss before its adversarial phase, without the perceptual term, whose weights we may not use."""
    frame = torch.randint(batch.clip.shape[2], (len(batch.clip),), generator=random)
    made = network(batch.clip.to(network.patch_in.weight))
    terms = autoencoder_losses(batch.clip, made.float(), frame, None, None)
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def painter_loss(network: TriplaneAutoencoder, batch: ClipBatch, random: torch.Generator) -> dict[str, Tensor]:
    """Loss of an autoencoder that paints over a moved photo, on some frames of each clip."""
    assert batch.guide is not None
    assert batch.halved_guide is not None
    weight = network.patch_in.weight
    latent = network.encode(batch.clip.to(weight))
    noise = LATENT_NOISE * torch.randn(latent.shape, generator=random)
    tokens = network.decode_tokens(latent + noise.to(latent), batch.halved_guide.to(weight))
    guide = batch.guide.transpose(1, 2).flatten(0, 1).to(weight)  # (B·F, G, R, R)
    real = batch.clip[:, :, batch.painted].transpose(1, 2).flatten(0, 1)
    paint = network.painter.paint(tokens[:, batch.painted], guide)
    made, parts = paint.over(guide).float(), Guide.of(guide.float())
    opening = (1 - parts.is_upper) * (1 - parts.is_lower) / 4
    weights = (parts.near + 1) / 2 * (1 + OPENING_WEIGHT * opening)
    weights = weights / weights.mean().clamp(min=1e-3)
    terms = {
        "picture": (weights * (made - real).abs()).mean(),
        "slopes": slope_difference(real, made, weights),
        "colour": (weights * (paint.colour.float() - real).abs()).mean(),
        "edge": (latent.float().abs() - LATENT_EDGE).clamp(min=0).square().mean(),
    }
    whole = terms["picture"] + SLOPE_WEIGHT * terms["slopes"] + COLOUR_WEIGHT * terms["colour"] + terms["edge"]
    return {"loss": whole, **terms, "own": (weights * paint.shares[:, 3:].float()).mean().detach()}


def run(recipe: AutoencoderRecipe, data: Path, output: Path, device: str = "cpu") -> nn.Module:
    """Trains; weights are written to `output` at every checkpoint."""
    torch.manual_seed(recipe.train.seed)
    network = TriplaneAutoencoder(recipe.network)
    for layer in network.to_latent.values():
        layer.weight.data.mul_(0.1)  # type: ignore[operator]
    loss = painter_loss if recipe.network.guide_channels else published_loss

    def save(average: nn.Module, step: int) -> None:
        save_network(average, recipe.network, output / "weights")

    return train(network, loss, ClipBatches(data, recipe), recipe.train, output, save, device=device)


def save_network(network: nn.Module, config: AutoencoderConfig, folder: Path) -> None:
    """Writes config.json and model.safetensors, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    save_file(
        {name: value.half().contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors"
    )


STARTER = AutoencoderRecipe(
    network=AUTOENCODER_PRESETS["starter"],
    batch_size=2,
    train=TrainSettings(
        steps=1600, learning_rate=1e-3, warmup_steps=60, decay_share=0.35, betas=(0.9, 0.98), ema_decay=0.995,
        bfloat16=True, save_every=100, log_every=20,
    ),
)  # fmt: skip
