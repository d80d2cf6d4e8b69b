"""The training loop: turns, optimizers, mean of the weights, log and checkpoints. It knows no network and no data.

Every batch and every random number of a step depend on (seed, step) alone, so a run that was stopped and resumed gives
the weights of one that was not. N processes with one batch a step do what one process does with N batches a step.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from loquent.errors import LoquentError
from loquent.training.checkpoint import load_checkpoint, save_checkpoint
from loquent.training.curves import Curves
from loquent.training.ema import EMA
from loquent.training.machines import Machines, join_machines, to_device
from loquent.training.optimizers import OptimizerSettings, make_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    Terms = dict[str, Tensor]  # named numbers; "loss" is minimised, the others are logged
    Loss = Callable[[Any, "Batch", torch.Generator], Terms]  # of a network of the kind that is trained
    Turns = Callable[[Mapping[str, nn.Module], "Batch", torch.Generator, int], Iterator[tuple[str, Terms]]]
    Hook = Callable[[nn.Module, int], None]  # the averaged network, and the steps it has learnt

Batch = TypeVar("Batch")
Item = TypeVar("Item")
logger = logging.getLogger(__name__)

_OTHER_STREAM = 0x9E3779B9  # keeps torch's own random numbers (dropout) apart from those that losses draw


@dataclass(frozen=True, kw_only=True)
class TrainSettings(OptimizerSettings):
    """How to train, whatever is trained."""

    steps: int
    batches_per_step: int = 1  # of each process; their gradients are averaged (gradient accumulation)
    ema_decay: float = 0.998
    bfloat16: bool = False  # forward and backward wholly in bfloat16, weights and optimizer in float32
    autocast: bool = False  # forward in bfloat16 only where torch holds it for safe
    seed: int = 0
    save_every: int = 500
    log_every: int = 50
    sample_every: int = 0  # 0: never
    loader_workers: int = 0  # processes that make batches ahead
    tensorboard: bool = False  # curves in TensorBoard, beside log.jsonl


@dataclass(frozen=True, eq=False)
class Learner:
    """A network to train, in place, in float32, and how its weights are moved. What needs no gradient stays."""

    network: nn.Module
    settings: OptimizerSettings


def train(
    network: nn.Module,
    loss: Loss,
    make_batch: Callable[[int], Batch],
    settings: TrainSettings,
    folder: Path,
    on_save: Hook | None = None,
    on_sample: Hook | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Trains `network` up to `settings.steps`, going on from the folder's checkpoint when there is one.

    Args:
        network: trained in place, float32.
        loss: from a network, a batch and a random generator (of the processor) to named terms.
        make_batch: the batch of a number; the first step of a single process takes number 0, the second 1.
        folder: takes checkpoint.pt and log.jsonl; of several machines, all must see it.
        on_save: called with the averaged network at every checkpoint.
        on_sample: the same, every `settings.sample_every` steps.
        device: as for `machines.join_machines`.

    Returns:
        The averaged network.

    Raises:
        LoquentError: a loss was not finite, or the device is not there.
    """

    def turns(networks: Mapping[str, nn.Module], batch: Batch, random: torch.Generator, step: int):
        yield "network", loss(networks["network"], batch, random)

    learners = {"network": Learner(network, settings)}
    return train_together(learners, turns, make_batch, settings, folder, on_save, on_sample, device)


def train_together(
    learners: Mapping[str, Learner],
    turns: Turns,
    make_batch: Callable[[int], Batch],
    settings: TrainSettings,
    folder: Path,
    on_save: Hook | None = None,
    on_sample: Hook | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Trains several networks in one step, such as one that draws and one that judges; otherwise as `train`.

    Args:
        learners: by name. The first is what the run is for: it is averaged, handed to the hooks and returned.
        turns: from the networks, a batch, a random generator and the step to pairs of a learner's name and its terms,
            one after another. Each pair's gradients reach that learner's weights alone. All weights move at the end of
            the step; a learner that had no turn rests.
    """
    machines = join_machines(device)
    students = {name: _Student(learner, settings, machines) for name, learner in learners.items()}
    prefixes = dict(zip(students, _prefixes(students), strict=True))
    main = next(iter(students.values()))
    ema = EMA(main.network, settings.ema_decay)
    first = _resume(folder, students, ema)
    curves = Curves(folder, first, machines, settings.tensorboard)
    networks = {name: student.computing for name, student in students.items()}
    batches = _batches(make_batch, first, settings, machines)
    for step in range(first, settings.steps):
        for student in students.values():
            student.begin_step()
        for _ in range(settings.batches_per_step):
            number, batch = next(batches)
            random = _seed(settings.seed, number)
            for name, terms in _under_autocast(turns(networks, batch, random, step), settings.autocast, machines):
                students[name].learn(terms["loss"] / settings.batches_per_step)
                curves.add({prefixes[name] + term: value for term, value in terms.items()})
        for name, student in students.items():
            norm = student.end_step(step, machines)
            curves.add({f"{prefixes[name]}gradient": norm})
        ema.update(main.network, step)
        done = step + 1
        is_saved = done % settings.save_every == 0 or done == settings.steps
        if is_saved or done % settings.log_every == 0:
            curves.report(step, main.rate)
        if is_saved and machines.is_main:
            _save(folder, students, ema, done)
            if on_save is not None:
                on_save(ema.network, done)
        if on_sample is not None and settings.sample_every and done % settings.sample_every == 0 and machines.is_main:
            on_sample(ema.network, done)
    curves.close()
    machines.wait()
    return ema.network


class _Student:
    """A learner at work: its optimizer, and the bfloat16 twin that computes for it if there is one."""

    def __init__(self, learner: Learner, run: TrainSettings, machines: Machines) -> None:
        self.network = learner.network.to(machines.device).train()
        machines.share(self.network)
        self.settings = learner.settings
        self.steps = run.steps
        self.rate = 0.0
        self.weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizer = make_optimizer(self.weights, self.settings)
        self.twin = _Bfloat16Twin(self.network) if run.bfloat16 else None

    def restore(self, network: Mapping[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict(optimizer)
        if self.twin:
            self.twin.take_buffers()

    @property
    def computing(self) -> nn.Module:
        return self.twin.network if self.twin else self.network

    def begin_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.twin:
            self.twin.take_weights()

    def learn(self, loss: Tensor) -> None:
        """Adds the gradients of `loss` for this network's weights, and for no other's."""
        loss.backward(inputs=[weight for weight in self.computing.parameters() if weight.requires_grad])

    def end_step(self, step: int, machines: Machines) -> Tensor:
        """Moves the weights; returns the length of their gradient."""
        if self.twin:
            self.twin.give_gradients()
        machines.average(self.network, self.weights)
        self.rate = self.settings.rate_at(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm)
        self.optimizer.step()
        return norm


class _Bfloat16Twin:
    """A bfloat16 copy that computes gradients for float32 weights.

    Raises:
        LoquentError: the network has batch norms, whose running values bfloat16 would spoil.
    """

    def __init__(self, network: nn.Module) -> None:
        if any(isinstance(part, _BatchNorm) for part in network.modules()):
            raise LoquentError(f"{type(network).__name__} has batch norms; train it with autocast instead of bfloat16")
        self.network = copy.deepcopy(network).bfloat16().train()
        self._weights = list(zip(self.network.parameters(), network.parameters(), strict=True))
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def take_buffers(self) -> None:
        for twin, buffer in self._buffers:
            twin.copy_(buffer)

    @torch.no_grad()
    def take_weights(self) -> None:
        for twin, weight in self._weights:
            twin.copy_(weight)
            twin.grad = None

    @torch.no_grad()
    def give_gradients(self) -> None:
        for twin, weight in self._weights:
            weight.grad = None if twin.grad is None else twin.grad.float()


class _Batches(Dataset):
    """Batches by number, for worker processes."""

    def __init__(self, make_batch: Callable[[int], Any]) -> None:
        self._make_batch = make_batch

    def __getitem__(self, number: int) -> tuple[int, Any]:
        return number, self._make_batch(number)


def _as_it_is(item: Any) -> Any:
    return item


def _batches(
    make_batch: Callable[[int], Batch], first_step: int, settings: TrainSettings, machines: Machines
) -> Iterator[tuple[int, Batch]]:
    """Numbers and batches of this process from a step on; every number is used once, by one process."""
    rounds = range(first_step * settings.batches_per_step, settings.steps * settings.batches_per_step)
    loader = DataLoader(
        _Batches(make_batch),
        sampler=[number * machines.count + machines.rank for number in rounds],
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=settings.loader_workers,
    )
    for number, batch in loader:
        yield number, to_device(batch, machines.device)


def _seed(seed: int, number: int) -> torch.Generator:
    """Seeds torch itself for a batch, and returns the generator that its loss draws from."""
    torch.manual_seed((seed << 32) + number ^ _OTHER_STREAM)
    return torch.Generator().manual_seed((seed << 32) + number)


def _under_autocast(turns: Iterator[Item], wanted: bool, machines: Machines) -> Iterator[Item]:
    """The same turns; what computes them runs in autocast, what takes them does not."""
    while True:
        with machines.autocast(wanted):
            turn = next(turns, None)
        if turn is None:
            return
        yield turn


def _save(folder: Path, students: Mapping[str, _Student], ema: EMA, steps: int) -> None:
    """The first network's state stands under plain names, that of others under names of their own."""
    state: dict[str, Any] = {"ema": ema.network.state_dict(), "step": steps}
    for prefix, student in zip(_prefixes(students), students.values(), strict=True):
        state |= {
            f"{prefix}network": student.network.state_dict(),
            f"{prefix}optimizer": student.optimizer.state_dict(),
        }
    save_checkpoint(folder, state)


def _resume(folder: Path, students: Mapping[str, _Student], ema: EMA) -> int:
    """Restores the last checkpoint; returns the step to go on with."""
    state = load_checkpoint(folder)
    if state is None:
        return 0
    ema.network.load_state_dict(state["ema"])
    for prefix, student in zip(_prefixes(students), students.values(), strict=True):
        student.restore(state[f"{prefix}network"], state[f"{prefix}optimizer"])
    logger.info("resuming at step %d", state["step"])
    return state["step"]


def _prefixes(students: Mapping[str, _Student]) -> list[str]:
    """Of each learner's names in logs and checkpoints: none for the first."""
    return ["", *(f"{name}." for name in list(students)[1:])]
