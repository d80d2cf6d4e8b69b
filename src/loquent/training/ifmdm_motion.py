"""Trains the IF-MDM motion transformer on codes made by `loquent.training.ifmdm_motion_data`: the recipe `ifmdm-motion`.

loquent train ifmdm-motion --data CODES --output RUN
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from loquent.diffusion.gaussian import Schedule, linear_betas
from loquent.errors import LoquentError
from loquent.models.ifmdm.config import MotionConfig, get_motion_preset
from loquent.models.ifmdm.generate import load_transformer, save_generator
from loquent.models.ifmdm.transformer import Drops, MotionDiffusionTransformer
from loquent.training.ifmdm_motion_data import CodeWindows, write_debug_moves
from loquent.training.ifmdm_motion_losses import MotionWindow, draw_asked, draw_drops, motion_losses, varied
from loquent.training.loop import TrainSettings, train
from loquent.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

Vary = Callable[[MotionWindow, Drops, torch.Generator], MotionWindow]


class MotionLoss:
    """The training step's loss, for `loquent.training.loop.train`: published terms, without weights.

    Args:
        vary: makes windows of what the corpus does not hold; conditions are then dropped as users leave them out. None:
            as published.
        velocity: weight of our term for trembling.
    """

    def __init__(self, vary: Vary | None = None, velocity: float = 0.0) -> None:
        self.schedule = Schedule.full(linear_betas())
        self.vary = vary
        self.velocity = velocity

    def __call__(self, network: nn.Module, batch: MotionWindow, random: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(network, MotionDiffusionTransformer)
        count, device = len(batch.motion), batch.motion.device
        step = torch.randint(len(self.schedule), (count,), generator=random).to(device)
        noise = torch.randn(batch.motion.shape, generator=random).to(device)
        drawn = draw_drops(count, random) if self.vary is None else draw_asked(count, random)
        drops = Drops(**{name: value.to(device) for name, value in vars(drawn).items()})
        if self.vary is not None:
            batch = self.vary(batch, drops, random)
        terms = motion_losses(network, self.schedule, batch, step, noise, drops)
        means = {name: value.float().mean() for name, value in terms.items()}
        return {"loss": means["noise"] + means["bound"] + self.velocity * means["velocity"], **means}


@dataclass(frozen=True, kw_only=True)
class MotionRecipe:
    """Configuration of the recipe `ifmdm-motion`."""

    train: TrainSettings
    network: MotionConfig
    batch_size: int = 24
    begin_with: str = ""  # folder of weights to go on from, in their space; "": afresh
    vary: bool = False  # windows move more, less and elsewhere than the corpus where the statistics say so; ours
    velocity: float = 0.0  # weight of the error of motion's differences from frame to frame; ours


def train_transformer(
    config: MotionRecipe, data: Path, output: Path, device: str = "cpu"
) -> MotionDiffusionTransformer:
    """Trains on codes; the averaged weights are written to `output`/weights at every save."""
    torch.manual_seed(config.train.seed)
    network = config.network
    transformer, space = MotionDiffusionTransformer(network), None
    if config.begin_with:
        transformer, space, _ = load_transformer(Path(config.begin_with))
    windows = CodeWindows(
        data, network.num_frames, network.vectors_per_frame, config.batch_size, config.train.seed, space
    )
    space, parts = windows.space, windows.parts
    given = (math.prod(windows.features[0].shape[1:]), len(space.mean))
    wanted = (network.vectors_per_frame * network.audio_dim, network.motion_dim)
    if given != wanted:
        raise LoquentError(
            f"{data} holds {given[0]} speech features and {given[1]} motion numbers a frame; the network takes "
            f"{wanted[0]} and {wanted[1]}: choose another preset, or make the material anew"
        )

    def save(ema: nn.Module, step: int) -> None:
        assert isinstance(ema, MotionDiffusionTransformer)
        save_generator(ema, space, parts, output / "weights")

    def vary(window: MotionWindow, drops: Drops, random: torch.Generator) -> MotionWindow:
        return varied(window, drops, space, parts, random)

    loss = MotionLoss(vary if config.vary else None, config.velocity)
    ema = train(transformer.train(), loss, windows.batch, config.train, output, save, device=device)
    assert isinstance(ema, MotionDiffusionTransformer)
    return ema


_STARTER = TrainSettings(
    steps=6000,
    learning_rate=1e-3,
    warmup_steps=200,
    weight_decay=0.0,
    betas=(0.9, 0.99),
    ema_decay=0.998,
    save_every=250,
)
_PUBLISHED = replace(
    _STARTER, steps=1_000_000, learning_rate=1e-4, warmup_steps=0, decay_share=0.0, betas=(0.9, 0.999),
    max_grad_norm=float("inf"), ema_decay=0.9999, autocast=False, save_every=50_000,
)  # fmt: skip
RECIPE = Recipe(
    presets={
        "starter": MotionRecipe(train=_STARTER, network=get_motion_preset("starter"), vary=True, velocity=1.0),
        "published": MotionRecipe(train=_PUBLISHED, network=get_motion_preset("a0"), batch_size=128),
        "debug": MotionRecipe(
            train=TrainSettings(steps=40, learning_rate=1e-2, warmup_steps=2, save_every=24, log_every=8),
            network=get_motion_preset("tiny"),
            batch_size=8,
            vary=True,
            velocity=1.0,
        ),
    },
    run=train_transformer,
    data="motion codes and speech features, made by `python -m loquent.training.ifmdm_motion_data`",
    write_debug_data=write_debug_moves,
)
