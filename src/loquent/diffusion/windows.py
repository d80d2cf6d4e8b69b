"""Overlapping windows over a sequence of unknown length, without seams. Sequences are (T, D)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor


def count_windows(num_frames: int, window: int, overlap: int) -> int:
    """Windows of `window` frames, `window − overlap` apart, that cover `num_frames`."""
    stride = window - overlap
    return 1 if num_frames <= window else -(-(num_frames - window) // stride) + 1


def cut_windows(blocks: Iterable[Tensor], window: int, overlap: int) -> Iterator[tuple[Tensor, int]]:
    """Cuts a stream of blocks (t, ...) into windows.

    Yields:
        (window, ...) rows completed with zeros after the end of the stream, and how many of them are real. A window is
        handed out as soon as it is known whether it is the last one.
    """
    stride = window - overlap
    held: Tensor | None = None
    for block in blocks:
        held = block if held is None else torch.cat([held, block])
        while len(held) > window:
            yield held[:window], window
            held = held[stride:]
    if held is not None and len(held):
        padding = held.new_zeros(window - len(held), *held.shape[1:])
        yield torch.cat([held, padding]), len(held)


def crossfade(old: Tensor, new: Tensor, is_smooth: bool = False) -> Tensor:
    """Blends two takes of the same n frames: old·(1 − w) + new·w, with w = i/n for i = 0…n−1.

    Args:
        old, new: (n, D).
        is_smooth: w rises as u²·(3 − 2u) of u = i/n, so that takes that drift apart do not jerk where the fade begins
            and ends.
    """
    ramp = (torch.arange(len(old), dtype=old.dtype, device=old.device) / len(old))[:, None]
    if is_smooth:
        ramp = ramp * ramp * (3 - 2 * ramp)
    return old * (1 - ramp) + new * ramp


def smooth3(x: Tensor, channels: slice) -> Tensor:
    """3-frame running mean of some channels of (T, D); the ends average the frames that exist."""
    out = x.clone()
    part = x[:, channels]
    total, count = part.clone(), torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
    total[1:] += part[:-1]
    count[1:] += 1
    total[:-1] += part[1:]
    count[:-1] += 1
    out[:, channels] = total / count
    return out


def smooth3_stream(pieces: Iterable[Tensor], channels: slice) -> Iterator[Tensor]:
    """`smooth3` of the joined pieces, piece by piece; it runs one frame behind."""
    context: Tensor | None = None  # the last one or two frames seen; the last of them is still to come out
    for piece in pieces:
        joined = piece if context is None else torch.cat([context, piece])
        first = 0 if context is None else len(context) - 1
        smoothed = smooth3(joined, channels)
        if len(joined) - 1 > first:
            yield smoothed[first:-1]
        context = joined[-2:].clone()
    if context is not None:
        yield smooth3(context, channels)[-1:]
