"""Rectified flow: noising, targets, time grids and the Euler sampler.

Flow time sigma is 1 for noise and 0 for data. Tensors are (B, ...); `sigma` is (B,).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

TimeGrid = Literal["published", "even"]


def _broadcast(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.view(-1, *[1] * (x.ndim - 1))


def add_noise(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma = sigma·noise + (1 − sigma)·data.

    Source: Liu et al. 2022, "Flow Straight and Fast", equation 1.
    """
    sigma = _broadcast(sigma, data)
    return sigma * noise + (1 - sigma) * data


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """d x_sigma / d sigma = noise − data."""
    return noise - data


def clean_estimate(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The data that `velocity` points at from `x`: x − sigma·velocity."""
    return x - _broadcast(sigma, x) * velocity


def precondition(x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
    """Velocity from a network output that only has to predict what x does not tell linearly.

    For data of unit variance the best linear guess of the velocity is a·x with a = (2·sigma − 1)/s² and
    s² = sigma² + (1 − sigma)²; its error has variance 1/s². So velocity = a·x + output/s gives the network a target of
    unit variance at every sigma, and noise need not travel through it.

    Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", section 5,
    carried over to straight paths.
    """
    sigma = _broadcast(sigma, x)
    variance = sigma.square() + (1 - sigma).square()
    return (2 * sigma - 1) / variance * x + output * variance.rsqrt()


def time_grid(steps: int, kind: TimeGrid = "published") -> Tensor:
    """Sigmas from 1 to 0 for `steps` Euler steps, (steps + 1,).

    "published" is MoDA's: linspace(1, 0.001, steps), then 0, so the last step is 0.001 wide. "even" spreads the steps
    evenly and wastes none.
    """
    if kind == "published" and steps > 1:
        return torch.cat([torch.linspace(1000, 1, steps) / 1000, torch.zeros(1)])
    return torch.linspace(1, 0, steps + 1)


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Moves flow times towards noise: shift·sigma / (1 + (shift − 1)·sigma); MoDA's released shift is 1, no change.

    Source: Esser et al. 2024, "Scaling Rectified Flow Transformers", equation 23.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


@torch.no_grad()
def euler(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor, reuse_below: float = 0.0) -> Tensor:
    """Carries `x` from times[0] to times[-1]; `velocity` takes x (B, ...) and sigma (B,).

    Steps narrower than `reuse_below` take the velocity of the step before them.
    """
    v: Tensor | None = None
    for sigma, sigma_next in itertools.pairwise(times.to(x.device)):
        if v is None or sigma - sigma_next >= reuse_below:
            v = velocity(x, sigma.expand(len(x)))
        x = x + (sigma_next - sigma) * v
    return x


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: 1 is the conditional velocity, more goes beyond it.

    Source: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6.
    """
    return unconditional + scale * (conditional - unconditional)
