from dataclasses import replace

import pytest
import torch

from loquent.errors import PhotoError
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset
from loquent.models.ifmdm.drawing import PortraitDrawer
from loquent.models.ifmdm.output import Sketch, compose, shares_of, shrink, warp

TINY = get_autoencoder_preset("tiny-blend")
STILL, WARPED, DRAWN = (torch.tensor(values)[None, :, None, None] for values in ((9.0, 0, 0), (0, 9.0, 0), (0, 0, 9.0)))


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(TINY).eval()
    for weight in network.parameters():  # biases start at zero
        weight.data.mul_(0.5).add_(0.1 * torch.randn_like(weight))
    return network


def photo(size: int, count: int = 1) -> torch.Tensor:
    small = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.nn.functional.interpolate(small, size=size, mode="bicubic")


def sketch(logits: torch.Tensor, offset: float, size: int = 64) -> Sketch:
    planes = torch.zeros(1, 3, size, size)
    offsets = torch.zeros(1, 2, size, size)
    offsets[:, 0] = offset
    return Sketch([], planes + 0.25, planes + logits, offsets, warp(photo(size), offsets))


def test_without_flow_the_photo_comes_back():
    torch.testing.assert_close(warp(photo(64), torch.zeros(1, 2, 64, 64)), photo(64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [64, 128])
def test_a_picture_is_photo_or_warped_photo_or_colour(size):
    step = 2 * 4 / size  # four pixels of the picture to the right, in half pictures
    picture = photo(64) if size == 64 else torch.nn.functional.interpolate(photo(64), size=128, mode="bilinear")
    torch.testing.assert_close(compose(picture, sketch(STILL, step)), picture, rtol=0, atol=0)
    torch.testing.assert_close(compose(picture, sketch(DRAWN, step)), torch.full_like(picture, 0.25))
    moved = compose(picture, sketch(WARPED, step))
    torch.testing.assert_close(moved[..., 8:-8], picture[..., 12:-4], atol=2e-2, rtol=0)


def test_shares_add_up_and_reach_their_ends():
    shares = shares_of(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 8, 8))
    assert (shares >= 0).all()
    assert shares_of(STILL).flatten().tolist() == [1, 0, 0]


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("count", [1, 3])
def test_drawn_pictures_are_the_decoders(network, size, count):
    drawer = PortraitDrawer(network)
    motion = torch.rand(count, TINY.motion_dim, generator=torch.Generator().manual_seed(2)) - 0.5
    picture = photo(size)
    expected = network.decoder(network.encode(picture.expand(count, -1, -1, -1)), motion)
    assert expected.shape == (count, 3, size, size)
    torch.testing.assert_close(drawer.draw(drawer.read(picture), motion), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_codes_do_not_depend_on_the_pictures_size(network):
    large = photo(128)
    torch.testing.assert_close(network.motion_of(large), network.motion_of(shrink(large, 64)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_relative_codes_of_a_portrait_are_zero():
    torch.manual_seed(0)
    network = Autoencoder(replace(TINY, relative=True)).eval()
    first, second = photo(64), photo(64).flip(-1)
    assert not network.own_motion(first).any()
    assert not network.motion_between(first, first).any()
    assert network.motion_between(first, second).any()
    torch.testing.assert_close(network.motion_between(first, second), -network.motion_between(second, first))
    absolute = Autoencoder(TINY).eval()
    torch.testing.assert_close(absolute.motion_between(first, second), absolute.motion_of(second))


def test_a_size_that_does_not_divide_is_an_error(network):
    with pytest.raises(PhotoError, match=r"100 x 100 pixels; give a square whose side is a multiple of 32"):
        network.encode(photo(100))


def test_the_published_networks_have_no_such_stage():
    assert Autoencoder(replace(TINY, output_dim=0)).decoder.output is None
    assert get_autoencoder_preset("published-512").output_dim == 0
    assert get_autoencoder_preset("starter-blend").output_px == 256
