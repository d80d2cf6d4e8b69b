"""The moved photo, the painter over it, and the renderer that joins windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loquent.errors import MotionError, VideoError, WeightsError
from loquent.models.moditalker import LatentUNet, TriplaneAutoencoder, get_autoencoder_preset, get_unet_preset
from loquent.models.moditalker.moved_photo import GUIDE_CHANNELS, MovedPhoto, crop_guide
from loquent.models.moditalker.painter import Guide, Paint
from loquent.models.moditalker.rendering import MOTION_DIM, MOTION_SPACE, VideoNetworks, VideoRenderer, _join
from loquent.pipeline import average_portrait
from loquent.systems import WEIGHTS_DIR
from loquent.types import Face, MotionCodes, Photo, Portrait

PAINTER = get_autoencoder_preset("tiny-painter")
AT_REST = np.zeros((1, 3))


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    plain = average_portrait(128)
    rows, columns = np.mgrid[:128, :128]
    pixels = np.stack([rows + 60, columns + 60, 255 - rows], -1).astype(np.uint8)
    return Portrait(Photo(pixels), Face(plain.face.landmarks), plain.rest_expression, plain.pose_rad)


@pytest.fixture(scope="module")
def photo(portrait: Portrait) -> MovedPhoto:
    return MovedPhoto(portrait.photo.pixels, portrait.face.landmarks)


@pytest.fixture(scope="module")
def networks() -> VideoNetworks:
    torch.manual_seed(0)
    pictures, dots = TriplaneAutoencoder(PAINTER), TriplaneAutoencoder(get_autoencoder_preset("tiny"))
    return VideoNetworks(pictures.eval(), dots.eval(), LatentUNet(get_unet_preset("tiny")).eval())


def _motion(num_frames: int) -> MotionCodes:
    values = np.zeros((num_frames, MOTION_DIM), np.float32)
    opening = 0.15 * np.sin(np.arange(num_frames) / 3) ** 2
    for landmark in (7, 8, 9, 56, 57, 58, 65, 66, 67):
        values[:, 3 * landmark + 1] = -opening
    values[:, 205] = 0.1 * np.sin(np.arange(num_frames) / 7)
    return MotionCodes(values, MOTION_SPACE)


def test_at_rest_every_layer_is_the_photo(photo: MovedPhoto):
    (layers,) = photo.draw(photo.canonical[None], AT_REST, AT_REST)
    left, top, right, bottom = photo.face_box
    face = photo.pixels[top:bottom, left:right].astype(int)
    for layer in (layers.base[top:bottom, left:right], layers.upper[..., :3], layers.lower[..., :3]):
        assert np.abs(layer.astype(int) - face)[8:-8, 8:-8].max() <= 3


def test_lips_part_in_their_own_layers(photo: MovedPhoto):
    opened = photo.canonical[None].copy()
    opened[:, [7, 8, 9, 55, 56, 57, 58, 59, 65, 66, 67], 1] -= 0.2
    guides = []
    for canonical in (photo.canonical[None], opened):
        (layers,) = photo.draw(canonical, AT_REST, AT_REST)
        guides.append(crop_guide(layers, photo.face_box, photo.crop_to_photo(128), 128))
    assert guides[0].shape == (128, 128, GUIDE_CHANNELS)
    gaps = [((g[..., 6] < 100) & (g[..., 10] < 100) & (g[..., 11] > 200))[70:].sum() for g in guides]
    assert gaps[1] > gaps[0] + 30


@torch.no_grad()
def test_the_painter_leaves_what_is_far_from_openings():
    network = TriplaneAutoencoder(PAINTER)
    guide = torch.rand(2, GUIDE_CHANNELS, 4, 16, 16) * 2 - 1
    guide[:, 11] = -1
    guide[0, 11, :, :8] = 1
    latent = torch.rand(2, PAINTER.latent_dim, PAINTER.latent_length)
    frames = network.decode(latent, guide)
    torch.testing.assert_close(frames[1], guide[1, :3])
    torch.testing.assert_close(frames[0, :, :, 8:], guide[0, :3, :, 8:])
    assert (frames[0, :, :, :8] - guide[0, :3, :, :8]).abs().mean() > 0.01
    flat = guide.transpose(1, 2).flatten(0, 1)
    paint = network.painter.paint(torch.zeros(2, 4, 4, 4, PAINTER.channels), flat)
    torch.testing.assert_close(paint.shares.sum(1), torch.ones(8, 16, 16))
    assert Guide.of(flat).near.equal(flat[:, 11:])


def test_a_guide_is_wanted_or_refused():
    latent = torch.zeros(1, PAINTER.latent_dim, PAINTER.latent_length)
    with pytest.raises(VideoError, match="give it as guide"):
        TriplaneAutoencoder(PAINTER).decode(latent)
    with pytest.raises(VideoError, match="leave out the guide"):
        TriplaneAutoencoder(get_autoencoder_preset("tiny")).decode(latent, torch.zeros(1, GUIDE_CHANNELS, 4, 16, 16))


@pytest.mark.parametrize("lengths", [(1, 1, 5), (20,), (3, 17)])
def test_renderer_gives_a_frame_for_every_row(networks: VideoNetworks, portrait: Portrait, lengths: tuple[int, ...]):
    renderer = VideoRenderer(networks, portrait)
    motion, start = _motion(sum(lengths)), 0
    for length in lengths:
        frames = list(renderer.render(motion[start : start + length]))
        assert len(frames) == length
        assert {frame.shape for frame in frames} == {(128, 128, 3)}
        start += length


def test_the_same_seed_gives_the_same_frames(networks: VideoNetworks, portrait: Portrait):
    videos = [np.stack(list(VideoRenderer(networks, portrait, seed=3).render(_motion(6)))) for _ in range(2)]
    np.testing.assert_array_equal(*videos)


def test_windows_continue_what_was_painted():
    last = Paint(torch.full((4, 2, 2), 0.25), torch.full((3, 2, 2), 0.5))
    made = [Paint(torch.full((4, 2, 2), 0.25), torch.full((3, 2, 2), 0.2)) for _ in range(8)]
    values = [float(paint.colour[0, 0, 0]) for paint in _join(last, made, 6)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.2 + 0.3 * 5 / 6)
    assert values[-1] == pytest.approx(0.2)


def test_motion_of_another_space_is_an_error(networks: VideoNetworks, portrait: Portrait):
    with pytest.raises(MotionError, match="this renderer draws 'moditalker-landmarks' with 210"):
        list(VideoRenderer(networks, portrait).render(MotionCodes(np.zeros((2, 4), np.float32), "other")))


def test_networks_of_different_trainings_are_an_error(networks: VideoNetworks):
    with pytest.raises(WeightsError, match="use networks of one training"):
        VideoNetworks(networks.pictures, networks.dots, LatentUNet(get_unet_preset("starter")))


def test_shipped_weights_draw(portrait: Portrait):
    networks = VideoNetworks.from_pretrained(WEIGHTS_DIR / "moditalker-video")
    assert networks.scale.middle.shape == (8, 768)
    (frame,) = VideoRenderer(networks, portrait).render(_motion(4)[3:])
    assert frame.shape == (128, 128, 3)
