import numpy as np

from loquent.data.measure_face_basis import (
    barycentric,
    follow_anchors,
    keep_lips_together,
    mirror_map,
    place_on_path,
)
from loquent.motion.face_model import LIP_PAIRS, face_tables
from loquent.types import ARKIT_INDEX, ARKIT_NAMES


def test_barycentric_weights_give_the_point_back():
    rng = np.random.default_rng(0)
    corners = rng.normal(size=(10, 3, 3))
    weights = rng.dirichlet(np.ones(3), 10)
    points = (corners * weights[..., None]).sum(1)
    np.testing.assert_allclose(barycentric(points, corners), weights, atol=1e-6)
    outside = barycentric(corners[:, 0] + 2 * (corners[:, 0] - corners[:, 1]), corners)
    assert outside.min() >= 0
    np.testing.assert_allclose(outside.sum(1), 1)


def test_mirror_pairs_every_point_of_a_symmetric_face():
    tables = face_tables()
    np.testing.assert_array_equal(mirror_map(tables.neutral), tables.mirror)


def test_points_on_a_path_keep_their_share_of_its_width():
    line = np.array([[0.0, 0, 0], [1, 1, 0], [3, 1, 0], [4, 0, 0]])
    wanted = np.array([[10.0, 0, 0], [12, 5, 5], [14, 0, 0]])
    np.testing.assert_allclose(place_on_path(line, wanted), [[0, 0, 0], [2, 1, 0], [4, 0, 0]])


def test_neighbours_follow_anchors_and_far_points_stay():
    points = np.array([[0.0, 0, 0], [0.1, 0, 0], [10, 0, 0]])
    moved = follow_anchors(points, np.array([0]), np.array([[0.0, 1, 0]]))
    np.testing.assert_allclose(moved[0], [0, 1, 0])
    assert 0.8 < moved[1, 1] < 1
    np.testing.assert_allclose(moved[2], points[2], atol=1e-12)


def test_sealed_channels_do_not_part_the_lips():
    rng = np.random.default_rng(0)
    expressions = rng.normal(0, 0.05, (len(ARKIT_NAMES), 478, 3))
    keep_lips_together(face_tables().neutral, expressions)
    parting = expressions[:, list(LIP_PAIRS[1])] - expressions[:, list(LIP_PAIRS[0])]
    for name in ("mouthSmileLeft", "mouthRollLower", "mouthRollUpper", "mouthPucker"):
        np.testing.assert_allclose(parting[ARKIT_INDEX[name]], 0, atol=1e-9)
    both = parting[ARKIT_INDEX["jawOpen"]] + parting[ARKIT_INDEX["mouthClose"]]
    np.testing.assert_allclose(both, 0, atol=1e-9)
    assert np.abs(parting[ARKIT_INDEX["mouthFunnel"]]).max() > 0.01
