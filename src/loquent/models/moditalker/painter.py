"""The last stage of MToV's decoder where it paints over the photo, moved by the landmarks. Ours, not published.

A small autoencoder blurs what it draws. Here it draws only what the photo does not hold, the mouth's inside above all,
and says for every pixel which layer of the moved photo shows: skin above an opening, skin below it, the head as a whole,
or its own colour. Away from mouth and eyes the moved photo stays as it is.

Shape letters: B batch, T frames, R picture side, S tokens along a side, C channels, G channels of a guide.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moditalker.config import AutoencoderConfig

SKETCH = 4  # places along the side of a token that the decoder gives a colour by itself
_PRIOR = 3.0  # by which the guide's sides of openings speak for each layer at the start of training


class Guide(NamedTuple):
    """Parts of a guide (N, G, R, R) in [−1, 1]."""

    base: Tensor  # RGB: the head as a whole
    upper: Tensor  # RGB: skin that moves with upper lip and lids
    is_upper: Tensor  # one channel, 1 where that is skin above an opening
    lower: Tensor
    is_lower: Tensor
    near: Tensor  # one channel, 1 where mouth and eyes are near

    @staticmethod
    def of(guide: Tensor) -> Guide:
        return Guide(*guide.split([3, 3, 1, 3, 1, 1], dim=1))


class Paint(NamedTuple):
    """What the painter adds to a guide."""

    shares: Tensor  # (N, 4, R, R), summing to 1: of base, upper, lower and colour
    colour: Tensor  # (N, 3, R, R) in [−1, 1]

    def over(self, guide: Tensor) -> Tensor:
        """Frames (N, 3, R, R) over a guide (N, G, R, R)."""
        parts = Guide.of(guide)
        layers = (parts.base, parts.upper, parts.lower, self.colour)
        painted = torch.stack(
            [share[:, None] * layer for share, layer in zip(self.shares.unbind(1), layers, strict=True)]
        ).sum(0)
        return torch.lerp(parts.base, painted, (parts.near + 1) / 2)


class Painter(nn.Module):
    """Tokens of the decoder and a guide to frames: a small U-Net from half the picture's size to the tokens' and back.

    Level k is 2^(k+1) times smaller than the picture; tokens join at the last.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        num_halvings = (config.patch_px // 2).bit_length() - 1
        widths = [config.paint_channels * (2 + level) // 2 for level in range(num_halvings + 1)]
        steps = list(itertools.pairwise(widths))
        self.guide_in = nn.Conv2d(4 * config.guide_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.tokens_in = nn.Conv2d(config.channels, widths[-1], 1)
        self.bottom = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in steps)
        self.middle = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self.out = nn.Conv2d(widths[0], 4 * 7, 3, padding=1)
        self.sketch_out = nn.Linear(config.channels, 3 * SKETCH**2)

    def forward(self, tokens: Tensor, guide: Tensor) -> Tensor:
        """Tokens (B, T, S, S, C) and a guide (B, G, T, R, R) to frames (B, 3, T, R, R)."""
        flat = guide.transpose(1, 2).flatten(0, 1)  # (B·T, G, R, R)
        frames = self.paint(tokens, flat).over(flat)
        return frames.unflatten(0, tokens.shape[:2]).transpose(1, 2)

    def paint(self, tokens: Tensor, guide: Tensor) -> Paint:
        """Tokens (B, T, S, S, C) and a guide (B·T, G, R, R)."""
        levels = [F.silu(self.guide_in(F.pixel_unshuffle(guide, 2)))]
        for down in self.down:
            levels.append(F.silu(down(levels[-1])))
        h = levels[-1] + self.tokens_in(tokens.flatten(0, 1).movedim(-1, 1))
        h = h + F.silu(self.bottom(F.silu(h)))
        for up, level in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            h = F.silu(level + F.interpolate(up(h), scale_factor=2, mode="bilinear"))
        h = h + F.silu(self.middle(h))
        logits, detail = F.pixel_shuffle(self.out(h), 2).split([4, 3], dim=1)
        parts = Guide.of(guide)
        open_ = -(parts.is_upper + parts.is_lower) / 2
        none = torch.zeros_like(open_)
        logits = logits + _PRIOR * torch.cat([none, parts.is_upper, parts.is_lower, open_], dim=1)
        sketch = F.interpolate(self.sketch(tokens), size=guide.shape[2:], mode="bilinear")
        return Paint(logits.softmax(1), torch.tanh(sketch + detail))

    def sketch(self, tokens: Tensor) -> Tensor:
        """Colour at a few places of every token, before its limits: (B, T, S, S, C) to (B·T, 3, 4 S, 4 S)."""
        return F.pixel_shuffle(self.sketch_out(tokens.flatten(0, 1)).movedim(-1, 1), SKETCH)
