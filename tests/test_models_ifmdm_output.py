"""The output stage: layers of a photo, moved apart and put together."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from loquent.errors import PhotoError
from loquent.face.analyze import analyze
from loquent.face.crop import cut, head_square
from loquent.face.topology import LEFT_EYE_LOWER, LEFT_EYE_UPPER, LIPS_INNER_LOWER, LIPS_INNER_UPPER
from loquent.media.image import read_image
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset
from loquent.models.ifmdm.drawing import PortraitDrawer, to_tensor
from loquent.models.ifmdm.output import MouthSketch, Sketch, compose, enlarge, seen_planes, shares_of, warp
from loquent.models.ifmdm.photo_layers import (
    ALPHA,
    BLUE,
    INSIDE,
    LOWER,
    NEAR,
    SPRITE_HALF,
    UPPER,
    PhotoLayers,
    mark_openings,
    refine,
    shrink,
    take_apart,
)

TINY = get_autoencoder_preset("tiny-blend")
EXAMPLE = Path(__file__).parents[1] / "src/loquent/examples/portrait_a.jpg"
NEVER = -20.0  # a share before the sigmoid


@pytest.fixture(scope="module")
def networks() -> list[Autoencoder]:
    """One whose codes have no known meaning, and one whose codes move landmarks."""
    made = []
    for relative in (False, True):
        torch.manual_seed(0)
        network = Autoencoder(replace(TINY, relative=relative)).eval()
        for weight in network.parameters():  # biases start at zero
            weight.data.mul_(0.5).add_(0.1 * torch.randn_like(weight))
        assert network.decoder.output is not None
        network.decoder.output.displacement.normal_(0, 0.02)
        made.append(network)
    return made


@pytest.fixture(scope="module")
def network(networks) -> Autoencoder:
    return networks[0]


@pytest.fixture(scope="module")
def head():
    """Photo and landmarks of an example by side in pixels."""
    portrait = analyze(read_image(EXAMPLE))
    square = head_square(portrait.face.landmarks)

    def at(size: int) -> tuple[np.ndarray, np.ndarray]:
        landmarks = square.from_photo(portrait.face.landmarks)[:, :2] * size + (size - 1) / 2
        return cut(portrait.photo.pixels, square, size).pixels, landmarks

    return at


@pytest.fixture(scope="module")
def layers(head) -> PhotoLayers:
    return take_apart(*head(128))


def flat(value: float, channels: int, size: int = 32) -> torch.Tensor:
    return torch.full((1, channels, size, size), float(value))


def sketch(upper: torch.Tensor, lower: torch.Tensor, drawn: float = NEVER, own: float = 20.0) -> Sketch:
    """Of moving layers (1, 2, 32, 32), grey colours, a still skull and clear sprites."""
    mouth = MouthSketch(torch.eye(2, 3)[None], torch.zeros(1, 2), torch.zeros(1, 8, 4, 4))
    return Sketch([], flat(0.25, 3), torch.cat([flat(drawn, 1), flat(own, 1)], 1), upper, lower, mouth)


def opened(landmarks: np.ndarray, size: int, down_px: float) -> np.ndarray:
    """The photo's landmarks with the lower lip lowered."""
    moved = landmarks.copy()
    moved[list(LIPS_INNER_LOWER[1:-1]), 1] += down_px
    return moved


def test_layers_put_together_are_the_photo(head, layers):
    still = flat(0, 2)
    mouth = MouthSketch(torch.eye(2, 3)[None], torch.zeros(1, 2), layers.sprites)
    picture = compose(layers, replace(sketch(still, still), mouth=mouth))
    torch.testing.assert_close(picture, to_tensor(head(128)[0]), atol=0.3, rtol=0)
    assert (picture - to_tensor(head(128)[0])).abs().mean() < 0.01
    behind = (layers.planes[:, ALPHA : BLUE + 1].abs() < 1e-3).all(1, keepdim=True)
    torch.testing.assert_close(picture * behind, layers.background * behind, atol=0.02, rtol=0)


def test_drawn_colours_cover_everything_where_asked(layers):
    torch.testing.assert_close(compose(layers, sketch(flat(0, 2), flat(0, 2), drawn=20.0)), flat(0.25, 3, 128))


def test_a_lowered_lower_layer_opens_the_mouth_and_keeps_what_is_above(head, layers):
    landmarks = head(128)[1]
    down = 2 * 6 / 128  # six pixels, in half pictures
    lower = flat(0, 2)
    lower[:, 1] = -down
    picture, before = compose(layers, sketch(flat(0, 2), lower)), compose(layers, sketch(flat(0, 2), flat(0, 2)))
    lip = np.round(landmarks[LIPS_INNER_LOWER[5]]).astype(int)
    gap = picture[0, :, lip[1] + 3, lip[0]]
    torch.testing.assert_close(gap, layers.cavity[0], atol=0.02, rtol=0)
    above = int(landmarks[LIPS_INNER_UPPER[5], 1]) - 3
    nose = slice(above - 8, above), slice(lip[0] - 5, lip[0] + 6)
    torch.testing.assert_close(picture[0, :, *nose], before[0, :, *nose], atol=1e-3, rtol=0)
    chin = slice(lip[1] + 12, lip[1] + 14), slice(lip[0] - 5, lip[0] + 6)
    higher = slice(lip[1] + 6, lip[1] + 8), slice(lip[0] - 5, lip[0] + 6)
    torch.testing.assert_close(picture[0, :, *chin], before[0, :, *higher], atol=2e-2, rtol=0)


def test_an_upper_lid_moved_down_covers_the_eye(head, layers):
    landmarks = head(128)[1]
    top, bottom = (landmarks[points[4]] for points in (LEFT_EYE_UPPER, LEFT_EYE_LOWER))
    upper = flat(0, 2)
    upper[:, 1] = -2 * float(bottom[1] - top[1] + 1) / 128
    open_eye = compose(layers, sketch(flat(0, 2), flat(0, 2)))
    shut = compose(layers, sketch(upper, flat(0, 2)))
    x, y = np.round((top + bottom) / 2).astype(int)
    lid = np.round(top).astype(int)
    moved_by = round(float(bottom[1] - top[1] + 1))
    torch.testing.assert_close(shut[0, :, y, x], open_eye[0, :, y - moved_by, x], atol=0.15, rtol=0)
    assert (shut - open_eye)[0, :, lid[1] : y + 2, x - 2 : x + 3].abs().mean() > 0.05


def test_marks_part_the_photo(head):
    landmarks = head(128)[1]
    wide = mark_openings(opened(landmarks, 128, 8), 128)
    near, upper, lower, inside = wide
    assert ((wide >= 0) & (wide <= 1)).all()
    assert upper[0].min() == 1  # hair
    assert lower[-1, 64] == 1  # chest
    middle = np.round(landmarks[LIPS_INNER_LOWER[5]] + [0, 4]).astype(int)
    assert near[middle[1], middle[0]] == inside[middle[1], middle[0]] == 1
    assert upper[middle[1], middle[0]] == lower[middle[1], middle[0]] == 0
    without = inside < 0.05
    assert np.mean(np.abs(upper + lower - 1)[without] < 0.05) > 0.99
    shut = landmarks.copy()
    line = (landmarks[list(LIPS_INNER_UPPER)] + landmarks[list(LIPS_INNER_LOWER)]) / 2
    shut[list(LIPS_INNER_UPPER)] = shut[list(LIPS_INNER_LOWER)] = line
    assert not mark_openings(shut, 128)[3].any()


def test_layers_may_be_smaller_than_the_photo(layers):
    small = layers.shrunk(64)
    assert small.size == 64
    torch.testing.assert_close(small.planes[:, [NEAR, UPPER, LOWER, INSIDE]].mean(),
                               layers.planes[:, [NEAR, UPPER, LOWER, INSIDE]].mean())  # fmt: skip
    assert small.repeat(3).rows(torch.tensor([2, 0])).background.shape == (2, 3, 64, 64)


def test_finer_layers_keep_the_photos_own_pixels(layers):
    for detail in (1, 2, 3):
        fine = layers.refined(detail)
        assert (fine.size, fine.detail, fine.planes.shape[-1]) == (128, detail, 128 * detail)
        torch.testing.assert_close(fine.own, layers.planes, atol=0, rtol=0)
        weights = fine.planes[:, [NEAR, UPPER, LOWER, INSIDE]]
        assert ((weights >= 0) & (weights <= 1)).all()
        torch.testing.assert_close(seen_planes(fine, 32), seen_planes(layers, 32), atol=0, rtol=0)
        torch.testing.assert_close(fine.shrunk(64).planes, layers.shrunk(64).planes, atol=0, rtol=0)
        torch.testing.assert_close(warp(fine.planes, flat(0, 2, 128)), layers.planes, atol=1e-4, rtol=0)


def test_what_lies_between_pixels_is_finer():
    """Waves as short as four pixels, read anywhere between pixels."""
    place = torch.arange(64.0)
    errors = []
    for detail in (1, 2):
        worst = 0.0
        for step in torch.linspace(0, 1, 9).tolist():
            rows = torch.sin(place * (torch.pi / 2)).expand(1, 1, 64, 64)
            for turned in (rows, rows.mT):
                read = warp(refine(turned, detail), flat(2 * step / 64, 2, 64))
                wanted = torch.sin((place + step) * (torch.pi / 2)).expand(1, 1, 64, 64)
                away = read - (wanted if turned is rows else wanted.mT)
                worst = max(worst, float(away[:, :, 8:-8, 8:-8].abs().max()))
        errors.append(worst)
    assert errors[0] == pytest.approx((2**0.5 - 1) / 2, abs=1e-3)  # halfway: means of neighbours
    assert errors[1] < 0.08


def test_without_flow_the_picture_is_the_photo_to_a_grey_level(head):
    """However fine the layers: outside of the mouth, whose lips are a little apart."""
    pixels, landmarks = head(128)
    layers = take_apart(pixels, landmarks)
    for detail in (1, 2, 3):
        away = (compose(layers.refined(detail), sketch(flat(0, 2), flat(0, 2))) - to_tensor(pixels)).abs() * 127.5
        closed = layers.planes[:, UPPER] + layers.planes[:, LOWER] > 0.999
        assert closed.float().mean() > 0.95
        assert away.amax(1)[closed].max() < 1


def test_finer_layers_draw_the_same_of_a_smooth_photo(head):
    pixels, landmarks = head(128)
    layers = take_apart(cv2.GaussianBlur(pixels, (0, 0), 3), landmarks)
    flow = 0.1 * torch.rand(2, 1, 2, 4, 4, generator=torch.Generator().manual_seed(5)) - 0.05
    moved = sketch(*(enlarge(x, 32) for x in flow))
    picture, fine = compose(layers, moved), compose(layers.refined(2), moved)
    assert fine.shape == picture.shape
    assert (fine - picture).abs().mean() < 0.002
    assert (picture - compose(layers, sketch(flat(0, 2), flat(0, 2)))).abs().mean() > 0.02  # it moves


def test_without_flow_planes_come_back():
    planes = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(warp(planes, torch.zeros(1, 2, 64, 64)), planes, atol=1e-5, rtol=0)
    assert enlarge(planes, 64) is planes


def test_shares_reach_their_ends():
    shares = shares_of(torch.tensor([-20.0, 0.0, 20.0]))
    assert shares.tolist() == [0, pytest.approx(0.5), 1]


@torch.no_grad()
@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize(("size", "count", "detail"), [(64, 1, 1), (128, 3, 1), (64, 2, 2), (128, 1, 2)])
def test_drawn_pictures_are_the_decoders(networks, head, size, count, detail, steered):
    network = networks[steered]
    drawer = PortraitDrawer(network, detail)
    motion = torch.rand(count, TINY.motion_dim, generator=torch.Generator().manual_seed(2)) - 0.5
    pixels, landmarks = head(size)
    picture = to_tensor(pixels)
    layers = take_apart(pixels, landmarks).refined(detail).repeat(count)
    appearance = network.encode(picture.expand(count, -1, -1, -1), layers)
    expected = network.decoder(appearance, motion)
    assert expected.shape == (count, 3, size, size)
    torch.testing.assert_close(drawer.draw(drawer.read(picture, landmarks), motion), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_codes_do_not_depend_on_the_pictures_size(network, head):
    large = to_tensor(head(128)[0])
    torch.testing.assert_close(network.motion_of(large), network.motion_of(shrink(large, 64)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_relative_codes_of_a_portrait_are_zero(head):
    torch.manual_seed(0)
    network = Autoencoder(replace(TINY, relative=True)).eval()
    first = to_tensor(head(64)[0])
    second = first.flip(-1)
    assert not network.own_motion(first).any()
    assert not network.motion_between(first, first).any()
    assert network.motion_between(first, second).any()
    torch.testing.assert_close(network.motion_between(first, second), -network.motion_between(second, first))
    absolute = Autoencoder(TINY).eval()
    torch.testing.assert_close(absolute.motion_between(first, second), absolute.motion_of(second))


def test_a_size_that_does_not_divide_is_an_error(network):
    with pytest.raises(PhotoError, match=r"100 x 100 pixels; give a square whose side is a multiple of 32"):
        network.encode(torch.zeros(1, 3, 100, 100))


def test_drawing_without_layers_is_an_error(network, head):
    picture = to_tensor(head(64)[0])
    with pytest.raises(PhotoError, match="give landmarks"):
        PortraitDrawer(network).read(picture)
    with pytest.raises(PhotoError, match="take_apart"):
        network(picture, picture)


def test_the_published_networks_have_no_such_stage():
    assert Autoencoder(replace(TINY, output_dim=0)).decoder.output is None
    assert get_autoencoder_preset("published-512").output_dim == 0
    assert get_autoencoder_preset("starter-blend").output_px == 256


def test_the_sprites_lie_where_the_incisors_end(head):
    landmarks = head(256)[1]
    unit = np.linalg.norm(landmarks[263] - landmarks[33])
    layers = take_apart(*head(256))
    box = layers.to_mouth[0].numpy()
    middle = np.linalg.solve(box[:, :2], -box[:, 2])  # of the box, −1 to 1
    middle = (middle + 1) * 128 - 0.5
    lips = landmarks[[13, 14]].mean(0)
    assert abs(middle[0] - lips[0]) < 0.04 * unit
    assert abs(middle[1] - lips[1]) < 0.12 * unit
    assert abs(layers.to_jaw[0, 0]) < 0.05
    opened = landmarks.copy()
    opened[[14, 87, 317, 17, 84, 314, 152, 148, 377], 1] += 0.1 * unit  # lower lip and chin
    lower = take_apart(head(256)[0], opened).to_jaw[0, 1] - layers.to_jaw[0, 1]
    assert 0.02 < lower * SPRITE_HALF[1] < 0.12


def test_teeth_are_drawn_in_the_photos_colours(head):
    pixels, landmarks = head(256)
    layers, dark = take_apart(pixels, landmarks), take_apart(pixels // 2, landmarks)
    upper = layers.sprites[0, :4]
    teeth = (upper[3] > 0.9) & (upper[:3].mean(0) > 0.2)
    assert teeth.float().mean() > 0.02
    assert upper[0, teeth].mean() > upper[2, teeth].mean()  # not blue
    assert dark.sprites[0, :3, teeth].mean() < upper[:3, teeth].mean() - 0.2
    assert (layers.cavity < -0.7).all()


def test_teeth_are_darker_right_behind_the_lips(layers):
    lower = flat(0, 2)
    lower[:, 1] = -2 * 14 / 128
    white = torch.ones(1, 8, 4, 4)
    mouth = MouthSketch(torch.eye(2, 3)[None], torch.zeros(1, 2), white)
    picture = compose(layers, replace(sketch(flat(0, 2), lower, own=NEVER), mouth=mouth))[0].mean(0)
    column = picture[:, 64]
    bright = (column > 0.9).nonzero().flatten()
    assert len(bright) > 3
    first, last = int(bright[0]), int(bright[-1])
    assert column[first - 1] < column[first]
    assert column[last + 1] < column[last]
