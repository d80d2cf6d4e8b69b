"""Losses of networks that predict noise and its variance.

Source: Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", section 3.1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from loquent.diffusion.gaussian import Schedule, at, clean_from_noise, log_variance, posterior_mean

if TYPE_CHECKING:
    from torch import Tensor

_BIN = 1 / 255  # half the width of a bin of 8-bit data in [−1, 1]
_TAIL = 0.999  # beyond it a bin is open to the outside
_LEAST_PROBABILITY = 1e-12


def normal_kl(mean_p: Tensor, log_var_p: Tensor, mean_q: Tensor, log_var_q: Tensor) -> Tensor:
    """KL(p ‖ q) of normal distributions, element by element, in nats."""
    ratio = torch.exp(log_var_p - log_var_q)
    return 0.5 * (log_var_q - log_var_p - 1 + ratio + (mean_p - mean_q).square() * torch.exp(-log_var_q))


def _normal_cdf(z: Tensor) -> Tensor:
    """The usual tanh approximation."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def binned_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log probability of the 8-bit bin around each element of x under a normal distribution, in nats."""
    inverse_std = torch.exp(-log_variance / 2)
    upper = _normal_cdf((x - mean + _BIN) * inverse_std)
    lower = _normal_cdf((x - mean - _BIN) * inverse_std)
    probability = torch.where(x < -_TAIL, upper, torch.where(x > _TAIL, 1 - lower, upper - lower))
    return probability.clamp(min=_LEAST_PROBABILITY).log()


def noise_losses(
    schedule: Schedule, clean: Tensor, noisy: Tensor, noise: Tensor, step: Tensor, predicted: Tensor, logits: Tensor
) -> dict[str, Tensor]:
    """Terms of each sample, (B,); published training adds them without a weight.

    Args:
        schedule: of training, usually every timestep.
        clean: data, (B, ...).
        noisy: `gaussian.add_noise(schedule, clean, noise, step)`.
        noise: as added.
        step: (B,).
        predicted: the network's noise.
        logits: the network's variance logits.

    Returns:
        noise: mean squared error of the noise. bound: term of the variational bound in bits per number, which teaches
        the variance alone; at step 0 it takes the data for 8-bit values.
    """
    log_var = log_variance(schedule, logits, step)
    mean = posterior_mean(schedule, clean_from_noise(schedule, noisy, predicted.detach(), step), noisy, step)
    true_mean = posterior_mean(schedule, clean, noisy, step)
    true_log_var = at(schedule.log_lower, step, noisy)
    bound = torch.where(
        step.view(-1, *[1] * (noisy.ndim - 1)) == 0,
        -binned_log_likelihood(clean, mean, log_var),
        normal_kl(true_mean, true_log_var, mean, log_var),
    )
    return {
        "noise": (noise - predicted).square().flatten(1).mean(1),
        "bound": bound.flatten(1).mean(1) / math.log(2),
    }
