"""DDIM with fresh noise, for networks that predict the clean data or the noise, and the schedules of MoDiTalker.

Builds on `gaussian`: timestep 0 is nearly clean; a *step* counts the kept timesteps. Tensors are (B, ...).

Source: Song et al. 2021, "Denoising Diffusion Implicit Models", equations 12 and 16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from loquent.diffusion.gaussian import Denoised, at, clean_from_noise, noise_from_clean
from loquent.errors import ControlsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from loquent.diffusion.gaussian import Schedule


class Estimate(NamedTuple):
    """What a network makes of a noisy state."""

    clean: Tensor
    noise: Tensor


if TYPE_CHECKING:
    Network = Callable[[Tensor, Tensor], Tensor]  # x (B, ...), timesteps (B,)
    Denoiser = Callable[[Tensor, Tensor], Estimate]  # x (B, ...), steps (B,)


def cosine_betas(num_timesteps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """beta_k = 1 − f(k + 1) / f(k), f(k) = cos²((k/N + offset)/(1 + offset)·π/2): (num_timesteps,), float64.

    Source: Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17.
    """
    k = torch.arange(num_timesteps + 1, dtype=torch.float64)
    f = ((k / num_timesteps + offset) / (1 + offset) * torch.pi / 2).cos().square()
    return (1 - f[1:] / f[:-1]).clamp(0, largest)


def root_linear_betas(num_timesteps: int = 1000, low: float = 0.0015, high: float = 0.0195) -> Tensor:
    """Squares of numbers that rise evenly from √low to √high: (num_timesteps,), float64."""
    return torch.linspace(low**0.5, high**0.5, num_timesteps, dtype=torch.float64).square()


def truncated_timesteps(num_steps: int, num_timesteps: int = 1000) -> list[int]:
    """`num_steps` timesteps up to the last one, an even spacing from −1 on cut to integers.

    Raises:
        ControlsError: more are asked for than there are, or none.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ControlsError(f"{num_steps} sampling steps were asked for; choose 1 to {num_timesteps}")
    return torch.linspace(-1, num_timesteps - 1, num_steps + 1, dtype=torch.float64).trunc().int().tolist()[1:]


def fine_timesteps(num_steps: int, num_timesteps: int = 1000) -> list[int]:
    """`num_steps` timesteps up to the last one, ever closer towards clean data: N·(i/n)² − 1, cut to integers.

    For data much smaller than the noise, which even steps all but skip.

    Raises:
        ControlsError: more are asked for than there are, or none.
    """
    even = truncated_timesteps(num_steps, num_timesteps)
    squares = [int(num_timesteps * ((index + 1) / num_steps) ** 2) - 1 for index in range(num_steps)]
    return [max(index, min(fine, coarse)) for index, (fine, coarse) in enumerate(zip(squares, even, strict=True))]


def from_clean(network: Network, schedule: Schedule) -> Denoiser:
    """Reads a network that predicts clean data in [−1, 1]; the noise is what then remains of x."""

    def denoise(x: Tensor, step: Tensor) -> Estimate:
        clean = network(x, schedule.timesteps.to(x.device)[step]).clamp(-1, 1)
        return Estimate(clean, noise_from_clean(schedule, x, clean, step))

    return denoise


def from_noise(network: Network, schedule: Schedule) -> Denoiser:
    """Reads a network that predicts noise. Clean data is limited to [−1, 1]; the noise stays as predicted."""

    def denoise(x: Tensor, step: Tensor) -> Estimate:
        noise = network(x, schedule.timesteps.to(x.device)[step])
        return Estimate(clean_from_noise(schedule, x, noise, step).clamp(-1, 1), noise)

    return denoise


@torch.no_grad()
def stochastic_ddim(
    denoise: Denoiser, x: Tensor, schedule: Schedule, draw_noise: Callable[[], Tensor], *, eta: float = 1.0
) -> Iterator[Denoised]:
    """Walks back from noise; the last state holds the sample.

    Args:
        denoise: see `from_clean` and `from_noise`.
        x: noise at the last step of the schedule, (B, ...).
        schedule: the steps to walk.
        draw_noise: gives noise of the shape of x, once a step but the last.
        eta: share of the noise that is drawn afresh: 0 none, 1 as much as ancestral sampling.
    """
    for index in reversed(range(len(schedule))):
        step = torch.full((len(x),), index, device=x.device)
        clean, noise = denoise(x, step)
        sigma = eta * at(schedule.noise_before, step, x) / at(schedule.noise, step, x)
        sigma = sigma * at(schedule.betas.float().sqrt(), step, x)
        kept = (at(schedule.noise_before, step, x).square() - sigma.square()).clamp(min=0).sqrt()
        x = at(schedule.signal_before, step, x) * clean + kept * noise
        if index:
            x = x + sigma * draw_noise().to(x)
        yield Denoised(x, clean)
