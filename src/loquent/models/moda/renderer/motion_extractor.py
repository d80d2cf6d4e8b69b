"""Motion extractor: keypoints, head pose, expression and scale of a face crop.

Source: Guo et al. 2024, "LivePortrait", network M; Woo et al. 2023, "ConvNeXt V2", for its trunk.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from loquent.models.moda.renderer.config import MotionExtractorConfig

_NORM_EPS = 1e-6


class RawMotion(NamedTuple):
    """What the network says of a crop; B crops, K keypoints, 66 bins of 3 degrees."""

    keypoints: Tensor  # (B, K, 3), canonical: without pose and expression
    pitch: Tensor  # (B, bins), logits
    yaw: Tensor
    roll: Tensor
    translation: Tensor  # (B, 3)
    expression: Tensor  # (B, K, 3), added to the turned keypoints
    scale: Tensor  # (B, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_NORM_EPS)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ResponseNorm(nn.Module):
    """Global response normalisation of (B, H, W, C): channels compete by their energy (Woo et al. 2023, section 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = energy / (energy.mean(-1, keepdim=True) + _NORM_EPS)
        return self.gamma * (x * share) + self.beta + x


class ConvNextBlock(nn.Module):
    """Depthwise 7x7 convolution, then a feed-forward layer on every pixel: (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.expand = nn.Linear(channels, 4 * channels)
        self.response = ResponseNorm(4 * channels)
        self.project = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).movedim(1, -1))
        y = self.project(self.response(F.gelu(self.expand(y))))
        return x + y.movedim(-1, 1)


class Downsampler(nn.Module):
    """Norm and strided convolution; the first one convolves first."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.conv = nn.Conv2d(channels_in, channels_out, stride, stride=stride)
        self.norm = ChannelNorm(channels_in if norm_first else channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))


class MotionExtractor(nn.Module):
    """A face crop to its motion."""

    def __init__(self, config: MotionExtractorConfig) -> None:
        super().__init__()
        widths, self.num_keypoints = config.widths, config.num_keypoints
        self.downsamplers = nn.ModuleList([Downsampler(3, widths[0], 4, norm_first=False)])
        for narrow, wide in pairwise(widths):
            self.downsamplers.append(Downsampler(narrow, wide, 2, norm_first=True))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNextBlock(width) for _ in range(depth)))
            for width, depth in zip(widths, config.depths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=_NORM_EPS)
        sizes = {
            "keypoints": 3 * config.num_keypoints,
            "pitch": config.num_bins,
            "yaw": config.num_bins,
            "roll": config.num_bins,
            "translation": 3,
            "expression": 3 * config.num_keypoints,
            "scale": 1,
        }
        self.heads = nn.ModuleDict({name: nn.Linear(widths[-1], size) for name, size in sizes.items()})

    def forward(self, photo: Tensor) -> RawMotion:
        """(B, 3, S, S) in [0, 1] to the motion of B crops."""
        x = photo
        for downsample, stage in zip(self.downsamplers, self.stages, strict=True):
            x = stage(downsample(x))
        x = self.norm(x.mean((2, 3)))
        out = {name: head(x) for name, head in self.heads.items()}
        for name in ("keypoints", "expression"):
            out[name] = out[name].unflatten(1, (self.num_keypoints, 3))
        return RawMotion(**out)
