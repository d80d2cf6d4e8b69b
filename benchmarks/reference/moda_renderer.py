"""The warping renderer written down plainly, line by line as the specification has it, on published tensor names.

It exists to be compared with: nothing is merged, cached or rearranged, and layouts are torch's default.

Shape letters: B batch, C channels, D, H, W, K keypoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]  # published names; spectral norm as stored


def _conv2d(state: State, name: str, x: Tensor) -> Tensor:
    weight = _weight(state, name)
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def _conv3d(state: State, name: str, x: Tensor) -> Tensor:
    weight = _weight(state, name)
    return F.conv3d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def _weight(state: State, name: str) -> Tensor:
    if f"{name}.weight_orig" not in state:
        return state[f"{name}.weight"]
    weight = state[f"{name}.weight_orig"]
    return weight / (state[f"{name}.weight_u"] @ (weight.flatten(1) @ state[f"{name}.weight_v"]))


def _batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def _grid(size: torch.Size) -> Tensor:
    z, y, x = torch.meshgrid(*(2 * torch.arange(n) / (n - 1) - 1 for n in size), indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def _heat(keypoints: Tensor, grid: Tensor) -> Tensor:
    distance = (grid - keypoints[:, :, None, None, None]).square().sum(-1)
    return torch.exp(-0.5 * distance / 0.01)


def _count(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _hourglass(state: State, prefix: str, x: Tensor) -> Tensor:
    skips = [x]
    for i in range(_count(state, f"{prefix}encoder.down_blocks.")):
        name = f"{prefix}encoder.down_blocks.{i}"
        y = _batch_norm(state, f"{name}.norm", _conv3d(state, f"{name}.conv", skips[-1]))
        skips.append(F.avg_pool3d(F.relu(y), (1, 2, 2)))
    x = skips.pop()
    for i in range(_count(state, f"{prefix}decoder.up_blocks.")):
        name = f"{prefix}decoder.up_blocks.{i}"
        x = _conv3d(state, f"{name}.conv", F.interpolate(x, scale_factor=(1, 2, 2)))
        x = torch.cat([F.relu(_batch_norm(state, f"{name}.norm", x)), skips.pop()], dim=1)
    x = _conv3d(state, f"{prefix}decoder.conv", x)
    return F.relu(_batch_norm(state, f"{prefix}decoder.norm", x))


def dense_motion(state: State, volume: Tensor, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Flow (B, D, H, W, 3) and occlusion (B, 1, H, W)."""
    p = "dense_motion_network."
    batch, size = len(volume), volume.shape[2:]
    compressed = F.relu(_batch_norm(state, f"{p}norm", _conv3d(state, f"{p}compress", volume)))
    grid = _grid(size)
    moved = grid + (source - target)[:, :, None, None, None]  # (B, K, D, H, W, 3)
    motions = torch.cat([grid.expand(batch, 1, *grid.shape), moved], dim=1)
    count = motions.shape[1]
    repeated = compressed[:, None].repeat(1, count, 1, 1, 1, 1).flatten(0, 1)
    warped = F.grid_sample(repeated, motions.flatten(0, 1), align_corners=False).unflatten(0, (batch, count))
    heat = _heat(target, grid) - _heat(source, grid)
    heat = torch.cat([torch.zeros_like(heat[:, :1]), heat], dim=1)
    features = _hourglass(state, f"{p}hourglass.", torch.cat([heat[:, :, None], warped], dim=2).flatten(1, 2))
    mask = _conv3d(state, f"{p}mask", features).softmax(1)
    flow = (mask[..., None] * motions).sum(1)
    occlusion = _conv2d(state, f"{p}occlusion", features.flatten(1, 2)).sigmoid()
    return flow, occlusion


def warp(state: State, volume: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """Feature map (B, C, H, W) of the moved face."""
    flow, occlusion = dense_motion(state, volume, target, source)
    moved = F.grid_sample(volume, flow, align_corners=False).flatten(1, 2)
    y = _batch_norm(state, "third.norm", _conv2d(state, "third.conv", moved))
    return _conv2d(state, "fourth", F.leaky_relu(y, 0.01)) * occlusion


def _spade(state: State, name: str, x: Tensor, condition: Tensor) -> Tensor:
    shared = F.relu(_conv2d(state, f"{name}.mlp_shared.0", F.interpolate(condition, size=x.shape[2:])))
    gamma, beta = (_conv2d(state, f"{name}.mlp_{part}", shared) for part in ("gamma", "beta"))
    return F.instance_norm(x) * (1 + gamma) + beta


def _spade_block(state: State, name: str, x: Tensor, condition: Tensor) -> Tensor:
    shortcut = x
    if f"{name}.conv_s.weight_orig" in state or f"{name}.conv_s.weight" in state:
        shortcut = _conv2d(state, f"{name}.conv_s", _spade(state, f"{name}.norm_s", x, condition))
    for part in ("0", "1"):
        x = F.leaky_relu(_spade(state, f"{name}.norm_{part}", x, condition), 0.2)
        x = _conv2d(state, f"{name}.conv_{part}", x)
    return shortcut + x


def decode(state: State, features: Tensor) -> Tensor:
    """Picture (B, 3, 8 H, 8 W) in [0, 1] of a feature map (B, C, H, W)."""
    x = _conv2d(state, "fc", features)
    for i in range(6):
        x = _spade_block(state, f"G_middle_{i}", x, features)
    for i in range(2):
        x = _spade_block(state, f"up_{i}", F.interpolate(x, scale_factor=2), features)
    x = F.pixel_shuffle(_conv2d(state, "conv_img.0", F.leaky_relu(x, 0.2)), 2)
    return x.sigmoid()
