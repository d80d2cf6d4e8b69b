"""The motion transformer arranged for sampling gives what the plain one gives."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from loquent.models.ifmdm import MotionDiffusionTransformer, SamplerSettings, WindowedSampler, get_motion_preset
from loquent.models.ifmdm.fast import FastMotionDiffusionTransformer
from loquent.models.ifmdm.sampling import guided
from loquent.models.ifmdm.statistics import get_setting

CONFIG = replace(get_motion_preset("tiny"), num_blocks=3, num_frames=12)
N, M = CONFIG.num_frames, CONFIG.motion_dim
GUIDANCE = [(1.0, "consistent"), (2.5, "consistent"), (2.5, "published")]


@pytest.fixture(scope="module")
def network() -> MotionDiffusionTransformer:
    torch.manual_seed(0)
    network = MotionDiffusionTransformer(CONFIG).eval()
    for weight in network.parameters():  # zero gates would hide everything
        torch.nn.init.normal_(weight, std=0.2)
    return network


@pytest.fixture(scope="module")
def fast(network) -> FastMotionDiffusionTransformer:
    return FastMotionDiffusionTransformer(network)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditions(batch: int, with_statistics: bool) -> tuple[torch.Tensor, ...]:
    mean, std = draw(batch, M, seed=3), draw(batch, M, seed=4)
    if not with_statistics:
        mean, std = torch.zeros_like(mean), torch.zeros_like(std)
    return draw(batch, N, 2, CONFIG.audio_dim), draw(batch, M, seed=2), mean, std


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("with_statistics", [True, False])
@pytest.mark.parametrize(("scale", "kind"), GUIDANCE)
@torch.no_grad()
def test_the_same_noise_and_variance(network, fast, scale, kind, with_statistics, batch):
    given, noisy = conditions(batch, with_statistics), draw(batch, N, M, seed=5)
    timestep = torch.tensor([3, 500, 999])[:batch]
    wanted, found = (guided(one, *given, scale=scale, kind=kind)(noisy, timestep) for one in (network, fast))
    for value, expected in zip(found, wanted, strict=True):
        assert value.shape == (batch, N, M)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", ["starter", "a0"])
@torch.no_grad()
def test_the_same_noise_at_size(preset):
    config = replace(get_motion_preset(preset), num_blocks=2)
    torch.manual_seed(0)
    network = MotionDiffusionTransformer(config).eval()
    for weight in network.parameters():
        weight.add_(0.02 * torch.randn_like(weight))
    vectors = (draw(1, config.motion_dim, seed=seed) for seed in (2, 3, 4))
    given = (draw(1, config.num_frames, 2, config.audio_dim), *vectors)
    noisy, timestep = draw(1, config.num_frames, config.motion_dim, seed=5), torch.tensor([700])
    both = (network, FastMotionDiffusionTransformer(network))
    wanted, found = (guided(one, *given, scale=1.5, kind="consistent")(noisy, timestep)[0] for one in both)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_where_products_cannot_be_packed(network):
    double = deepcopy(network).double()
    given, noisy = [value.double() for value in conditions(2, True)], draw(2, N, M, seed=5).double()
    both = (double, FastMotionDiffusionTransformer(double))
    wanted, found = (guided(one, *given, scale=2, kind="published")(noisy, torch.tensor([3, 500]))[0] for one in both)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
@pytest.mark.parametrize(("scale", "kind"), GUIDANCE)
def test_the_same_motion_over_several_windows(network, fast, sampler, scale, kind):
    settings = SamplerSettings(sampler=sampler, steps=4, guidance=scale, guidance_kind=kind, overlap=3)

    def sample(one) -> torch.Tensor:
        random = torch.Generator().manual_seed(3)
        pieces = WindowedSampler(one, settings).sample(
            draw(3 * N + 5, 2, CONFIG.audio_dim).split(7),
            portrait=torch.full((M,), 0.1),
            draw_noise=lambda: torch.randn(N, M, generator=random),
            statistics=get_setting("std_0.1"),
        )
        return torch.cat(list(pieces))

    wanted = sample(network)
    assert wanted.shape == (3 * N + 5, M)
    torch.testing.assert_close(sample(fast), wanted, rtol=1e-4, atol=1e-4)


def test_the_network_stays_as_it_is(network, fast):
    assert all(weight.requires_grad for weight in network.parameters())
    copied = {weight.data_ptr() for weight in fast.parameters()}
    assert copied.isdisjoint(weight.data_ptr() for weight in network.parameters())
