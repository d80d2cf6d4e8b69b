"""The training loop: optimizer, schedule, EMA, log and checkpoints. It knows no network and no data.

Every batch and every random number of a step depend on (seed, step) alone, so a run that was stopped and resumed gives
the weights of one that was not.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from loquent.training.checkpoint import load_checkpoint, save_checkpoint
from loquent.training.ema import EMA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    Loss = Callable[[nn.Module, "Batch", torch.Generator], dict[str, Tensor]]

Batch = TypeVar("Batch")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How to train, whatever is trained."""

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_share: float = 0.3  # last part of the run in which the rate falls linearly to a twentieth
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.998
    bfloat16: bool = False  # forward and backward in bfloat16, weights and optimizer in float32
    seed: int = 0
    save_every: int = 500
    log_every: int = 50

    def rate_at(self, step: int) -> float:
        """Learning rate: linear warm-up, constant, linear fall."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return self.learning_rate * warm * min(1.0, max(0.05, left))


class _Bfloat16Copy:
    """A bfloat16 twin that computes gradients for float32 weights."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).bfloat16().train()
        self._pairs = list(zip(self.network.parameters(), network.parameters(), strict=True))

    @torch.no_grad()
    def take_weights(self) -> None:
        for twin, weight in self._pairs:
            twin.copy_(weight)
            twin.grad = None

    @torch.no_grad()
    def give_gradients(self) -> None:
        for twin, weight in self._pairs:
            weight.grad = None if twin.grad is None else twin.grad.float()


def train(
    network: nn.Module,
    loss: Loss,
    make_batch: Callable[[int], Batch],
    settings: TrainSettings,
    folder: Path,
    on_save: Callable[[nn.Module, int], None] = lambda ema, step: None,
) -> nn.Module:
    """Trains `network` up to `settings.steps`, going on from the folder's checkpoint when there is one.

    Args:
        network: trained in place, float32.
        loss: from a network, a batch and a random generator to named terms; the term "loss" is minimised, the others
            are logged.
        make_batch: the batch of a step.
        folder: takes checkpoint.pt and log.jsonl.
        on_save: called with the averaged network at every checkpoint.

    Returns:
        The averaged network.
    """
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, foreach=True)
    ema = EMA(network, settings.ema_decay)
    twin = _Bfloat16Copy(network) if settings.bfloat16 else None
    first = _resume(folder, network, optimizer, ema)
    network.train()
    log = _Log(folder, settings.log_every)
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate_at(step)
        random = torch.Generator().manual_seed((settings.seed << 32) + step)
        if twin is None:
            optimizer.zero_grad(set_to_none=True)
            terms = loss(network, make_batch(step), random)
            terms["loss"].backward()
        else:
            twin.take_weights()
            terms = loss(twin.network, make_batch(step), random)
            terms["loss"].backward()
            twin.give_gradients()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimizer.step()
        ema.update(network, step)
        log.add(step, terms)
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(folder, state | {"ema": ema.network.state_dict(), "step": step + 1})
            on_save(ema.network, step + 1)
    return ema.network


def _resume(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> int:
    """Restores the last checkpoint; returns the step to go on with."""
    state = load_checkpoint(folder)
    if state is None:
        return 0
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    ema.network.load_state_dict(state["ema"])
    logger.info("resuming at step %d", state["step"])
    return state["step"]


class _Log:
    """Means of the loss terms, as lines of JSON and through logging."""

    def __init__(self, folder: Path, every: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        self._every = every
        self._seen: list[dict[str, float]] = []
        self._since = time.monotonic()

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        self._seen.append({name: float(value.detach()) for name, value in terms.items()})
        if (step + 1) % self._every:
            return
        means = {name: sum(row[name] for row in self._seen) / len(self._seen) for name in self._seen[0]}
        per_step_s = (time.monotonic() - self._since) / len(self._seen)
        line = {"step": step + 1, **means, "s_per_step": per_step_s}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        logger.info(" ".join(f"{name} {value:.4g}" for name, value in line.items()))
        self._seen, self._since = [], time.monotonic()
