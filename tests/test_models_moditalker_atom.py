"""AToM's own promises; the published numbers are in test_parity.py."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loquent.diffusion.gaussian import Schedule, add_noise, last_sample
from loquent.diffusion.stochastic import (
    cosine_betas,
    from_clean,
    from_noise,
    root_linear_betas,
    stochastic_ddim,
    truncated_timesteps,
)
from loquent.errors import ControlsError, SpeechError, WeightsError
from loquent.models.moditalker import AtomConfig, AtomDenoiser, AtomSampler, AtomSettings, get_atom_preset
from loquent.models.moditalker.atom_sampling import holding
from loquent.models.moditalker.config import ATOM_PRESETS
from loquent.models.moditalker.weights import atom_names, load_published_atom
from loquent.training.moditalker_losses import atom_losses, latent_noise_loss

FOLDER = Path(__file__).parent / "parity" / "moditalker"
TINY = get_atom_preset("tiny")


@pytest.fixture(scope="module")
def network() -> AtomDenoiser:
    torch.manual_seed(0)
    return AtomDenoiser(TINY).eval()


def speech(num_frames: int) -> torch.Tensor:
    return torch.randn(num_frames, 2, TINY.audio_dim, generator=torch.Generator().manual_seed(1))


def noise_source(num_frames: int = TINY.num_frames):
    random = torch.Generator().manual_seed(2)
    return lambda: torch.randn(num_frames, 204, generator=random)


# Sampling


@pytest.mark.parametrize("num_frames", [1, 2, 5, 8, 9, 21])
def test_motion_is_as_long_as_speech(network, num_frames):
    sampler = AtomSampler(network, AtomSettings(steps=3, overlap=3))
    pieces = list(sampler.sample([speech(num_frames)], landmark=torch.zeros(204), draw_noise=noise_source()))
    assert all(len(piece) for piece in pieces)
    motion = torch.cat(pieces)
    assert motion.shape == (num_frames, 204)
    assert motion.isfinite().all()


def test_how_speech_comes_in_does_not_matter(network):
    sampler = AtomSampler(network, AtomSettings(steps=2, overlap=2))
    whole, blocks = (
        torch.cat(list(sampler.sample(parts, landmark=torch.ones(204), draw_noise=noise_source())))
        for parts in ([speech(21)], speech(21).split(4))
    )
    torch.testing.assert_close(whole, blocks)


class Takes(torch.nn.Module):
    """Every window is a constant that contradicts the one before as far as it can."""

    def __init__(self) -> None:
        super().__init__()
        self.config = replace(TINY, num_frames=30)
        self.level = itertools.cycle([1.0, -1.0])

    def embed_conditions(self, audio, landmark):
        return next(self.level)

    def denoise(self, x, timestep, level):
        return torch.full_like(x, level)


@pytest.mark.parametrize("num_frames", [70, 101, 119])
def test_windows_that_disagree_are_joined_without_a_jump(num_frames):
    sampler = AtomSampler(Takes(), AtomSettings(steps=4, guidance=1, overlap=10))  # type: ignore[arg-type]
    landmark = torch.full((204,), 5.0)
    blocks = torch.zeros(num_frames, 2, TINY.audio_dim).split(7)
    motion = torch.cat(list(sampler.sample(blocks, landmark=landmark, draw_noise=noise_source(30))))
    assert motion.shape == (num_frames, 204)
    assert motion.diff(dim=0).abs().max() <= 2 / 10 + 1e-5
    assert motion.max() == pytest.approx(6)
    assert motion.min() == pytest.approx(4)


def test_held_frames_stay_and_fade():
    known = torch.full((4, 2), 1.0)
    held = holding(lambda x, timestep: torch.zeros_like(x), known, fade=2)(torch.ones(1, 6, 2), torch.tensor([0]))
    assert held[0, :, 0].tolist() == [1, 1, 1, 0.5, 0, 0]


def test_speech_of_another_encoder_is_an_error(network):
    sampler = AtomSampler(network, AtomSettings(steps=1, overlap=2))
    with pytest.raises(SpeechError, match=r"\(2, 7\) numbers a frame; these weights want \(2, 6\)"):
        next(sampler.sample([torch.zeros(9, 2, 7)], landmark=torch.zeros(204), draw_noise=noise_source()))
    with pytest.raises(ControlsError, match="windows of 8 frames cannot overlap by 5; choose 1 to 4"):
        AtomSampler(network, AtomSettings(overlap=5))


def test_null_conditions_are_those_of_nothing_kept(network):
    audio, landmark = speech(16).unflatten(0, (2, 8)), torch.randn(2, 204)
    dropped = network.embed_conditions(audio, landmark, torch.zeros(2, dtype=torch.bool))
    null = network.null_conditions(2)
    for name in ("audio", "landmark", "summary"):
        torch.testing.assert_close(getattr(null, name), getattr(dropped, name))


# The walk


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_perfect_network_gives_the_data(eta):
    schedule = Schedule.respaced(cosine_betas(), truncated_timesteps(7))
    data, random = torch.tensor([[0.25, -0.75]]), torch.Generator().manual_seed(0)
    start = torch.randn(1, 2, generator=random)

    def draw() -> torch.Tensor:
        return torch.randn(1, 2, generator=random)

    told = from_clean(lambda x, timestep: data, schedule)
    torch.testing.assert_close(last_sample(stochastic_ddim(told, start, schedule, draw, eta=eta)), data)


def test_every_state_of_a_walk_with_noise_is_as_noisy_as_training():
    """With eta 1 and the data known, x at every step is distributed as add_noise makes it."""
    betas = root_linear_betas()
    schedule = Schedule.respaced(betas, truncated_timesteps(10))
    random = torch.Generator().manual_seed(0)
    data = torch.full((1, 20_000), 0.3)
    start = add_noise(schedule, data, torch.randn(1, 20_000, generator=random), torch.tensor([9]))
    told = from_clean(lambda x, timestep: data, schedule)
    states = list(stochastic_ddim(told, start, schedule, lambda: torch.randn(1, 20_000, generator=random)))
    for index, state in enumerate(states[:-1]):
        step = 8 - index
        assert state.x.std() == pytest.approx(float(schedule.noise[step]), rel=0.03)
        assert state.x.mean() == pytest.approx(0.3 * float(schedule.signal[step]), abs=0.03)


def test_noise_prediction_reads_the_clean_data_of_the_noise():
    schedule = Schedule.full(root_linear_betas())
    data, noise, step = torch.tensor([[0.5]]), torch.tensor([[-1.0]]), torch.tensor([300])
    x = add_noise(schedule, data, noise, step)
    estimate = from_noise(lambda x, timestep: noise, schedule)(x, step)
    torch.testing.assert_close(estimate.clean, data)
    torch.testing.assert_close(estimate.noise, noise)


def test_published_steps():
    assert truncated_timesteps(50)[:2] == [19, 39]
    assert truncated_timesteps(50)[-1] == 999
    assert truncated_timesteps(3, 10) == [2, 5, 9]
    assert truncated_timesteps(1000) == list(range(1000))
    with pytest.raises(ControlsError, match="1001 sampling steps were asked for; choose 1 to 1000"):
        truncated_timesteps(1001)


# Training


def test_frames_that_complete_a_clip_do_not_count():
    schedule = Schedule.full(cosine_betas())
    residual, noise = torch.zeros(1, 6, 204), torch.randn(1, 6, 204)
    real = torch.tensor([[True, True, True, True, False, False]])
    wrong = torch.zeros(1, 6, 204)
    wrong[:, 4:] = 100
    terms = atom_losses(lambda x, t: wrong, schedule, residual, noise, torch.tensor([3]), real)
    assert terms["reconstruction"] == terms["velocity"] == 0
    assert atom_losses(lambda x, t: wrong, schedule, residual, noise, torch.tensor([3]))["velocity"] > 0


def test_latent_loss_is_zero_for_the_noise_itself():
    schedule = Schedule.full(root_linear_betas())
    noise = torch.randn(2, 4, 8)
    assert latent_noise_loss(lambda x, t: noise, schedule, torch.zeros(2, 4, 8), noise, torch.tensor([0, 999])) == 0


def test_every_weight_of_atom_takes_part_in_training():
    torch.manual_seed(0)
    network = AtomDenoiser(TINY)
    keep = torch.tensor([True, False])
    audio, landmark = speech(16).unflatten(0, (2, 8)), torch.randn(2, 204)
    network(torch.randn(2, 8, 204), torch.tensor([3, 700]), audio, landmark, keep).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


# Names, sizes


def test_number_of_parameters_is_published_less_those_without_effect():
    recorded = json.loads((FOLDER / "atom_denoiser.keys.json").read_text())
    with torch.device("meta"):
        network = AtomDenoiser(get_atom_preset("published"))
    without_effect = 16_685_568
    assert sum(weight.numel() for weight in network.parameters()) + without_effect == recorded["parameters"]


def test_names_that_do_not_belong_are_errors(network):
    state = dict.fromkeys(atom_names(TINY), torch.zeros(1)) | {"surprise": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"atom\.pt does not hold .*unexpected \['surprise'\]"):
        load_published_atom(network, state, "atom.pt")


def test_presets(tmp_path):
    for name, config in ATOM_PRESETS.items():
        assert get_atom_preset(name) is config
        config.save(tmp_path / "config.json")
        assert AtomConfig.load(tmp_path / "config.json") == config
    with pytest.raises(WeightsError, match=r"nearest: \['published'\]"):
        get_atom_preset("publish")
    with pytest.raises(WeightsError, match="hidden_dim is 17"):
        replace(TINY, hidden_dim=17)
    (tmp_path / "config.json").write_text('{"colour": 1}')
    with pytest.raises(WeightsError, match=r"unknown names \['colour'\]"):
        AtomConfig.load(tmp_path / "config.json")
    with pytest.raises(WeightsError, match="not a readable configuration"):
        AtomConfig.load(tmp_path / "none.json")
