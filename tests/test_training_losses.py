import torch

from loquent.diffusion.flow import velocity_target
from loquent.training.losses import flow_losses, masked_mean, stratified_sigmas
from loquent.training.moda_motion import channel_weights
from loquent.types import ARKIT_INDEX


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_perfect_velocity_costs_nothing_but_the_datas_own_bends():
    data = torch.randn(4, 10, 3, generator=seeded(1))
    noise = torch.randn(data.shape, generator=seeded())
    terms = flow_losses(lambda x, sigma: velocity_target(data, noise), data, torch.ones(4, 10), torch.ones(3), seeded())
    assert terms["denoise"] == 0
    assert terms["velocity"] == 0
    torch.testing.assert_close(terms["smooth"], data.diff(n=2, dim=1).square().mean(), rtol=1e-4, atol=1e-4)


def test_frames_outside_the_mask_do_not_count():
    data = torch.randn(4, 10, 3, generator=seeded(1))
    mask = torch.ones(4, 10)
    mask[:, 7:] = 0
    spoilt = data.clone()
    spoilt[:, 7:] += 100

    def terms(values):
        return flow_losses(lambda x, sigma: torch.zeros_like(x), values, mask, torch.ones(3), seeded())

    for name, value in terms(data).items():
        torch.testing.assert_close(value, terms(spoilt)[name])


def test_masked_mean_weighs_channels():
    values = torch.tensor([[[1.0, 3.0], [100.0, 100.0]]])
    assert masked_mean(values, torch.tensor([[1.0, 0.0]]), torch.tensor([2.0, 0.0])) == 1.0


def test_sigmas_fill_their_range_evenly():
    sigma = stratified_sigmas(16, seeded()).sort().values
    edges = 0.001 + 0.999 * torch.arange(17) / 16
    assert (sigma >= edges[:-1]).all()
    assert (sigma <= edges[1:]).all()


def test_jaw_counts_more_than_brows():
    weights = channel_weights()
    assert (
        weights[ARKIT_INDEX["jawOpen"]] > weights[ARKIT_INDEX["mouthSmileLeft"]] > weights[ARKIT_INDEX["browInnerUp"]]
    )
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
