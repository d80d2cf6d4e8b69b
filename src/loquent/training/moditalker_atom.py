"""Trains AToM on a cache made by `loquent.training.moditalker_atom_data`: the recipe `moditalker-atom`.

loquent train moditalker-atom --data CACHE --output RUN
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from loquent.diffusion.gaussian import Schedule
from loquent.diffusion.stochastic import cosine_betas
from loquent.models.moditalker.atom import AtomDenoiser, DecoderLayer
from loquent.models.moditalker.config import AtomConfig, get_atom_preset
from loquent.models.moditalker.face_fit import ExpressionPrior
from loquent.models.moditalker.generate import save_atom
from loquent.models.moditalker.landmarks import MOUTH_GAPS
from loquent.training.loop import TrainSettings, train
from loquent.training.moditalker_atom_data import AtomBatch, AtomDataSettings, AtomWindows, write_debug_cache
from loquent.training.moditalker_losses import CONDITION_DROPOUT, atom_losses
from loquent.training.recipes import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_SHARPEST = 0.03  # radians a frame: slower rotary channels say little about where a frame is
_POSITION = 2.0  # strength of the position that norms begin with


@dataclass(frozen=True, kw_only=True)
class AtomLossSettings:
    """What is added to the published loss, and how often conditions are left out."""

    gap: float = 0.0  # weight of the squared error of the lips' distance; published: 0
    drop: float = CONDITION_DROPOUT  # share of samples that lose speech and landmark


class AtomLoss:
    """The training step's loss, for `loquent.training.loop.train`."""

    def __init__(self, settings: AtomLossSettings) -> None:
        self.settings = settings
        self._schedule = Schedule.full(cosine_betas())

    def __call__(self, network: nn.Module, batch: AtomBatch, random: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(network, AtomDenoiser)
        dtype, device = network.null_audio.dtype, batch.residual.device
        size = len(batch.residual)
        # one timestep in each of B equal parts: a small batch sees all of them
        part = (torch.randperm(size, generator=random) + torch.rand(size, generator=random)) / size
        step = (part * len(self._schedule)).long().to(device)
        keep = (torch.rand(size, generator=random) >= self.settings.drop).to(device)
        noise = torch.randn(batch.residual.shape, generator=random).to(device)
        made: list[Tensor] = []

        def predict(x: Tensor, timestep: Tensor) -> Tensor:
            audio, landmark = batch.audio.to(dtype), batch.landmark.to(dtype)
            made.append(network(x.to(dtype), timestep, audio, landmark, keep).float())
            return made[0]

        terms = atom_losses(predict, self._schedule, batch.residual, noise, step, batch.real)
        wrong = lip_gaps(made[0]) - lip_gaps(batch.residual)
        real = batch.real.to(wrong)
        gap = (wrong.square().mean(-1) * real).sum() / real.sum().clamp(min=1)
        return {"loss": terms["reconstruction"] + terms["velocity"] + self.settings.gap * gap, **terms, "gap": gap}


def lip_gaps(vectors: Tensor) -> Tensor:
    """Heights of the mouth's opening (..., 3) of landmark vectors (..., 204)."""
    heights = vectors.unflatten(-1, (-1, 3))[..., 1]
    upper, lower = (list(points) for points in zip(*MOUTH_GAPS, strict=True))
    return heights[..., upper] - heights[..., lower]


@torch.no_grad()
def begin_local(network: AtomDenoiser) -> None:
    """Lets attention begin with the frames near by; learning which frame of speech is meant takes long otherwise.

    The first prediction is no motion at all. Positions are turned into queries and keys before their projection, so a
    part that all vectors share is turned to where the frame is: norms begin with such a part, and queries and keys with
    one projection.
    """
    dim = network.config.hidden_dim
    turns = 10_000.0 ** -(torch.arange(0, dim, 2) / dim)
    shared = torch.zeros(dim)
    shared[::2] = _POSITION * (turns > _SHARPEST)
    for layer in network.layers:
        assert isinstance(layer, DecoderLayer)
        for norm in (layer.norm1, layer.norm2):
            norm.bias.copy_(shared)
        for attention in (layer.self_attention, layer.cross_attention):
            weight = attention.in_proj.weight
            nn.init.orthogonal_(weight[:dim])
            weight[dim : 2 * dim] = weight[:dim]
            attention.in_proj.bias.zero_()
    network.memory_norm.bias.copy_(shared)
    nn.init.zeros_(network.out.weight)
    nn.init.zeros_(network.out.bias)


@dataclass(frozen=True, kw_only=True)
class AtomRecipe:
    """Configuration of the recipe `moditalker-atom`."""

    train: TrainSettings
    network: AtomConfig
    data: AtomDataSettings = field(default_factory=AtomDataSettings)
    loss: AtomLossSettings = AtomLossSettings()
    begin_local: bool = False  # see the function of that name; published: no
    batch_size: int = 64


def train_atom(config: AtomRecipe, data: Path, output: Path, device: str = "cpu") -> AtomDenoiser:
    """Trains on a cache; the averaged weights are written to `output`/weights at every save."""
    torch.manual_seed(config.train.seed)
    windows = AtomWindows(data, config.network, config.data, config.batch_size, config.train.seed)
    prior = ExpressionPrior.of(windows.expression())
    network = AtomDenoiser(config.network)
    if config.begin_local:
        begin_local(network)

    def save(ema: nn.Module, step: int) -> None:
        assert isinstance(ema, AtomDenoiser)
        save_atom(ema, prior, output / "weights")

    ema = train(network, AtomLoss(config.loss), windows.batch, config.train, output, save, device=device)
    assert isinstance(ema, AtomDenoiser)
    return ema


_PUBLISHED = TrainSettings(
    steps=400_000,
    optimizer="adan",
    learning_rate=4e-4,
    warmup_steps=0,
    decay_share=0.0,
    weight_decay=0.02,
    betas=(0.02, 0.08, 0.01),
    max_grad_norm=float("inf"),
    ema_decay=0.9999,
)
RECIPE = Recipe(
    presets={
        "starter": AtomRecipe(
            train=replace(
                _PUBLISHED,
                steps=1500,
                learning_rate=1e-3,
                warmup_steps=200,
                decay_share=0.3,
                max_grad_norm=1.0,
                ema_decay=0.998,
                bfloat16=True,
                save_every=250,
            ),
            network=get_atom_preset("starter"),
            loss=AtomLossSettings(gap=20.0),
            begin_local=True,
            batch_size=16,
        ),
        "published": AtomRecipe(
            train=_PUBLISHED,
            network=get_atom_preset("published"),
            data=AtomDataSettings(neutral_share=0.0, least_neutral=0.0),
        ),
        "debug": AtomRecipe(
            train=replace(_PUBLISHED, steps=24, learning_rate=1e-2, save_every=16, log_every=8),
            network=get_atom_preset("tiny"),
            data=AtomDataSettings(faces=1),
            batch_size=4,
        ),
    },
    run=train_atom,
    data="a cache of speech features and motion, made by `python -m loquent.training.moda_data`",
    write_debug_data=write_debug_cache,
)
