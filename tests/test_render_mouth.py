import itertools

import cv2
import numpy as np
import pytest

from loquent.face import topology
from loquent.face.lip_line import lip_ring, polygon_mask, refine_inner_lips
from loquent.motion.face_model import face_tables, fit_face
from loquent.motion.pose import rotation_matrix
from loquent.render import mouth_geometry as geometry
from loquent.render import mouth_paint, mouth_photo
from loquent.render.mouth import MouthInterior
from loquent.render.mouth_layers import Layer, View, Wall
from loquent.types import ARKIT_INDEX

SKIN, LIP, TOOTH, DARK = (205, 150, 125), (175, 95, 90), (215, 195, 170), (30, 12, 10)
STILL = np.zeros(3)
INNER = (topology.LIPS_INNER_UPPER, topology.LIPS_INNER_LOWER)
OUTER = (topology.LIPS_OUTER_UPPER, topology.LIPS_OUTER_LOWER)


def _weights(**named: float) -> np.ndarray:
    expression = np.zeros(52, np.float32)
    for name, value in named.items():
        expression[ARKIT_INDEX[name]] = value
    return expression


def _face(smile: bool, size: int = 400, grey: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face: skin, eyes, lips and, when it smiles, teeth before darkness."""
    unit = 0.35 * size
    points = face_tables().neutral.copy()
    if smile:
        weights = _weights(mouthSmileLeft=0.8, mouthSmileRight=0.8, mouthUpperUpLeft=0.5, mouthUpperUpRight=0.5,
                           mouthLowerDownLeft=0.5, mouthLowerDownRight=0.5, jawOpen=0.1)  # fmt: skip
        points += np.tensordot(weights, face_tables().expressions, 1)
    landmarks = (points * unit + (size / 2, size * 0.4, 0)).astype(np.float32)
    picture = np.full((size, size, 3), SKIN, np.uint8)
    for upper, lower in ((topology.RIGHT_EYE_UPPER, topology.RIGHT_EYE_LOWER),
                         (topology.LEFT_EYE_UPPER, topology.LEFT_EYE_LOWER)):  # fmt: skip
        _fill(picture, lip_ring(landmarks, upper, lower), (225, 215, 210))
    _fill(picture, lip_ring(landmarks, *OUTER), LIP)
    if smile:
        inner = lip_ring(landmarks, *INNER)
        _fill(picture, inner, DARK)
        middle = inner.mean(axis=0)
        teeth = (inner - middle) * (0.8, 1.0) + middle
        teeth[:, 1] = np.minimum(teeth[:, 1], np.percentile(teeth[:, 1], 70))
        _fill(picture, teeth, TOOTH)
    if grey:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return picture, landmarks


def _fill(picture: np.ndarray, ring: np.ndarray, colour: tuple[int, int, int]) -> None:
    cv2.fillPoly(picture, [np.round(ring * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _interior(smile: bool, size: int = 400, grey: bool = False, **options) -> tuple[MouthInterior, np.ndarray, object]:
    picture, landmarks = _face(smile, size, grey)
    shape = fit_face(landmarks)
    return MouthInterior(picture, shape, lip_ring(landmarks, *INNER), **options), picture, shape


def _draw(mouth: MouthInterior, shape, expression: np.ndarray, rotation=STILL) -> tuple[np.ndarray, np.ndarray]:
    """The patch round the mouth and the mask of its opening."""
    landmarks = shape.landmarks(expression[None], np.asarray(rotation)[None])[0]
    ring = lip_ring(landmarks, *INNER)
    low, high = np.floor(ring.min(0)).astype(int) - 10, np.ceil(ring.max(0)).astype(int) + 10
    patch = mouth.draw(expression, np.asarray(rotation), STILL, ring, (*low, *high))
    return patch, polygon_mask(ring - low, *(high - low)) > 0.9


@pytest.fixture(scope="module")
def closed():
    return _interior(smile=False)


@pytest.fixture(scope="module")
def smiling():
    return _interior(smile=True, size=800)


def test_upper_teeth_stay_and_lower_teeth_follow_the_jaw(closed):
    mouth, _, _ = closed
    views = [mouth._place.views(_weights(jawOpen=value), STILL, STILL) for value in (0, 0.3, 0.6)]
    heights = [jaw.project(np.array(geometry.LOWER_EDGE_MM))[1] for _, jaw in views]
    assert np.all(np.diff(heights) > 3 * views[0][0].px_per_mm)
    for skull, _ in views:
        assert skull.project(STILL) == pytest.approx(views[0][0].project(STILL))


def test_open_mouth_shows_bright_teeth_above_and_darkness_behind(closed):
    mouth, _, shape = closed
    patch, inside = _draw(mouth, shape, _weights(jawOpen=0.5, mouthUpperUpLeft=0.5, mouthUpperUpRight=0.5))
    luma = patch @ mouth_photo.LUMA
    assert patch.shape == (*inside.shape, 3)
    assert patch.dtype == np.uint8
    assert np.percentile(luma[inside], 97) > 110
    assert np.percentile(luma[inside], 10) < 45


def test_teeth_are_never_brighter_than_the_photo_makes_plausible(closed):
    mouth, picture, shape = closed
    patch, inside = _draw(mouth, shape, _weights(jawOpen=0.3, mouthUpperUpLeft=0.6, mouthUpperUpRight=0.6))
    assert np.percentile(patch[inside] @ mouth_photo.LUMA, 99) < (picture @ mouth_photo.LUMA).max() + 12


def test_teeth_of_a_smile_are_kept_at_rest(smiling):
    mouth, picture, shape = smiling
    patch, inside = _draw(mouth, shape, shape.rest_expression)
    ring = lip_ring(shape.landmarks(shape.rest_expression[None])[0], *INNER)
    low = np.floor(ring.min(0)).astype(int) - 10
    photo = picture[low[1] : low[1] + patch.shape[0], low[0] : low[0] + patch.shape[1]]
    is_tooth = (np.abs(photo.astype(int) - TOOTH).max(axis=2) < 6) & inside
    is_tooth = cv2.erode(is_tooth.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert is_tooth.sum() > 200
    assert np.abs(patch[is_tooth].astype(int) - photo[is_tooth]).mean() < 12


def test_teeth_of_a_smile_do_not_stretch_when_the_jaw_opens(smiling):
    mouth, _, shape = smiling
    heights = []
    for jaw_open in (0.25, 0.5):
        expression = shape.rest_expression.copy()
        expression[ARKIT_INDEX["jawOpen"]] = jaw_open
        landmarks = shape.landmarks(expression[None])[0]
        ring = lip_ring(landmarks, *INNER)
        x = int(landmarks[13, 0])
        column = mouth.draw(expression, STILL, STILL, ring, (x - 4, 0, x + 4, 800))[:, 4] @ mouth_photo.LUMA
        bright = np.flatnonzero(column[: int(landmarks[13, 1] + 0.12 * shape.scale_px)] > 120)
        heights.append(bright[-1])
    assert abs(heights[1] - heights[0]) <= 1


def test_grey_photo_gets_a_grey_mouth():
    mouth, _, shape = _interior(smile=False, grey=True)
    patch, inside = _draw(mouth, shape, _weights(jawOpen=0.5))
    assert np.ptp(patch[inside].astype(int), axis=1).max() <= 2


def test_sepia_photo_gets_a_sepia_mouth():
    picture, landmarks = _face(smile=False, grey=True)
    tone = np.array([1.1, 1.0, 0.7])
    shape = fit_face(landmarks)
    sepia = np.clip(picture * tone, 0, 255).astype(np.uint8)
    patch, inside = _draw(MouthInterior(sepia, shape, lip_ring(landmarks, *INNER)), shape, _weights(jawOpen=0.5))
    bright = patch[inside & (patch.min(2) > 30)].astype(float)
    ratio = bright / bright.mean(1, keepdims=True)
    np.testing.assert_allclose(ratio.mean(0), tone / tone.mean(), atol=0.04)
    assert ratio.std(0).max() < 0.05


def test_tongue_comes_before_the_teeth_without_a_jump(closed):
    mouth, _, shape = closed
    steps = [
        _draw(mouth, shape, _weights(jawOpen=0.2, mouthLowerDownLeft=0.4, mouthLowerDownRight=0.4, tongueOut=out))[0]
        for out in np.linspace(0, 0.16, 33)
    ]
    changes = [np.abs(b.astype(int) - a).mean() for a, b in itertools.pairwise(steps)]
    assert max(changes) < 4 * np.median(changes)


def test_same_photo_gives_the_same_teeth_and_another_seed_others():
    (one, _, shape), (again, _, _), (other, _, _) = (_interior(False, 200, seed=seed) for seed in (1, 1, 2))
    expression = _weights(jawOpen=0.4, mouthUpperUpLeft=0.5, mouthUpperUpRight=0.5)
    first, second, third = (_draw(mouth, shape, expression)[0] for mouth in (one, again, other))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


def test_turned_head_moves_the_teeth_less_than_the_picture_is_wide(closed):
    mouth, _, shape = closed
    expression = _weights(jawOpen=0.4, mouthUpperUpLeft=0.5, mouthUpperUpRight=0.5)
    for rotation in ((0.2, 0.3, 0.2), (-0.2, -0.3, -0.2)):
        patch, inside = _draw(mouth, shape, expression, rotation)
        assert np.percentile(patch[inside] @ mouth_photo.LUMA, 97) > 90


@pytest.mark.parametrize("size", [90, 1600])
def test_any_resolution(size):
    mouth, _, shape = _interior(smile=True, size=size)
    patch, inside = _draw(mouth, shape, _weights(jawOpen=0.4))
    assert patch.shape == (*inside.shape, 3)
    assert patch[inside].any()


def test_box_beyond_the_lips_and_lips_beyond_the_box(closed):
    mouth, _, shape = closed
    ring = lip_ring(shape.landmarks(_weights(jawOpen=0.4)[None])[0], *INNER)
    x, y = ring.mean(0).astype(int)
    assert not mouth.draw(_weights(jawOpen=0.4), STILL, STILL, ring, (0, 0, 5, 7)).any()
    assert mouth.draw(_weights(jawOpen=0.4), STILL, STILL, ring, (x - 3, y - 4, x + 3, y + 4)).shape == (8, 6, 3)


def test_layer_at_home_is_its_own_picture():
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (60, 80, 4)).astype(np.float32), (0, 0), 3)
    turn = np.array([[0.96, 0.0, 0.28], [0.0, 1.0, 0.0], [-0.28, 0.0, 0.96]])
    home = View(turn, np.zeros(3), 2.0, np.array([40.0, 30.0]))
    layer = Layer(picture, Wall(geometry.Dentition().wall("upper")), home)
    middle = (slice(None), slice(25, 55))
    np.testing.assert_allclose(layer.warp(home, 80, 60)[middle], picture[middle], atol=0.5)


def test_layer_moves_as_its_wall_does():
    """A spot on the wall is drawn where the wall's point is projected to, after a turn about all axes."""
    home = View(np.eye(3), np.zeros(3), 4.0, np.array([80.0, 60.0]))
    wall = Wall(geometry.Dentition().wall("upper"))
    point = np.array([wall.curve_mm[60, 0], -4.0, wall.curve_mm[60, 1]])
    picture = np.zeros((120, 160, 4), np.float32)
    spot = home.project(point)[:2]
    cv2.circle(picture, spot.round().astype(int).tolist(), 3, (255, 255, 255, 1), -1)
    view = View(rotation_matrix(np.array([0.15, 0.25, 0.1])), np.array([1.0, -0.5, 0]), 4.0, np.array([80.0, 60.0]))
    drawn = Layer(picture, wall, home).warp(view, 160, 120)[..., 3]
    rows, columns = np.mgrid[:120, :160]
    found = np.array([(columns * drawn).sum(), (rows * drawn).sum()]) / drawn.sum()
    assert found == pytest.approx(view.project(point)[:2], abs=1.0)


def test_teeth_lie_within_anatomical_bounds():
    for seed in range(5):
        teeth = geometry.Dentition.varied(seed)
        upper, lower = teeth.teeth("upper", 3.0), teeth.teeth("lower", 3.0)
        assert 50 < np.ptp(upper.position[:, 0]) < 70
        assert np.ptp(upper.position[:, 0]) > np.ptp(lower.position[:, 0])
        front_upper = upper.position[np.abs(upper.position[:, 0]) < 6]
        front_lower = lower.position[np.abs(lower.position[:, 0]) < 5]
        assert 0.5 < front_upper[:, 1].max() - front_lower[:, 1].min() < 5  # overbite
        assert front_upper[:, 2].min() < front_lower[:, 2].min()  # overjet


def test_shut_lips_show_no_teeth():
    picture, landmarks = _face(smile=False)
    ring = lip_ring(landmarks, *INNER)
    assert mouth_photo.find_teeth(picture, ring, 1.5, np.array(LIP), np.full(400, 200.0)) is None


def test_shown_teeth_are_told_from_lips_and_darkness():
    picture, landmarks = _face(smile=True, size=800)
    ring = lip_ring(landmarks, *INNER)
    shape = fit_face(landmarks)
    per_mm = shape.scale_px / 90
    view = View(np.eye(3), np.zeros(3), per_mm, ring.mean(0))
    edge = mouth_paint.edge_rows(geometry.Dentition(), view, 800)
    shown = mouth_photo.find_teeth(picture, ring, per_mm, np.array(LIP), edge)
    assert shown is not None
    truth = np.abs(picture.astype(int) - TOOTH).max(axis=2) < 6
    found = shown.upper > 0.5
    assert (found & truth).sum() > 0.85 * truth.sum()
    assert (found & ~truth).sum() < 0.15 * truth.sum()
    assert shown.colour == pytest.approx(TOOTH, abs=6)


def test_lip_border_is_moved_to_where_the_teeth_begin():
    picture, landmarks = _face(smile=True)
    wrong = landmarks.copy()
    wrong[list(topology.LIPS_INNER_UPPER[1:-1]), 1] += 2.0
    wrong[list(topology.LIPS_INNER_LOWER[1:-1]), 1] += 2.0
    refined = refine_inner_lips(picture, wrong)
    middle = [*topology.LIPS_INNER_UPPER[3:-3], *topology.LIPS_INNER_LOWER[3:-3]]
    before = np.abs(wrong[middle, 1] - landmarks[middle, 1]).mean()
    assert np.abs(refined[middle, 1] - landmarks[middle, 1]).mean() < 0.5 * before


@pytest.mark.parametrize(("smile", "grey"), [(False, False), (True, True)])
def test_lip_border_stays_where_nothing_tells_it_apart(smile, grey):
    picture, landmarks = _face(smile, grey=grey)
    np.testing.assert_array_equal(refine_inner_lips(picture, landmarks), landmarks)
