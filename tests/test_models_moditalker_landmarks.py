"""The 68 landmarks, their place and their pictures; the published numbers are in test_parity.py."""

import numpy as np
import pytest
import torch

from loquent.errors import MotionError
from loquent.face import topology
from loquent.models.moditalker import get_atom_preset
from loquent.models.moditalker import landmarks as lm
from loquent.models.moditalker.alignment import align_published, fit_template, five_points, rotation_matrices
from loquent.models.moditalker.pictures import dots_to_clip, draw_dots, hide_lower_face, to_clip, to_square
from loquent.motion.face_model import FaceShape, face_tables, fit_face
from loquent.motion.pose import rotation_matrix
from loquent.types import ARKIT_INDEX


@pytest.fixture(scope="module")
def shape() -> FaceShape:
    return fit_face(150 * face_tables().neutral @ rotation_matrix((0.05, -0.2, 0.1)).T + [300, 280, 0])


def open_mouth(amount: float) -> np.ndarray:
    expression = np.zeros((1, 52))
    expression[0, ARKIT_INDEX["jawOpen"]] = amount
    return expression


def test_landmarks_are_68_points_of_the_named_features():
    table = lm.FROM_478
    assert len(set(table)) == 68
    assert set(table[:17]) <= set(topology.FACE_OVAL) | {127, 356}
    assert table[8] == topology.CHIN
    assert set(table[48:60]) <= {*topology.LIPS_OUTER_UPPER, *topology.LIPS_OUTER_LOWER}
    assert set(table[60:]) <= {*topology.LIPS_INNER_UPPER, *topology.LIPS_INNER_LOWER}
    assert set(table[36:48]) <= set(topology.EYELIDS)
    assert lm.MIRRORED[:17] == tuple(range(16, -1, -1))
    assert [lm.MIRRORED[index] for index in (27, 30, 33, 36, 39, 48, 51, 57, 60)] == [
        27,
        30,
        33,
        45,
        42,
        54,
        51,
        57,
        64,
    ]


def test_canonical_axes():
    mean = lm.mean_face()
    assert mean[16, 0] > mean[0, 0]  # right
    assert mean[24, 1] > mean[33, 1] > mean[8, 1]  # up
    assert mean[:, 2].argmax() == 30  # the tip of the nose is nearest
    assert np.linalg.norm(mean[45] - mean[36]) == pytest.approx(0.89, abs=0.01)


def test_channels_part_the_vector():
    assert sorted(lm.LIP_CHANNELS + lm.OTHER_CHANNELS) == list(range(204))
    assert (len(lm.LIP_CHANNELS), len(lm.OTHER_CHANNELS)) == (111, 93)


def test_vectors_and_back(shape):
    canonical = lm.canonical_of_photo(shape)
    vector = lm.to_vector(canonical, 10)
    assert vector.shape == (204,)
    np.testing.assert_allclose(lm.from_vector(vector, 10), canonical, atol=1e-6)
    assert np.abs(lm.to_vector(lm.mean_face(), 10)).max() == 0


def test_the_starters_scale_holds_an_open_mouth(shape):
    shut, wide = (lm.canonical_of_expression(shape, open_mouth(amount)) for amount in (0, 0.7))
    motion = {
        name: lm.to_vector(wide, get_atom_preset(name).vector_scale)
        - lm.to_vector(shut, get_atom_preset(name).vector_scale)
        for name in ("starter", "published")
    }
    assert 0.8 < np.abs(motion["starter"]).max() < 1
    assert np.abs(motion["published"]).max() > 2


def test_posed_landmarks_are_the_faces_own(shape):
    expression, rotation, translation = open_mouth(0.4), np.array([[0.1, -0.1, 0.05]]), np.array([[0.1, 0.0, 0.2]])
    wanted = shape.landmarks(expression, rotation, translation)[:, list(lm.FROM_478)]
    ours = lm.posed(shape, lm.canonical_of_expression(shape, expression), rotation, translation)
    np.testing.assert_allclose(ours, wanted, atol=1e-3)


def test_pose_is_taken_off_frames(shape):
    expression = open_mouth(0.5)
    frames = [shape.landmarks(expression, np.array([angles]))[0] for angles in ((0, 0, 0), (0.2, -0.3, 0.1))]
    canonical = lm.canonical_of_frames(shape, np.stack(frames))
    np.testing.assert_allclose(canonical[0], canonical[1], atol=1e-5)
    np.testing.assert_allclose(canonical[0], lm.canonical_of_expression(shape, expression)[0], atol=0.02)


def test_another_number_of_points_is_an_error():
    with pytest.raises(MotionError, match=r"\(468, 3\); wanted"):
        lm.pick_68(np.zeros((468, 3)))


def test_published_rotation_order():
    angles = np.array([[0.3, -0.2, 0.5]])
    (ax, ay, az) = angles[0]
    rx = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
    ry = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
    rz = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
    np.testing.assert_allclose(rotation_matrices(angles)[0], (rz @ ry @ rx).T, atol=1e-12)


def test_aligned_landmarks_lie_on_the_driving_face():
    """A face seen straight on is placed where it is, up to the published cut to pixels."""
    mean = lm.mean_face()
    canonical = np.repeat(mean[None], 2, 0)
    template = five_points(mean)
    detected = canonical[..., :2] * [1, -1] * 80 + [[[150, 140]], [[170, 150]]]
    np.testing.assert_allclose(fit_template(detected, template).scale, 102 / 80, rtol=1e-6)
    placed = align_published(canonical, np.zeros((2, 3)), np.zeros((2, 3)), detected, template)
    # the template is drawn at 102 pixels a unit, the published grid has 112
    centre = five_points(detected).mean(1)[:, None]
    np.testing.assert_allclose(placed, (detected - centre) * 112 / 102 + centre, atol=1.6)


def test_dots_are_discs_cut_at_the_border():
    dots = draw_dots(np.array([[[50.9, 60.2]], [[0.0, 0.0]], [[500.0, -90.0]]]), side_px=100, size_px=100)
    assert dots.shape == (3, 100, 100)
    assert [(picture > 0).sum() for picture in dots] == [29, 1 + 3 + 3 + 4, 0]
    assert dots[0, 60, 47:54].tolist() == [255] * 7
    clip = dots_to_clip(dots)
    assert clip.shape == (3, 3, 100, 100)
    assert clip.unique().tolist() == [-1, 1]


def test_lower_faces_are_hidden_from_the_nose_on():
    landmarks = np.zeros((2, 68, 2))
    landmarks[:, lm.NOSE_BASE, 1] = [5.7, -3]
    hidden = hide_lower_face(torch.full((2, 3, 10, 8), 9), landmarks)
    assert (hidden[0, :, :5] == 9).all()
    assert (hidden[0, :, 5:] == 0).all()
    assert (hidden[1] == 0).all()


def test_squares_are_the_middle():
    frames = torch.zeros(1, 3, 4, 8)
    frames[..., 2:6] = 255
    square = to_square(frames, 4)
    assert square.shape == (1, 3, 4, 4)
    assert (to_clip(square) == 1).all()
