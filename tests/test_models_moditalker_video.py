"""MToV's own promises; the published numbers are in test_parity.py."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loquent.errors import ControlsError, VideoError, WeightsError
from loquent.models.moditalker import (
    AutoencoderConfig,
    LatentUNet,
    PatchDiscriminator,
    TriplaneAutoencoder,
    UNetConfig,
    VideoSampler,
    VideoSettings,
    get_autoencoder_preset,
    get_unet_preset,
)
from loquent.models.moditalker.autoencoder import freeze_decoder, space_rotation, split_planes
from loquent.models.moditalker.config import AUTOENCODER_PRESETS, UNET_PRESETS
from loquent.models.moditalker.unet import PositionAttention
from loquent.models.moditalker.video_sampling import Conditions, LatentSampler, guided, kept_timesteps
from loquent.models.moditalker.weights import load_published_unet, unet_names
from loquent.training.moditalker_losses import Discriminators, autoencoder_losses, discriminator_loss

FOLDER = Path(__file__).parent / "parity" / "moditalker"
TINY, TINY_UNET = get_autoencoder_preset("tiny"), get_unet_preset("tiny")
SIDE, LENGTH = TINY.side, TINY.latent_length


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def clips(batch: int, seed: int = 0) -> torch.Tensor:
    return random_tensor(batch, 3, TINY.num_frames, TINY.size_px, TINY.size_px, seed=seed)


def conditions(batch: int) -> Conditions:
    return Conditions(*(random_tensor(batch, 2, n, seed=n + 1) for n in (LENGTH, LENGTH, SIDE * SIDE)))


@pytest.fixture(scope="module")
def autoencoder() -> TriplaneAutoencoder:
    torch.manual_seed(0)
    return TriplaneAutoencoder(TINY).eval()


@pytest.fixture(scope="module")
def unet() -> LatentUNet:
    """With weights where training starts from zero."""
    torch.manual_seed(0)
    network = LatentUNet(TINY_UNET).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


# Autoencoder


@torch.no_grad()
def test_a_clip_alone_gives_what_it_gives_in_a_batch(autoencoder):
    both = autoencoder.encode(clips(2))
    assert both.shape == (2, TINY.latent_dim, LENGTH)
    assert both.abs().max() < 1
    torch.testing.assert_close(autoencoder.encode(clips(2)[1:]), both[1:], rtol=1e-4, atol=1e-5)
    assert autoencoder.decode(both).shape == clips(2).shape
    torch.testing.assert_close(autoencoder.decode(both)[:1], autoencoder.decode(both[:1]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_planes_spread_along_the_axis_they_lack(autoencoder):
    still = torch.zeros(1, TINY.latent_dim, LENGTH)
    for position, where in (
        (1 * SIDE + 2, (slice(None), 1, 2)),  # xy: row 1, column 2
        (SIDE * SIDE + 3 * SIDE + 2, (3, slice(None), 2)),  # yt: frame 3, column 2
        (SIDE * SIDE + (TINY.num_frames + 3) * SIDE + 1, (3, 1, slice(None))),  # xt: frame 3, row 1
    ):
        moved = still.clone()
        moved[..., position] = 1
        change = (autoencoder.volume(moved) - autoencoder.volume(still))[0].abs().sum(0)  # (T, S, S)
        assert change[where].min() > 0
        change[where] = 0
        assert change.max() < 1e-6


def test_latents_come_apart_into_planes():
    latent = torch.arange(LENGTH).expand(1, 1, -1)
    xy, yt, xt = split_planes(latent, SIDE)
    assert (xy.shape[2:], yt.shape[2:], xt.shape[2:]) == ((SIDE, SIDE), (4, SIDE), (4, SIDE))
    assert torch.cat([plane.flatten(2) for plane in (xy, yt, xt)], dim=2).equal(latent)


def test_positions_in_space_keep_lengths():
    x = random_tensor(2, 9, 3, 8)
    torch.testing.assert_close(space_rotation(3, 8, x.device)(x).norm(dim=-1), x.norm(dim=-1))


def test_every_weight_of_the_autoencoder_learns_unless_frozen():
    torch.manual_seed(0)
    network = TriplaneAutoencoder(TINY)
    network(clips(1)).square().mean().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    freeze_decoder(network)
    frozen = {name.split(".")[0] for name, weight in network.named_parameters() if not weight.requires_grad}
    assert frozen == {"decoder"}


def test_clips_of_another_size_are_errors(autoencoder):
    with pytest.raises(VideoError, match=r"\(3, 4, 16, 8\); this autoencoder wants \(3, 4, 16, 16\)"):
        autoencoder.encode(clips(1)[..., :8])


# Denoiser


@torch.no_grad()
def test_noise_of_a_clip_alone_is_that_in_a_batch(unet):
    x, timestep, told = random_tensor(2, 2, LENGTH), torch.tensor([10, 900]), conditions(2)
    both = unet(x, timestep, *told)
    assert both.shape == x.shape
    alone = unet(x[1:], timestep[1:], *(latent[1:] for latent in told))
    torch.testing.assert_close(alone, both[1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_planes_and_conditions_reach_each_other(unet):
    x, timestep, told = random_tensor(1, 2, LENGTH), torch.tensor([10]), conditions(1)
    calm = unet(x, timestep, *told)
    x_moved = x.clone()
    x_moved[..., -1] += 1  # xt
    assert (unet(x_moved, timestep, *told) - calm)[..., : SIDE * SIDE].abs().max() > 1e-5  # xy
    for index in range(3):
        moved = [latent + (place == index) for place, latent in enumerate(told)]
        assert (unet(x, timestep, *moved) - calm).abs().max() > 1e-5


def test_every_weight_of_the_denoiser_takes_part(unet):
    unet(random_tensor(1, 2, LENGTH), torch.tensor([10]), *conditions(1)).square().mean().backward()
    assert [name for name, weight in unet.named_parameters() if weight.grad is None] == []
    unet.zero_grad()


def test_attention_starts_as_no_change():
    x = random_tensor(1, 32, 5)
    torch.testing.assert_close(PositionAttention(32, 4)(x), x)


@pytest.mark.parametrize(("file", "preset"), [("mtov_unet", "published"), ("mtov_unet_longvid", "published-longvid")])
def test_number_of_parameters_is_published_less_those_never_used(file, preset):
    recorded = json.loads((FOLDER / f"{file}.keys.json").read_text())
    with torch.device("meta"):
        network = LatentUNet(get_unet_preset(preset))
    ours = sum(weight.numel() for weight in network.parameters())
    assert ours + recorded["parameters_never_used_in_forward"] == recorded["parameters"]


def test_number_of_parameters_of_the_autoencoder_is_published():
    recorded = json.loads((FOLDER / "landmark_autoencoder.keys.json").read_text())
    with torch.device("meta"):
        network = TriplaneAutoencoder(get_autoencoder_preset("published"))
    assert sum(weight.numel() for weight in network.parameters()) == recorded["parameters"]


def test_published_names_that_matter_must_be_there(unet):
    state = {name: torch.zeros(1) for name, ours in unet_names(unet).items() if ours is not None}
    del state["diffusion_model.out.2.bias"]
    with pytest.raises(WeightsError, match=r"mtov\.pt does not hold .*missing \['diffusion_model\.out\.2\.bias'\]"):
        load_published_unet(unet, state, "mtov.pt")


# Sampling


def test_published_walks():
    assert kept_timesteps(100, 1, 1000) == list(range(9, 1000, 10))
    assert kept_timesteps(100, 0.25, 1000) == list(range(9, 250, 10))
    with pytest.raises(ControlsError, match="1 steps at strength 0"):
        kept_timesteps(1, 0, 1000)
    with pytest.raises(ControlsError, match=r"strength is 1\.5"):
        VideoSettings(strength=1.5)


def test_a_walk_may_start_at_the_still_portrait():
    sampler = LatentSampler(VideoSettings(strength=0.001))
    still, noise = torch.full((1, 2, 4), 0.5), torch.ones(1, 2, 4)
    torch.testing.assert_close(sampler.start(still, noise), still, rtol=0, atol=0.07)
    assert LatentSampler(VideoSettings()).start(still, noise) is noise


@torch.no_grad()
def test_guidance_goes_from_no_conditions_beyond_all(unet):
    x, timestep, told = random_tensor(2, 2, LENGTH), torch.tensor([10, 20]), conditions(2)
    with_all = unet(x, timestep, *told)
    with_none = unet(x, timestep, *(torch.zeros_like(latent) for latent in told))
    torch.testing.assert_close(guided(unet, told, 1)(x, timestep), with_all)
    wanted = with_none + 3 * (with_all - with_none)
    torch.testing.assert_close(guided(unet, told, 3)(x, timestep), wanted, rtol=1e-3, atol=1e-4)


def test_guidance_of_weights_that_always_had_conditions_is_an_error():
    with torch.device("meta"):
        network = LatentUNet(replace(TINY_UNET, condition_dropout=0.0))
    with pytest.raises(ControlsError, match="guidance is 2, but these weights were trained with all conditions"):
        guided(network, conditions(1), 2)


def test_conditions_are_dropped_sample_by_sample():
    dropped = conditions(2).dropped(torch.tensor([True, False]))
    for kept, whole in zip(dropped, conditions(2), strict=True):
        assert kept[0].equal(whole[0])
        assert not kept[1].any()


def noise_source():
    random = torch.Generator().manual_seed(3)
    return lambda: torch.randn(TINY.latent_dim, LENGTH, generator=random)


def frames(count: int, seed: int = 0) -> torch.Tensor:
    return random_tensor(count, 3, TINY.size_px, TINY.size_px, seed=seed)


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (1, VideoSettings(steps=1, overlap=1)),
        (4, VideoSettings(steps=2, overlap=1)),
        (9, VideoSettings(steps=2, overlap=0, reference="last", strength=0.5)),
        (7, VideoSettings(steps=2, overlap=2, guidance=2)),
    ],
)
def test_video_is_as_long_as_landmarks(autoencoder, unet, count, settings):
    sampler = VideoSampler(autoencoder, autoencoder, unet, settings)
    portrait = frames(1)[0]
    whole, blocks = (
        torch.cat(list(sampler.sample(parts, portrait=portrait, pose=portrait, draw_noise=noise_source())))
        for parts in ([frames(count)], frames(count).split(2))
    )
    assert whole.shape == (count, 3, TINY.size_px, TINY.size_px)
    assert whole.abs().max() <= 1
    torch.testing.assert_close(whole, blocks)


def test_driving_frames_go_with_landmarks(autoencoder, unet):
    sampler = VideoSampler(autoencoder, autoencoder, unet, VideoSettings(steps=1, overlap=1))

    def video(pose: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        pieces = sampler.sample([frames(9)], portrait=frames(1)[0], pose=pose, draw_noise=noise_source())
        return torch.cat(list(pieces))

    pose = frames(1, seed=5)
    torch.testing.assert_close(video(pose[0]), video(list(itertools.repeat(pose, 9))))
    assert (video([frames(9, seed=5)]) - video(pose[0])).abs().max() > 1e-6
    for wrong in (8, 10, 20):
        with pytest.raises(VideoError, match="differ in number"):
            video([frames(wrong)])


def test_networks_of_different_trainings_are_errors(autoencoder, unet):
    with torch.device("meta"):
        other = TriplaneAutoencoder(replace(TINY, patch_px=8))
    with pytest.raises(WeightsError, match=r"\(2, 4, 4\) in the autoencoder of pictures and \(2, 2, 4\)"):
        VideoSampler(autoencoder, other, unet, VideoSettings())
    with pytest.raises(ControlsError, match="windows of 4 frames cannot overlap by 4; choose 0 to 2"):
        VideoSampler(autoencoder, autoencoder, unet, VideoSettings(overlap=4))


# Training


def test_a_perfect_clip_costs_nothing_but_what_judges_say():
    torch.manual_seed(0)
    judges = Discriminators(PatchDiscriminator(2, 4).eval(), PatchDiscriminator(3, 4).eval())
    real, index = clips(2), torch.tensor([0, 3])
    terms = autoencoder_losses(real, real.clone(), index, judges, lambda a, b: (a - b).abs().mean())
    assert terms["reconstruction"] == terms["features"] == terms["perceptual"] == 0
    assert terms["adversarial"] != 0
    assert set(autoencoder_losses(real, real, index, None, None)) == {"reconstruction"}
    made = real.clone().requires_grad_()
    assert discriminator_loss(real, made, index, judges).requires_grad
    assert made.grad is None


# Sizes


def test_presets_fit_together(tmp_path):
    for config in (*AUTOENCODER_PRESETS.values(), *UNET_PRESETS.values()):
        config.save(tmp_path / "config.json")
        assert type(config).load(tmp_path / "config.json") == config
    for name in ("published", "starter", "tiny"):
        assert get_autoencoder_preset(name).planes == get_unet_preset(name).planes
    assert get_autoencoder_preset("published").latent_length == 2048


def test_sizes_that_cannot_be_are_errors():
    with pytest.raises(WeightsError, match="size_px is 20; it must be a multiple of patch_px"):
        AutoencoderConfig(size_px=20)
    with pytest.raises(WeightsError, match="head_dim is 6"):
        AutoencoderConfig(head_dim=6)
    with pytest.raises(WeightsError, match="dim is 48; it must be a multiple of 32"):
        UNetConfig(dim=48)
    with pytest.raises(WeightsError, match="cannot be halved 5 times; give multiples of 32"):
        UNetConfig(multipliers=(1,) * 6)
    with pytest.raises(WeightsError, match="unknown preset 'huge'"):
        get_autoencoder_preset("huge")
    with pytest.raises(WeightsError, match="unknown preset 'huge'"):
        get_unet_preset("huge")
