"""The published motion generator written down plainly, as the specification has it, on published tensor names.

It exists to be compared with: nothing is cached, merged or left out. Attention is torch's fused one, as published.

Shape letters: B batch, N frames, T tokens, D hidden channels, H heads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]  # published names without their prefix

HEAD_DIM, THETA = 64, 256.0


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(x: Tensor, eps: float = 1e-6, weight: Tensor | None = None) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return _norm(x) * (1 + scale[:, None]) + shift[:, None]


def _modulation(state: State, name: str, c: Tensor, parts: int) -> tuple[Tensor, ...]:
    return _linear(state, name, F.silu(c)).chunk(parts, dim=-1)


def _two_layers(state: State, name: str, x: Tensor) -> Tensor:
    return _linear(state, f"{name}.mlp.2", F.silu(_linear(state, f"{name}.mlp.0", x)))


def _rotary(positions: Tensor) -> tuple[Tensor, Tensor]:
    omega = THETA ** (-2 * torch.arange(HEAD_DIM // 2) / HEAD_DIM)
    angles = positions[:, None] * omega
    return angles.cos()[:, None], angles.sin()[:, None]


def _rotated(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = table
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def _heads(
    state: State, qkv: Tensor, names: tuple[str, str], table: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (part.unflatten(-1, (-1, HEAD_DIM)) for part in qkv.chunk(3, dim=-1))
    q, k = (_norm(x, 1e-5, state[f"{name}.weight"]) for x, name in zip((q, k), names, strict=True))
    return (q, k, v) if table is None else (_rotated(q, table), _rotated(k, table), v)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def _joint_block(
    state: State,
    p: str,
    tokens: list[Tensor],
    c: Tensor,
    tables: list[tuple[Tensor, Tensor] | None],
    suffixes: list[str],
) -> list[Tensor]:
    """Streams: motion, then one for each suffix."""
    streams = [("xs", "xs", "")] + [("au", "audio", suffix) for suffix in suffixes]
    mods = [_modulation(state, f"{p}.adaLN_modulation_{long}{n}.1", c, 6) for _, long, n in streams]
    parts = []
    for (short, _, n), x, mod, table in zip(streams, tokens, mods, tables, strict=True):
        qkv = _linear(state, f"{p}.attn1.qkv_{short}{n}", _modulated(x, mod[0], mod[1]))
        parts.append(_heads(state, qkv, (f"{p}.attn1.{short}_q_norm{n}", f"{p}.attn1.{short}_k_norm{n}"), table))
    q, k, v = (torch.cat(group, dim=1) for group in zip(*parts, strict=True))
    attended = _attention(q, k, v).split([x.shape[1] for x in tokens], dim=1)
    out = []
    for (short, long, n), x, mod, heads in zip(streams, tokens, mods, attended, strict=True):
        x = x + mod[2][:, None] * _linear(state, f"{p}.attn1.{short}_proj{n}", heads)
        name = f"{p}.{long}_mlp{n}"
        hidden = F.gelu(_linear(state, f"{name}.fc1", _modulated(x, mod[3], mod[4])), approximate="tanh")
        out.append(x + mod[5][:, None] * _linear(state, f"{name}.fc2", hidden))
    return out


def _single_block(state: State, p: str, x: Tensor, c: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    shift, scale, gate = _modulation(state, f"{p}.adaLN_modulation_xs.1", c, 3)
    width = x.shape[-1]
    qkv, hidden = _linear(state, f"{p}.qkv_xs", _modulated(x, shift, scale)).split([3 * width, 4 * width], dim=-1)
    q, k, v = _heads(state, qkv, (f"{p}.attn1.xs_q_norm", f"{p}.attn1.xs_k_norm"), table)
    mixed = torch.cat([_attention(q, k, v), F.gelu(hidden, approximate="tanh")], dim=-1)
    return x + gate[:, None] * _linear(state, f"{p}.linear2", mixed)


def _count(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def velocity(
    state: State, motion: Tensor, t: Tensor, previous: Tensor, audio: Tensor, emotion: Tensor, identity: Tensor
) -> Tensor:
    """(B, N, 70) from noisy motion (B, N, 70), t (B,) in 1..1000, previous (B, 70), audio (B, N, L, C), labels (B,) and
    canonical keypoints (B, 63)."""
    num_frames = motion.shape[1]
    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    felt = state["emo_embedder.embedding_table.weight"][emotion]
    c = _two_layers(state, "time_embedder", torch.cat([angles.cos(), angles.sin()], dim=-1)) + felt
    x = _two_layers(state, "motion_embedder", torch.cat([previous[:, None].expand_as(motion), motion], dim=-1))
    heard = F.relu(_linear(state, "audio_embedder.proj1", audio.flatten(2)))
    heard = _linear(state, "audio_embedder.proj3", F.relu(_linear(state, "audio_embedder.proj2", heard)))
    heard = _norm(heard, 1e-6, state["audio_embedder.norm.weight"])
    person = _two_layers(state, "identity_embedder", identity)
    tokens = [x, heard, *(vector[:, None].expand(-1, num_frames, -1) for vector in (felt, person))]
    positions = torch.arange(num_frames)
    table = _rotary(positions)
    for i in range(_count(state, "blocks4.")):
        tokens = _joint_block(state, f"blocks4.{i}", tokens, c, [table, table, None, None], ["1", "2", "3"])
    pair = [tokens[0], torch.cat(tokens[1:], dim=1)]
    for i in range(_count(state, "blocks2.")):
        pair = _joint_block(state, f"blocks2.{i}", pair, c, [table, _rotary(positions.repeat(3))], [""])
    joined = torch.cat(pair, dim=1)
    for i in range(_count(state, "blocks.")):
        joined = _single_block(state, f"blocks.{i}", joined, c, _rotary(positions.repeat(4)))
    shift, scale = _modulation(state, "final_layer.adaLN_modulation.1", c, 2)
    return _linear(state, "final_layer.linear", _modulated(joined[:, :num_frames], shift, scale))


def sample_window(
    state: State,
    noise: Tensor,
    previous: Tensor,
    audio: Tensor,
    null_audio: Tensor,
    emotion: int,
    identity: Tensor,
    steps: int,
    guidance: float,
) -> Tensor:
    """A window (N, 70) by the released sampler with guidance; `noise` (N, 70), `audio` (N, L, C), null (C,)."""
    x = noise[None]
    both_audio = torch.stack([null_audio.expand_as(audio), audio])
    both_labels = torch.tensor([8, emotion])
    for t in torch.linspace(1000, 1, steps):
        sigma = t / 1000
        sigma_next = max(0.0, float(sigma) - 0.999 / (steps - 1))
        v = velocity(
            state, x.expand(2, -1, -1), t.expand(2), previous.expand(2, -1), both_audio, both_labels,
            identity.expand(2, -1),
        )  # fmt: skip
        v = v[:1] + guidance * (v[1:] - v[:1])
        x = x + v * (sigma_next - float(sigma))
    return x[0]
