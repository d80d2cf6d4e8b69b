"""Convolution blocks of the renderer.

Shape letters: B batch, C channels, D depth of a feature volume, H and W height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


class ConvNorm2d(nn.Module):
    """Convolution that keeps the size, then batch norm: (B, C_in, H, W) to (B, C_out, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ConvNorm3d(nn.Module):
    """Convolution that keeps the size, then batch norm: (B, C_in, D, H, W) to (B, C_out, D, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm3d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ResidualBlock3d(nn.Module):
    """x + two pre-activated 3x3x3 convolutions: (B, C, D, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))
