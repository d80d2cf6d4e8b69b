"""Plain transcription of the published IF-MDM forward passes, kept to measure against and to compare results with.

It does per frame and per denoising step what the published code does: weights are scaled per sample and convolved in
groups, blurs insert zeros and pad, the grid and the directions are computed anew, conditions are embedded at every step.
Only two things of no effect are left out: noise injection and the last level's filled map. State dicts have our names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.ifmdm import AutoencoderConfig, MotionConfig

    State = dict[str, Tensor]


def _leaky(x: Tensor) -> Tensor:
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.linear(x, weight / math.sqrt(weight.shape[1]), state.get(f"{name}.bias"))


def _filter(x: Tensor, gain: float, before: int, after: int) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = taps[:, None] * taps
    kernel = kernel / kernel.sum() * gain
    batch, channels, height, width = x.shape
    padded = F.pad(x, (before, after, before, after)).reshape(-1, 1, height + before + after, width + before + after)
    out = F.conv2d(padded, kernel[None, None])
    return out.view(batch, channels, *out.shape[2:])


def _double(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    spread = F.pad(x.view(batch, channels, height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return _filter(spread.view(batch, channels, 2 * height, 2 * width), 4.0, 2, 1)


def _equal_conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight / math.sqrt(weight[0].numel()), stride=stride, padding=padding)


def _modulated(state: State, name: str, x: Tensor, style: Tensor, *, demodulate: bool, up: bool = False) -> Tensor:
    weight = state[f"{name}.weight"]
    outputs, inputs, side, _ = weight.shape
    batch, _, height, width = x.shape
    scale = _linear(state, f"{name}.modulation", style).view(batch, 1, inputs, 1, 1)
    weight = weight[None] * scale / math.sqrt(inputs * side**2)
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, batch * inputs, height, width)
    if up:
        weight = weight.transpose(1, 2).reshape(batch * inputs, outputs, side, side)
        x = F.conv_transpose2d(x, weight, stride=2, groups=batch)
        return _filter(x.view(batch, outputs, 2 * height + 1, 2 * width + 1), 4.0, 1, 1)
    x = F.conv2d(x, weight.view(batch * outputs, inputs, side, side), padding=side // 2, groups=batch)
    return x.view(batch, outputs, height, width)


def _styled(state: State, name: str, x: Tensor, style: Tensor, *, up: bool = False) -> Tensor:
    x = _modulated(state, f"{name}.conv", x, style, demodulate=True, up=up)
    return _leaky(x + state[f"{name}.activation.bias"].view(1, -1, 1, 1))


def _biased(state: State, name: str, x: Tensor) -> Tensor:
    return _leaky(x + state[f"{name}.activation.bias"].view(1, -1, 1, 1))


def encode(state: State, config: AutoencoderConfig, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Appearance vector and feature maps, 8 x 8 first."""
    name = "encoder.appearance"
    maps = [_biased(state, f"{name}.stem", _equal_conv(state, f"{name}.stem.conv", image))]
    for block in range(len(config.channels) - 1):
        part, x = f"{name}.blocks.{block}", maps[-1]
        main = _biased(state, f"{part}.conv1", _equal_conv(state, f"{part}.conv1.conv", x, padding=1))
        main = _biased(state, part, _equal_conv(state, f"{part}.conv2", _filter(main, 1.0, 2, 2), stride=2))
        skip = _equal_conv(state, f"{part}.skip", _filter(x, 1.0, 1, 1), stride=2)
        maps.append((main + skip) / math.sqrt(2))
    return _equal_conv(state, f"{name}.final", maps[-1]).flatten(1), maps[-2::-1]


def decode(state: State, config: AutoencoderConfig, vector: Tensor, maps: list[Tensor], motion: Tensor) -> Tensor:
    """The picture of an appearance with a motion, without refine block."""
    basis = torch.linalg.qr(state["decoder.directions.weight"] + 1e-8, mode="reduced").Q
    style = vector + motion @ basis.T
    x = state["decoder.start"].expand(len(style), -1, -1, -1)
    x = _styled(state, "decoder.first", x, style)
    raw = rgb = None
    for level, features in enumerate(maps):
        name = f"decoder.levels.{level}"
        x = _styled(state, f"{name}.up", x, style, up=True)
        x = _styled(state, f"{name}.conv", x, style)
        flow = _modulated(state, f"{name}.flow.flow", x, style, demodulate=False)
        flow = flow + state[f"{name}.flow.bias"].view(1, -1, 1, 1)
        raw = flow if raw is None else flow + _double(raw)
        line = torch.linspace(-1, 1, x.shape[-1])
        rows, columns = torch.meshgrid(line, line, indexing="ij")
        grid = torch.stack([columns, rows], dim=-1) + torch.tanh(raw[:, :2]).permute(0, 2, 3, 1)
        mask = torch.sigmoid(raw[:, 2:])
        warped = mask * F.grid_sample(features, grid, align_corners=False)
        if level < len(maps) - 1:
            x = warped + (1 - mask) * _modulated(state, f"{name}.flow.fill", x, style, demodulate=False)
        colours = _biased(state, f"{name}.rgb.layer", _equal_conv(state, f"{name}.rgb.layer.conv", warped))
        colours = colours + state[f"{name}.rgb.bias"].view(1, -1, 1, 1)
        rgb = colours if rgb is None else colours + _double(rgb)
    assert rgb is not None
    return rgb


def _embed(state: State, name: str, x: Tensor) -> Tensor:
    x = F.linear(x, state[f"{name}.fc1.weight"], state[f"{name}.fc1.bias"])
    return F.linear(F.silu(x), state[f"{name}.fc2.weight"], state[f"{name}.fc2.bias"])


def _norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def denoise(
    state: State,
    config: MotionConfig,
    x: Tensor,
    timestep: Tensor,
    speech: Tensor,
    hint: Tensor,
    mean: Tensor,
    std: Tensor,
) -> tuple[Tensor, Tensor]:
    """Noise and variance logits of a window; arguments as for `MotionDiffusionTransformer.forward`."""

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    dim, heads = config.hidden_dim, config.num_heads
    joint = torch.cat(
        [_embed(state, "joint_motion_embedder", x), _embed(state, "joint_speech_embedder", speech).flatten(2)], dim=-1
    )
    frames = _embed(state, "motion_embedder", x) + _embed(state, "joint_embedder", joint)
    extra = {"hint": hint, "mean": mean, "std": std}
    tokens = torch.cat([frames, *(_embed(state, f"{name}_embedder", v[:, None]) for name, v in extra.items())], dim=1)
    count = tokens.shape[1]
    half = dim // 2
    angles = torch.arange(count).double()[:, None] * 10_000.0 ** -(torch.arange(half).double() / half)
    tokens = tokens + torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    phases = timestep.float()[:, None] * torch.exp(-math.log(10_000.0) * torch.arange(128) / 128)
    time = _embed(state, "time_embedder.embedder", torch.cat([phases.cos(), phases.sin()], dim=-1))
    c = _embed(state, "speech_embedder", speech).mean(2) + time[:, None]
    c = F.silu(F.pad(c, (0, 0, 0, count - c.shape[1])))
    for block in range(config.num_blocks):
        name = f"blocks.{block}"
        parts = linear(f"{name}.modulation.linear", c).chunk(6, dim=-1)
        qkv = linear(f"{name}.qkv", _norm(tokens, parts[0], parts[1]))
        q, k, v = qkv.view(len(x), count, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(dim // heads), dim=-1) @ v
        tokens = tokens + parts[2] * linear(f"{name}.proj", scores.transpose(1, 2).flatten(2))
        hidden = F.gelu(linear(f"{name}.mlp.fc1", _norm(tokens, parts[3], parts[4])), approximate="tanh")
        tokens = tokens + parts[5] * linear(f"{name}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.modulation", c).chunk(2, dim=-1)
    out = linear("final_layer.linear", _norm(tokens, shift, scale))[:, : x.shape[1]]
    noise, logits = out.chunk(2, dim=-1)
    return noise, logits
