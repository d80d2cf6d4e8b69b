"""Warping network: the source's feature volume, moved and flattened to a map for the decoder.

Source: Guo et al. 2024, "LivePortrait", network W.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from loquent.models.moda.renderer.blocks import ConvNorm2d
from loquent.models.moda.renderer.dense_motion import DenseMotion, DenseMotionNetwork, sample_volume

if TYPE_CHECKING:
    from loquent.models.moda.renderer.config import WarpingConfig


class Warped(NamedTuple):
    """Result of the network."""

    features: Tensor  # (B, C, H, W)
    motion: DenseMotion


class WarpingNetwork(nn.Module):
    """Feature volume and keypoints to the feature map of the moved face."""

    def __init__(self, config: WarpingConfig) -> None:
        super().__init__()
        dense = config.dense_motion
        self.dense_motion = DenseMotionNetwork(dense)
        self.flatten = ConvNorm2d(dense.volume_channels * dense.volume_depth, config.map_channels)
        self.mix = nn.Conv2d(config.map_channels, config.map_channels, 1)

    def forward(self, volume: Tensor, target: Tensor, source: Tensor) -> Warped:
        """Volume (B, C, D, H, W) of the source; keypoints (B, K, 3) of target and source."""
        motion = self.dense_motion(volume, target, source)
        moved = sample_volume(volume, motion.flow).flatten(1, 2)
        features = self.mix(F.leaky_relu(self.flatten(moved), 0.01))
        return Warped(features * motion.occlusion, motion)
