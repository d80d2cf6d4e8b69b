import pytest
import torch

from loquent.diffusion.gaussian import (
    Schedule,
    add_noise,
    ancestral,
    clean_from_noise,
    ddim,
    even_timesteps,
    last_sample,
    linear_betas,
    log_variance,
    noise_from_clean,
    posterior_mean,
    strided_timesteps,
)
from loquent.errors import ControlsError

FULL = Schedule.full(linear_betas())


def points_at(clean: torch.Tensor, schedule: Schedule = FULL):
    """A network that always knows the clean data."""

    def predict(x, timestep):
        step = torch.searchsorted(schedule.timesteps, timestep)
        return noise_from_clean(schedule, x, clean, step), torch.zeros_like(x)

    return predict


def test_even_timesteps_keep_both_ends():
    assert even_timesteps(4) == [0, 333, 666, 999]
    assert even_timesteps(1000) == list(range(1000))
    assert even_timesteps(1) == [0]


def test_strided_timesteps():
    assert strided_timesteps(10) == list(range(0, 1000, 100))
    assert strided_timesteps(8) == list(range(0, 1000, 125))
    assert strided_timesteps(50)[:2] == [0, 20]


@pytest.mark.parametrize("pick", [even_timesteps, strided_timesteps])
@pytest.mark.parametrize("count", [0, 1001])
def test_impossible_numbers_of_steps(pick, count):
    with pytest.raises(ControlsError, match=f"{count} sampling steps were asked for; choose 1 to 1000"):
        pick(count)


def test_strides_that_do_not_exist():
    with pytest.raises(ControlsError, match="300 sampling steps do not divide 1000 evenly"):
        strided_timesteps(300)


def test_respacing_keeps_the_noise_level_of_each_kept_timestep():
    kept = even_timesteps(7)
    schedule = Schedule.respaced(linear_betas(), kept)
    torch.testing.assert_close(schedule.signal, FULL.signal[kept])
    torch.testing.assert_close(schedule.noise, FULL.noise[kept])
    torch.testing.assert_close(torch.cumprod(1 - schedule.betas, 0).sqrt().float(), schedule.signal)


def test_noise_and_clean_data_determine_each_other():
    clean, noise, step = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.tensor([5, 400, 700])
    x = add_noise(FULL, clean, noise, step)
    torch.testing.assert_close(clean_from_noise(FULL, x, noise, step), clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise_from_clean(FULL, x, clean, step), noise, rtol=1e-3, atol=1e-3)


def test_posterior_is_that_of_two_gaussian_steps():
    # q(x_before | x, clean) ∝ q(x | x_before)·q(x_before | clean), both normal
    step, clean, x = 500, 0.3, -0.7
    beta = float(linear_betas()[step])
    before, spread = float(FULL.signal_before[step]), float(FULL.noise_before[step]) ** 2
    precision = (1 - beta) / beta + 1 / spread
    mean = ((1 - beta) ** 0.5 * x / beta + before * clean / spread) / precision
    ours = posterior_mean(FULL, torch.full((1,), clean), torch.full((1,), x), torch.tensor([step]))
    assert float(ours) == pytest.approx(mean, rel=1e-4)
    assert float(FULL.log_lower[step].exp()) == pytest.approx(1 / precision, rel=1e-4)


def test_variance_logits_lead_from_lower_to_upper():
    step = torch.tensor([300, 300, 300])
    found = log_variance(FULL, torch.tensor([-1.0, 0.0, 1.0]), step)
    middle = (FULL.log_lower[300] + FULL.log_upper[300]) / 2
    torch.testing.assert_close(found, torch.stack([FULL.log_lower[300], middle, FULL.log_upper[300]]))


@pytest.mark.parametrize("clip", [True, False])
def test_samplers_arrive_where_the_network_points(clip):
    clean = torch.rand(2, 5, 3) * 1.8 - 0.9
    schedule = Schedule.respaced(linear_betas(), strided_timesteps(20))
    start = torch.randn(2, 5, 3)
    end = last_sample(ddim(points_at(clean, schedule), start, schedule, clip=clip))
    torch.testing.assert_close(end, clean, rtol=1e-3, atol=1e-3)
    noise = iter(torch.randn(19, 2, 5, 3))  # one a step, but for the last
    end = last_sample(ancestral(points_at(clean, schedule), start, schedule, lambda: next(noise), clip=clip))
    torch.testing.assert_close(end, clean, rtol=1e-3, atol=1e-3)
    assert next(noise, None) is None


def test_clipping_holds_estimates_within_one():
    schedule = Schedule.respaced(linear_betas(), strided_timesteps(10))
    predict = points_at(torch.full((1, 4), 3.0), schedule)
    for state in ddim(predict, torch.randn(1, 4), schedule):
        assert state.clean.max() <= 1


def test_ancestral_sampling_gives_the_spread_of_the_data():
    # Data of one number, normal with deviation 0.5: the best predictor of the noise is known exactly.
    torch.manual_seed(0)
    schedule = Schedule.respaced(linear_betas(), even_timesteps(100))

    def predict(x, timestep):
        step = torch.searchsorted(schedule.timesteps, timestep)[0]
        signal, noise = schedule.signal[step], schedule.noise[step]
        return noise * x / (signal.square() * 0.25 + noise.square()), torch.zeros_like(x)

    start = torch.randn(4000, 1)
    end = last_sample(ancestral(predict, start, schedule, lambda: torch.randn(4000, 1), clip=False))
    assert float(end.std()) == pytest.approx(0.5, abs=0.03)
    assert float(end.mean()) == pytest.approx(0, abs=0.03)
