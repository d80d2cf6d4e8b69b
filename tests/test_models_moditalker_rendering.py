"""The moved photo, the painter over it, and the renderer that joins windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from loquent.errors import MotionError, VideoError, WeightsError
from loquent.models.moditalker import LatentUNet, TriplaneAutoencoder, get_autoencoder_preset, get_unet_preset
from loquent.models.moditalker import landmarks as space
from loquent.models.moditalker.config import GUIDE_CHANNELS
from loquent.models.moditalker.moved_photo import MOUTH_CHANNELS, MovedPhoto, WeightReader, mouth_corners, to_crop
from loquent.models.moditalker.painter import Paint, tokens_of_boxes
from loquent.models.moditalker.rendering import (
    MOTION_DIM,
    MOTION_SPACE,
    BoxPaint,
    VideoNetworks,
    VideoRenderer,
    _join,
    in_tone,
)
from loquent.pipeline import average_portrait
from loquent.systems import WEIGHTS_DIR
from loquent.training.moditalker_video_data import NEAR
from loquent.types import ARKIT_INDEX, Face, MotionCodes, Photo, Portrait

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
    pictures, dots = TriplaneAutoencoder(PAINTER), TriplaneAutoencoder(get_autoencoder_preset("tiny-landmark"))
    return VideoNetworks(pictures.eval(), dots.eval(), LatentUNet(get_unet_preset("tiny-painter")).eval())


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
    moved = (layers.upper, layers.lower, layers.teeth)
    for layer in (layers.base[top:bottom, left:right], *(part[..., :3] for part in moved)):
        assert np.abs(layer.astype(int) - face)[8:-8, 8:-8].max() <= 3


def _seen(photo: MovedPhoto, canonical: np.ndarray, rotation: np.ndarray = AT_REST, size: int = 128) -> np.ndarray:
    (layers,) = photo.draw(canonical, rotation, AT_REST)
    points = to_crop(photo.landmarks_px(canonical, rotation, AT_REST), photo.crop_to_photo(size))
    return photo.mouth(layers, tuple(mouth_corners(points / size)[0]), size)


def test_lips_part_in_their_own_layers(photo: MovedPhoto):
    opened = photo.canonical[None].copy()
    opened[:, [7, 8, 9, 55, 56, 57, 58, 59, 65, 66, 67], 1] -= 0.2
    seen = [_seen(photo, canonical) for canonical in (photo.canonical[None], opened)]
    assert seen[0].shape == (56, 64, MOUTH_CHANNELS)
    gaps = [((s[..., 3] < 100) & (s[..., 7] < 100) & (s[..., NEAR] > 200)).sum() for s in seen]
    assert gaps[1] > gaps[0] + 30


def test_rows_of_teeth_stay_in_the_skull_and_on_the_jaw(photo: MovedPhoto):
    """Places on the lower row go down with the chin, those on the upper stay; both turn with the head."""
    opened = photo.canonical[None] + 0
    shape = photo.shape
    expression = shape.rest_expression.copy()
    expression[ARKIT_INDEX["jawOpen"]] += 0.5
    opened = space.canonical_of_expression(shape, expression[None])
    (shut,), (wide,) = (list(photo.draw(c, AT_REST, AT_REST)) for c in (photo.canonical[None], opened))
    corner = (8, 4)
    at_rest, jaw_down = (photo.mouth(layers, corner, 128)[..., 13:].astype(int) for layers in (shut, wide))
    assert np.abs(at_rest[..., :2] - jaw_down[..., :2]).max() <= 2
    assert (at_rest[20:30, 24:40, 3] - jaw_down[20:30, 24:40, 3]).min() > 20
    (turned,) = photo.draw(photo.canonical[None], np.array([[0, 0.3, 0]]), AT_REST)
    assert (photo.mouth(turned, corner, 128)[20:30, 24:40, 13].astype(int) - at_rest[20:30, 24:40, 0]).mean() != 0


def test_eyes_close_and_turn_in_the_base(photo: MovedPhoto):
    expression = photo.shape.rest_expression[None].copy()
    expression[:, [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]] = 1
    closed = space.canonical_of_expression(photo.shape, expression)
    np.testing.assert_allclose(WeightReader(photo.shape)(closed), expression, atol=0.08)
    gaze = np.zeros((1, 2, 2))
    gaze[..., 1] = 0.3
    (rest,) = photo.draw(photo.canonical[None], AT_REST, AT_REST)
    (blink,) = photo.draw(closed, AT_REST, AT_REST)
    (aside,) = photo.draw(photo.canonical[None], AT_REST, AT_REST, gaze)
    left, right = photo.landmarks_px(photo.canonical[None], AT_REST, AT_REST)[0, [36, 39]].round().astype(int)
    eye = slice(min(left[1], right[1]) - 4, max(left[1], right[1]) + 4), slice(left[0], right[0])
    for moved in (blink, aside):
        assert np.abs(moved.base[eye].astype(int) - rest.base[eye]).max() > 5
    np.testing.assert_array_equal(aside.upper, rest.upper)


@torch.no_grad()
def test_the_painter_leaves_what_is_far_from_the_mouth():
    network = TriplaneAutoencoder(PAINTER)
    guide = torch.rand(4, GUIDE_CHANNELS, 28, 32) * 2 - 1
    guide[:2, 11] = -1
    guide[2:, 11] = 1
    tokens = network.decode_tokens(torch.rand(1, PAINTER.latent_dim, PAINTER.latent_length))[0]
    paint = network.paint(tokens, guide, torch.tensor([[0, 0], [3, 4], [9, 8], [5, 5]]))
    torch.testing.assert_close(paint.shares.sum(1), torch.ones(4, 28, 32))
    frames = paint.over(guide)
    torch.testing.assert_close(frames[:2], guide[:2, :3])
    assert (frames[2:] - guide[2:, :3]).abs().mean() > 0.01


@torch.no_grad()
def test_textures_are_read_where_the_guide_places_them():
    painter = TriplaneAutoencoder(PAINTER).painter
    painter.textures[0, 0, :, :72] = 1  # one half of the upper row
    painter.textures[1, 1, 28:] = 1  # what is low of the lower row
    guide = torch.zeros(1, GUIDE_CHANNELS, 28, 32)
    guide[:, 16] = torch.linspace(-1, 1, 32)
    guide[:, 19] = torch.linspace(-1, 1, 28)[:, None]
    upper, lower = painter.read_textures(guide)
    assert upper[0, 0, :, :15].min() == 1 == lower[0, 1, 15:].min()
    assert upper[0, 0, :, 17:].max() == 0 == lower[0, 1, :13].max()


def test_boxes_of_tokens_begin_where_their_corners_say():
    tokens = torch.arange(64.0).view(1, 8, 8, 1).expand(2, -1, -1, -1)
    boxes = tokens_of_boxes(tokens, torch.tensor([[0, 0], [2, 5]]), (2, 3))
    assert boxes[..., 0].tolist() == [[[0, 1, 2], [8, 9, 10]], [[21, 22, 23], [29, 30, 31]]]


def test_a_painter_needs_the_photo():
    with pytest.raises(VideoError, match="use paint and give it the photo"):
        TriplaneAutoencoder(PAINTER).decode(torch.zeros(1, PAINTER.latent_dim, PAINTER.latent_length))
    with pytest.raises(WeightsError, match="multiple of 16"):
        replace(PAINTER, size_px=96)


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
    first, again = (np.stack(list(VideoRenderer(networks, portrait, seed=3).render(_motion(6)))) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_windows_continue_what_was_painted():
    last = BoxPaint([3, 3], Paint(torch.full((5, 4, 4), 0.2), torch.full((3, 4, 4), 0.5)))
    made = [BoxPaint([3, 3], Paint(torch.full((5, 4, 4), 0.2), torch.full((3, 4, 4), 0.2))) for _ in range(8)]
    values = [float(box.paint.colour[0, 0, 0]) for box in _join(last, made, 6, 2)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.2 + 0.3 * 5 / 6)
    assert values[-1] == pytest.approx(0.2)


def test_what_is_carried_over_stays_in_its_place_when_the_box_moves():
    """One bright pixel of the last frame is two rows higher in a box that begins a cell of two rows lower."""
    colour = torch.zeros(3, 4, 4)
    colour[:, 3, 1] = 0.6
    shares = torch.full((5, 4, 4), 0.2)
    plain = Paint(shares, torch.zeros(3, 4, 4))
    (joined,) = _join(BoxPaint([3, 3], Paint(shares, colour)), [BoxPaint([3, 3], plain), BoxPaint([4, 3], plain)], 6, 2)
    assert joined.paint.colour[0].nonzero().tolist() == [[1, 1]]


def test_motion_of_another_space_is_an_error(networks: VideoNetworks, portrait: Portrait):
    with pytest.raises(MotionError, match="this renderer draws 'moditalker-landmarks' with 214"):
        list(VideoRenderer(networks, portrait).render(MotionCodes(np.zeros((2, 4), np.float32), "other")))


def test_networks_of_different_trainings_are_an_error(networks: VideoNetworks):
    with pytest.raises(WeightsError, match="use networks of one training"):
        VideoNetworks(networks.pictures, networks.dots, LatentUNet(get_unet_preset("starter")))


def test_shipped_weights_draw(portrait: Portrait):
    networks = VideoNetworks.from_pretrained(WEIGHTS_DIR / "moditalker-video")
    assert networks.scale.middle.shape == (8, 768)
    (frame,) = VideoRenderer(networks, portrait).render(_motion(4)[3:])
    assert frame.shape == (128, 128, 3)


def test_a_grey_photo_gets_a_grey_mouth():
    colour = torch.rand(2, 3, 4, 4) * 2 - 1
    grey = in_tone(colour, np.ones(3))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    torch.testing.assert_close(in_tone(grey, np.ones(3)), grey)
    assert (in_tone(colour, np.array([1.2, 1.0, 0.5]))[:, 0] >= in_tone(colour, np.array([1.2, 1.0, 0.5]))[:, 2]).all()


def test_a_wide_open_jaw_does_not_tear_the_chin(photo: MovedPhoto):
    expression = photo.shape.rest_expression[None].copy()
    expression[:, ARKIT_INDEX["jawOpen"]] = 0.9
    (layers,) = photo.draw(space.canonical_of_expression(photo.shape, expression), AT_REST, AT_REST)
    steps = np.abs(np.diff(layers.base.astype(int), axis=0)).max()
    assert steps < 40  # the photo is a slope of one a row
    inside = layers.near > 200
    holes = ~inside & (np.maximum.accumulate(inside, 0) & np.maximum.accumulate(inside[::-1], 0)[::-1])
    assert holes.sum() == 0
