"""What a training run reports on its way: means of its numbers as lines of JSON, through logging, and in TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import time
from typing import TYPE_CHECKING

import torch

from loquent.errors import LoquentError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from loquent.training.machines import Machines

logger = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"


class Curves:
    """Collects the numbers of the steps and reports their means.

    Args:
        folder: takes log.jsonl and, with `tensorboard`, event files in `curves`.
        first_step: of this part of the run. Lines that a stopped part wrote beyond it are dropped.

    Raises:
        MissingExtraError: TensorBoard is wanted and missing.
    """

    def __init__(self, folder: Path, first_step: int, machines: Machines, tensorboard: bool) -> None:
        self._path = folder / LOG_NAME
        self._machines = machines
        self._seen: dict[str, list[Tensor]] = {}
        self._since, self._last_step = time.monotonic(), first_step - 1
        self._board = None
        if machines.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_lines_after(first_step)
            self._board = _open_board(folder / "curves", first_step) if tensorboard else None

    def _drop_lines_after(self, step: int) -> None:
        if self._path.is_file():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            if len(kept) < len(lines):
                self._path.write_text("".join(line + "\n" for line in kept))

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Takes numbers of the current step; several batches of a step are averaged too."""
        for name, value in terms.items():
            self._seen.setdefault(name, []).append(value.detach())

    def report(self, step: int, learning_rate: float) -> None:
        """Writes the means of the steps since the last report, of which `step` is the last.

        Raises:
            LoquentError: a number is not finite; the weights are spoilt, and the last checkpoint is from before.
        """
        stacked = torch.stack([torch.stack(values).float().mean() for values in self._seen.values()])
        means = dict(zip(self._seen, self._machines.mean(stacked).tolist(), strict=True))
        per_step_s = (time.monotonic() - self._since) / (step - self._last_step)
        self._seen, self._since, self._last_step = {}, time.monotonic(), step
        if not all(map(math.isfinite, means.values())):
            raise LoquentError(
                f"training went wrong before step {step + 1}: {means}; lower the learning rate and go on from the last"
                f" checkpoint"
            )
        if self._machines.is_main:
            self._write({"step": step + 1, **means, "learning_rate": learning_rate, "s_per_step": per_step_s})

    def _write(self, line: dict[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        logger.info(" ".join(f"{name} {value:.4g}" for name, value in line.items()))
        if self._board is not None:
            for name, value in line.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _open_board(folder: Path, first_step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            'curves in TensorBoard need tensorboard; install it with pip install "loquent[train]"'
        ) from error
    return SummaryWriter(str(folder), purge_step=first_step + 1)
