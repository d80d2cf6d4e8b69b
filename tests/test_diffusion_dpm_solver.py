"""DPM-Solver++: against the exact flow of Gaussian data, and against diffusers where it is installed."""

from __future__ import annotations

import pytest
import torch

from loquent.diffusion.dpm_solver import dpm_solver
from loquent.diffusion.gaussian import Schedule, at, clean_from_noise, last_sample
from loquent.diffusion.stochastic import (
    Estimate,
    from_noise,
    root_linear_betas,
    stochastic_ddim,
    truncated_timesteps,
)

MEAN, DEVIATION = 0.3, 0.2


def _schedule(steps: int) -> Schedule:
    return Schedule.respaced(root_linear_betas(), truncated_timesteps(steps))


def _of_gaussian(schedule: Schedule):
    """The exact denoiser of data N(MEAN, DEVIATION²)."""

    def denoise(x: torch.Tensor, step: torch.Tensor) -> Estimate:
        signal, noise = at(schedule.signal, step, x), at(schedule.noise, step, x)
        variance = (signal * DEVIATION) ** 2 + noise**2
        clean = MEAN + signal * DEVIATION**2 / variance * (x - signal * MEAN)
        return Estimate(clean, (x - signal * clean) / noise)

    return denoise


def _error(steps: int, walk: str = "solver") -> float:
    """Largest distance, over the walk, to where the probability flow carries each x exactly.

    The last step is left out: it gives the clean estimate, not the end of the flow.
    """
    schedule = _schedule(steps)
    x = torch.linspace(-2, 2, 9)[:, None]
    spread = ((schedule.signal * DEVIATION) ** 2 + schedule.noise**2).sqrt()
    unit = (x - schedule.signal[-1] * MEAN) / spread[-1]
    denoise = _of_gaussian(schedule)
    if walk == "solver":
        states = list(dpm_solver(denoise, x, schedule))
    else:
        states = list(stochastic_ddim(denoise, x, schedule, lambda: torch.zeros(9, 1), eta=0.0))
    wanted = [schedule.signal[index] * MEAN + spread[index] * unit for index in reversed(range(steps - 1))]
    return max(float((state.x - flow).abs().max()) for state, flow in zip(states[:-1], wanted, strict=True))


def test_follows_the_flow_of_gaussian_data():
    assert _error(80) < 0.005
    assert _error(80) < 0.4 * _error(40)


def test_is_closer_than_ddim_with_as_many_steps():
    assert _error(20) < 0.5 * _error(20, "ddim")


def test_one_step_gives_the_clean_estimate():
    schedule = _schedule(1)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.ones(3, 4)
    step = torch.zeros(3, dtype=torch.long)
    expected = clean_from_noise(schedule, x, noise, step).clamp(-1, 1)
    torch.testing.assert_close(last_sample(dpm_solver(from_noise(lambda x, t: noise, schedule), x, schedule)), expected)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_agrees_with_diffusers(steps, prediction):
    """DPMSolverMultistepScheduler on the same schedule and network; seen with diffusers 0.42.1."""
    diffusers = pytest.importorskip("diffusers")
    betas, kept = root_linear_betas(), truncated_timesteps(steps)
    schedule = Schedule.respaced(betas, kept)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas.numpy(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
        prediction_type=prediction,
    )
    scheduler.set_timesteps(timesteps=kept[::-1])
    start = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.sin(x + timestep.view(-1, 1, 1) / 300)

    x = start
    for timestep in scheduler.timesteps:
        x = scheduler.step(network(x, timestep.expand(2)), timestep, x).prev_sample

    def denoise(x: torch.Tensor, step: torch.Tensor) -> Estimate:
        output = network(x, schedule.timesteps[step])
        if prediction == "sample":
            return Estimate(output, x)
        return Estimate(clean_from_noise(schedule, x, output, step), output)

    torch.testing.assert_close(last_sample(dpm_solver(denoise, start, schedule)), x, atol=1e-5, rtol=1e-5)
