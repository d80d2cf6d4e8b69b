"""Windows over a sequence of unknown length that are all full, and the joining of what is made in them.

Each window is a *take*. It knows the frames that takes before it cover, keeps those that have been handed out, and
fades over the last ones that have not.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor


class Window(NamedTuple):
    """Rows of a window and where it lies."""

    rows: Tensor  # (N, ...)
    num_known: int  # rows at its start that windows before it cover
    num_real: int  # rows of the sequence; only a sequence shorter than a window has fewer than N


def full_windows(blocks: Iterable[Tensor], size: int, overlap: int) -> Iterator[Window]:
    """Cuts a stream of blocks (t, ...) into windows of `size` rows.

    The last window ends with the sequence and shares more rows than others, so that nothing has to be made up. A
    sequence shorter than a window is completed with its last row.
    """
    stride = size - overlap
    blocks = iter(blocks)
    held = next(blocks, torch.empty(0))
    num_known = 0
    for block in itertools.chain([held[:0]], blocks):
        held = torch.cat([held, block])
        while len(held) >= size + stride:
            yield Window(held[:size], num_known, size)
            held, num_known = held[stride:], overlap
    if 0 < len(held) < size:  # can only be the first
        padding = held[-1:].expand(size - len(held), *held.shape[1:])
        yield Window(torch.cat([held, padding]), 0, len(held))
    elif len(held):
        yield Window(held[:size], num_known, size)
        if num_new := len(held) - size:
            yield Window(held[-size:], size - num_new, size)


def keep_weights(num_known: int, fade: int) -> Tensor:
    """How far each known row is kept, (num_known,): 1, and over the last `fade` rows 1, 1 − 1/fade ... 1/fade."""
    weights = torch.ones(num_known)
    if fade:
        weights[-fade:] = 1 - torch.arange(fade) / fade
    return weights


def keep_known(take: Tensor, known: Tensor, fade: int) -> Tensor:
    """A take (N, ...) whose first K rows stay with `known` (K, ...), less and less over the last `fade` of them."""
    weights = keep_weights(len(known), fade).to(take).view(-1, *[1] * (take.ndim - 1))
    return torch.cat([torch.lerp(take[: len(known)], known, weights), take[len(known) :]])


def join_takes(
    windows: Iterable[Window], make_take: Callable[[Window, Tensor | None], Tensor], overlap: int
) -> Iterator[Tensor]:
    """Makes a take of every window and hands out the sequence, row by row once.

    Args:
        windows: of `full_windows` with the same overlap.
        make_take: given a window and the known rows at its start (None in the first window), gives N rows whose known
            ones follow `keep_weights` with a fade of `overlap`.
        overlap: rows that are held back until the next take.

    Yields:
        Consecutive pieces, final once handed out.
    """
    before: Tensor | None = None
    num_held = 0
    for window in windows:
        known = None if before is None else before[-window.num_known :] if window.num_known else before[:0]
        take = make_take(window, known)[: window.num_real]
        start = window.num_known - num_held
        num_held = min(overlap, window.num_real)
        if (end := window.num_real - num_held) > start:
            yield take[start:end]
        before = take
    if before is not None and num_held:
        yield before[-num_held:]
