import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from loquent.evaluation.fixtures import read_fixture
from loquent.evaluation.parity_ifmdm import autoencoder_config
from loquent.models.ifmdm import (
    Appearance,
    Autoencoder,
    MotionDiffusionTransformer,
    get_autoencoder_preset,
    get_motion_preset,
)
from loquent.models.ifmdm.decoder import identity_grid
from loquent.models.ifmdm.drawing import FeatureTable, PortraitDrawer
from loquent.models.ifmdm.weights import load_published_autoencoder

TINY = get_autoencoder_preset("tiny")
REFERENCE = Path(__file__).parents[1] / "benchmarks" / "reference" / "ifmdm.py"
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(TINY).eval()
    for weight in network.parameters():  # biases start at zero
        weight.data.add_(0.1 * torch.randn_like(weight))
    return network


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("plain_ifmdm", REFERENCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def smooth_picture() -> torch.Tensor:
    small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return F.interpolate(small, size=32, mode="bicubic")


def motions(count: int) -> torch.Tensor:
    return torch.rand(count, TINY.motion_dim, generator=torch.Generator().manual_seed(2)) - 0.5


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("refine", [True, False])
@torch.no_grad()
def test_drawn_pictures_are_the_decoders(network, count, refine):
    drawer = PortraitDrawer(network)
    appearance = network.encode(smooth_picture())
    maps = [features.expand(count, -1, -1, -1) for features in appearance.features]
    repeated = Appearance(appearance.vector.expand(count, -1), maps)
    expected = network.decoder(repeated, motions(count), refine=refine)
    drawn = drawer.draw(drawer.prepare(appearance), motions(count), refine=refine)
    torch.testing.assert_close(drawn, expected, **CLOSE)
    torch.testing.assert_close(
        drawer.draw(drawer.read(smooth_picture()), motions(count), refine=refine), drawn, **CLOSE
    )


@pytest.mark.parametrize("reach", [0.0, 0.1, 2.0])
def test_table_warps_as_grid_sample_does(reach):
    torch.manual_seed(0)
    features, mask = torch.randn(1, 5, 16, 16), torch.rand(2, 1, 16, 16)
    flow = reach * (torch.rand(2, 2, 16, 16) * 2 - 1)  # far enough to leave the map on every side
    grid = identity_grid(16) + flow.permute(0, 2, 3, 1)
    expected = mask * F.grid_sample(features.expand(2, -1, -1, -1), grid, align_corners=False)
    torch.testing.assert_close(FeatureTable(features).warp(flow, mask), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_drawn_pictures_are_the_recorded_ones():
    fixture = read_fixture(Path(__file__).parent / "parity" / "ifmdm" / "generator.safetensors")
    network = Autoencoder(autoencoder_config(fixture.config)).eval()
    load_published_autoencoder(network, fixture.weights, "fixture")
    drawer = PortraitDrawer(network)
    for index, (source, motion) in enumerate(
        zip(fixture.inputs["source"], fixture.outputs["motion_drive"], strict=True)
    ):
        drawn = drawer.draw(drawer.read(source[None]), motion[None])
        torch.testing.assert_close(drawn[0], fixture.outputs["single"][index], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_plain_transcription_draws_the_same(network, plain):
    state, image, motion = network.state_dict(), smooth_picture(), motions(2)
    vector, maps = plain.encode(state, TINY, image)
    appearance = network.encode(image)
    torch.testing.assert_close(vector, appearance.vector)
    for given, expected in zip(maps, appearance.features, strict=True):
        torch.testing.assert_close(given, expected)
    for index in range(2):
        given = plain.decode(state, TINY, vector, maps, motion[index : index + 1])
        expected = network.decoder(appearance, motion[index : index + 1], refine=False)
        torch.testing.assert_close(given, expected, **CLOSE)


@torch.no_grad()
def test_plain_transcription_denoises_the_same(plain):
    torch.manual_seed(0)
    config = get_motion_preset("tiny")
    network = MotionDiffusionTransformer(config).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x, timestep = torch.randn(2, config.num_frames, config.motion_dim), torch.tensor([3, 700])
    speech = torch.randn(2, config.num_frames, config.vectors_per_frame, config.audio_dim)
    vectors = [torch.randn(2, config.motion_dim) for _ in range(3)]
    given = plain.denoise(network.state_dict(), config, x, timestep, speech, *vectors)
    for ours, theirs in zip(network(x, timestep, speech, *vectors), given, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
