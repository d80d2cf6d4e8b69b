import math
from dataclasses import replace

import pytest
import torch

from loquent.errors import LoquentError, WeightsError
from loquent.models.ifmdm import (
    Autoencoder,
    AutoencoderConfig,
    Discriminator,
    get_autoencoder_preset,
    get_motion_preset,
)
from loquent.models.ifmdm.config import AUTOENCODER_PRESETS
from loquent.models.ifmdm.decoder import Directions, FlowHead, identity_grid, relative_motion
from loquent.models.ifmdm.discriminator import batch_spread
from loquent.models.ifmdm.layers import Blur, EqualLinear, ModulatedConv, ResBlock, UpModulatedConv, Upsample

TINY = get_autoencoder_preset("tiny")


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(TINY).eval()


def pictures(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_a_batch_gives_what_its_pictures_give_alone(network):
    source, drive = pictures(2), pictures(2, seed=1)
    together = network(source, drive)
    assert together.shape == (2, 3, 32, 32)
    for index in range(2):
        alone = network(source[index : index + 1], drive[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_motion_lies_within_one_and_moves_the_picture(network):
    motion = network.motion_of(pictures(3))
    assert motion.shape == (3, 3)
    assert motion.abs().max() < 1
    portrait = network.encode(pictures(1))
    still, moved = network.decoder(portrait, torch.zeros(1, 3)), network.decoder(portrait, motion[:1])
    torch.testing.assert_close(still, network.decoder(portrait, None))
    assert (still - moved).abs().max() > 1e-3


def test_every_weight_takes_part_in_training():
    torch.manual_seed(0)
    network = Autoencoder(TINY)
    network(pictures(2), pictures(2, seed=1)).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_directions_stand_at_right_angles_and_keep_lengths():
    directions = Directions(16, 4)
    torch.testing.assert_close(directions.basis().T @ directions.basis(), torch.eye(4), rtol=0, atol=1e-5)
    motion = torch.randn(5, 4)
    torch.testing.assert_close(directions(motion).norm(dim=1), motion.norm(dim=1))


def test_relative_motion_from_the_portraits_own_is_absolute():
    target, own = torch.rand(2, 3), torch.rand(2, 3)
    torch.testing.assert_close(relative_motion(target, own, own), target)


def test_identity_grid_is_published():
    grid = identity_grid(5)
    assert grid[2, 0].tolist() == [-1, 0]
    assert grid[0, 4].tolist() == [1, -1]


@torch.no_grad()
def test_a_flow_to_the_right_reads_from_the_right():
    head = FlowHead(2, 4, 8)
    head.flow.weight.zero_()
    head.bias.copy_(torch.tensor([math.atanh(0.5), 0.0, 50.0]))  # a quarter of the picture, mask open
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    warped, filled, _ = head(torch.zeros(1, 2, 8, 8), torch.ones(1, 4), ramp, None)
    # column i is read at i·8/7 − 0.5 + 2
    torch.testing.assert_close(warped[0, 0, 4, :4], torch.arange(4.0) * 8 / 7 + 1.5)
    torch.testing.assert_close(filled, warped)


@torch.no_grad()
def test_a_closed_mask_fills_everything():
    head = FlowHead(2, 4, 8)
    head.flow.weight.zero_()
    head.bias.copy_(torch.tensor([0.0, 0.0, -50.0]))
    x, style = torch.rand(1, 2, 8, 8), torch.ones(1, 4)
    warped, filled, _ = head(x, style, torch.rand(1, 2, 8, 8), None)
    torch.testing.assert_close(warped, torch.zeros_like(warped))
    torch.testing.assert_close(filled, head.fill(x, style))


def test_modulation_scales_weights_per_sample():
    conv = ModulatedConv(4, 5, 3, 6)
    x, style = torch.randn(2, 4, 7, 7), torch.randn(2, 6)
    scale = conv.modulation(style)
    for index in range(2):
        weight = conv.scaled_weight() * scale[index, None, :, None, None]
        weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        expected = torch.nn.functional.conv2d(x[index : index + 1], weight, padding=1)
        torch.testing.assert_close(conv(x, style)[index : index + 1], expected, rtol=1e-4, atol=1e-5)


def test_layers_change_sizes_as_told():
    flat = torch.ones(1, 3, 8, 8)
    assert Upsample()(flat).shape == (1, 3, 16, 16)
    torch.testing.assert_close(Upsample()(flat)[..., 1:-1, 1:-1], torch.ones(1, 3, 14, 14))
    torch.testing.assert_close(Blur(padding=2)(flat)[..., 3:-3, 3:-3], torch.ones(1, 3, 3, 3))
    assert UpModulatedConv(3, 2, 3, 4)(flat, torch.ones(1, 4)).shape == (1, 2, 16, 16)
    assert ResBlock(3, 5)(flat).shape == (1, 5, 4, 4)
    assert EqualLinear(4, 2, initial_bias=1.0)(torch.zeros(1, 4)).tolist() == [[1, 1]]


def test_discriminator_looks_at_groups():
    x = torch.zeros(8, 2, 4, 4)
    x[1::2] = torch.arange(4.0)[:, None, None, None]  # pictures 1, 3, 5, 7 differ; 0, 2, 4, 6 are equal
    spread = batch_spread(x)
    assert spread.shape == (8, 1, 4, 4)
    torch.testing.assert_close(spread[1::2], torch.full((4, 1, 4, 4), 1.25**0.5))
    torch.testing.assert_close(spread[::2], torch.full((4, 1, 4, 4), 1e-4))
    assert Discriminator(TINY)(pictures(4)).shape == (4, 1)
    with pytest.raises(LoquentError, match="given 6 pictures; more than 4 must be a multiple"):
        Discriminator(TINY)(pictures(6))


def test_presets_fit_together(tmp_path):
    for name, config in AUTOENCODER_PRESETS.items():
        assert get_autoencoder_preset(name) is config
        config.save(tmp_path / "config.json")
        assert AutoencoderConfig.load(tmp_path / "config.json") == config
    for size in ("starter-256", "starter-512"):
        assert get_autoencoder_preset(size).motion_dim == get_motion_preset("starter").motion_dim
    assert get_autoencoder_preset("tiny").motion_dim == get_motion_preset("tiny").motion_dim


def test_configurations_that_cannot_be_are_errors(tmp_path):
    with pytest.raises(WeightsError, match="size_px is 64 with 4 channel numbers"):
        replace(TINY, size_px=64)
    with pytest.raises(WeightsError, match="motion_dim is 17; choose 1 to 16"):
        replace(TINY, motion_dim=17)
    with pytest.raises(WeightsError, match=r"nearest: \['starter-256'\]"):
        get_autoencoder_preset("starter256")
    with pytest.raises(WeightsError, match="not a readable configuration"):
        AutoencoderConfig.load(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"colour": 1}')
    with pytest.raises(WeightsError, match=r"unknown names \['colour'\]"):
        AutoencoderConfig.load(tmp_path / "config.json")
