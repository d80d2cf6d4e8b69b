"""The published generator with less arithmetic: the same function, arranged for sampling.

What is saved:

- Audio, emotion and identity are embedded once for a window, rotary tables once for all (`embed`).
- In the four-stream blocks the emotion's N tokens are equal and have no positions, so they stay equal: one is worked on,
  and its key counts N times (log N is added to its scores). The same holds for the identity's.
- Of the last single-stream block only the motion's tokens are read, so only they are asked and answered.
- Linear layers are packed, with the activation in the product (`nn.packed`); norms of queries and keys and their turns
  are done together.

docs/moda.md, "Speed", has the figures. Shape letters as in `network`; P parts of a modulation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.diffusion.flow import precondition
from loquent.models.moda.network import BLOCK_NORM_EPS, QK_NORM_EPS, TIME_SCALE, Conditions
from loquent.nn.layers import rms_norm
from loquent.nn.packed import PackedLinear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from loquent.models.moda.network import JointBlock, Modulation, MotionTransformer, QKNorm, SingleBlock, Stream


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, rms_norm(x, BLOCK_NORM_EPS), 1 + scale)


class _Modulation(nn.Module):
    """Shifts, scales and gates, (B, 1, D) each."""

    def __init__(self, modulation: Modulation) -> None:
        super().__init__()
        self.parts = modulation.parts
        self.linear = PackedLinear.of(modulation.linear)

    def forward(self, activated: Tensor) -> tuple[Tensor, ...]:
        return self.linear(activated)[:, None].chunk(self.parts, dim=-1)


class _Turn(nn.Module):
    """Norms of queries and keys, and their turns, at once."""

    def __init__(self, norm: QKNorm) -> None:
        super().__init__()
        self.weight = torch.stack([norm.q.weight, norm.k.weight]).detach()[:, None]  # (2, 1, d)

    def forward(self, qk: Tensor, table: Tensor | None) -> Tensor:
        """(B, T, 2, H, d) by a complex table (T, 1, 1, d/2)."""
        qk = rms_norm(qk, QK_NORM_EPS, self.weight)
        if table is None:
            return qk
        pairs = torch.view_as_complex(qk.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


class _FastStream(nn.Module):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.num_heads = stream.num_heads
        self.modulation = _Modulation(stream.modulation)
        self.qkv = PackedLinear.of(stream.qkv)
        self.turn = _Turn(stream.qk_norm)
        self.proj = PackedLinear.of(stream.proj)
        self.fc1 = PackedLinear.of(stream.mlp.fc1, "gelu_tanh")
        self.fc2 = PackedLinear.of(stream.mlp.fc2)

    def project(self, x: Tensor, shift: Tensor, scale: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, T, 2, H, d), and values (B, T, H, d)."""
        qkv = self.qkv(_modulated(x, shift, scale)).unflatten(-1, (3, self.num_heads, -1))
        return self.turn(qkv[:, :, :2], table), qkv[:, :, 2]


class _FastJointBlock(nn.Module):
    def __init__(self, block: JointBlock) -> None:
        super().__init__()
        self.streams = nn.ModuleList(_FastStream(stream) for stream in block.streams)  # type: ignore[arg-type]

    def forward(
        self, tokens: Sequence[Tensor], activated: Tensor, tables: Sequence[Tensor | None], bias: Tensor | None
    ) -> list[Tensor]:
        mods = [stream.modulation(activated) for stream in self.streams]  # type: ignore[operator]
        projected = [
            stream.project(x, mod[0], mod[1], table)  # type: ignore[operator]
            for stream, x, mod, table in zip(self.streams, tokens, mods, tables, strict=True)
        ]
        qk, v = (torch.cat(parts, dim=1) for parts in zip(*projected, strict=True))
        heads = _attend(qk[:, :, 0], qk[:, :, 1], v, bias).split([x.shape[1] for x in tokens], dim=1)
        out = []
        for stream, x, mod, attended in zip(self.streams, tokens, mods, heads, strict=True):
            x = torch.addcmul(x, mod[2], stream.proj(attended))  # type: ignore[operator]
            hidden = stream.fc1(_modulated(x, mod[3], mod[4]))  # type: ignore[operator]
            out.append(torch.addcmul(x, mod[5], stream.fc2(hidden)))  # type: ignore[operator]
        return out


class _FastSingleBlock(nn.Module):
    def __init__(self, block: SingleBlock) -> None:
        super().__init__()
        self.num_heads = block.num_heads
        self.modulation = _Modulation(block.modulation)
        weights, biases = block.qkv_mlp.weight.split(block.split), block.qkv_mlp.bias.detach().split(block.split)
        self.qkv = PackedLinear(weights[0], biases[0])
        self.fc1 = PackedLinear(weights[1], biases[1], "gelu_tanh")
        self.turn = _Turn(block.qk_norm)
        self.out = PackedLinear.of(block.out)

    def forward(self, x: Tensor, activated: Tensor, table: Tensor, num_answers: int) -> Tensor:
        """Tokens (B, T, D) in, the first `num_answers` of them out."""
        shift, scale, gate = self.modulation(activated)
        normed = _modulated(x, shift, scale)
        qkv = self.qkv(normed).unflatten(-1, (3, self.num_heads, -1))
        qk = self.turn(qkv[:, :, :2], table)
        attended = _attend(qk[:, :num_answers, 0], qk[:, :, 1], qkv[:, :, 2])
        hidden = self.fc1(normed[:, :num_answers].contiguous())
        return torch.addcmul(x[:, :num_answers], gate, self.out(torch.cat([attended, hidden], dim=-1)))


class FastMotionTransformer(nn.Module):
    """`MotionTransformer` for sampling; weights are copied, so the network may be dropped."""

    def __init__(self, network: MotionTransformer) -> None:
        super().__init__()
        self.config = network.config
        self.null_audio = network.null_audio
        self.motion_embedder = network.motion_embedder
        self.identity_embedder = network.identity_embedder
        self.time_embedder = network.time_embedder
        self.audio_embedder = network.audio_embedder
        self.emotion_table = network.emotion_table
        self.final_layer = network.final_layer
        self.four_stream_blocks = nn.ModuleList(_FastJointBlock(block) for block in network.four_stream_blocks)  # type: ignore[arg-type]
        self.double_stream_blocks = nn.ModuleList(_FastJointBlock(block) for block in network.double_stream_blocks)  # type: ignore[arg-type]
        self.single_stream_blocks = nn.ModuleList(_FastSingleBlock(block) for block in network.single_stream_blocks)  # type: ignore[arg-type]
        tables = network.rotary_tables(self.config.num_frames, network.null_audio.device)
        self._table, self._condition_table = (torch.complex(*table)[:, None, None] for table in tables)
        self._joined_table = torch.cat([self._table, self._condition_table])
        copies = self.config.num_frames if self.config.condition_tokens == "per_frame" else 1
        weights = torch.zeros(2 * self.config.num_frames + 2)
        weights[-2:] = math.log(copies)
        self._copies, self._bias = copies, weights[None].to(network.null_audio.device)
        self.requires_grad_(False)

    def embed(self, audio: Tensor, emotion: Tensor, identity: Tensor) -> Conditions:
        """Once for each window; arguments as of `MotionTransformer.forward`, the emotion as weights."""
        return Conditions(
            self.audio_embedder(audio), emotion @ self.emotion_table.weight, self.identity_embedder(identity)
        )

    def velocity(self, motion: Tensor, sigma: Tensor, previous: Tensor, given: Conditions) -> Tensor:
        """As `MotionTransformer.forward`, (B, N, M)."""
        num_frames = motion.shape[1]
        c = self.time_embedder(sigma * TIME_SCALE) + given.emotion
        activated = F.silu(c)
        before = previous[:, None].expand_as(motion)
        tokens = [
            self.motion_embedder(torch.cat([before, motion], dim=-1)),
            given.audio,
            given.emotion[:, None],
            given.identity[:, None],
        ]
        for block in self.four_stream_blocks:
            tokens = block(tokens, activated, [self._table, self._table, None, None], self._bias)
        conditions = [tokens[1], *(x.expand(-1, self._copies, -1) for x in tokens[2:])]
        pair = [tokens[0], torch.cat(conditions, dim=1)]
        for block in self.double_stream_blocks:
            pair = block(pair, activated, [self._table, self._condition_table], None)
        x = torch.cat(pair, dim=1)
        last = len(self.single_stream_blocks) - 1
        for i, block in enumerate(self.single_stream_blocks):
            x = block(x, activated, self._joined_table, num_frames if i == last else x.shape[1])
        output = self.final_layer(x[:, :num_frames], c)
        return precondition(motion, output, sigma) if self.config.preconditioned else output
