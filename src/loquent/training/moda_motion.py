"""Trains the MoDA motion generator on a feature cache made by `loquent.training.moda_data`.

    python -m loquent.training.moda_motion CACHE RUN --steps 6000 --export src/loquent/weights/moda-starter

A run that was stopped goes on where its last checkpoint stands.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.models.moda.config import ModaConfig, get_preset
from loquent.models.moda.generate import MotionFlowGenerator
from loquent.models.moda.network import MotionTransformer
from loquent.training.loop import TrainSettings, train
from loquent.training.losses import flow_losses
from loquent.training.moda_data import MotionBatch, MotionWindows
from loquent.types import ARKIT_INDEX, ARKIT_NAMES, MOTION_DIM

if TYPE_CHECKING:
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
        return torch.rand(len(batch.motion), generator=random) < share

    null_emotion = F.one_hot(torch.tensor(batch.emotion.shape[1] - 1), batch.emotion.shape[1]).to(batch.emotion)
    return replace(
        batch,
        audio=torch.where(chosen(settings.drop_audio)[:, None, None, None], null_audio, batch.audio.to(null_audio)),
        emotion=torch.where(chosen(settings.drop_emotion)[:, None], null_emotion, batch.emotion),
        previous=torch.where(chosen(settings.drop_previous)[:, None], rest, batch.previous),
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

        terms = flow_losses(velocity_of, batch.motion, batch.mask, self.weights, random)
        loss = terms["denoise"] + self.settings.velocity * terms["velocity"] + self.settings.smooth * terms["smooth"]
        return {"loss": loss, **terms}


def make_loss(windows: MotionWindows, settings: MotionLossSettings) -> MotionLoss:
    """The loss for the data's rest pose and its channels that move."""
    return MotionLoss(torch.from_numpy(windows.rest), torch.from_numpy(windows.std > 0).float(), settings)


def train_generator(
    windows: MotionWindows, config: ModaConfig, settings: TrainSettings, run: Path, export: Path | None
) -> MotionFlowGenerator:
    """Trains a generator from the first or the last saved step; `export` takes the averaged weights at every save."""
    torch.manual_seed(settings.seed)
    mean, std = torch.from_numpy(windows.mean), torch.from_numpy(windows.std)

    def save(ema: nn.Module, step: int) -> None:
        if export is not None and isinstance(ema, MotionTransformer):
            MotionFlowGenerator(ema, mean, std).save_pretrained(export)

    loss = make_loss(windows, MotionLossSettings())
    ema = train(MotionTransformer(config), loss, windows.batch, settings, run, save)
    assert isinstance(ema, MotionTransformer)
    return MotionFlowGenerator(ema, mean, std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--export", type=Path, help="folder that takes the averaged weights at every checkpoint")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    config = get_preset(arguments.preset)
    windows = MotionWindows(arguments.cache, config.num_frames, arguments.batch)
    settings = TrainSettings(steps=arguments.steps, bfloat16=True, save_every=250)
    train_generator(windows, config, settings, arguments.run, arguments.export)


if __name__ == "__main__":
    main()
