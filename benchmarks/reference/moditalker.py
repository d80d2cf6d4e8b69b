"""Plain transcription of MToV's forward passes, kept to measure against and to compare results with.

It does per window and per denoising step what the published code does: the portrait is encoded for every window, the
three planes pass every block one after another, attention is two products with a softmax in float32 between, pooling
computes every position, and all conditions are convolved at every step. State dicts have our names.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loquent.models.moditalker import AutoencoderConfig, UNetConfig

    State = dict[str, Tensor]


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    turned = torch.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(x.shape)
    return x * angles.cos() + turned * angles.sin()


def _attention(state: State, name: str, x: Tensor, heads: int, angles: Tensor | None = None) -> Tensor:
    q, k, v = _linear(state, f"{name}.qkv", _norm(state, f"{name}.norm", x)).chunk(3, dim=-1)
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
    q = q * q.shape[-1] ** -0.5
    if angles is not None:
        q, k = _turn(q, angles), _turn(k, angles)
    shares = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
    out = torch.einsum("bhij,bhjd->bhid", shares, v)
    return _linear(state, f"{name}.out", out.transpose(1, 2).reshape(*x.shape[:2], -1))


def _time_angles(num_frames: int, dim: int) -> Tensor:
    angles = torch.arange(num_frames)[:, None] * 10000.0 ** -(torch.arange(0, dim, 2) / dim)
    return torch.cat([angles, angles], -1)


def _space_angles(side: int, dim: int) -> Tensor:
    scales = 2 ** torch.linspace(0, math.log2(5), dim // 4)
    one = torch.linspace(-1, 1, side)[:, None] * math.pi * scales
    both = torch.cat([one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)], -1)
    return both.reshape(side * side, -1).repeat_interleave(2, -1)


def _transformer(state: State, name: str, config: AutoencoderConfig, x: Tensor) -> Tensor:
    batch, frames, side, _, dim = x.shape
    for layer in range(config.num_layers):
        base = f"{name}.layers.{layer}"
        in_time, in_space = (
            angles.to(x.device)
            for angles in (_time_angles(frames, config.head_dim), _space_angles(side, config.head_dim))
        )
        along = x.permute(0, 2, 3, 1, 4).reshape(-1, frames, dim)
        along = along + _attention(state, f"{base}.time_attention", along, config.num_heads, in_time)
        x = along.reshape(batch, side, side, frames, dim).permute(0, 3, 1, 2, 4)
        across = x.reshape(-1, side * side, dim)
        across = across + _attention(state, f"{base}.space_attention", across, config.num_heads, in_space)
        h = _linear(state, f"{base}.feedforward.inner", _norm(state, f"{base}.feedforward.norm", across))
        value, gate = h.chunk(2, -1)
        across = across + _linear(state, f"{base}.feedforward.out", value * F.gelu(gate))
        x = across.reshape(batch, frames, side, side, dim)
    return x


def encode(state: State, config: AutoencoderConfig, video: Tensor) -> Tensor:
    """(B, 3, T, R, R) to (B, L, P)."""
    batch, _, frames, _, _ = video.shape
    patch, side = config.patch_px, config.side
    x = video.reshape(batch, 3, frames, side, patch, side, patch).permute(0, 2, 3, 5, 4, 6, 1)
    x = _linear(state, "patch_in", x.reshape(batch, frames, side, side, -1))
    volume = _transformer(state, "encoder", config, x)
    planes = []
    for plane, order in (("xy", (0, 2, 3, 1, 4)), ("yt", (0, 1, 3, 2, 4)), ("xt", (0, 1, 2, 3, 4))):
        lines = volume.permute(*order)  # the pooled axis last but one
        rows, columns, length, dim = lines.shape[1:]
        lines = lines.reshape(-1, length, dim)
        token = state[f"pools.{plane}.token"].expand(len(lines), -1, -1)
        h = torch.cat([lines, token], 1) + state[f"pools.{plane}.positions"]
        for layer in range(config.pool_layers):
            base = f"pools.{plane}.layers.{layer}"
            h = h + _attention(state, f"{base}.attention", h, config.pool_heads)
            h = h + _linear(
                state, f"{base}.out", F.gelu(_linear(state, f"{base}.inner", _norm(state, f"{base}.norm", h)))
            )
        pooled = h[:, 0].reshape(batch, rows, columns, dim).permute(0, 3, 1, 2)
        weight, bias = state[f"to_latent.{plane}.weight"], state[f"to_latent.{plane}.bias"]
        planes.append(torch.tanh(F.conv2d(pooled, weight, bias)).flatten(2))
    return torch.cat(planes, -1)


def decode(state: State, config: AutoencoderConfig, latent: Tensor) -> Tensor:
    """(B, L, P) to (B, 3, T, R, R)."""
    side, frames = config.side, config.num_frames
    pictures = latent.split([side * side, frames * side, frames * side], -1)
    volume = torch.zeros(len(latent), config.channels, frames, side, side, device=latent.device)
    for plane, picture, axis in zip(("xy", "yt", "xt"), pictures, (2, 3, 4), strict=True):
        picture = picture.reshape(*latent.shape[:2], -1, side)
        spread = F.conv2d(picture, state[f"from_latent.{plane}.weight"], state[f"from_latent.{plane}.bias"])
        volume = volume + spread.unsqueeze(axis).expand_as(volume)
    x = _transformer(state, "decoder", config, volume.permute(0, 2, 3, 4, 1))
    x = x.permute(0, 1, 4, 2, 3).reshape(-1, config.channels, side, side)
    x = F.conv_transpose2d(x, state["patch_out.weight"], state["patch_out.bias"], stride=config.patch_px)
    x = 2 * torch.sigmoid(x) - 1
    return x.reshape(len(latent), frames, 3, config.size_px, config.size_px).transpose(1, 2)


def _positions(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    batch, dim, length = x.shape
    h = F.group_norm(x, 32, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
    qkv = F.conv1d(h, state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
    q, k, v = qkv.reshape(batch * heads, -1, length).chunk(3, 1)
    scale = q.shape[1] ** -0.25
    shares = torch.einsum("bct,bcs->bts", q * scale, k * scale).float().softmax(-1)
    out = torch.einsum("bts,bcs->bct", shares, v).reshape(batch, dim, length)
    return x + F.conv1d(out, state[f"{name}.out.weight"], state[f"{name}.out.bias"])


def _residual(state: State, name: str, x: Tensor, embedding: Tensor, resampling: str | None) -> Tensor:
    h = F.silu(F.group_norm(x, 32, state[f"{name}.norm1.weight"], state[f"{name}.norm1.bias"]))
    if resampling == "down":
        h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
    elif resampling == "up":
        h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
    h = F.conv2d(h, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"], padding=1)
    scale, shift = _linear(state, f"{name}.modulation", F.silu(embedding))[..., None, None].chunk(2, 1)
    h = F.group_norm(h, 32, state[f"{name}.norm2.weight"], state[f"{name}.norm2.bias"]) * (1 + scale) + shift
    h = F.conv2d(F.silu(h), state[f"{name}.conv2.weight"], state[f"{name}.conv2.bias"], padding=1)
    if f"{name}.skip.weight" in state:
        x = F.conv2d(x, state[f"{name}.skip.weight"], state[f"{name}.skip.bias"])
    return x + h


def _stage(
    state: State, config: UNetConfig, name: str, kinds: list[str], planes: list[Tensor], embedding: Tensor
) -> list[Tensor]:
    done = []
    for plane in planes:
        for index, kind in enumerate(kinds):
            block = f"{name}.blocks.{index}"
            if kind == "attention":
                shape = plane.shape
                plane = _positions(state, block, plane.flatten(2), config.num_heads).reshape(shape)
            else:
                plane = _residual(state, block, plane, embedding, None if kind == "plain" else kind)
        done.append(plane)
    joined = _positions(state, f"{name}.joint", torch.cat([plane.flatten(2) for plane in done], -1), config.num_heads)
    parts = joined.split([plane[0, 0].numel() for plane in done], -1)
    return [part.reshape(plane.shape) for part, plane in zip(parts, done, strict=True)]


def denoise(
    state: State, config: UNetConfig, x: Tensor, timestep: Tensor, landmark: Tensor, pose: Tensor, identity: Tensor
) -> Tensor:
    """One pass of the network, (B, L, P)."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(config.dim // 2, device=x.device) / (config.dim // 2))
    angles = timestep[:, None].float() * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], -1)
    embedding = _linear(state, "time2", F.silu(_linear(state, "time1", embedding)))
    missing = torch.zeros(*identity.shape[:2], x.shape[-1] - identity.shape[-1], device=x.device)
    whole = torch.cat([x, landmark, pose, torch.cat([identity, missing], -1)], 1)
    side, frames = config.side, config.num_frames
    pictures = whole.split([side * side, frames * side, frames * side], -1)
    planes = [
        F.conv2d(picture.reshape(*whole.shape[:2], -1, side), state["first.weight"], state["first.bias"], padding=1)
        for picture in pictures
    ]
    kept, number = [planes], 0
    for level in range(len(config.multipliers)):
        kinds = ["plain", "attention"] if level in config.attention_levels else ["plain"]
        for _ in range(config.num_blocks):
            planes = _stage(state, config, f"down.{number}", kinds, planes, embedding)
            kept.append(planes)
            number += 1
        if level < len(config.multipliers) - 1:
            planes = _stage(state, config, f"down.{number}", ["down"], planes, embedding)
            kept.append(planes)
            number += 1
    planes = _stage(state, config, "middle", ["plain", "attention", "plain"], planes, embedding)
    number = 0
    for level in reversed(range(len(config.multipliers))):
        for index in range(config.num_blocks + 1):
            kinds = ["plain", "attention"] if level in config.attention_levels else ["plain"]
            if level and index == config.num_blocks:
                kinds = [*kinds, "up"]
            planes = [torch.cat(pair, 1) for pair in zip(planes, kept.pop(), strict=True)]
            planes = _stage(state, config, f"up.{number}", kinds, planes, embedding)
            number += 1
    out = []
    for plane in planes:
        h = F.silu(F.group_norm(plane, 32, state["out_norm.weight"], state["out_norm.bias"]))
        out.append(F.conv2d(h, state["out.weight"], state["out.bias"], padding=1).flatten(2))
    return torch.cat(out, -1)


def sample_window(
    states: tuple[State, State, State],
    configs: tuple[AutoencoderConfig, UNetConfig],
    dots: Tensor,
    portrait: Tensor,
    pose: Tensor,
    noises: Callable[[], Tensor],
    steps: int,
    strength: float,
) -> Tensor:
    """Frames (T, 3, R, R) of one window as the published sampling script makes them.

    Args:
        states: of the autoencoder of pictures, that of dots, the denoiser.
        dots, pose: (T, 3, R, R).
        portrait: (3, R, R).
        noises: gives the next (1, L, P).
        steps: of the whole walk, of which the last `strength` is done, from the noised still portrait.
    """
    pictures, landmarks, denoiser = states
    config, unet = configs
    still = encode(pictures, config, portrait.expand(config.num_frames, -1, -1, -1).transpose(0, 1)[None])
    landmark = encode(landmarks, config, dots.transpose(0, 1)[None])
    hidden = encode(pictures, config, pose.transpose(0, 1)[None])
    identity = still[..., : config.side**2]
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    bars = torch.cumprod(1 - betas, 0)
    begin = int(1000 * strength)
    x = bars[begin].sqrt().float() * still + (1 - bars[begin]).sqrt().float() * noises()
    grid = torch.linspace(-1, 999, steps + 1).int().tolist()[::-1]
    for now, after in list(itertools.pairwise(grid))[int(steps * (1 - strength)) :]:
        noise = denoise(denoiser, unet, x, torch.tensor([now], device=x.device), landmark, hidden, identity)
        bar = bars[now]
        clean = ((1 / bar).sqrt().float() * x - (1 / bar - 1).sqrt().float() * noise).clamp(-1, 1)
        if after < 0:
            x = clean
            continue
        next_bar = bars[after]
        sigma = ((1 - bar / next_bar) * (1 - next_bar) / (1 - bar)).sqrt()
        x = (
            next_bar.sqrt().float() * clean
            + (1 - next_bar - sigma**2).sqrt().float() * noise
            + sigma.float() * noises()
        )
    return decode(pictures, config, x)[0].transpose(0, 1)
