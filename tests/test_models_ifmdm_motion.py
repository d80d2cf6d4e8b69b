from dataclasses import replace

import pytest
import torch

from loquent.diffusion.gaussian import Schedule, linear_betas
from loquent.errors import ControlsError, LoquentError, WeightsError
from loquent.models.ifmdm import MotionDiffusionTransformer, SamplerSettings, WindowedSampler, get_motion_preset
from loquent.models.ifmdm.generate import _warn_of_unused
from loquent.models.ifmdm.sampling import guided
from loquent.models.ifmdm.statistics import (
    SETTINGS,
    Statistics,
    WindowStart,
    get_setting,
    measure,
    of_controls,
    per_window,
)
from loquent.models.ifmdm.transformer import Drops
from loquent.motion.control_track import ControlTrack
from loquent.training.ifmdm_motion_losses import DROP_PROBABILITY, draw_drops, motion_losses, split_window
from loquent.types import Controls

TINY = get_motion_preset("tiny")
N, M = TINY.num_frames, TINY.motion_dim
SETTINGS_3_STEPS = SamplerSettings(steps=4)


@pytest.fixture(scope="module")
def network() -> MotionDiffusionTransformer:
    torch.manual_seed(0)
    network = MotionDiffusionTransformer(TINY).eval()
    for weight in network.parameters():  # zero gates would hide every condition
        torch.nn.init.normal_(weight, std=0.2)
    return network


def speech_of(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, 2, TINY.audio_dim, generator=torch.Generator().manual_seed(seed))


def conditions(batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    vectors = (torch.randn(batch, M, generator=random) for _ in range(3))
    return (torch.randn(batch, N, 2, TINY.audio_dim, generator=random), *vectors)


def noisy(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, N, M, generator=torch.Generator().manual_seed(9))


def drops(batch: int = 2, **dropped: bool) -> Drops:
    names = ("joint", "hint", "mean", "std", "speech")
    return Drops(**{name: torch.full((batch,), dropped.get(name, False)) for name in names})


def sample(network, blocks, *, settings=SETTINGS_3_STEPS, seed=0, **kwargs) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    arguments = {"portrait": torch.full((M,), 0.1)} | kwargs
    sampler = WindowedSampler(network, settings)
    return torch.cat(list(sampler.sample(blocks, draw_noise=lambda: torch.randn(N, M, generator=random), **arguments)))


def test_an_untrained_network_predicts_zero():
    noise, logits = MotionDiffusionTransformer(TINY)(noisy(), torch.tensor([3, 500]), *conditions())
    assert noise.shape == logits.shape == (2, N, M)
    assert noise.abs().max() == logits.abs().max() == 0


@pytest.mark.parametrize("changed", range(4))
@torch.no_grad()
def test_every_condition_matters(network, changed):
    t, given = torch.tensor([3, 500]), list(conditions())
    before, _ = network(noisy(), t, *given)
    given[changed] = given[changed] + 1
    assert (network(noisy(), t, *given)[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["hint", "mean", "std"])
@torch.no_grad()
def test_a_dropped_condition_is_zeros(network, name):
    t, given = torch.tensor([3, 500]), conditions()
    zeroed = [
        torch.zeros_like(x) if key == name else x
        for key, x in zip(("speech", "hint", "mean", "std"), given, strict=True)
    ]
    expected = network(noisy(), t, *zeroed)
    for ours, wanted in zip(network(noisy(), t, *given, drops(**{name: True})), expected, strict=True):
        torch.testing.assert_close(ours, wanted)


@torch.no_grad()
def test_without_both_speech_paths_speech_does_not_matter(network):
    t, given, other = torch.tensor([3, 500]), conditions(), conditions(seed=1)[0]
    both = drops(joint=True, speech=True)
    torch.testing.assert_close(network(noisy(), t, *given, both), network(noisy(), t, other, *given[1:], both))
    one = drops(speech=True)
    a, b = network(noisy(), t, *given, one), network(noisy(), t, other, *given[1:], one)
    assert (a[0] - b[0]).abs().max() > 1e-3


@torch.no_grad()
def test_guidance_goes_beyond_speech_by_the_scale(network):
    t, given = torch.tensor([3, 500]), conditions()
    with_speech, logits = network(noisy(), t, *given)
    silent = torch.zeros_like(given[0])
    published, _ = network(noisy(), t, silent, *given[1:])
    consistent, _ = network(noisy(), t, *given, drops(joint=True, speech=True))
    for kind, without in (("published", published), ("consistent", consistent)):
        noise, variance = guided(network, *given, scale=2.5, kind=kind)(noisy(), t)
        torch.testing.assert_close(noise, without + 2.5 * (with_speech - without), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guided(network, *given, scale=1, kind="consistent")(noisy(), t)[0], with_speech)


@pytest.mark.parametrize("frames", [1, N - 1, N, N + 1, 3 * N])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_motion_is_as_long_as_speech(network, frames, sampler):
    settings = SamplerSettings(sampler=sampler, steps=4, guidance=1.5)
    motion = sample(network, [speech_of(frames)], settings=settings)
    assert motion.shape == (frames, M)
    assert motion.abs().max() <= 1 if sampler == "ddim" else motion.isfinite().all()


def test_how_speech_arrives_does_not_matter_but_the_seed_does(network):
    speech = speech_of(3 * N)
    whole = sample(network, [speech])
    torch.testing.assert_close(whole, sample(network, speech.split(3)))
    assert (whole - sample(network, [speech], seed=1)).abs().max() > 1e-3


def test_each_window_is_given_the_last_frame_before_it(network):
    seen = []

    def spy(start: WindowStart) -> Statistics:
        seen.append(start)
        return SETTINGS["free"](start)

    portrait = torch.full((M,), 0.1)
    motion = sample(network, [speech_of(3 * N)], portrait=portrait, statistics=spy)
    assert [start.window for start in seen] == [0, 1, 2]
    torch.testing.assert_close(seen[0].last, portrait)
    torch.testing.assert_close(seen[1].last, motion[N - 1])
    torch.testing.assert_close(seen[2].last, motion[2 * N - 1])
    assert all(start.portrait is portrait for start in seen)


def test_windows_are_sampled_as_they_are_asked_for(network):
    handed_out = []

    def blocks():
        for index, block in enumerate(speech_of(4 * N).split(N)):
            handed_out.append(index)
            yield block

    pieces = WindowedSampler(network, SETTINGS_3_STEPS).sample(
        blocks(), portrait=torch.zeros(M), draw_noise=lambda: torch.zeros(N, M)
    )
    next(pieces)
    assert handed_out == [0, 1]


def test_published_settings_of_the_statistics():
    start = WindowStart(2, portrait=torch.full((M,), 0.2), last=torch.full((M,), 0.4))
    wanted = {
        "free": (0, 0),
        "mean_portrait": (0.2, 0),
        "mean_last": (0.4, 0),
        "std_0.1": (0, 0.1),
        "std_0.3": (0, 0.3),
    }
    assert set(wanted) == set(SETTINGS)
    for name, (mean, std) in wanted.items():
        found = get_setting(name)(start)
        torch.testing.assert_close(found.mean, torch.full((M,), float(mean)))
        torch.testing.assert_close(found.std, torch.full((M,), float(std)))
    with pytest.raises(ControlsError, match="unknown motion statistics 'wild'; choose one of free"):
        get_setting("wild")


def test_statistics_of_ones_own_for_each_window():
    values = [Statistics(torch.full((M,), x), torch.full((M,), x / 2)) for x in (0.1, 0.2)]
    rule = per_window(values)
    zero = torch.zeros(M)
    assert [rule(WindowStart(index, zero, zero)) for index in range(3)] == [values[0], values[1], values[1]]
    with pytest.raises(ControlsError, match="no motion statistics were given"):
        per_window([])


def test_statistics_of_a_control_track():
    track = ControlTrack(
        [
            {"time_s": 0, "statistics": "mean_portrait"},
            {"time_s": 3, "motion_std": 0.2},
            {"time_s": 5.5, "statistics": "std_0.3", "motion_mean": tuple(range(1, M + 1)), "motion_std": 0},
        ]
    )
    rule = of_controls(Controls(track=track), window_s=2.56)
    portrait = torch.full((M,), 0.5)
    of_window = [rule(WindowStart(window, portrait, portrait)) for window in range(3)]  # middles at 1.3, 3.8, 6.4 s
    torch.testing.assert_close(of_window[0], Statistics(portrait, torch.zeros(M)))
    torch.testing.assert_close(of_window[1], Statistics(portrait, torch.full((M,), 0.2)))
    torch.testing.assert_close(of_window[2], Statistics(torch.arange(1.0, M + 1), torch.full((M,), 0.3)))
    short = of_controls(Controls(track=ControlTrack([{"time_s": 0, "motion_mean": (1.0,) * (M + 1)}])), 2.56)
    with pytest.raises(ControlsError, match=f"holds {M + 1} numbers, the motion has {M} dimensions"):
        short(WindowStart(0, portrait, portrait))
    assert of_controls(Controls(), 2.56) is SETTINGS["free"]
    others = ControlTrack([{"time_s": 0, "head": 0.5}, {"time_s": 4, "statistics": "free"}])
    lively = of_controls(Controls(track=others), 2.56, SETTINGS["std_0.3"])
    spread = [float(lively(WindowStart(n, torch.zeros(M), torch.zeros(M))).std.mean()) for n in range(3)]
    assert spread == pytest.approx([0.3, 0.3, 0])


def test_what_codes_cannot_do_is_said_once(caplog):
    track = ControlTrack([{"time_s": 0, "head_yaw_deg": 10.0, "brows": 2.0, "lips": 1.2, "statistics": "free"}])
    _warn_of_unused(Controls(head=0.5, brows=0.5, emotion="happiness", track=track))
    assert "leaves out: emotion, brows, head_yaw_deg; head, lips" in caplog.text
    caplog.clear()
    _warn_of_unused(Controls(head=0.5, lips=1.2, blinks=0))
    assert not caplog.text


def test_statistics_are_measured_over_hint_and_window():
    motion, speech = torch.rand(2, N + 1, M), torch.rand(2, N + 1, 2, 6)
    window = split_window(motion, speech)
    torch.testing.assert_close(window.motion, motion[:, 1:])
    torch.testing.assert_close(window.speech, speech[:, 1:])
    torch.testing.assert_close(window.hint, motion[:, 0])
    torch.testing.assert_close(window.mean, motion.mean(1))
    torch.testing.assert_close(window.std, motion.std(1, unbiased=True))
    torch.testing.assert_close(measure(motion[0]).std, window.std[0])


def test_conditions_are_dropped_independently():
    drawn = draw_drops(4000, torch.Generator().manual_seed(0))
    parts = torch.stack([drawn.joint, drawn.hint, drawn.mean, drawn.std, drawn.speech]).float()
    torch.testing.assert_close(parts.mean(1), torch.full((5,), DROP_PROBABILITY), rtol=0, atol=0.03)
    assert parts.cov().fill_diagonal_(0).abs().max() < 0.02


def test_the_bound_teaches_the_variance_alone(network):
    window = split_window(torch.rand(2, N + 1, M), torch.rand(2, N + 1, 2, TINY.audio_dim))
    schedule = Schedule.full(linear_betas())
    terms = motion_losses(network, schedule, window, torch.tensor([0, 700]), torch.randn(2, N, M), drops())
    network.zero_grad()
    terms["bound"].sum().backward()
    grad = network.final_layer.linear.weight.grad
    assert grad[:M].abs().max() == 0
    assert grad[M:].abs().max() > 0
    network.zero_grad()


def test_what_cannot_be_is_an_error(network):
    with pytest.raises(LoquentError, match="speech has 7 frames; this network works on windows of exactly 8"):
        network.embed_conditions(torch.zeros(1, 7, 2, 6), *(torch.zeros(1, M) for _ in range(3)))
    with pytest.raises(LoquentError, match="motion has 7 frames"):
        network(torch.zeros(2, 7, M), torch.tensor([1, 2]), *conditions())
    with pytest.raises(WeightsError, match=r"hidden_dim is 18; it must be a multiple of num_heads \(4\)"):
        replace(TINY, hidden_dim=18, num_heads=4)
    with pytest.raises(WeightsError, match="a multiple of twice vectors_per_frame"):
        replace(TINY, hidden_dim=18)
    with pytest.raises(WeightsError, match="unknown preset 'a9'"):
        get_motion_preset("a9")
    with pytest.raises(ControlsError, match="do not divide"):
        WindowedSampler(network, SamplerSettings(steps=300))


@pytest.mark.parametrize("num_frames", [1, N - 3, N - 2, N, N + 1, 2 * N - 3, 2 * N + 4])
def test_windows_that_overlap_pass_into_each_other(network, num_frames):
    settings, overlap = replace(SETTINGS_3_STEPS, overlap=3, clip=False), 3
    speech = speech_of(num_frames)
    joined = sample(network, [speech], settings=settings)
    assert len(joined) == num_frames
    first = sample(network, [speech[:N]], settings=settings)
    torch.testing.assert_close(joined[: N - overlap + 1], first[: min(num_frames, N - overlap + 1)])
    blocks = [speech[:2], speech[2:]]
    torch.testing.assert_close(joined, sample(network, blocks, settings=settings))
