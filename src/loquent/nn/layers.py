"""Norms, feed-forward layers and embedders of the transformers.

Shape letters: B batch, T tokens, D channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def rms_norm(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """x · rsqrt(mean(x²) + eps) · weight over the last axis, in the precision of `x`."""
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * weight


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned weight (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps, self.weight)


class Mlp(nn.Module):
    """Linear, GELU in its tanh form, linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VectorEmbedder(nn.Module):
    """Linear, SiLU, linear: brings a vector of any width to the hidden width."""

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_dim, dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


def sinusoids(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """[cos(t·f), sin(t·f)] with f_i = max_period^(−2i/dim): (B,) to (B, dim), float32.

    Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B, in the cosine-first order of DiT.
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedder(nn.Module):
    """Embeds a diffusion time in 0..1000 through sinusoids."""

    def __init__(self, dim: int, frequency_dim: int = 256) -> None:
        super().__init__()
        self.frequency_dim = frequency_dim
        self.embedder = VectorEmbedder(frequency_dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        return self.embedder(sinusoids(t, self.frequency_dim).to(self.embedder.fc1.weight.dtype))
