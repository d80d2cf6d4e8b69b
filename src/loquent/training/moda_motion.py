"""Trains the MoDA motion generator on a feature cache made by `loquent.training.moda_data`: the recipe `moda-motion`.

loquent train moda-motion --data CACHE --output RUN
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.errors import LoquentError
from loquent.models.moda import motion_space as keypoint_space
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
    """Weights of the terms and shares of dropped conditions. The published weights are unknown."""

    velocity: float = 0.25
    smooth: float = 0.0
    lips: float = 2.0  # of the lips' keypoints, where motion is of keypoints; face parameters have CHANNEL_WEIGHTS
    drop_audio: float = 0.2  # published
    drop_emotion: float = 0.1  # published
    drop_previous: float = 0.1  # published: 0; here it also teaches the first window, which starts at rest


# What viewers look at most counts most. Prefix of the channel -> weight; others 1.
CHANNEL_WEIGHTS = {"jawOpen": 3.0, "mouthClose": 3.0, "mouthRoll": 2.0, "mouth": 2.0, "brow": 0.7, "cheek": 0.7}
POSE_WEIGHTS = (1.0,) * 3 + (0.5,) * 3 + (0.5,) * 4  # rotation, translation, gaze


def keypoint_weights(lips: float) -> Tensor:
    """(70,), mean 1: lips, the rest of the expression, and pose."""
    weights = torch.ones(keypoint_space.MOTION_DIM)
    weights[keypoint_space.LIP_DIMS] = lips
    return weights / weights.mean()


def channel_weights() -> Tensor:
    """Of face parameters, (62,), mean 1."""
    weights = torch.ones(MOTION_DIM)
    for name in ARKIT_NAMES:
        for prefix, weight in CHANNEL_WEIGHTS.items():
            if name.startswith(prefix):
                weights[ARKIT_INDEX[name]] = weight
                break
    weights[len(ARKIT_NAMES) :] = torch.tensor(POSE_WEIGHTS)
    return weights / weights.mean()


def drop_conditions(
    batch: MotionBatch, null_audio: Tensor, rest: Tensor | None, settings: MotionLossSettings, random: torch.Generator
) -> MotionBatch:
    """Replaces conditions by their null values, each for a random share of the items; without `rest` none is at rest."""

    def chosen(share: float) -> Tensor:
        return (torch.rand(len(batch.motion), generator=random) < share).to(batch.motion.device)

    null_emotion = F.one_hot(torch.tensor(batch.emotion.shape[1] - 1), batch.emotion.shape[1]).to(batch.emotion)
    dropped = replace(
        batch,
        audio=torch.where(chosen(settings.drop_audio)[:, None, None, None], null_audio, batch.audio.to(null_audio)),
        emotion=torch.where(chosen(settings.drop_emotion)[:, None], null_emotion, batch.emotion),
    )
    if rest is None:
        return dropped
    at_rest = torch.where(chosen(settings.drop_previous)[:, None], rest.to(batch.previous), batch.previous)
    return replace(dropped, previous=at_rest)


class MotionLoss:
    """The training step's loss, for `loquent.training.loop.train`."""

    def __init__(self, rest: Tensor | None, active: Tensor, settings: MotionLossSettings) -> None:
        self.rest = rest
        self.weights = active * (channel_weights() if len(active) == MOTION_DIM else keypoint_weights(settings.lips))
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
    """Trains on a cache; the averaged weights are written to `output`/weights at every save.

    Raises:
        LoquentError: the cache is not of the network's sizes.
    """
    torch.manual_seed(config.train.seed)
    windows = MotionWindows(data, config.network.num_frames, config.batch_size, config.train.seed)
    _check_sizes(windows, config.network, data)
    mean, std = torch.from_numpy(windows.mean), torch.from_numpy(windows.std)

    def save(ema: nn.Module, step: int) -> None:
        assert isinstance(ema, MotionTransformer)
        MotionFlowGenerator(ema, mean, std).save_pretrained(output / "weights")

    rest = None if windows.rest is None else torch.from_numpy(windows.rest)
    loss = MotionLoss(rest, torch.from_numpy(windows.std > 0).float(), config.loss)
    ema = train(MotionTransformer(config.network), loss, windows.batch, config.train, output, save, device=device)
    assert isinstance(ema, MotionTransformer)
    return ema


def _check_sizes(windows: MotionWindows, network: ModaConfig, data: Path) -> None:
    given = (windows.motion.shape[1], *windows.features[0].shape[1:], windows.style.shape[1])
    wanted = (network.motion_dim, network.audio_layers, network.audio_dim, network.identity_dim)
    if given != wanted:
        raise LoquentError(
            f"{data} holds motion of {given[0]} numbers, {given[1]} layers of {given[2]} features and identities of"
            f" {given[3]}; the network takes {wanted}: choose another --preset or build the cache for it"
        )


RECIPE = Recipe(
    presets={
        "starter": MotionRecipe(
            train=TrainSettings(steps=6000, bfloat16=True, save_every=250), network=get_preset("starter")
        ),
        "published": MotionRecipe(
            train=TrainSettings(
                steps=400_000,
                learning_rate=1e-4,
                warmup_steps=2000,
                betas=(0.9, 0.999),
                ema_decay=0.9999,
                autocast=True,
                save_every=2000,
                log_every=100,
                loader_workers=4,
            ),
            network=get_preset("b"),
            loss=MotionLossSettings(smooth=1e-3, drop_previous=0.0),
            batch_size=32,
        ),
        "debug": MotionRecipe(
            train=TrainSettings(steps=40, learning_rate=1e-2, warmup_steps=2, save_every=24, log_every=8),
            network=get_preset("tiny"),
            batch_size=4,
        ),
    },
    run=train_generator,
    data="a cache of speech features and motion, made by `python -m loquent.training.moda_data`, for the preset"
    " published by `moda_keypoint_data`",
    write_debug_data=write_debug_cache,
)
