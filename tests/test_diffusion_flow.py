import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from loquent.diffusion.flow import (
    add_noise,
    clean_estimate,
    euler,
    guide,
    precondition,
    time_grid,
    velocity_target,
)

FIXTURE = Path(__file__).parent / "parity" / "moda" / "flow_matching.safetensors"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def recorded():
    with safe_open(FIXTURE, "pt") as file:
        assert json.loads(file.metadata()["config"])["shift"] == 1.0
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def test_noising_target_and_clean_estimate(recorded):
    sample, noise = recorded["input.sample"], recorded["output.noise"]
    sigma = recorded["output.used_timesteps"].float() / 1000
    noisy, target = add_noise(sample, noise, sigma), velocity_target(sample, noise)
    torch.testing.assert_close(noisy, recorded["output.noisy"], **CLOSE)
    torch.testing.assert_close(target, recorded["output.target"], **CLOSE)
    torch.testing.assert_close(clean_estimate(noisy, target, sigma), recorded["output.original_from_target"], **CLOSE)


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_published_grid(recorded, steps):
    times = time_grid(steps)
    torch.testing.assert_close(times[:-1] * 1000, recorded[f"output.timesteps_{steps}"].float(), **CLOSE)
    assert len(times) == steps + 1
    assert times[-1] == 0


def test_euler_follows_the_recorded_trajectory(recorded):
    matrix, b, c = (recorded[f"input.{name}"] for name in ("A", "b", "c"))
    seen = []

    def velocity(x, sigma):
        seen.append(x)
        return x @ matrix + b * sigma[:, None, None] + c

    end = euler(velocity, recorded["input.x0"], time_grid(10))
    torch.testing.assert_close(torch.stack([*seen, end]), recorded["output.trajectory"], **CLOSE)


def test_even_grid_has_equal_steps():
    torch.testing.assert_close(time_grid(4, "even"), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    torch.testing.assert_close(time_grid(1), torch.tensor([1.0, 0.0]))


def test_guidance_of_one_is_the_conditional_velocity():
    u, c = torch.zeros(2, 3), torch.ones(2, 3)
    torch.testing.assert_close(guide(u, c, 1.0), c)
    torch.testing.assert_close(guide(u, c, 1.5), 1.5 * c)


def test_preconditioning_is_the_best_linear_guess_for_unit_data():
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(4, 50_000, generator=generator) for _ in range(2))
    sigma = torch.tensor([1.0, 0.7, 0.3, 0.0])
    x = add_noise(data, noise, sigma)
    residual = velocity_target(data, noise) - precondition(x, torch.zeros_like(x), sigma)
    scale = (sigma.square() + (1 - sigma).square()).rsqrt()
    torch.testing.assert_close(residual.std(1), scale, rtol=0.02, atol=0)
    torch.testing.assert_close((residual * x).mean(1), torch.zeros(4), rtol=0, atol=0.02)
