"""From a picture to its appearance and its motion.

Shape letters: B batch, W width of the appearance vector, M motion numbers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from loquent.models.ifmdm.layers import ConvLayer, EqualConv, EqualLinear, EqualMatrix, ResBlock

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.ifmdm.config import AutoencoderConfig
    from loquent.models.ifmdm.photo_layers import PhotoLayers

_HEAD_LAYERS = 4


@dataclass(frozen=True, eq=False)
class Appearance:
    """What a picture looks like."""

    vector: Tensor  # (B, W)
    features: list[Tensor]  # maps (B, C, s, s) for s = 8, 16 ... size_px
    layers: PhotoLayers | None = None  # of the picture, for the output stage


class AppearanceNetwork(nn.Module):
    """Halves the picture down to 4 x 4 and then to one vector, keeping the maps on the way."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]  # size_px first
        self.stem = ConvLayer(3, widths[0], 1)
        self.blocks = nn.ModuleList(ResBlock(a, b) for a, b in itertools.pairwise(widths))
        self.final = EqualConv(widths[-1], config.style_dim, 4)

    def forward(self, image: Tensor) -> Appearance:
        maps = [self.stem(image)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        smallest = maps.pop()  # 4 x 4, not warped
        return Appearance(self.final(smallest).flatten(1), maps[::-1])


class MotionHead(nn.Module):
    """Appearance vector to motion in (−1, 1): (B, W) to (B, M).

    As published: four linear layers with nothing between them, and a last one whose stored bias is not used. Together
    they are one affine map before the tanh.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dim = config.style_dim
        self.layers = nn.Sequential(*(EqualLinear(dim, dim) for _ in range(_HEAD_LAYERS)))
        self.out = EqualMatrix(dim, config.motion_dim)

    def wide(self, vector: Tensor) -> Tensor:
        """Motion before tanh."""
        return self.out(self.layers(vector))

    def forward(self, vector: Tensor) -> Tensor:
        return torch.tanh(self.wide(vector))


class Encoder(nn.Module):
    """Appearance of a picture, and the motion that an appearance vector holds."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.appearance = AppearanceNetwork(config)
        self.motion = MotionHead(config)
