"""Where a training run computes: one device, or one process for each of several, here or on many machines.

Networks are not wrapped. Every process computes gradients of its own batches, and the mean of all is what each applies,
so losses may call any method of a network, and several networks may take turns.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loquent.errors import LoquentError, MissingExtraError
from loquent.systems import choose_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from accelerate import Accelerator
    from torch import nn

_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "LOCAL_RANK")  # set by `accelerate launch` and by torchrun


@dataclass(frozen=True, eq=False)
class Machines:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1
    autocasts: bool = False  # bfloat16 was asked for by `accelerate launch --mixed_precision bf16`
    accelerator: Accelerator | None = None  # None: this process is alone

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def autocast(self, wanted: bool) -> AbstractContextManager:
        """A context that computes in bfloat16 where that is safe, if `wanted` or asked for at launch."""
        return torch.autocast(self.device.type, torch.bfloat16) if wanted or self.autocasts else nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.accelerator is None or self.count == 1:
            return values
        return self.accelerator.reduce(values, "mean")  # type: ignore[return-value]

    @torch.no_grad()
    def average(self, network: nn.Module, weights: Sequence[nn.Parameter]) -> None:
        """Gives every process the mean gradient of `weights` and the mean of the network's running values.

        A weight without a gradient in this process counts as zero; one without in all of them stays without.
        """
        if self.count == 1:
            return
        running = [value for value in network.buffers() if value.is_floating_point()]
        present = torch.tensor([float(weight.grad is not None) for weight in weights], device=self.device)
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        pieces = [present, *gradients, *running]
        flat = self.mean(torch.cat([piece.flatten().float() for piece in pieces]))
        present, *means = flat.split([piece.numel() for piece in pieces])
        for weight, gradient, share in zip(weights, means, present.tolist(), strict=False):
            weight.grad = gradient.view_as(weight) if share else None
        for value, mean in zip(running, means[len(weights) :], strict=True):
            value.copy_(mean.view_as(value))

    @torch.no_grad()
    def share(self, network: nn.Module) -> None:
        """Gives every process the first one's weights."""
        if self.count > 1:
            from accelerate.utils import broadcast

            for value in network.state_dict().values():
                value.copy_(broadcast(value.clone()))

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def launched_rank() -> int:
    """Number of this process among those that were launched together, before they have joined."""
    return int(os.environ.get("RANK", "0"))


def join_machines(device: str = "auto") -> Machines:
    """This process, as `accelerate launch` or torchrun started it, otherwise alone on `device`.

    Args:
        device: as for `systems.choose_device`. Of several processes, "cpu" keeps all on processors; otherwise each has
            the graphics card that the launcher gave it.

    Raises:
        MissingExtraError: started by a launcher where accelerate is missing.
        LoquentError: accelerate is set up for anything but data-parallel training in float32 or bfloat16.
    """
    if not any(name in os.environ for name in _LAUNCHED):
        return Machines(torch.device(choose_device(device)))
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError(
            'training in several processes needs accelerate; install it with pip install "loquent[train]"'
        ) from error
    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.distributed_type.value in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise LoquentError(
            f"accelerate is set up for {accelerator.distributed_type.value}; loquent trains data-parallel:"
            f" launch with --multi_gpu or --cpu"
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise LoquentError(
            f"accelerate is set up for {accelerator.mixed_precision}; loquent trains in float32 or bfloat16: launch with"
            f" --mixed_precision bf16"
        )
    return Machines(
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.mixed_precision == "bf16",
        accelerator,
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The same batch with every tensor on `device`: of dataclasses, dicts, lists and tuples."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if is_dataclass(batch) and not isinstance(batch, type):
        values = {item.name: to_device(getattr(batch, item.name), device) for item in fields(batch)}
        return replace(batch, **values)
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
