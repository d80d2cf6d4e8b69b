"""AToM: speech and the first frame's landmarks to the residual motion of landmarks, by diffusion.

Shape letters: B batch, N frames, V speech vectors of a frame, A speech channels, D hidden channels, M memory tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from loquent.diffusion.flow import guide
from loquent.models.moditalker.landmarks import LIP_CHANNELS, OTHER_CHANNELS, VECTOR_DIM
from loquent.nn.attention import attend, rotary_table, rotate

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loquent.models.moditalker.config import AtomConfig

_THETA = 10_000.0
_NUM_TIME_TOKENS = 2


def turn(x: Tensor, table: Tensor) -> Tensor:
    """Rotary positions over the whole width: x (B, T, D) by the first T rows of a table for D channels."""
    return rotate(x[:, :, None], table[:, : x.shape[1]]).squeeze(2)


class Attention(nn.Module):
    """Attention whose queries and keys may carry positions that its values do not."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(dim, 3 * dim)  # query, key, value
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, T, D) and twice (B, M, D) to (B, T, D)."""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1))
            for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        if not (self.training and self.dropout):
            return self.out_proj(attend(q, k, v))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and beside its input."""

    def __init__(self, config: AtomConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.attention = Attention(dim, config.num_heads, config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.feedforward_dim)
        self.linear2 = nn.Linear(config.feedforward_dim, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        normed = self.norm1(x)
        turned = turn(normed, table)
        x = x + self.dropout(self.attention(turned, turned, normed))
        return x + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(self.norm2(x))))))


class Film(nn.Module):
    """(1 + scale)·x + shift with both from a condition (B, D).

    Source: Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer".
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def forward(self, condition: Tensor, x: Tensor) -> Tensor:
        scale, shift = self.linear(F.mish(condition))[:, None].chunk(2, dim=-1)
        return (1 + scale) * x + shift


class Memory(NamedTuple):
    """Tokens to attend to."""

    turned: Tensor  # (B, M, D) with positions: keys
    tokens: Tensor  # (B, M, D): values


class DecoderLayer(nn.Module):
    """Lip and other landmarks side by side, with shared weights; only the lips hear.

    As published there is no feed-forward network, and the layer's input reaches its output through attention alone: to
    the two time tokens and to a landmark token that is the same for all frames, which lets two numbers a head and frame
    pass. `AtomConfig.full_layers` adds both.
    """

    def __init__(self, config: AtomConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attention = Attention(dim, config.num_heads, config.dropout)
        self.cross_attention = Attention(dim, config.num_heads, config.dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.film1, self.film2, self.film3 = Film(dim), Film(dim), Film(dim)
        self.out = nn.Linear(dim, 2 * dim)
        self.dropout = nn.Dropout(config.dropout)
        self.full = config.full_layers
        if self.full:
            self.norm4 = nn.LayerNorm(dim)
            self.linear1 = nn.Linear(dim, config.feedforward_dim)
            self.linear2 = nn.Linear(config.feedforward_dim, dim)

    def forward(self, x: Tensor, condition: Tensor, memory: Memory, landmark_memory: Memory, table: Tensor) -> Tensor:
        """x (B, N, 2D), lips before others, and condition (B, D) to (B, N, 2D)."""
        both = torch.cat(x.chunk(2, dim=-1))  # (2B, N, D): lips and others share everything here
        both = both + self.film1(condition.repeat(2, 1), self._within(self.norm1(both), table))
        lips, others = both.chunk(2)
        lips = lips + self.film2(condition, self._across(self.norm2(lips), memory, table))
        others = others + self.film2(condition, self._within(self.norm2(others), table))
        mixed = lips + others
        fused = self._across(self.norm3(mixed), landmark_memory, table)
        if not self.full:
            return self.out(fused + self.film3(condition, fused))
        mixed = mixed + self.film3(condition, fused)
        mixed = mixed + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(self.norm4(mixed))))))
        return x + self.out(mixed)

    def _within(self, x: Tensor, table: Tensor) -> Tensor:
        turned = turn(x, table)
        return self.dropout(self.self_attention(turned, turned, x))

    def _across(self, x: Tensor, memory: Memory, table: Tensor) -> Tensor:
        return self.dropout(self.cross_attention(turn(x, table), memory.turned, memory.tokens))


def _summary_projection(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))


def time_sinusoids(timestep: Tensor, dim: int) -> Tensor:
    """[sin(t·f), cos(t·f)] with f_j = 10000^(−j/(dim/2 − 1)): (B,) to (B, dim)."""
    half = dim // 2
    f = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(_THETA) / (half - 1)))
    angles = timestep.float()[:, None] * f
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@dataclass(frozen=True, eq=False)
class Conditions:
    """Speech and first landmarks as the network reads them; the same at every step of a walk."""

    audio: Tensor  # (B, N·V, D)
    landmark: Tensor  # (B, N, D)
    summary: Tensor  # (B, D), added to every modulation

    @staticmethod
    def concatenate(parts: list[Conditions]) -> Conditions:
        return Conditions(*(torch.cat([getattr(p, name) for p in parts]) for name in ("audio", "landmark", "summary")))


class AtomDenoiser(nn.Module):
    """Clean residual landmarks from noisy ones."""

    def __init__(self, config: AtomConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_dim
        self.lips_in = nn.Linear(len(LIP_CHANNELS), dim)
        self.others_in = nn.Linear(len(OTHER_CHANNELS), dim)
        self.audio_in = nn.Linear(config.audio_dim, dim)
        self.landmark_in = nn.Linear(VECTOR_DIM, dim)
        self.audio_encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.landmark_encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.audio_summary = _summary_projection(dim)
        self.landmark_summary = _summary_projection(dim)
        self.null_audio = nn.Parameter(torch.randn(1, config.num_frames * config.vectors_per_frame, dim))
        self.null_landmark = nn.Parameter(torch.randn(1, config.num_frames, dim))
        self.null_audio_summary = nn.Parameter(torch.randn(1, dim))
        self.time_hidden = nn.Linear(dim, 4 * dim)
        self.time_condition = nn.Linear(4 * dim, dim)
        self.time_tokens = nn.Linear(4 * dim, _NUM_TIME_TOKENS * dim)
        self.memory_norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.out = nn.Linear(2 * dim, VECTOR_DIM)

    def forward(
        self, x: Tensor, timestep: Tensor, audio: Tensor, landmark: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """`denoise` with `embed_conditions`."""
        return self.denoise(x, timestep, self.embed_conditions(audio, landmark, keep))

    def embed_conditions(self, audio: Tensor, landmark: Tensor, keep: Tensor | None = None) -> Conditions:
        """Encodes what does not change along a walk.

        Args:
            audio: speech vectors, (B, N, V, A).
            landmark: first frame's landmark vector, (B, 204), see `landmarks.to_vector`.
            keep: (B,), false where speech and landmark are left out, as guidance is trained; None: kept everywhere.
        """
        table = self._positions(audio.device)
        audio_tokens = self.audio_in(audio.flatten(1, 2))
        landmark_tokens = self.landmark_in(landmark)[:, None].expand(-1, self.config.num_frames, -1)
        for layer in self.audio_encoder:
            audio_tokens = layer(audio_tokens, table)
        for layer in self.landmark_encoder:
            landmark_tokens = layer(landmark_tokens, table)
        if keep is not None:
            audio_tokens = torch.where(keep[:, None, None], audio_tokens, self.null_audio)
            landmark_tokens = torch.where(keep[:, None, None], landmark_tokens, self.null_landmark)
        audio_summary = self.audio_summary(audio_tokens.mean(1))
        if keep is not None:
            audio_summary = torch.where(keep[:, None], audio_summary, self.null_audio_summary)
        return self._conditions(audio_tokens, landmark_tokens, audio_summary)

    def null_conditions(self, batch_size: int) -> Conditions:
        """What `embed_conditions` gives where nothing is kept."""
        audio, landmark = (value.expand(batch_size, -1, -1) for value in (self.null_audio, self.null_landmark))
        return self._conditions(audio, landmark, self.null_audio_summary.expand(batch_size, -1))

    def _conditions(self, audio: Tensor, landmark: Tensor, audio_summary: Tensor) -> Conditions:
        # The landmark counts twice: the published code adds it in place to one tensor that has two names.
        return Conditions(audio, landmark, 2 * self.landmark_summary(landmark.mean(1)) + audio_summary)

    def denoise(self, x: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Predicts the clean residual.

        Args:
            x: noisy residual, (B, N, 204).
            timestep: (B,), integers in 0..999.
            conditions: of `embed_conditions`, for B samples.

        Returns:
            (B, N, 204).
        """
        table = self._positions(x.device)
        sinusoids = time_sinusoids(timestep, self.config.hidden_dim)
        hidden = F.mish(self.time_hidden(sinusoids.to(x.dtype)))
        time_tokens = self.time_tokens(hidden).unflatten(-1, (_NUM_TIME_TOKENS, -1))
        memory = self._memory([conditions.audio, time_tokens, conditions.landmark], table)
        landmark_memory = self._memory([time_tokens, conditions.landmark], table)
        condition = self.time_condition(hidden) + conditions.summary
        y = torch.cat([self.lips_in(x[..., LIP_CHANNELS]), self.others_in(x[..., OTHER_CHANNELS])], dim=-1)
        for layer in self.layers:
            y = layer(y, condition, memory, landmark_memory, table)
        return self.out(y)

    def _memory(self, parts: list[Tensor], table: Tensor) -> Memory:
        tokens = self.memory_norm(torch.cat(parts, dim=1))
        return Memory(turn(tokens, table), tokens)

    def _positions(self, device: torch.device) -> Tensor:
        longest = self.config.num_frames * (self.config.vectors_per_frame + 1) + _NUM_TIME_TOKENS
        return rotary_table(torch.arange(longest, device=device), self.config.hidden_dim, _THETA)


def guided(
    network: AtomDenoiser, audio: Tensor, landmark: Tensor, *, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The network with its conditions embedded once, guided by speech and landmark together.

    Args:
        network: trained with conditions left out at times.
        audio: (B, N, V, A).
        landmark: (B, 204).
        scale: 1 is none, published 2.

    Returns:
        A function of noisy residual (B, N, 204) and timesteps (B,).
    """
    conditions = network.embed_conditions(audio, landmark)
    if scale == 1:
        return lambda x, timestep: network.denoise(x, timestep, conditions)
    both = Conditions.concatenate([conditions, network.null_conditions(len(audio))])

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        conditional, unconditional = network.denoise(x.repeat(2, 1, 1), timestep.repeat(2), both).chunk(2)
        return guide(unconditional, conditional, scale)

    return predict
