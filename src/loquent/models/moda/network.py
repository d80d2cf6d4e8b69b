"""The motion generator of MoDA: a rectified-flow transformer over motion, audio, emotion and identity tokens.

Source: the project's specification of the published system, section 3 (docs/generator.md repeats the equations).

Shape letters: B batch, N motion frames, T tokens, D hidden channels, H heads, d channels of one head, M motion
channels, I identity channels, L audio layers, C audio channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loquent.diffusion.flow import precondition
from loquent.nn.attention import attend, rotary_table, rotate
from loquent.nn.layers import Mlp, RMSNorm, TimeEmbedder, VectorEmbedder, rms_norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loquent.models.moda.config import ModaConfig

BLOCK_NORM_EPS = 1e-6
QK_NORM_EPS = 1e-5
TIME_SCALE = 1000.0  # the time embedder counts sigma in thousandths


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Block norm, then scale and shift of every token: x (B, T, D), shift and scale (B, D)."""
    return rms_norm(x, BLOCK_NORM_EPS) * (1 + scale[:, None]) + shift[:, None]


class Modulation(nn.Module):
    """adaLN: shifts, scales and gates of a block from the condition vector c (Peebles and Xie 2023, DiT)."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(c)).chunk(self.parts, dim=-1)  # (B, D) each


class QKNorm(nn.Module):
    """Norms of queries and keys over the channels of a head, then their rotary turn."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.q = RMSNorm(head_dim, QK_NORM_EPS)
        self.k = RMSNorm(head_dim, QK_NORM_EPS)

    def forward(self, q: Tensor, k: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k = self.q(q), self.k(k)
        return (q, k) if table is None else (rotate(q, table), rotate(k, table))


class Stream(nn.Module):
    """The weights of one modality within a joint block."""

    def __init__(self, config: ModaConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_heads = config.num_heads
        self.modulation = Modulation(dim, 6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.qk_norm = QKNorm(dim // config.num_heads)
        self.proj = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))

    def project(self, x: Tensor, shift: Tensor, scale: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, T, H, d) of tokens (B, T, D)."""
        qkv = self.qkv(_modulate(x, shift, scale)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.unbind(2)
        return *self.qk_norm(q, k, table), v


class JointBlock(nn.Module):
    """Attention over the tokens of several streams at once, all else per stream.

    With four streams this is the published four-stream block, with two the double-stream block.
    """

    def __init__(self, config: ModaConfig, num_streams: int) -> None:
        super().__init__()
        self.streams = nn.ModuleList(Stream(config) for _ in range(num_streams))

    def forward(self, tokens: Sequence[Tensor], c: Tensor, tables: Sequence[Tensor | None]) -> list[Tensor]:
        """Token groups (B, T_i, D) in, the same groups out; `tables` holds each group's rotary table or None."""
        mods = [stream.modulation(c) for stream in self.streams]  # type: ignore[operator]
        projected = [
            stream.project(x, mod[0], mod[1], table)  # type: ignore[operator]
            for stream, x, mod, table in zip(self.streams, tokens, mods, tables, strict=True)
        ]
        q, k, v = (torch.cat(parts, dim=1) for parts in zip(*projected, strict=True))
        attended = attend(q, k, v).split([x.shape[1] for x in tokens], dim=1)
        out = []
        for stream, x, mod, heads in zip(self.streams, tokens, mods, attended, strict=True):
            _, _, gate_attention, shift, scale, gate_mlp = mod
            x = x + gate_attention[:, None] * stream.proj(heads)  # type: ignore[operator]
            out.append(x + gate_mlp[:, None] * stream.mlp(_modulate(x, shift, scale)))  # type: ignore[operator]
        return out


class SingleBlock(nn.Module):
    """Attention and feed-forward layer side by side over all tokens."""

    def __init__(self, config: ModaConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_heads = config.num_heads
        self.split = [3 * dim, int(dim * config.mlp_ratio)]
        self.modulation = Modulation(dim, 3)
        self.qkv_mlp = nn.Linear(dim, sum(self.split))
        self.qk_norm = QKNorm(dim // config.num_heads)
        self.out = nn.Linear(dim + self.split[1], dim)

    def forward(self, x: Tensor, c: Tensor, table: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(c)
        qkv, hidden = self.qkv_mlp(_modulate(x, shift, scale)).split(self.split, dim=-1)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        q, k = self.qk_norm(q, k, table)
        mixed = torch.cat([attend(q, k, v), F.gelu(hidden, approximate="tanh")], dim=-1)
        return x + gate[:, None] * self.out(mixed)


class AudioEmbedder(nn.Module):
    """All layers of the speech features of a frame to one token: (B, N, L, C) to (B, N, D)."""

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.proj1 = nn.Linear(input_dim, dim)
        self.proj2 = nn.Linear(dim, dim)
        self.proj3 = nn.Linear(dim, dim)
        self.norm = RMSNorm(dim, BLOCK_NORM_EPS)

    def forward(self, audio: Tensor) -> Tensor:
        x = F.relu(self.proj1(audio.flatten(2)))
        return self.norm(self.proj3(F.relu(self.proj2(x))))


class FinalLayer(nn.Module):
    """Modulated norm and the way back to motion channels."""

    def __init__(self, dim: int, motion_dim: int) -> None:
        super().__init__()
        self.modulation = Modulation(dim, 2)
        self.linear = nn.Linear(dim, motion_dim)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c)
        return self.linear(_modulate(x, shift, scale))


class Conditions(NamedTuple):
    """What does not change between the steps of a window, embedded."""

    audio: Tensor  # (B, N, D)
    emotion: Tensor  # (B, D)
    identity: Tensor  # (B, D)


class MotionTransformer(nn.Module):
    """Velocity of normalised motion given speech, emotion, identity and the motion just before."""

    def __init__(self, config: ModaConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.config = config
        self.motion_embedder = VectorEmbedder(2 * config.motion_dim, dim)
        self.identity_embedder = VectorEmbedder(config.identity_dim, dim)
        self.time_embedder = TimeEmbedder(dim)
        self.audio_embedder = AudioEmbedder(config.audio_layers * config.audio_dim, dim)
        self.emotion_table = nn.Embedding(config.num_emotions + 1, dim)
        self.four_stream_blocks = nn.ModuleList(JointBlock(config, 4) for _ in range(config.four_stream_blocks))
        self.double_stream_blocks = nn.ModuleList(JointBlock(config, 2) for _ in range(config.double_stream_blocks))
        self.single_stream_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.single_stream_blocks))
        self.final_layer = FinalLayer(dim, config.motion_dim)
        # One audio vector for "no speech", used by guidance and by condition dropout. The published code never trains,
        # saves or loads it; `weights.load_published` draws it from a fixed seed when a file lacks it.
        self.null_audio = nn.Parameter(torch.zeros(config.audio_dim))
        self._initialise()

    def _initialise(self) -> None:
        """Published initialisation, with the final layer at zero as its authors meant to."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        for linear in (self.time_embedder.embedder.fc1, self.time_embedder.embedder.fc2):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.normal_(self.emotion_table.weight, std=0.02)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(
        self, motion: Tensor, sigma: Tensor, previous: Tensor, audio: Tensor, emotion: Tensor, identity: Tensor
    ) -> Tensor:
        """Predicts d(motion) / d(sigma).

        Args:
            motion: noisy motion, (B, N, M), standardised per channel.
            sigma: flow time, (B,), in [0, 1]; 1 is noise.
            previous: motion of the frame before the window, (B, M), standardised; or (B, N, M), one for each frame.
            audio: speech features, (B, N, L, C).
            emotion: labels (B,), or weights of the labels (B, num_emotions + 1).
            identity: (B, I).

        Returns:
            Velocity in the same standardised space, (B, N, M).
        """
        return self.velocity(motion, sigma, previous, self.embed(audio, emotion, identity))

    def embed(self, audio: Tensor, emotion: Tensor, identity: Tensor) -> Conditions:
        """The part of `forward` that is the same in all steps of a window."""
        return Conditions(self.audio_embedder(audio), self._embed_emotion(emotion), self.identity_embedder(identity))

    def velocity(self, motion: Tensor, sigma: Tensor, previous: Tensor, given: Conditions) -> Tensor:
        """The rest of `forward`."""
        num_frames = motion.shape[1]
        if previous.ndim == 2:
            previous = previous[:, None].expand_as(motion)
        c = self.time_embedder(sigma.float() * TIME_SCALE) + given.emotion  # (B, D)
        repeats = num_frames if self.config.condition_tokens == "per_frame" else 1
        tokens = [
            self.motion_embedder(torch.cat([previous, motion], dim=-1)),
            given.audio,
            given.emotion[:, None].expand(-1, repeats, -1),
            given.identity[:, None].expand(-1, repeats, -1),
        ]
        table, condition_table = self.rotary_tables(num_frames, motion.device)
        for block in self.four_stream_blocks:
            tokens = block(tokens, c, [table, table, None, None])
        pair = [tokens[0], torch.cat(tokens[1:], dim=1)]
        for block in self.double_stream_blocks:
            pair = block(pair, c, [table, condition_table])
        joined = torch.cat(pair, dim=1)
        joined_table = torch.cat([table, condition_table], dim=1)
        for block in self.single_stream_blocks:
            joined = block(joined, c, joined_table)
        output = self.final_layer(joined[:, :num_frames], c)
        return precondition(motion, output, sigma) if self.config.preconditioned else output

    def _embed_emotion(self, emotion: Tensor) -> Tensor:
        if emotion.is_floating_point():
            return emotion.to(self.emotion_table.weight.dtype) @ self.emotion_table.weight
        return self.emotion_table(emotion)

    def rotary_tables(self, num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tables of the motion tokens and of the condition tokens audio, emotion, identity."""
        positions = torch.arange(num_frames, device=device)
        if self.config.condition_tokens == "per_frame":
            conditions = positions.repeat(3)
        else:
            conditions = torch.cat([positions, positions.new_zeros(2)])
        head_dim = self.config.hidden_dim // self.config.num_heads
        theta = self.config.rope_theta
        return rotary_table(positions, head_dim, theta), rotary_table(conditions, head_dim, theta)
