"""MToV's networks with less work: the same functions, arranged for inference on the processor in float32.

What is saved:

- Channels are last in memory, so that what attention, norms and convolutions read lies side by side, and planes become
  the joint attention's tokens without a copy.
- Products and convolutions are oneDNN's, on weights packed once (`nn.packed`); long attention, too.
- What the denoiser's first convolution makes of the conditions is made once a walk (`embed`), the modulations of all
  blocks in one product a step.
- Of a clip that stands still one frame is encoded (`FastAutoencoder.encode_still`): attention along time then returns
  what each frame holds.
- The pooling's single query is brought to the tokens, instead of all tokens to keys and values.
- Neighbouring channels that turn together lie in halves instead, which is a matter of the weights' order.

docs/moditalker.md, "Speed", has the figures. One clip is worked on at a time. Shape letters as in `autoencoder` and
`unet`; N pictures of one shape (planes), H heads, d channels of one, E numbers of all modulations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.models.moditalker.autoencoder import PLANES, check_clips, space_rotation, split_planes, time_rotation
from loquent.models.moditalker.unet import ResBlock
from loquent.nn.layers import sinusoids
from loquent.nn.packed import PackedConv, PackedLinear, attend_packed, packing_pays, project

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moditalker.autoencoder import (
        GatedFeedForward,
        Pool,
        PoolLayer,
        Rotation,
        SelfAttention,
        TriplaneAutoencoder,
        VideoLayer,
        VideoTransformer,
    )
    from loquent.models.moditalker.unet import LatentUNet, PositionAttention, Stage

    # Planes of one shape in one tensor: xy (1, rows, columns, C) and yt with xt (2, ...), or all three (3, ...).
    Planes = list[Tensor]

_LONG = 256  # tokens from which on `attend_packed` is the faster one


def fast_unet(network: LatentUNet) -> LatentUNet | FastUNet:
    """The denoiser, fast where that is possible; weights are copied."""
    return FastUNet(network) if packing_pays(network.first.weight) else network


def fast_autoencoder(network: TriplaneAutoencoder) -> TriplaneAutoencoder | FastAutoencoder:
    """The autoencoder, fast where that is possible; weights are copied."""
    return FastAutoencoder(network) if packing_pays(network.patch_in.weight) else network


# Denoiser


class _GroupNorm(nn.Module):
    """The scale and shift that a group norm comes to, channel by channel."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        dim = norm.num_channels
        members = torch.block_diag(*[torch.ones(dim // norm.num_groups, dim // norm.num_groups)] * norm.num_groups)
        self.weight, self.bias, self.eps = norm.weight.detach(), norm.bias.detach(), norm.eps
        self.mean_of_group = members * (norm.num_groups / dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, positions, C) to twice (N, 1, C)."""
        mean, square = torch.stack([x.mean(1), (x * x).mean(1)]) @ self.mean_of_group  # (N, C) each
        variance = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0)
        scale = variance.add_(self.eps).rsqrt_() * self.weight
        return scale[:, None], (self.bias - mean * scale)[:, None]


class _FastAttention(nn.Module):
    """`PositionAttention` on (N, positions, C)."""

    def __init__(self, attention: PositionAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.norm = _GroupNorm(attention.norm)
        assert attention.qkv.bias is not None
        assert attention.out.bias is not None
        head_dim = attention.qkv.in_channels // self.num_heads
        weights = attention.qkv.weight.detach()[..., 0].unflatten(0, (self.num_heads, 3, -1)).unbind(1)
        biases = attention.qkv.bias.detach().unflatten(0, (self.num_heads, 3, -1)).unbind(1)
        wq, wk, wv = (weight.flatten(0, 1) for weight in weights)
        bq, bk, bv = (bias.flatten() for bias in biases)
        scale = head_dim**-0.5
        self.qkv = PackedLinear(torch.cat([wq * scale, wk, wv]), torch.cat([bq * scale, bk, bv]))
        self.out = PackedLinear(attention.out.weight[..., 0], attention.out.bias)
        # Of long sequences. Keys' bias adds the same to all of a query's scores, values' bias reaches the result whole.
        self.q, self.k = PackedLinear(wq * scale, bq * scale), PackedLinear(wk, None)
        self.values = wv.contiguous()
        out = attention.out.weight.detach()[..., 0]
        self.out_of_long = PackedLinear(out, attention.out.bias.detach() + out @ bv)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.norm(x)
        tokens = torch.addcmul(shift, x, scale)
        if len(x) == 1 and x.shape[1] >= _LONG:
            q, k = (_by_head(layer(tokens[0]), self.num_heads) for layer in (self.q, self.k))
            v = project(self.values, tokens[0]).unflatten(0, (self.num_heads, -1))
            return self.out_of_long(attend_packed(q, k, v))[None].add_(x)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(_attend(q, k, v)).add_(x)


def _by_head(x: Tensor, num_heads: int) -> Tensor:
    """(..., T, H·d) to (..., H, T, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2).contiguous()


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries that are scaled already, keys and values (N, H, T, d) to (N, T, H·d)."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)


class _FastResBlock(nn.Module):
    """`ResBlock` on (N, rows, columns, C)."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        self.resampling = block.resampling
        self.norm1, self.norm2 = _GroupNorm(block.norm1), _GroupNorm(block.norm2)
        self.conv1, self.conv2 = PackedConv.of(block.conv1), PackedConv.of(block.conv2)
        self.skip = block.skip
        if isinstance(block.skip, nn.Conv2d):
            self.skip = PackedLinear(block.skip.weight[..., 0, 0], block.skip.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """modulation (2·C_out,): scale, then shift."""
        h = _activated(x, *self.norm1(x.flatten(1, 2)))
        if self.resampling is not None:
            resample = _halved if self.resampling == "down" else _doubled
            h, x = resample(h), resample(x)
        h = self.conv1(h)
        more, shift = modulation.chunk(2)
        own_scale, own_shift = self.norm2(h.flatten(1, 2))
        h = _activated(h, own_scale * (1 + more), torch.addcmul(shift, own_shift, 1 + more))
        return self.conv2(h).add_(self.skip(x))


def _activated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """silu(scale·x + shift): (N, rows, columns, C) with twice (N, 1, C)."""
    return F.silu(torch.addcmul(shift[:, None], x, scale[:, None]), inplace=True)


def _halved(x: Tensor) -> Tensor:
    """Means of squares of 2 x 2, (N, rows, columns, C)."""
    lines = x[:, ::2] + x[:, 1::2]
    return (lines[:, :, ::2] + lines[:, :, 1::2]).mul_(0.25)


def _doubled(x: Tensor) -> Tensor:
    """Each place four times, (N, rows, columns, C)."""
    count, rows, columns, dim = x.shape
    return x[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1).reshape(count, 2 * rows, 2 * columns, dim)


class _FastStage(nn.Module):
    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _FastResBlock(block) if isinstance(block, ResBlock) else _FastAttention(block)  # type: ignore[arg-type]
            for block in stage.blocks
        )
        self.joint = _FastAttention(stage.joint)

    def forward(self, planes: Planes, modulations: list[Tensor]) -> Planes:
        """modulations: one of each block, empty for attention."""
        done = []
        for x in planes:
            for block, modulation in zip(self.blocks, modulations, strict=True):
                with_time = isinstance(block, _FastResBlock)
                x = block(x, modulation) if with_time else block(x.flatten(1, 2)).view(x.shape)
            done.append(x)
        tokens = [x.flatten(0, 2) for x in done]
        joined = self.joint((tokens[0] if len(tokens) == 1 else torch.cat(tokens))[None])[0]
        return [part.view(x.shape) for part, x in zip(joined.split([len(rows) for rows in tokens]), done, strict=True)]


class FastUNet(nn.Module):
    """`LatentUNet` for sampling."""

    def __init__(self, network: LatentUNet) -> None:
        super().__init__()
        self.config = network.config
        self.time1, self.time2 = network.time1, network.time2
        stages = [*network.down, network.middle, *network.up]
        blocks = [block for stage in stages for block in stage.blocks]  # type: ignore[union-attr]
        modulations = [block.modulation for block in blocks if isinstance(block, ResBlock)]
        self._widths = [
            [block.modulation.out_features if isinstance(block, ResBlock) else 0 for block in stage.blocks]  # type: ignore[union-attr]
            for stage in stages
        ]
        self.modulation_weight = torch.cat([linear.weight.detach() for linear in modulations])  # (E, time channels)
        self.modulation_bias = torch.cat([linear.bias.detach() for linear in modulations])
        latent_dim = self.config.latent_dim
        self.first = PackedConv(network.first.weight[:, :latent_dim], None, 1)
        self.first_of_conditions = PackedConv(network.first.weight[:, latent_dim:], network.first.bias, 1)
        self.down = nn.ModuleList(_FastStage(stage) for stage in network.down)  # type: ignore[arg-type]
        self.middle = _FastStage(network.middle)
        self.up = nn.ModuleList(_FastStage(stage) for stage in network.up)  # type: ignore[arg-type]
        self.out_norm, self.out = _GroupNorm(network.out_norm), PackedConv.of(network.out)
        self.requires_grad_(False)

    def forward(self, x: Tensor, timestep: Tensor, landmark: Tensor, pose: Tensor, identity: Tensor) -> Tensor:
        """As `LatentUNet.forward`."""
        return self.denoise(x, timestep, self.embed(landmark, pose, identity))

    def embed(self, landmark: Tensor, pose: Tensor, identity: Tensor) -> list[Planes]:
        """What does not change along a walk, for each sample; arguments as of `forward`."""
        identity = F.pad(identity, (0, landmark.shape[-1] - identity.shape[-1]))
        return [
            [self.first_of_conditions(plane) for plane in self._planes(told)]
            for told in torch.cat([landmark, pose, identity], dim=1)
        ]

    def denoise(self, x: Tensor, timestep: Tensor, told: list[Planes]) -> Tensor:
        """x (B, L, P) and timestep (B,) as of `forward`, and what `embed` gave."""
        return torch.stack([self._one(*sample) for sample in zip(x, self._modulate(timestep), told, strict=True)])

    def _planes(self, latent: Tensor) -> Planes:
        """(L, P) with its channels last."""
        rows = latent.t().contiguous()  # (P, L)
        side, num_frames = self.config.side, self.config.num_frames
        if side == num_frames:
            return [rows.view(3, side, side, -1)]
        xy, others = rows.split([side * side, 2 * num_frames * side])
        return [xy.view(1, side, side, -1), others.view(2, num_frames, side, -1)]

    def _modulate(self, timestep: Tensor) -> Tensor:
        """Modulations of all blocks, (B, E)."""
        embedding = self.time2(F.silu(self.time1(sinusoids(timestep, self.config.dim))))
        return F.linear(F.silu(embedding), self.modulation_weight, self.modulation_bias)

    def _one(self, x: Tensor, modulation: Tensor, told: Planes) -> Tensor:
        """One sample, (L, P)."""
        of_stages = iter(modulation.split([sum(widths) for widths in self._widths]))
        of_blocks = [list(of_stage.split(widths)) for of_stage, widths in zip(of_stages, self._widths, strict=True)]
        planes = [self.first(plane) + seen for plane, seen in zip(self._planes(x), told, strict=True)]
        kept = [planes]
        for index, stage in enumerate(self.down):
            planes = stage(planes, of_blocks[index])
            kept.append(planes)
        planes = self.middle(planes, of_blocks[len(self.down)])
        for index, stage in enumerate(self.up, start=len(self.down) + 1):
            planes = [torch.cat(pair, dim=-1) for pair in zip(planes, kept.pop(), strict=True)]
            planes = stage(planes, of_blocks[index])
        planes = [self.out(_activated(plane, *self.out_norm(plane.flatten(1, 2)))) for plane in planes]
        return torch.cat([plane.flatten(0, 2) for plane in planes]).t()


# Autoencoder


class _Turn:
    """`Rotation` of heads whose channels lie in halves: those that were even, then those that were odd."""

    def __init__(self, rotation: Rotation) -> None:
        cos, sin = rotation.cos, rotation.sin  # (tokens, 1, d)
        self.cos = torch.cat([cos[..., ::2], cos[..., 1::2]], dim=-1)
        self.sin = torch.stack([-sin[..., ::2], sin[..., 1::2]], dim=-2)  # (tokens, 1, 2, d/2)

    def __call__(self, x: Tensor) -> Tensor:
        """x is (..., tokens, H, d)."""
        turned = x * self.cos
        turned.unflatten(-1, (2, -1)).addcmul_(x.unflatten(-1, (2, -1)).flip(-2), self.sin)
        return turned


def _in_halves(weight: Tensor, num_heads: int) -> Tensor:
    """Rows (H·d, C), in each head the even ones before the odd ones."""
    return weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


class _FastSelfAttention(nn.Module):
    """`SelfAttention` with turns."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        heads = self.num_heads = attention.num_heads
        q, k, v = attention.qkv.weight.detach().chunk(3)
        q = q * (len(q) // heads) ** -0.5
        self.norm = attention.norm
        self.q, self.k = PackedLinear(_in_halves(q, heads), None), PackedLinear(_in_halves(k, heads), None)
        self.v, self.values = PackedLinear(v, None), v.contiguous()
        self.out = PackedLinear.of(attention.out)

    def along_time(self, x: Tensor, turn: _Turn) -> Tensor:
        """(T, P, C) to the same."""
        normed = self.norm(x)
        heads = (self.num_heads, -1)
        q, k = (turn(layer(normed).unflatten(-1, heads).transpose(0, 1)) for layer in (self.q, self.k))
        v = self.v(normed).unflatten(-1, heads).transpose(0, 1)  # (P, T, H, d)
        return self.out(_attend(*(part.transpose(1, 2) for part in (q, k, v)))).transpose(0, 1)

    def along_still_time(self, x: Tensor) -> Tensor:
        """One of frames that are all equal, (1, P, C): whatever their shares, they hold the same."""
        return self.out(self.v(self.norm(x)))

    def within_frames(self, x: Tensor, turn: _Turn) -> Tensor:
        """(T, P, C) to the same."""
        normed = self.norm(x)
        heads = (self.num_heads, -1)
        q, k = (turn(layer(normed).unflatten(-1, heads)).transpose(1, 2) for layer in (self.q, self.k))  # (T, H, P, d)
        if x.shape[1] < _LONG:
            return self.out(_attend(q, k, self.v(normed).unflatten(-1, heads).transpose(1, 2)))
        frames = [
            attend_packed(queries, keys, project(self.values, frame).unflatten(0, heads))
            for queries, keys, frame in zip(q.contiguous(), k.contiguous(), normed, strict=True)
        ]
        return self.out(torch.stack(frames))


class _FastFeedForward(nn.Module):
    def __init__(self, feedforward: GatedFeedForward) -> None:
        super().__init__()
        self.norm = feedforward.norm
        (value, gate), (value_bias, gate_bias) = feedforward.inner.weight.chunk(2), feedforward.inner.bias.chunk(2)
        self.value, self.gate = PackedLinear(value, value_bias), PackedLinear(gate, gate_bias, "gelu")
        self.out = PackedLinear.of(feedforward.out)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return self.out(self.value(normed).mul_(self.gate(normed)))


class _FastVideoTransformer(nn.Module):
    """`VideoTransformer` on frames (T, P, C)."""

    def __init__(self, transformer: VideoTransformer, num_frames: int, side: int) -> None:
        super().__init__()
        layers: list[VideoLayer] = list(transformer.layers)  # type: ignore[arg-type]
        self.time_attentions = nn.ModuleList(_FastSelfAttention(layer.time_attention) for layer in layers)
        self.space_attentions = nn.ModuleList(_FastSelfAttention(layer.space_attention) for layer in layers)
        self.feedforwards = nn.ModuleList(_FastFeedForward(layer.feedforward) for layer in layers)
        device = torch.device("cpu")
        self._in_time = _Turn(time_rotation(num_frames, transformer.head_dim, device))
        self._in_space = _Turn(space_rotation(side, transformer.head_dim, device))

    def forward(self, x: Tensor) -> Tensor:
        """All frames of a clip, or one of frames that are all equal."""
        still = len(x) == 1
        for time, space, feedforward in zip(
            self.time_attentions, self.space_attentions, self.feedforwards, strict=True
        ):
            x = x + (time.along_still_time(x) if still else time.along_time(x, self._in_time))  # type: ignore[operator]
            x += space.within_frames(x, self._in_space)  # type: ignore[operator]
            x += feedforward(x)
        return x


class _FastPoolLayer(nn.Module):
    """`PoolLayer` on (N, length, C)."""

    def __init__(self, layer: PoolLayer) -> None:
        super().__init__()
        attention = layer.attention
        heads = self.num_heads = attention.num_heads
        q, k, v = attention.qkv.weight.detach().chunk(3)
        scale = (len(q) // heads) ** -0.5
        self.attention_norm, self.norm = attention.norm, layer.norm
        self.qkv = PackedLinear(torch.cat([q * scale, k, v]), None)
        self.attention_out = PackedLinear.of(attention.out)
        self.inner, self.out = PackedLinear.of(layer.inner, "gelu"), PackedLinear.of(layer.out)
        # Of a single query: its scores are q·Wk·x, and what it reads is Wv·(shares·x).
        by_head = [part.unflatten(0, (heads, -1)) for part in (q * scale, k, v)]  # (H, d, C) each
        self.query = PackedLinear(torch.einsum("hdc,hde->hec", by_head[0], by_head[1]).flatten(0, 1), None)
        read = torch.einsum("chd,hde->che", attention.out.weight.detach().unflatten(1, (heads, -1)), by_head[2])
        self.read = PackedLinear(read.flatten(1), attention.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """All elements."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        x = x + self.attention_out(_attend(*qkv.permute(2, 0, 3, 1, 4)))
        return x + self.out(self.inner(self.norm(x)))

    def first(self, x: Tensor) -> Tensor:
        """The first element, (N, C)."""
        normed = self.attention_norm(x)
        queries = self.query(normed[:, 0].contiguous()).unflatten(-1, (self.num_heads, -1))  # (N, H, C)
        shares = (normed @ queries.transpose(1, 2)).softmax(1)  # (N, length, H)
        x = x[:, 0] + self.read((shares.transpose(1, 2) @ normed).flatten(1))
        return x + self.out(self.inner(self.norm(x)))


class _FastPool(nn.Module):
    def __init__(self, pool: Pool, to_latent: nn.Conv2d) -> None:
        super().__init__()
        self.token, self.positions = pool.token, pool.positions
        self.layers = nn.ModuleList(_FastPoolLayer(layer) for layer in pool.layers)  # type: ignore[arg-type]
        self.to_latent = PackedLinear(to_latent.weight[..., 0, 0], to_latent.bias, "tanh")

    def forward(self, sequences: Tensor) -> Tensor:
        """(rows, columns, length, C) to (L, rows·columns)."""
        x = sequences.flatten(0, 1)
        x = torch.cat([x, self.token.expand(len(x), -1, -1)], dim=1).add_(self.positions)
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.to_latent(self.layers[-1].first(x)).t()  # type: ignore[operator]


class FastAutoencoder(nn.Module):
    """`TriplaneAutoencoder` for inference."""

    def __init__(self, network: TriplaneAutoencoder) -> None:
        super().__init__()
        config = self.config = network.config
        patch = config.patch_px
        weight = network.patch_in.weight.unflatten(1, (patch, patch, 3)).permute(0, 3, 1, 2)  # colours before places
        self.patch_in = PackedLinear(weight.flatten(1), network.patch_in.bias)
        self.encoder, self.decoder = (
            _FastVideoTransformer(transformer, config.num_frames, config.side)
            for transformer in (network.encoder, network.decoder)
        )
        self.pools = nn.ModuleDict(
            {plane: _FastPool(network.pools[plane], network.to_latent[plane]) for plane in PLANES}  # type: ignore[arg-type]
        )
        self.from_latent = nn.ModuleDict(
            {
                plane: PackedLinear(network.from_latent[plane].weight[..., 0, 0], network.from_latent[plane].bias)  # type: ignore[arg-type]
                for plane in PLANES
            }
        )
        if not config.guide_channels:
            assert network.patch_out.bias is not None
            bias = network.patch_out.bias.repeat_interleave(patch * patch)
            # 2·sigmoid(x) − 1 is tanh(x/2).
            self.patch_out = PackedLinear(network.patch_out.weight.flatten(1).t() / 2, bias / 2, "tanh")
        self.requires_grad_(False)

    def encode(self, video: Tensor) -> Tensor:
        """As `TriplaneAutoencoder.encode`."""
        check_clips(video, self.config)
        return torch.stack([self._encode(clip) for clip in video])

    def encode_still(self, frame: Tensor) -> Tensor:
        """The latent (1, L, P) of a clip whose frames are all `frame` (3, R, R).

        Raises:
            VideoError: the frame has another size.
        """
        check_clips(frame[None, :, None].expand(-1, -1, self.config.num_frames, -1, -1), self.config)
        return self._encode(frame[:, None])[None]

    def _encode(self, clip: Tensor) -> Tensor:
        """(3, T, R, R), or one frame (3, 1, R, R) of a clip that stands still, to (L, P)."""
        config = self.config
        side, patch = config.side, config.patch_px
        squares = clip.unflatten(3, (side, patch)).unflatten(2, (side, patch))  # (3, T, S, p, S, p)
        tokens = self.patch_in(squares.permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(1, 2))  # (T, S·S, C)
        volume = self.encoder(tokens).unflatten(1, (side, side))  # (T, S, S, C)
        times = config.num_frames // len(volume)
        xy = self.pools["xy"](volume.expand(config.num_frames, -1, -1, -1).movedim(0, 2))
        yt = self.pools["yt"](volume.movedim(1, 2)).repeat(1, times)
        xt = self.pools["xt"](volume).repeat(1, times)
        return torch.cat([xy, yt, xt], dim=1)

    def decode(self, latent: Tensor) -> Tensor:
        """As `TriplaneAutoencoder.decode`, of configurations without a painter."""
        config = self.config
        side, patch = config.side, config.patch_px
        video = latent.new_empty(len(latent), 3, config.num_frames, side, patch, side, patch)
        for clip, tokens in zip(video, self.decode_tokens(latent), strict=True):
            clip.copy_(self.patch_out(tokens).unflatten(-1, (3, patch, patch)).permute(3, 0, 1, 4, 2, 5))
        return video.flatten(5, 6).flatten(3, 4)

    def decode_tokens(self, latent: Tensor) -> Tensor:
        """As `TriplaneAutoencoder.decode_tokens`."""
        return torch.stack([self._decode(one) for one in latent])

    def _decode(self, latent: Tensor) -> Tensor:
        """(L, P) to (T, S, S, C)."""
        side = self.config.side
        xy, yt, xt = (
            self.from_latent[plane](picture[0].permute(1, 2, 0).contiguous())
            for plane, picture in zip(PLANES, split_planes(latent[None], side), strict=True)
        )
        volume = xy[None] + yt[:, None] + xt[:, :, None]
        return self.decoder(volume.flatten(1, 2)).unflatten(1, (side, side))
