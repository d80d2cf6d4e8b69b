"""SPADE decoder: a feature map to a picture.

Source: Park et al. 2019, "Semantic Image Synthesis with Spatially-Adaptive Normalization"; Guo et al. 2024,
"LivePortrait", network G, where the map is both what is decoded and what conditions every norm.

Shape letters: B batch, C channels, H and W.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moda.renderer.config import DecoderConfig

SLOPE = 0.2  # of the leaky rectifiers


class Spade(nn.Module):
    """Instance norm whose scale and shift are drawn from a map, pixel by pixel."""

    def __init__(self, channels: int, config: DecoderConfig) -> None:
        super().__init__()
        self.shared = nn.Conv2d(config.map_channels, config.shared_channels, 3, padding=1)
        self.gamma = nn.Conv2d(config.shared_channels, channels, 3, padding=1)
        self.beta = nn.Conv2d(config.shared_channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, H, W) and the map (B, C', H', W'), resized to x by nearest."""
        shared = F.relu(self.shared(F.interpolate(condition, size=x.shape[2:])))
        return F.instance_norm(x) * (1 + self.gamma(shared)) + self.beta(shared)


class SpadeBlock(nn.Module):
    """Residual block of two SPADE norms and convolutions.

    The published convolutions carry spectral norm; its division is folded into the weights when they are loaded.
    """

    def __init__(self, channels_in: int, channels_out: int, config: DecoderConfig) -> None:
        super().__init__()
        middle = min(channels_in, channels_out)
        self.norm0 = Spade(channels_in, config)
        self.conv0 = nn.Conv2d(channels_in, middle, 3, padding=1)
        self.norm1 = Spade(middle, config)
        self.conv1 = nn.Conv2d(middle, channels_out, 3, padding=1)
        self.has_shortcut = channels_in != channels_out
        if self.has_shortcut:
            self.norm_shortcut = Spade(channels_in, config)
            self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shortcut = self.conv_shortcut(self.norm_shortcut(x, condition)) if self.has_shortcut else x
        y = self.conv0(F.leaky_relu(self.norm0(x, condition), SLOPE))
        y = self.conv1(F.leaky_relu(self.norm1(y, condition), SLOPE))
        return shortcut + y


class SpadeDecoder(nn.Module):
    """A feature map to a picture."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        wide, narrow, last = 2 * config.map_channels, config.map_channels, config.last_channels
        self.upscale = config.upscale
        self.stem = nn.Conv2d(narrow, wide, 3, padding=1)
        self.middle = nn.ModuleList(SpadeBlock(wide, wide, config) for _ in range(config.num_middle_blocks))
        self.up = nn.ModuleList([SpadeBlock(wide, narrow, config), SpadeBlock(narrow, last, config)])
        self.to_picture = nn.Conv2d(last, 3 * config.upscale**2, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 3, 4·upscale·H, 4·upscale·W) in [0, 1]."""
        x = self.stem(features)
        for block in self.middle:
            x = block(x, features)
        for block in self.up:
            x = block(F.interpolate(x, scale_factor=2), features)
        x = self.to_picture(F.leaky_relu(x, SLOPE))
        return F.pixel_shuffle(x, self.upscale).sigmoid()
