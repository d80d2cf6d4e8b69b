import math

import pytest
import torch

from loquent.training.diffusion_losses import binned_log_likelihood, normal_kl
from loquent.training.image_losses import (
    PYRAMID_SHRINKS,
    adversarial_loss,
    discriminator_loss,
    pyramid_kernel,
    pyramid_level,
)


@pytest.mark.parametrize("shrink", PYRAMID_SHRINKS)
def test_pyramid_keeps_flat_pictures_and_forgets_fine_patterns(shrink):
    flat = torch.full((1, 3, 64, 64), 0.7)
    level = pyramid_level(flat, shrink)
    assert level.shape == (1, 3, 64 // shrink, 64 // shrink)
    inner = level[..., 4:-3, 4:-3] if shrink > 1 else level
    torch.testing.assert_close(inner, torch.full_like(inner, 0.7))
    if shrink > 1:
        stripes = torch.ones(1, 1, 64, 64)
        stripes[..., ::2] = -1
        assert pyramid_level(stripes, shrink)[..., 4:-3, 4:-3].abs().max() < 0.6


def test_pyramid_kernels_have_published_sizes():
    assert [len(pyramid_kernel(shrink)) for shrink in (2, 4, 8)] == [5, 13, 29]


def test_adversarial_losses_pull_apart():
    unsure = torch.zeros(4, 1)
    assert float(adversarial_loss(unsure)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(unsure, unsure)) == pytest.approx(2 * math.log(2))
    assert adversarial_loss(unsure + 1) < adversarial_loss(unsure)
    assert discriminator_loss(unsure + 1, unsure - 1) < discriminator_loss(unsure, unsure)


def test_kl_of_normals():
    def kl(*values: float) -> float:
        return float(normal_kl(*(torch.tensor(value) for value in values)))

    assert kl(0.3, -1.0, 0.3, -1.0) == pytest.approx(0, abs=1e-7)
    assert kl(1.0, 0.0, 0.0, 0.0) == pytest.approx(0.5)
    assert kl(0.0, 0.0, 0.0, math.log(4)) == pytest.approx(0.5 * (math.log(4) + 0.25 - 1), rel=1e-5)


def test_bins_share_all_probability():
    centres = torch.linspace(-1, 1, 256)
    likelihood = binned_log_likelihood(centres, torch.tensor(0.1), torch.tensor(-2.0)).exp()
    assert float(likelihood.sum()) == pytest.approx(1, abs=1e-4)
    assert abs(float(centres[likelihood[1:-1].argmax() + 1]) - 0.1) < 0.01
