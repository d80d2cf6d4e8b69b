"""Inference forms of the renderer's networks compute what the plain ones do."""

import importlib.util
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loquent.evaluation.fixtures import read_fixture
from loquent.evaluation.parity import TOLERANCE
from loquent.models.moda.renderer import TINY, SpadeDecoder, WarpingNetwork
from loquent.models.moda.renderer.dense_motion import sparse_motions, warp_by_each
from loquent.models.moda.renderer.fast import (
    CompactConv,
    FastDecoder,
    FastWarping,
    SpectralConv3d,
    WindowConv,
    shifted_volumes,
)
from loquent.models.moda.renderer.winograd import WinogradConv, winograd_pays

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def lively(network: nn.Module) -> nn.Module:
    """Statistics and weights that leave no factor at 1 or 0."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.normal_(1, 0.3)
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.mul_(2)
    return network.eval()


@pytest.mark.parametrize("factor", [2, 4])
def test_window_convolution_is_that_of_the_enlarged_map(factor):
    conv = nn.Conv2d(3, 5, 3, padding=1)
    x = torch.randn(2, 3, 4, 6)
    wanted = conv(F.interpolate(x, scale_factor=factor))
    given = WindowConv(conv.weight, conv.bias, factor)(x)
    if factor == 4:  # of each four rows and columns the middle two are equal
        kept = torch.tensor([[4 * i, 4 * i + 1, 4 * i + 3] for i in range(6)]).flatten()
        wanted = wanted[:, :, kept[:12]][:, :, :, kept]
    torch.testing.assert_close(given, wanted, **CLOSE)


def test_window_convolution_of_volumes_leaves_depth_alone():
    conv = nn.Conv3d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 5, 4, 6)
    wanted = conv(F.interpolate(x, scale_factor=(1, 2, 2)))
    torch.testing.assert_close(WindowConv(conv.weight, conv.bias, 2)(x), wanted, **CLOSE)


def test_compact_convolution_continues_where_the_window_convolution_ended():
    first, second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1)
    x = torch.randn(1, 3, 4, 6)
    wanted = second(F.relu(first(F.interpolate(x, scale_factor=4))))
    compact = F.pad(F.relu(WindowConv(first.weight, first.bias, 4)(x)), (1, 1, 1, 1))
    conv = CompactConv(second.weight, second.bias)
    for i in range(4):
        for j in range(4):
            torch.testing.assert_close(conv.place(compact, i, j), wanted[:, :, i::4, j::4], **CLOSE)


@pytest.mark.parametrize("size", [(5, 16, 16), (4, 20, 37)])
def test_spectral_convolution(size):
    conv = nn.Conv3d(3, 2, 7, padding=3)
    spectral = SpectralConv3d(conv)
    for batch in (1, 2):
        x = torch.randn(batch, 3, *size)
        torch.testing.assert_close(spectral(x), conv(x), **CLOSE)


@pytest.mark.parametrize("size", [(8, 12), (16, 16), (7, 8)])
def test_winograd_convolution(size):
    conv = nn.Conv2d(20, 24, 3, padding=1)
    x = torch.randn(2, 20, *size)
    torch.testing.assert_close(WinogradConv(conv)(x), conv(x), **CLOSE)


@pytest.mark.parametrize("size", [(3, 8, 12), (1, 16, 4), (2, 6, 8)])
def test_winograd_convolution_of_volumes(size):
    conv = nn.Conv3d(20, 24, 3, padding=1)
    x = torch.randn(2, 20, *size)
    torch.testing.assert_close(WinogradConv(conv)(x), conv(x), **CLOSE)


def test_winograd_is_for_wide_convolutions_of_this_kind():
    assert winograd_pays(nn.Conv2d(128, 128, 3, padding=1))
    assert winograd_pays(nn.Conv3d(110, 64, 3, padding=1))
    for other in (
        nn.Conv3d(512, 256, 3, padding=1),
        nn.Conv2d(128, 64, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=1).bfloat16(),
        nn.Conv2d(128, 128, 3, padding=1, device="meta"),
    ):
        assert not winograd_pays(other)


def test_shifted_volumes_are_the_volume_warped_by_shifts():
    volume = torch.randn(2, 3, 4, 6, 5)
    target, source = (torch.rand(2, 7, 3) * 3 - 1.5 for _ in range(2))
    wanted = warp_by_each(volume, sparse_motions(target, source, volume.shape[2:]))
    shifts = F.pad(source - target, (0, 0, 1, 0))
    torch.testing.assert_close(shifted_volumes(volume, shifts), wanted, **CLOSE)


def test_fast_decoder_equals_the_plain_one():
    decoder = lively(SpadeDecoder(TINY.decoder))
    features = torch.randn(2, TINY.decoder.map_channels, 6, 10)
    picture = decoder(features)
    assert picture.std() > 0.05
    torch.testing.assert_close(FastDecoder(deepcopy(decoder))(features), picture, **CLOSE)


def test_fast_warping_equals_the_plain_one():
    network = lively(WarpingNetwork(TINY.warping))
    volume = torch.randn(1, 4, 4, 16, 24)
    source, target = (torch.rand(n, 21, 3) * 2 - 1 for n in (1, 3))
    wanted = network(volume.expand(3, -1, -1, -1, -1), target, source.expand(3, -1, -1))
    fast = FastWarping(deepcopy(network))
    given = fast(fast.prepare(volume, source), target)
    torch.testing.assert_close(given.features, wanted.features, **CLOSE)
    torch.testing.assert_close(given.motion.flow, wanted.motion.flow, **CLOSE)
    torch.testing.assert_close(given.motion.occlusion, wanted.motion.occlusion, **CLOSE)


def test_the_plain_transcription_meets_the_recorded_numbers():
    """What the speed of our networks is measured against must itself be right."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "benchmarks" / "reference" / "moda_renderer.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    recorded = {
        n: read_fixture(ROOT / f"tests/parity/moda/{n}.safetensors") for n in ("warping_network", "spade_decoder")
    }
    warping, decoder = recorded["warping_network"], recorded["spade_decoder"]
    inputs = [warping.inputs[name] for name in ("feature", "kp_driving", "kp_source")]
    close = {"rtol": TOLERANCE, "atol": TOLERANCE}
    torch.testing.assert_close(reference.warp(warping.weights, *inputs), warping.outputs["out"], **close)
    picture = reference.decode(decoder.weights, decoder.inputs["feature"])
    torch.testing.assert_close(picture, decoder.outputs["image"], **close)
