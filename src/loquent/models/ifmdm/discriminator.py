"""Tells pictures of the renderer from real ones.

Shape letters: B batch, C channels.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn

from loquent.errors import LoquentError
from loquent.models.ifmdm.config import SMALLEST_PX
from loquent.models.ifmdm.layers import ConvLayer, EqualLinear, ResBlock, leaky

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.ifmdm.config import AutoencoderConfig

GROUP = 4  # pictures whose spread is looked at together
_SPREAD_EPS = 1e-8


def batch_spread(x: Tensor) -> Tensor:
    """Mean standard deviation within groups of pictures: (B, C, h, w) to (B, 1, h, w).

    Pictures n, n + B/g, n + 2·B/g ... form a group of g = min(B, 4).

    Raises:
        LoquentError: the batch cannot be split into such groups.
    """
    batch, _, height, width = x.shape
    group = min(batch, GROUP)
    if batch % group:
        raise LoquentError(f"the discriminator was given {batch} pictures; more than {GROUP} must be a multiple of it")
    grouped = x.unflatten(0, (group, -1))  # (g, B/g, C, h, w)
    std = torch.sqrt(grouped.var(0, unbiased=False) + _SPREAD_EPS)
    return std.mean((1, 2, 3)).repeat(group)[:, None, None, None].expand(-1, -1, height, width)


class Discriminator(nn.Module):
    """Logit of a picture being real: (B, 3, size, size) to (B, 1)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels[::-1]
        self.stem = ConvLayer(3, widths[0], 1)
        self.blocks = nn.Sequential(*(ResBlock(a, b) for a, b in itertools.pairwise(widths)))
        self.final_conv = ConvLayer(widths[-1] + 1, widths[-1], 3)
        self.hidden = EqualLinear(widths[-1] * SMALLEST_PX**2, widths[-1])
        self.out = EqualLinear(widths[-1], 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.stem(image))
        x = self.final_conv(torch.cat([x, batch_spread(x)], dim=1))
        return self.out(leaky(self.hidden(x.flatten(1))))
