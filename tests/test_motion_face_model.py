import numpy as np
import pytest

from loquent.errors import FaceError
from loquent.face import topology
from loquent.motion.face_model import (
    EYES,
    LIP_PAIRS,
    LOWER_RINGS,
    UPPER_RINGS,
    FaceShape,
    bounded_least_squares,
    face_tables,
    fit_face,
    similarity,
)
from loquent.motion.pose import rotation_matrix
from loquent.types import ARKIT_INDEX, ARKIT_NAMES

UPPER, LOWER = list(LIP_PAIRS[0]), list(LIP_PAIRS[1])


def weights(**given):
    """Expression (52,); a name without a side sets both sides."""
    expression = np.zeros(52)
    for name, value in given.items():
        for full in (name, f"{name}Left", f"{name}Right"):
            if full in ARKIT_INDEX:
                expression[ARKIT_INDEX[full]] = value
    return expression


def made_up_landmarks(seed=0, angles=(0.05, -0.2, 0.1), **given):
    """Landmarks (478, 3) of a made-up person in a 600 pixel photo."""
    tables, rng = face_tables(), np.random.default_rng(seed)
    shape = tables.neutral + np.tensordot(rng.normal(size=len(tables.identities)), tables.identities, 1)
    shape = shape + np.tensordot(weights(**given), tables.expressions, 1)
    return 150 * shape @ rotation_matrix(angles).T + [300, 280, 0]


@pytest.fixture(scope="module")
def smiling() -> tuple[np.ndarray, FaceShape]:
    points = made_up_landmarks(mouthSmile=0.7, mouthUpperUp=0.4, jawOpen=0.1, eyeBlink=0.2)
    return points, fit_face(points)


@pytest.fixture(scope="module")
def resting() -> FaceShape:
    return fit_face(made_up_landmarks(1))


def gap(shape, expression):
    points = shape.head_points(expression)
    return points[:, LOWER, 1] - points[:, UPPER, 1]


def test_tables_hold_every_weight_and_are_symmetric():
    tables = face_tables()
    assert tables.expressions.shape == (52, 478, 3)
    mirror = tables.mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(478))
    np.testing.assert_allclose(tables.neutral[mirror] * [-1, 1, 1], tables.neutral, atol=1e-4)
    span = tables.neutral[topology.LEFT_EYE_OUTER] - tables.neutral[topology.RIGHT_EYE_OUTER]
    assert np.linalg.norm(span) == pytest.approx(1, abs=1e-4)
    for name in ("mouthSmile", "eyeBlink", "browDown", "mouthUpperUp"):
        left, right = tables.expressions[ARKIT_INDEX[f"{name}Left"]], tables.expressions[ARKIT_INDEX[f"{name}Right"]]
        assert np.abs(left[mirror] * [-1, 1, 1] - right).max() < 0.01


def test_directions_of_the_main_movements():
    moved = {name: face_tables().expressions[index] for name, index in ARKIT_INDEX.items()}
    left_corner, right_corner = 291, 61  # the person's own left is on the picture's right
    assert moved["jawOpen"][topology.CHIN, 1] > 0.2
    assert moved["mouthSmileLeft"][left_corner, 1] < -0.05
    assert moved["mouthSmileLeft"][left_corner, 0] > 0.02
    assert np.abs(moved["mouthSmileLeft"][right_corner]).max() < 0.02
    assert moved["mouthPucker"][left_corner, 0] < -0.03
    assert moved["mouthPucker"][0, 2] < -0.02  # the lips come forward
    assert moved["browInnerUp"][107, 1] < -0.05
    assert moved["eyeBlinkLeft"][386, 1] > 0.08
    assert np.abs(moved["eyeBlinkLeft"][159]).max() < 0.01
    assert not moved["tongueOut"].any()
    assert not np.stack(list(moved.values()))[:, topology.NUM_MESH_LANDMARKS :].any()


def test_the_photo_comes_back_with_its_own_expression(smiling):
    points, shape = smiling
    again = shape.landmarks(shape.rest_expression[None])[0]
    np.testing.assert_allclose(again, points, atol=1e-3)
    zero = np.zeros((1, 3))
    again = shape.landmarks(shape.rest_expression[None], zero, zero, np.zeros((1, 2, 2)))[0]
    np.testing.assert_allclose(again, points, atol=1e-3)


def test_pose_and_expression_are_found(smiling):
    _, shape = smiling
    np.testing.assert_allclose(shape.pose_rad, [0.05, -0.2, 0.1], atol=0.06)
    assert shape.scale_px == pytest.approx(150, rel=0.1)
    rest = dict(zip(ARKIT_NAMES, shape.rest_expression, strict=True))
    assert rest["mouthSmileLeft"] == pytest.approx(0.7, abs=0.2)
    assert rest["mouthUpperUpRight"] > 0.15
    assert rest["mouthPucker"] < 0.05
    assert min(shape.rest_expression) >= 0
    assert max(shape.rest_expression) <= 1


def test_neutral_lips_are_sealed_whatever_the_photo_shows(smiling, resting):
    for shape in (smiling[1], resting):
        np.testing.assert_allclose(shape.neutral[UPPER], shape.neutral[LOWER], atol=1e-12)
        assert gap(shape, weights()[None]).max() < 0.002
        assert gap(shape, weights(mouthSmile=0.6, mouthPress=0.5)[None]).max() < 0.01


def test_closing_closes_and_lips_never_cross(smiling):
    _, shape = smiling
    assert gap(shape, weights(jawOpen=0.5)[None]).mean() > 0.08
    assert gap(shape, weights(jawOpen=0.5, mouthClose=0.5)[None]).max() < 0.01
    shut = shape.head_points(np.stack([weights(), weights(mouthClose=0.4)]))
    np.testing.assert_allclose(shut[0], shut[1], atol=1e-12)  # nothing to close: a shut mouth stays where it is
    rng = np.random.default_rng(0)
    expression = rng.uniform(0, 1, (200, 52)) * (rng.uniform(size=(200, 52)) < 0.15)
    points = shape.head_points(expression)
    assert (points[:, LOWER, 1] - points[:, UPPER, 1]).min() > -1e-9
    for upper, lower, _, _ in EYES:
        assert (points[:, lower[1:-1], 1] - points[:, upper[1:-1], 1]).min() > -1e-9


def test_rolled_lips_do_not_fold(smiling, resting):
    for shape in (smiling[1], resting):
        points = shape.head_points(weights(mouthRollLower=1, mouthRollUpper=1, mouthPress=1)[None])[0]
        for rings, sign in ((UPPER_RINGS, -1), (LOWER_RINGS, 1)):
            heights = np.stack([sign * points[list(ring[1:-1]), 1] for ring in rings])
            assert np.diff(heights, axis=0).min() > -1e-3


def test_blinks_close_on_this_face(smiling, resting):
    for shape in (smiling[1], resting):
        points = shape.head_points(weights(eyeBlink=1)[None])[0]
        for upper, lower, _, _ in EYES:
            line = np.interp(points[list(upper), 0], points[list(lower), 0], points[list(lower), 1])
            assert np.abs(points[list(upper), 1] - line).max() < 0.01


def test_opening_grows_with_the_weight_without_jumps(smiling):
    _, shape = smiling
    expression = np.linspace(0, 1, 101)[:, None] * weights(jawOpen=1, mouthSmile=0.7)
    opening = gap(shape, expression).mean(1)
    steps = np.diff(opening)
    assert steps.min() > 0
    assert steps.max() < 3 * np.median(steps)


def test_head_turns_as_the_conventions_say(resting):
    zero = np.zeros((3, 52))
    turned = resting.landmarks(zero, rotation=0.2 * np.eye(3))
    still = resting.landmarks(zero[:1])[0]
    nose, top = topology.NOSE_TIP, topology.FOREHEAD
    assert turned[0, nose, 1] < still[nose, 1]  # pitch: nose and chin rise
    assert turned[1, nose, 0] > still[nose, 0]  # yaw: nose to the picture's right
    assert turned[2, top, 0] > still[top, 0]  # roll: top of the head to the picture's right
    moved = resting.landmarks(zero[:1], translation=np.array([[0.1, -0.2, 0.3]]))[0]
    np.testing.assert_allclose(moved - still, np.tile([0.1, -0.2, 0.3], (478, 1)) * resting.scale_px, atol=1e-2)


def test_gaze_moves_only_irises_of_its_eye(resting):
    gaze = np.array([[[0.0, 0.3], [0.0, 0.0]], [[0.2, 0.0], [0.0, 0.0]]])
    points = resting.landmarks(np.zeros((2, 52)), gaze=gaze)
    still = resting.landmarks(np.zeros((1, 52)))[0]
    iris = topology.LEFT_IRIS[0]
    assert points[0, iris, 0] > still[iris, 0] + 2
    assert points[1, iris, 1] < still[iris, 1] - 1
    others = [n for n in range(478) if n not in topology.LEFT_IRIS]
    np.testing.assert_allclose(points[0, others], still[others], atol=1e-4)


def test_jaw_carries_the_lower_teeth_with_the_chin(resting):
    rotation, shift = resting.jaw_transform(np.stack([weights(), weights(jawOpen=1), weights(jawLeft=1)]))
    np.testing.assert_allclose(rotation[0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(shift[0], 0, atol=1e-12)
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)), atol=1e-9)
    incisor = 0.5 * (resting.neutral[14] + resting.neutral[17]) + [0, 0, 0.1]
    moved = rotation @ incisor + shift
    lip = resting.expressions[ARKIT_INDEX["jawOpen"]][17]
    assert moved[1, 1] - incisor[1] == pytest.approx(lip[1], rel=0.35)
    assert moved[2, 0] > incisor[0] + 0.02  # the person's left is the picture's right


def test_photo_and_head_coordinates_are_each_others_inverse(smiling):
    points, shape = smiling
    there = shape.to_head(points)
    np.testing.assert_allclose(shape.to_photo(there[None])[0], points, atol=1e-6)


def test_bad_landmarks_are_refused():
    with pytest.raises(FaceError, match="wanted"):
        fit_face(np.zeros((468, 3)))
    with pytest.raises(FaceError, match="smaller than a pixel"):
        fit_face(np.zeros((478, 3)))
    with pytest.raises(FaceError, match="not finite"):
        fit_face(np.full((478, 3), np.nan))


def test_bounded_least_squares_meets_bounds_and_optimum():
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(30, 6)), rng.normal(size=30)
    normal = design.T @ design
    free = bounded_least_squares(normal, design.T @ target, np.full(6, -9), np.full(6, 9), np.zeros(6), 500)
    np.testing.assert_allclose(free, np.linalg.lstsq(design, target, rcond=None)[0], atol=1e-3)
    bound = bounded_least_squares(normal, design.T @ target, np.zeros(6), np.ones(6), np.zeros(6), 500)
    slope = normal @ bound - design.T @ target
    assert ((bound > 0) | (slope > -1e-2)).all()  # at a lower bound the cost would only grow inwards
    assert bound.min() >= 0


def test_similarity_is_exact_on_exact_points():
    rng = np.random.default_rng(0)
    source, rotation = rng.normal(size=(20, 3)), rotation_matrix([0.3, 0.2, -0.4])
    found, scale, offset = similarity(source, 2.5 * source @ rotation.T + [1, 2, 3], rng.uniform(0.1, 1, 20))
    np.testing.assert_allclose(found, rotation, atol=1e-9)
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(offset, [1, 2, 3], atol=1e-9)
