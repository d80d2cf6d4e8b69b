"""Trains the MoDA motion generator on a feature cache made by `loquent.training.moda_data`: the recipe `moda-motion`.

loquent train moda-motion --data CACHE --output RUN
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.models.moda.config import ModaConfig, get_preset
from loquent.models.moda.generate import MotionFlowGenerator
from loquent.models.moda.network import MotionTransformer
from loquent.training.loop import TrainSettings, train
from loquent.training.losses import flow_losses
from loquent.training.moda_data import MotionBatch, MotionWindows, write_debug_cache
from loquent.training.recipes import Recipe
from loquent.types import ARKIT_INDEX, ARKIT_NAMES, MOTION_DIM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class MotionLossSettings:
    """Weights of the terms and shares of dropped conditions."""

    velocity: float = 0.25
    smooth: float = 0.0
    drop_audio: float = 0.2  # published
    drop_emotion: float = 0.1  # published
    drop_previous: float = 0.1  # published: 0; here it also teaches the first window, which starts at rest


# What viewers look at most counts most. Prefix of the channel -> weight; others 1.
CHANNEL_WEIGHTS = {"jawOpen": 3.0, "mouthClose": 3.0, "mouthRoll": 2.0, "mouth": 2.0, "brow": 0.7, "cheek": 0.7}
POSE_WEIGHTS = (1.0,) * 3 + (0.5,) * 3 + (0.5,) * 4  # rotation, translation, gaze


def channel_weights() -> Tensor:
    """(62,), mean 1."""
    weights = torch.ones(MOTION_DIM)
    for name in ARKIT_NAMES:
        for prefix, weight in CHANNEL_WEIGHTS.items():
            if name.startswith(prefix):
                weights[ARKIT_INDEX[name]] = weight
                break
    weights[len(ARKIT_NAMES) :] = torch.tensor(POSE_WEIGHTS)
    return weights / weights.mean()


def drop_conditions(
    batch: MotionBatch, null_audio: Tensor, rest: Tensor, settings: MotionLossSettings, random: torch.Generator
) -> MotionBatch:
    """Replaces conditions by their null values, each for a random share of the items."""

    def chosen(share: float) -> Tensor:
        return (torch.rand(len(batch.motion), generator=random) < share).to(batch.motion.device)

    null_emotion = F.one_hot(torch.tensor(batch.emotion.shape[1] - 1), batch.emotion.shape[1]).to(batch.emotion)
    return replace(
        batch,
        audio=torch.where(chosen(settings.drop_audio)[:, None, None, None], null_audio, batch.audio.to(null_audio)),
        emotion=torch.where(chosen(settings.drop_emotion)[:, None], null_emotion, batch.emotion),
        previous=torch.where(chosen(settings.drop_previous)[:, None], rest.to(batch.previous), batch.previous),
    )


class MotionLoss:
    """The training step's loss, for `loquent.training.loop.train`."""

    def __init__(self, rest: Tensor, active: Tensor, settings: MotionLossSettings) -> None:
        self.rest = rest
        self.weights = channel_weights() * active
        self.settings = settings

    def __call__(self, network: nn.Module, batch: MotionBatch, random: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(network, MotionTransformer)
        dtype = network.null_audio.dtype
        batch = drop_conditions(batch, network.null_audio, self.rest, self.settings, random)

        def velocity_of(noisy: Tensor, sigma: Tensor) -> Tensor:
            conditions = (batch.previous, batch.audio, batch.emotion, batch.identity)
            return network(noisy.to(dtype), sigma, *(value.to(dtype) for value in conditions)).float()

        terms = flow_losses(velocity_of, batch.motion, batch.mask, self.weights.to(batch.motion), random)
        loss = terms["denoise"] + self.settings.velocity * terms["velocity"] + self.settings.smooth * terms["smooth"]
        return {"loss": loss, **terms}


@dataclass(frozen=True, kw_only=True)
class MotionRecipe:
    """Configuration of the recipe `moda-motion`."""

    train: TrainSettings
    network: ModaConfig
    loss: MotionLossSettings = MotionLossSettings()
    batch_size: int = 16


def train_generator(config: MotionRecipe, data: Path, output: Path, device: str = "cpu") -> MotionTransformer:
    """Trains on a cache; the averaged weights are written to `output`/weights at every save."""
    torch.manual_seed(config.train.seed)
    windows = MotionWindows(data, config.network.num_frames, config.batch_size, config.train.seed)
    mean, std = torch.from_numpy(windows.mean), torch.from_numpy(windows.std)

    def save(ema: nn.Module, step: int) -> None:
        assert isinstance(ema, MotionTransformer)
        MotionFlowGenerator(ema, mean, std).save_pretrained(output / "weights")

    loss = MotionLoss(torch.from_numpy(windows.rest), torch.from_numpy(windows.std > 0).float(), config.loss)
    ema = train(MotionTransformer(config.network), loss, windows.batch, config.train, output, save, device=device)
    assert isinstance(ema, MotionTransformer)
    return ema


RECIPE = Recipe(
    presets={
        "starter": MotionRecipe(
            train=TrainSettings(steps=6000, bfloat16=True, save_every=250), network=get_preset("starter")
        ),
        "debug": MotionRecipe(
            train=TrainSettings(steps=40, learning_rate=1e-2, warmup_steps=2, save_every=24, log_every=8),
            network=get_preset("tiny"),
            batch_size=4,
        ),
    },
    run=train_generator,
    data="a cache of speech features and motion, made by `python -m loquent.training.moda_data`",
    write_debug_data=write_debug_cache,
)
