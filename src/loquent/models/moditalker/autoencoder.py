"""Clips to three small planes and back. Pictures and dot pictures have one network each, of the same class.

A clip (t, y, x) becomes the planes xy (pooled over time), yt (pooled over y) and xt (pooled over x). The last two are
named as published after the axes that were *not* kept with time: rows are always t, columns of yt are x, of xt are y.

Shape letters: B batch, T frames, R picture side, S = R / patch, the planes' side, C channels, L latent channels,
P = S·S + 2·T·S, positions of all planes, F frames to paint, G channels of a guide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.errors import VideoError
from loquent.models.moditalker.config import GRID
from loquent.models.moditalker.painter import Painter, tokens_of_boxes
from loquent.nn.attention import attend

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moditalker.config import AutoencoderConfig
    from loquent.models.moditalker.painter import Paint

PLANES = ("xy", "yt", "xt")  # in the order of the latent
_POOLED_AXIS = {"xy": 1, "yt": 2, "xt": 3}  # of (B, t, y, x, C)
_THETA = 10_000.0
_LARGEST_SCALE = 5.0


class Rotation:
    """Turns neighbouring channels (a, b), with angles α, β, to (a·cos α − b·sin α, b·cos β + a·sin β)."""

    def __init__(self, angles: Tensor) -> None:
        self.cos, self.sin = angles.cos()[:, None], angles.sin()[:, None]  # (tokens, 1, d)

    def __call__(self, x: Tensor) -> Tensor:
        """x is (B, tokens, H, d)."""
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * self.cos.to(x) + torch.stack([-b, a], dim=-1).flatten(-2) * self.sin.to(x)


def time_rotation(num_frames: int, head_dim: int, device: torch.device) -> Rotation:
    """Positions of frames. As published, the two channels of a pair have different angles: no true rotation."""
    f = _THETA ** -(torch.arange(0, head_dim, 2, device=device) / head_dim)
    angles = torch.arange(num_frames, device=device)[:, None] * f  # (T, d/2)
    return Rotation(torch.cat([angles, angles], dim=-1))


def space_rotation(side: int, head_dim: int, device: torch.device) -> Rotation:
    """Positions in a square of tokens: half of the channels turn with the row, half with the column."""
    scales = 2 ** torch.linspace(0, math.log2(_LARGEST_SCALE), head_dim // 4, device=device)
    angles = torch.linspace(-1, 1, side, device=device)[:, None] * math.pi * scales  # (S, d/4)
    rows, columns = angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)
    return Rotation(torch.cat([rows, columns], dim=-1).flatten(0, 1).repeat_interleave(2, dim=-1))


class SelfAttention(nn.Module):
    """Attention over tokens (B, tokens, C) after a norm."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.out = nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None, num_queries: int | None = None) -> Tensor:
        """What the first `num_queries` tokens (None: all) read from all, to be added to them."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        if rotation is not None:
            q, k = rotation(q), rotation(k)
        return self.out(attend(q[:, :num_queries], k, v))


class GatedFeedForward(nn.Module):
    """value·GELU(gate) between two linear layers, after a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, 8 * dim)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.inner(self.norm(x)).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class VideoLayer(nn.Module):
    """Attention along time, attention within each frame, feed-forward."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.time_attention = SelfAttention(config.channels, config.num_heads, config.head_dim)
        self.space_attention = SelfAttention(config.channels, config.num_heads, config.head_dim)
        self.feedforward = GatedFeedForward(config.channels)

    def forward(self, x: Tensor, in_time: Rotation, in_space: Rotation) -> Tensor:
        """(B, T, S·S, C) to the same."""
        batch, num_frames, positions, _ = x.shape
        along = x.transpose(1, 2).flatten(0, 1)  # (B·S·S, T, C)
        x = x + self.time_attention(along, in_time).unflatten(0, (batch, positions)).transpose(1, 2)
        x = x + self.space_attention(x.flatten(0, 1), in_space).unflatten(0, (batch, num_frames))
        return x + self.feedforward(x)


class VideoTransformer(nn.Module):
    """Layers over the tokens of a clip, (B, T, S, S, C) to the same."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.layers = nn.ModuleList(VideoLayer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor) -> Tensor:
        num_frames, side = x.shape[1:3]
        in_time = time_rotation(num_frames, self.head_dim, x.device)
        in_space = space_rotation(side, self.head_dim, x.device)
        tokens = x.flatten(2, 3)
        for layer in self.layers:
            tokens = layer(tokens, in_time, in_space)
        return tokens.unflatten(2, (side, side))


class PoolLayer(nn.Module):
    """Attention and feed-forward over a short sequence."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dim = config.channels
        self.attention = SelfAttention(dim, config.pool_heads, config.pool_head_dim)
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, config.pool_mlp_dim)
        self.out = nn.Linear(config.pool_mlp_dim, dim)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        x = x[:, :num_queries] + self.attention(x, num_queries=num_queries)
        return x + self.out(F.gelu(self.inner(self.norm(x))))


class Pool(nn.Module):
    """One vector of a sequence (B, length, C): (B, C).

    As published a learned token is appended, but the first element is read.
    """

    def __init__(self, config: AutoencoderConfig, length: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, config.channels))
        self.positions = nn.Parameter(torch.randn(1, length + 1, config.channels))
        self.layers = nn.ModuleList(PoolLayer(config) for _ in range(config.pool_layers))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.token.expand(len(x), -1, -1)], dim=1) + self.positions
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.layers[-1](x, num_queries=1)[:, 0]


class TriplaneAutoencoder(nn.Module):
    """Clips (B, 3, T, R, R) in [−1, 1] to latents (B, L, P) in (−1, 1) and back."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.channels, config.patch_px
        lengths = {"xy": config.num_frames, "yt": config.side, "xt": config.side}
        self.patch_in = nn.Linear(3 * patch * patch, dim)
        self.encoder = VideoTransformer(config)
        self.pools = nn.ModuleDict({plane: Pool(config, lengths[plane]) for plane in PLANES})
        self.to_latent = nn.ModuleDict({plane: nn.Conv2d(dim, config.latent_dim, 1) for plane in PLANES})
        self.from_latent = nn.ModuleDict({plane: nn.Conv2d(config.latent_dim, dim, 1) for plane in PLANES})
        self.decoder = VideoTransformer(config)
        if config.guide_channels:
            self.painter = Painter(config)
        else:
            self.patch_out = nn.ConvTranspose2d(dim, 3, patch, patch)

    def forward(self, video: Tensor) -> Tensor:
        """The clip as its latent tells it, (B, 3, T, R, R)."""
        return self.decode(self.encode(video))

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, R, R) to (B, L, P).

        Raises:
            VideoError: the clip has another size.
        """
        check_clips(video, self.config)
        volume = self.encoder(self.patch_in(_patches(video, self.config.side)))  # (B, T, S, S, C)
        return torch.cat([self._pool(plane, volume).flatten(2) for plane in PLANES], dim=-1)

    def _pool(self, plane: str, volume: Tensor) -> Tensor:
        """A plane's latent picture, (B, L, rows, columns), of the volume (B, t, y, x, C)."""
        sequences = volume.movedim(_POOLED_AXIS[plane], 3)  # (B, rows, columns, length, C)
        pooled = self.pools[plane](sequences.flatten(0, 2)).unflatten(0, sequences.shape[:3])
        return torch.tanh(self.to_latent[plane](pooled.movedim(-1, 1)))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, L, P) to (B, 3, T, R, R) in [−1, 1].

        Raises:
            VideoError: the configuration paints over a moved photo.
        """
        if self.config.guide_channels:
            raise VideoError("this autoencoder paints over a moved photo; use paint and give it the photo")
        return torch.tanh(self._squares(self.decode_tokens(latent)) / 2)  # 2·sigmoid − 1

    def paint(self, tokens: Tensor, guide: Tensor, corners: Tensor) -> Paint:
        """Paint over a moved photo, for configurations with guide_channels.

        Args:
            tokens: some of the frames (F, S, S, C) of `decode_tokens`.
            guide: the box round the mouth in them, (F, G, h, w), see `painter.Guide`.
            corners: (F, 2) of the boxes, row and column, in cells of the grid.
        """
        cell = self.config.side // GRID
        size = (guide.shape[2] // self.config.patch_px, guide.shape[3] // self.config.patch_px)
        return self.painter(tokens_of_boxes(tokens, corners * cell, size), guide)

    def _squares(self, tokens: Tensor) -> Tensor:
        """`patch_out` of tokens (B, T, S, S, C), as the one product that it is: (B, 3, T, R, R)."""
        patch = self.config.patch_px
        weight = self.patch_out.weight.flatten(1).t()  # (3·p·p, C)
        assert self.patch_out.bias is not None
        pixels = F.linear(tokens, weight, self.patch_out.bias.repeat_interleave(patch * patch))
        squares = pixels.unflatten(-1, (3, patch, patch)).permute(0, 4, 1, 2, 5, 3, 6)  # (B, 3, T, S, p, S, p)
        return squares.flatten(5, 6).flatten(3, 4)

    def decode_tokens(self, latent: Tensor) -> Tensor:
        """What the decoder's layers make of a latent (B, L, P): (B, T, S, S, C)."""
        return self.decoder(self.volume(latent).movedim(1, -1))

    def volume(self, latent: Tensor) -> Tensor:
        """The sum of the planes, each spread along its pooled axis: (B, C, T, S, S)."""
        planes = split_planes(latent, self.config.side)
        return sum(  # type: ignore[return-value]
            self.from_latent[plane](picture).unsqueeze(1 + _POOLED_AXIS[plane])
            for plane, picture in zip(PLANES, planes, strict=True)
        )


def check_clips(video: Tensor, config: AutoencoderConfig) -> None:
    """
    Raises:
        VideoError: clips (B, 3, T, R, R) have another size than an autoencoder wants.
    """
    wanted = (3, config.num_frames, config.size_px, config.size_px)
    if tuple(video.shape[1:]) != wanted:
        raise VideoError(f"a clip has shape {tuple(video.shape[1:])}; this autoencoder wants {wanted}")


def _patches(video: Tensor, side: int) -> Tensor:
    """Squares of a clip (B, C, T, R, R), `side` of them along a side: (B, T, S, S, p·p·C)."""
    patch = video.shape[-1] // side
    patches = video.unflatten(4, (side, patch)).unflatten(3, (side, patch))  # (B, C, T, S, p, S, p)
    return patches.permute(0, 2, 3, 5, 4, 6, 1).flatten(4)


def split_planes(latent: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The latent pictures (B, L, S, S) and twice (B, L, T, S) of a latent (B, L, P)."""
    num_rows = (latent.shape[-1] - side * side) // (2 * side)
    xy, yt, xt = latent.split([side * side, num_rows * side, num_rows * side], dim=-1)
    return xy.unflatten(-1, (side, side)), yt.unflatten(-1, (num_rows, side)), xt.unflatten(-1, (num_rows, side))


def freeze_decoder(network: TriplaneAutoencoder) -> None:
    """Prepares a copy of the trained autoencoder of pictures to learn dot pictures: its decoder learns no more."""
    network.decoder.requires_grad_(False)
