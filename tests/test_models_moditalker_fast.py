"""MToV's networks arranged for inference give what the plain ones give."""

from dataclasses import replace

import pytest
import torch

from loquent.errors import VideoError
from loquent.models.moditalker import LatentUNet, TriplaneAutoencoder, get_autoencoder_preset, get_unet_preset
from loquent.models.moditalker.fast import FastAutoencoder, FastUNet, fast_autoencoder, fast_unet
from loquent.models.moditalker.video_sampling import Conditions, encode_still, guided
from loquent.nn.packed import packing_pays

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
TINY, TINY_UNET = get_autoencoder_preset("tiny"), get_unet_preset("tiny")
# Sequences long enough for attention in parts: 256 places of a frame, 512 and 768 of all planes.
LONG = replace(TINY, size_px=64, num_frames=4, pool_layers=1)
LONG_UNET = replace(TINY_UNET, side=16, num_frames=8)
EQUAL_UNET = replace(LONG_UNET, num_frames=16)  # three planes of one shape
TWO_LEVELS = replace(TINY_UNET, multipliers=(1, 2), num_blocks=2, attention_levels=(0, 1))

pytestmark = pytest.mark.skipif(
    not packing_pays(torch.empty(1)), reason="this torch has no packed layers on the processor"
)


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """With weights where training starts from zero, which would hide mistakes."""
    random = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=random))
    return network.eval().requires_grad_(False)


def latents(config, batch: int) -> list[torch.Tensor]:
    """Noisy latent and conditions."""
    length = config.side**2 + 2 * config.side * config.num_frames
    sizes = (length, length, length, config.side**2)
    return [random_tensor(batch, config.latent_dim, size, seed=seed) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "config",
    [TINY_UNET, LONG_UNET, EQUAL_UNET, TWO_LEVELS],
    ids=["tiny", "planes of two shapes", "planes of one shape", "two levels"],
)
def test_the_denoiser(config):
    torch.manual_seed(0)
    network = moved(LatentUNet(config))
    x, *told = latents(config, 2)
    timestep = torch.tensor([3, 900])
    torch.testing.assert_close(FastUNet(network)(x, timestep, *told), network(x, timestep, *told), **CLOSE)


def test_guidance_of_the_denoiser():
    torch.manual_seed(0)
    network = moved(LatentUNet(TINY_UNET))
    x, *told = latents(TINY_UNET, 1)
    wanted, given = (
        guided(unet, Conditions(*told), 2.0)(x, torch.tensor([500])) for unet in (network, fast_unet(network))
    )
    torch.testing.assert_close(given, wanted, **CLOSE)


@pytest.mark.parametrize("config", [TINY, LONG], ids=["tiny", "long"])
def test_the_autoencoder(config):
    torch.manual_seed(0)
    network = moved(TriplaneAutoencoder(config))
    fast = FastAutoencoder(network)
    clips = random_tensor(2, 3, config.num_frames, config.size_px, config.size_px)
    latent = network.encode(clips)
    torch.testing.assert_close(fast.encode(clips), latent, **CLOSE)
    torch.testing.assert_close(fast.decode_tokens(latent), network.decode_tokens(latent), **CLOSE)
    torch.testing.assert_close(fast.decode(latent), network.decode(latent), **CLOSE)


def test_a_clip_that_stands_still():
    torch.manual_seed(0)
    network = moved(TriplaneAutoencoder(TINY))
    frame = random_tensor(3, TINY.size_px, TINY.size_px)
    torch.testing.assert_close(encode_still(fast_autoencoder(network), frame), encode_still(network, frame), **CLOSE)


def test_clips_of_another_size_are_errors():
    fast = FastAutoencoder(TriplaneAutoencoder(TINY))
    with pytest.raises(VideoError, match="this autoencoder wants"):
        fast.encode(random_tensor(1, 3, TINY.num_frames, 8, 16))
    with pytest.raises(VideoError, match="this autoencoder wants"):
        fast.encode_still(random_tensor(3, 8, 16))


def test_other_precisions_stay_as_they_are():
    unet, autoencoder = LatentUNet(TINY_UNET).double(), TriplaneAutoencoder(TINY).bfloat16()
    assert fast_unet(unet) is unet
    assert fast_autoencoder(autoencoder) is autoencoder
