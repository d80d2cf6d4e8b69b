"""Gaussian diffusion in discrete steps: schedules, respacing, ancestral and DDIM sampling, learned variance.

Timestep 0 is nearly clean, the last one nearly pure noise. Networks predict the noise, and logits that place the
variance between its two bounds. Tensors are (B, ...). A *step* counts the kept timesteps of a schedule, a *timestep*
the original ones, which networks are told.

Sources: Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (DDPM); Nichol and Dhariwal 2021, "Improved DDPM"
(learned variance, respacing); Song et al. 2021, "Denoising Diffusion Implicit Models" (DDIM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from loquent.errors import ControlsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # x (B, ...), timesteps (B,) -> noise, variance logits


def linear_betas(num_timesteps: int = 1000, low: float = 1e-4, high: float = 0.02) -> Tensor:
    """Variances of the noise that each timestep adds, (num_timesteps,), float64."""
    return torch.linspace(low, high, num_timesteps, dtype=torch.float64)


def even_timesteps(num_kept: int, num_timesteps: int = 1000) -> list[int]:
    """`num_kept` timesteps from 0 to the last one, both kept, for ancestral sampling.

    Raises:
        ControlsError: more are asked for than there are, or none.
    """
    _check_count(num_kept, num_timesteps)
    gap = (num_timesteps - 1) / max(num_kept - 1, 1)
    return [round(index * gap) for index in range(num_kept)]


def strided_timesteps(num_kept: int, num_timesteps: int = 1000) -> list[int]:
    """`num_kept` timesteps at a whole stride from 0 on, for DDIM.

    Raises:
        ControlsError: no stride gives this number.
    """
    _check_count(num_kept, num_timesteps)
    for stride in range(1, num_timesteps + 1):
        kept = range(0, num_timesteps, stride)
        if len(kept) == num_kept:
            return list(kept)
    raise ControlsError(
        f"{num_kept} sampling steps do not divide {num_timesteps} evenly; choose a number such as 10, 20, 25, 50 or 100"
    )


def _check_count(num_kept: int, num_timesteps: int) -> None:
    if not 1 <= num_kept <= num_timesteps:
        raise ControlsError(f"{num_kept} sampling steps were asked for; choose 1 to {num_timesteps}")


@dataclass(frozen=True, eq=False)
class Schedule:
    """Coefficients of K kept timesteps, noise growing; float32, from float64 arithmetic.

    Writing alpha = 1 − beta, and bar(alpha) for the product up to a step (1 before the first):
    """

    timesteps: Tensor  # (K,), the original numbers
    betas: Tensor  # (K,), float64
    signal: Tensor  # √bar(alpha)
    noise: Tensor  # √(1 − bar(alpha))
    signal_before: Tensor  # √bar(alpha) of the step before
    noise_before: Tensor  # √(1 − bar(alpha)) of the step before
    inverse_signal: Tensor  # √(1 / bar(alpha))
    inverse_noise: Tensor  # √(1 / bar(alpha) − 1)
    clean_weight: Tensor  # beta·√bar(alpha before) / (1 − bar(alpha)), weight of the clean data in the posterior mean
    noisy_weight: Tensor  # (1 − bar(alpha before))·√alpha / (1 − bar(alpha)), weight of the noisy data
    log_upper: Tensor  # log beta, the largest variance of a step back
    log_lower: Tensor  # log posterior variance, the smallest; the first step takes the second's

    def __len__(self) -> int:
        return len(self.timesteps)

    @staticmethod
    def respaced(betas: Tensor, kept: Sequence[int]) -> Schedule:
        """The schedule that goes through the timesteps `kept` (ascending) of `betas` (N,) only."""
        bars = torch.cumprod(1 - betas.double(), 0)[list(kept)]
        bars_before = torch.cat([bars.new_ones(1), bars[:-1]])
        alphas = bars / bars_before
        beta = 1 - alphas
        posterior = beta * (1 - bars_before) / (1 - bars)
        posterior[0] = posterior[min(1, len(posterior) - 1)]  # zero at the first step, which adds no noise
        tables = {
            "signal": bars.sqrt(),
            "noise": (1 - bars).sqrt(),
            "signal_before": bars_before.sqrt(),
            "noise_before": (1 - bars_before).sqrt(),
            "inverse_signal": (1 / bars).sqrt(),
            "inverse_noise": (1 / bars - 1).sqrt(),
            "clean_weight": beta * bars_before.sqrt() / (1 - bars),
            "noisy_weight": (1 - bars_before) * alphas.sqrt() / (1 - bars),
            "log_upper": beta.log(),
            "log_lower": posterior.clamp(min=1e-20).log(),
        }
        floats = {name: table.float() for name, table in tables.items()}
        return Schedule(timesteps=torch.tensor(list(kept)), betas=beta, **floats)

    @staticmethod
    def full(betas: Tensor) -> Schedule:
        """The schedule that goes through every timestep of `betas`."""
        return Schedule.respaced(betas, range(len(betas)))


def at(table: Tensor, step: Tensor, like: Tensor) -> Tensor:
    """Entries `step` (B,) of a table, shaped to multiply `like` (B, ...)."""
    return table.to(like.device)[step].view(-1, *[1] * (like.ndim - 1))


def add_noise(schedule: Schedule, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """√bar(alpha)·clean + √(1 − bar(alpha))·noise (DDPM, equation 4)."""
    return at(schedule.signal, step, clean) * clean + at(schedule.noise, step, clean) * noise


def clean_from_noise(schedule: Schedule, x: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """The clean data that `x` and its noise tell of."""
    return at(schedule.inverse_signal, step, x) * x - at(schedule.inverse_noise, step, x) * noise


def noise_from_clean(schedule: Schedule, x: Tensor, clean: Tensor, step: Tensor) -> Tensor:
    """The noise in `x` when `clean` is what it came from."""
    return (at(schedule.inverse_signal, step, x) * x - clean) / at(schedule.inverse_noise, step, x)


def posterior_mean(schedule: Schedule, clean: Tensor, x: Tensor, step: Tensor) -> Tensor:
    """Mean of the data one step before `x`, known that it came from `clean` (DDPM, equation 7)."""
    return at(schedule.clean_weight, step, x) * clean + at(schedule.noisy_weight, step, x) * x


def log_variance(schedule: Schedule, logits: Tensor, step: Tensor) -> Tensor:
    """f·log beta + (1 − f)·log posterior variance, f = (logits + 1)/2, not limited (Improved DDPM, equation 15)."""
    fraction = (logits + 1) / 2
    return fraction * at(schedule.log_upper, step, logits) + (1 - fraction) * at(schedule.log_lower, step, logits)


class Denoised(NamedTuple):
    """State of a sampler after a step."""

    x: Tensor
    clean: Tensor  # estimate of the clean data


@torch.no_grad()
def ancestral(
    predict: Predict, x: Tensor, schedule: Schedule, draw_noise: Callable[[], Tensor], *, clip: bool = True
) -> Iterator[Denoised]:
    """Walks back from noise with fresh noise at every step but the last; the last state holds the sample.

    Args:
        predict: the network, given x and the original timesteps.
        x: pure noise, (B, ...).
        schedule: the steps to walk.
        draw_noise: gives noise of the shape of x, once a step.
        clip: limits the estimate of the clean data to [−1, 1]. Only for data that lies there.
    """
    for index in reversed(range(len(schedule))):
        step = torch.full((len(x),), index, device=x.device)
        noise, logits = predict(x, schedule.timesteps.to(x.device)[step])
        clean = _limited(clean_from_noise(schedule, x, noise, step), clip)
        x = posterior_mean(schedule, clean, x, step)
        if index:
            x = x + torch.exp(log_variance(schedule, logits, step) / 2) * draw_noise().to(x)
        yield Denoised(x, clean)


@torch.no_grad()
def ddim(predict: Predict, x: Tensor, schedule: Schedule, *, clip: bool = True) -> Iterator[Denoised]:
    """Walks back from noise without fresh noise (DDIM with eta 0); arguments as for `ancestral`."""
    for index in reversed(range(len(schedule))):
        step = torch.full((len(x),), index, device=x.device)
        noise, _ = predict(x, schedule.timesteps.to(x.device)[step])
        clean = _limited(clean_from_noise(schedule, x, noise, step), clip)
        if clip:
            noise = noise_from_clean(schedule, x, clean, step)
        x = at(schedule.signal_before, step, x) * clean + at(schedule.noise_before, step, x) * noise
        yield Denoised(x, clean)


def _limited(clean: Tensor, clip: bool) -> Tensor:
    return clean.clamp(-1, 1) if clip else clean


def last_sample(states: Iterator[Denoised]) -> Tensor:
    """The sample that a walk ends with."""
    x = None
    for state in states:
        x = state.x
    assert x is not None  # schedules have a step or more
    return x
