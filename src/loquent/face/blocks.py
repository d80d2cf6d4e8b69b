"""Convolution blocks that detector and landmarker share."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def channels_last(model: Module) -> Module:
    """The model with its convolution weights laid out for channels-last pictures, the faster layout on CPUs."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return model


def conv_norm(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch normalisation; keeps height and width at stride 1."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions round a shortcut.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", figure 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(in_channels, out_channels, stride=stride)
        self.second = conv_norm(out_channels, out_channels)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, kernel=1, stride=stride)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        y = self.second(self.activation(self.first(x)))
        return self.activation(y + self.shortcut(x))
