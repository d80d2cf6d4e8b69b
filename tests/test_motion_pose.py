import numpy as np
import pytest

from loquent.motion.pose import angles_of, rotation_matrix


def elementary(pitch, yaw, roll):
    def rx(a):
        return np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])

    def ry(a):
        return np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])

    def rz(a):
        return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])

    return rz(roll) @ ry(-yaw) @ rx(-pitch)


def test_matrix_is_the_product_that_the_conventions_name():
    angles = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    np.testing.assert_allclose(rotation_matrix(angles), [elementary(*row) for row in angles], atol=1e-12)


def test_angles_come_back():
    angles = np.random.default_rng(1).uniform([-3, -1.5, -3], [3, 1.5, 3], (50, 3))
    np.testing.assert_allclose(angles_of(rotation_matrix(angles)), angles, atol=1e-9)


@pytest.mark.parametrize("yaw", [np.pi / 2, -np.pi / 2])
def test_a_right_angle_of_yaw_still_gives_the_same_matrix(yaw):
    matrix = rotation_matrix([0.3, yaw, 0.5])
    np.testing.assert_allclose(rotation_matrix(angles_of(matrix)), matrix, atol=1e-9)


def test_signs():
    nose, top, chin = np.array([0, 0, -1.0]), np.array([0, -1.0, 0]), np.array([0, 1.0, -0.5])
    assert (rotation_matrix([0, 0.2, 0]) @ nose)[0] > 0  # yaw > 0: nose to the picture's right
    assert (rotation_matrix([0, 0, 0.2]) @ top)[0] > 0  # roll > 0: top of the head to the picture's right
    raised = rotation_matrix([0.2, 0, 0])
    assert (raised @ nose)[1] < 0  # pitch > 0: nose and chin go up and the chin comes forward
    assert (raised @ chin)[1] < chin[1]
    assert (raised @ chin)[2] < chin[2]
