"""Dense motion: how every place of the feature volume moves between two sets of keypoints.

Source: Guo et al. 2024, "LivePortrait", and Wang et al. 2021, "One-Shot Free-View Neural Talking-Head Synthesis".

Shape letters: B batch, C channels, D, H, W the volume, K keypoints.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loquent.models.moda.renderer.blocks import ConvNorm3d

if TYPE_CHECKING:
    from loquent.models.moda.renderer.config import DenseMotionConfig

HEAT_VARIANCE = 0.01  # of the Gaussian around a keypoint, in squared halves of the volume


class DenseMotion(NamedTuple):
    """Result of the network."""

    flow: Tensor  # (B, D, H, W, 3): where to look, x y z, -1..1
    occlusion: Tensor  # (B, 1, H, W), 1 where the moved features can be trusted
    mask: Tensor  # (B, K + 1, D, H, W): share of each keypoint's motion, the background first


class Hourglass(nn.Module):
    """Encoder and decoder with skips; height and width are halved, depth never."""

    def __init__(self, config: DenseMotionConfig) -> None:
        super().__init__()
        levels = config.num_halvings
        widths = [config.input_channels, *(config.width_at(level) for level in range(1, levels + 1))]
        self.down = nn.ModuleList(ConvNorm3d(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList()
        channels = widths[-1]
        for level in reversed(range(levels)):
            self.up.append(ConvNorm3d(channels, config.width_at(level)))
            channels = config.width_at(level) + widths[level]
        self.out = ConvNorm3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        skips = [x]
        for block in self.down:
            skips.append(F.avg_pool3d(F.relu(block(skips[-1])), (1, 2, 2)))
        x = skips.pop()
        for block in self.up:
            x = F.relu(block(F.interpolate(x, scale_factor=(1, 2, 2))))
            x = torch.cat([x, skips.pop()], dim=1)
        return F.relu(self.out(x))


class DenseMotionNetwork(nn.Module):
    """Keypoints of source and target to a flow of the source's feature volume."""

    def __init__(self, config: DenseMotionConfig) -> None:
        super().__init__()
        self.compress = ConvNorm3d(config.volume_channels, config.compressed_channels, 1)
        self.hourglass = Hourglass(config)
        self.mask = nn.Conv3d(config.output_channels, config.num_keypoints + 1, 7, padding=3)
        self.occlusion = nn.Conv2d(config.output_channels * config.volume_depth, 1, 7, padding=3)

    def forward(self, volume: Tensor, target: Tensor, source: Tensor) -> DenseMotion:
        """Volume (B, C, D, H, W) of the source; keypoints (B, K, 3) of target and source."""
        motions = sparse_motions(target, source, volume.shape[2:])
        warped = warp_by_each(F.relu(self.compress(volume)), motions)
        heat = heat_maps(target, volume.shape[2:]) - heat_maps(source, volume.shape[2:])
        heat = F.pad(heat, (0, 0, 0, 0, 0, 0, 1, 0))  # the background has none
        features = self.hourglass(torch.cat([heat[:, :, None], warped], dim=2).flatten(1, 2))
        mask = self.mask(features).softmax(1)
        flow = torch.einsum("bkdhw,bkdhwx->bdhwx", mask, motions)
        occlusion = self.occlusion(features.flatten(1, 2)).sigmoid()
        return DenseMotion(flow, occlusion, mask)


def coordinate_grid(size: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """x, y, z of every place of a (D, H, W) volume, (D, H, W, 3), the first at -1 and the last at 1."""
    axes = [torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in size]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def sparse_motions(target: Tensor, source: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Where each keypoint's motion alone would look, (B, K + 1, D, H, W, 3); the background, first, stays."""
    grid = coordinate_grid(size, target)
    shift = F.pad(source - target, (0, 0, 1, 0))  # (B, K + 1, 3)
    return grid + shift[:, :, None, None, None]


def heat_maps(keypoints: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Gaussians around keypoints (B, K, 3), (B, K, D, H, W). They are products of one along each axis."""
    lines = []
    for axis, n in zip((2, 1, 0), size, strict=True):  # z, y, x
        places = torch.linspace(-1, 1, n, dtype=keypoints.dtype, device=keypoints.device)
        lines.append(torch.exp(-0.5 * (places - keypoints[..., axis, None]).square() / HEAT_VARIANCE))
    z, y, x = lines
    return z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]


def warp_by_each(volume: Tensor, motions: Tensor) -> Tensor:
    """The volume (B, C, D, H, W) seen through each motion (B, K, D, H, W, 3): (B, K, C, D, H, W).

    The published network builds its grid for aligned corners and samples without; so does this.
    """
    num_motions = motions.shape[1]
    volumes = volume[:, None].expand(-1, num_motions, -1, -1, -1, -1).flatten(0, 1)
    return sample_volume(volumes, motions.flatten(0, 1)).unflatten(0, (-1, num_motions))


def sample_volume(volume: Tensor, where: Tensor) -> Tensor:
    """Trilinear reading of (B, C, D, H, W) at `where` (B, D, H, W, 3), zeros outside."""
    return F.grid_sample(volume, where, mode="bilinear", padding_mode="zeros", align_corners=False)
