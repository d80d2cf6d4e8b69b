"""Appearance extractor: what a face looks like, as a volume of features that motion can move.

Source: Guo et al. 2024, "LivePortrait", network F; docs/moda.md, "Renderer".
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from loquent.models.moda.renderer.blocks import ConvNorm2d, ResidualBlock3d

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moda.renderer.config import AppearanceConfig


class AppearanceExtractor(nn.Module):
    """A face crop to its feature volume."""

    def __init__(self, config: AppearanceConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width_at(level) for level in range(config.num_halvings + 1)]
        self.stem = ConvNorm2d(3, widths[0])
        self.down = nn.ModuleList(ConvNorm2d(a, b) for a, b in pairwise(widths))
        self.to_volume = nn.Conv2d(widths[-1], config.volume_channels * config.volume_depth, 1)
        self.volume_blocks = nn.Sequential(
            *(ResidualBlock3d(config.volume_channels) for _ in range(config.num_volume_blocks))
        )

    def forward(self, photo: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] to (B, C, D, S / 4, S / 4) with the published two halvings."""
        x = F.relu(self.stem(photo))
        for block in self.down:
            x = F.avg_pool2d(F.relu(block(x)), 2)
        volume = self.to_volume(x).unflatten(1, (self.config.volume_channels, self.config.volume_depth))
        return self.volume_blocks(volume)
