"""MToV's denoiser: a U-Net over the three planes of a latent clip.

The same two-dimensional blocks work on every plane; after each of them all positions of all planes attend to each other.

Shape letters: B batch, L latent channels, P positions of all planes, C channels, E channels of the time embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from loquent.models.moditalker.autoencoder import split_planes
from loquent.nn.attention import attend
from loquent.nn.layers import sinusoids

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moditalker.config import UNetConfig

    # Planes of one shape one after the other in a batch: xy (B, C, rows, columns) and yt with xt (2B, ...), or all
    # three (3B, ...) where clips have as many frames as the planes' side.
    Planes = list[Tensor]
    Resampling = Literal["down", "up"]

_GROUPS = 32
Layer = TypeVar("Layer", bound=nn.Module)


def _zeroed(layer: Layer) -> Layer:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _resample(x: Tensor, how: Resampling) -> Tensor:
    return F.avg_pool2d(x, 2) if how == "down" else F.interpolate(x, scale_factor=2, mode="nearest")


class ResBlock(nn.Module):
    """Two convolutions beside the input; the time embedding scales and shifts between them."""

    def __init__(self, in_dim: int, out_dim: int, embedding_dim: int, resampling: Resampling | None = None) -> None:
        super().__init__()
        self.resampling: Resampling | None = resampling
        self.norm1 = nn.GroupNorm(_GROUPS, in_dim)
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.modulation = nn.Linear(embedding_dim, 2 * out_dim)
        self.norm2 = nn.GroupNorm(_GROUPS, out_dim)
        self.conv2 = _zeroed(nn.Conv2d(out_dim, out_dim, 3, padding=1))
        self.skip = nn.Identity() if in_dim == out_dim else nn.Conv2d(in_dim, out_dim, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resampling is not None:
            h, x = _resample(h, self.resampling), _resample(x, self.resampling)
        h = self.conv1(h)
        scale, shift = self.modulation(F.silu(embedding))[..., None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class PositionAttention(nn.Module):
    """Attention of all positions, (B, C, positions), beside its input."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(_GROUPS, dim)
        self.qkv = nn.Conv1d(dim, 3 * dim, 1)
        self.out = _zeroed(nn.Conv1d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).transpose(1, 2)  # (B, positions, C); channels last, or attention falls back to a slow way
        qkv = F.linear(tokens, self.qkv.weight[..., 0], self.qkv.bias).unflatten(-1, (self.num_heads, 3, -1))
        q, k, v = qkv.unbind(3)  # (B, positions, H, d) each
        return x + F.linear(attend(q, k, v), self.out.weight[..., 0], self.out.bias).transpose(1, 2)


class Stage(nn.Module):
    """Blocks for each plane, then the attention across planes."""

    def __init__(self, blocks: list[nn.Module], dim: int, num_heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.joint = PositionAttention(dim, num_heads)

    def forward(self, planes: Planes, embedding: Tensor) -> Planes:
        return _attend_across([self._per_plane(plane, embedding) for plane in planes], self.joint)

    def _per_plane(self, x: Tensor, embedding: Tensor) -> Tensor:
        embedding = embedding.repeat(len(x) // len(embedding), 1)
        for block in self.blocks:
            with_time = isinstance(block, ResBlock)
            x = block(x, embedding) if with_time else block(x.flatten(2)).unflatten(2, x.shape[2:])
        return x


def _group(xy: Tensor, yt: Tensor, xt: Tensor) -> Planes:
    """Planes of one shape in one batch."""
    return [torch.cat([xy, yt, xt])] if xy.shape == yt.shape else [xy, torch.cat([yt, xt])]


def _ungroup(planes: Planes) -> list[Tensor]:
    """xy, yt and xt."""
    return list(planes[0].chunk(3)) if len(planes) == 1 else [planes[0], *planes[1].chunk(2)]


def _attend_across(planes: Planes, attention: PositionAttention) -> Planes:
    apart = _ungroup(planes)
    joined = attention(torch.cat([plane.flatten(2) for plane in apart], dim=2))
    parts = joined.split([plane[0, 0].numel() for plane in apart], dim=2)
    return _group(*(part.unflatten(2, plane.shape[2:]) for part, plane in zip(parts, apart, strict=True)))


class LatentUNet(nn.Module):
    """Noise in the latent of a clip."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        dim, embedding_dim = config.dim, 4 * config.dim
        self.time1 = nn.Linear(dim, embedding_dim)
        self.time2 = nn.Linear(embedding_dim, embedding_dim)
        self.first = nn.Conv2d(4 * config.latent_dim, dim, 3, padding=1)
        self.down, skips = self._downward(config, embedding_dim)
        inner = skips[-1]
        self.middle = Stage(
            [
                ResBlock(inner, inner, embedding_dim),
                PositionAttention(inner, config.num_heads),
                ResBlock(inner, inner, embedding_dim),
            ],
            inner,
            config.num_heads,
        )
        self.up = self._upward(config, embedding_dim, skips)
        self.out_norm = nn.GroupNorm(_GROUPS, dim)
        self.out = _zeroed(nn.Conv2d(dim, config.latent_dim, 3, padding=1))

    @staticmethod
    def _downward(config: UNetConfig, embedding_dim: int) -> tuple[nn.ModuleList, list[int]]:
        """Stages down, and the channels of what is kept for the way up."""
        stages, width, skips = [], config.dim, [config.dim]
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.num_blocks):
                blocks: list[nn.Module] = [ResBlock(width, multiplier * config.dim, embedding_dim)]
                width = multiplier * config.dim
                if level in config.attention_levels:
                    blocks.append(PositionAttention(width, config.num_heads))
                stages.append(Stage(blocks, width, config.num_heads))
                skips.append(width)
            if level < len(config.multipliers) - 1:
                stages.append(Stage([ResBlock(width, width, embedding_dim, "down")], width, config.num_heads))
                skips.append(width)
        return nn.ModuleList(stages), skips

    @staticmethod
    def _upward(config: UNetConfig, embedding_dim: int, skips: list[int]) -> nn.ModuleList:
        stages, width, kept = [], skips[-1], list(skips)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for index in range(config.num_blocks + 1):
                blocks: list[nn.Module] = [ResBlock(width + kept.pop(), multiplier * config.dim, embedding_dim)]
                width = multiplier * config.dim
                if level in config.attention_levels:
                    blocks.append(PositionAttention(width, config.num_heads))
                if level and index == config.num_blocks:
                    blocks.append(ResBlock(width, width, embedding_dim, "up"))
                stages.append(Stage(blocks, width, config.num_heads))
        return nn.ModuleList(stages)

    def forward(self, x: Tensor, timestep: Tensor, landmark: Tensor, pose: Tensor, identity: Tensor) -> Tensor:
        """Predicts the noise.

        Args:
            x: noisy latent of the clip, (B, L, P).
            timestep: (B,), integers in 0..999.
            landmark: latent of the dot pictures, (B, L, P).
            pose: latent of the frames with the lower face hidden, (B, L, P).
            identity: xy plane of the latent of the portrait, held still, (B, L, S·S).

        Returns:
            (B, L, P).
        """
        config = self.config
        embedding = self.time2(F.silu(self.time1(sinusoids(timestep, config.dim).to(x.dtype))))
        identity = F.pad(identity, (0, x.shape[-1] - identity.shape[-1]))
        xy, yt, xt = split_planes(torch.cat([x, landmark, pose, identity], dim=1), config.side)
        planes = [self.first(group) for group in _group(xy, yt, xt)]
        kept = [planes]
        for stage in self.down:
            planes = stage(planes, embedding)
            kept.append(planes)
        planes = self.middle(planes, embedding)
        for stage in self.up:
            planes = [torch.cat(pair, dim=1) for pair in zip(planes, kept.pop(), strict=True)]
            planes = stage(planes, embedding)
        planes = [self.out(F.silu(self.out_norm(group))) for group in planes]
        return torch.cat([plane.flatten(2) for plane in _ungroup(planes)], dim=-1)
