"""The eyes on a drawn face: lids under raised brows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from loquent.face.topology import (
    LEFT_BROW_LOWER,
    LEFT_BROW_UPPER,
    LEFT_EYE_LOWER,
    LEFT_EYE_UPPER,
    RIGHT_BROW_LOWER,
    RIGHT_BROW_UPPER,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_UPPER,
)
from loquent.motion.face_model import face_tables, fit_face
from loquent.render.mesh import MeshRenderer
from loquent.types import ARKIT_INDEX, Face, Motion, Photo, Portrait

WIDTH, HEIGHT, IOD = 360, 420, 150.0
EYES = ((RIGHT_EYE_UPPER, RIGHT_EYE_LOWER), (LEFT_EYE_UPPER, LEFT_EYE_LOWER))
BROWS = (*RIGHT_BROW_UPPER, *RIGHT_BROW_LOWER, *LEFT_BROW_UPPER, *LEFT_BROW_LOWER)


def _low_browed_portrait() -> Portrait:
    """Plain skin, white eyes with dark lashes, and brows close above them."""
    head = face_tables().neutral * IOD + np.array([WIDTH / 2, 170, 0])
    landmarks = head.astype(np.float32)
    landmarks[list(BROWS), 1] += 0.05 * IOD
    pixels = np.full((HEIGHT, WIDTH, 3), 190, np.uint8)
    for upper, lower in EYES:
        outline = np.round(landmarks[[*upper, *lower[::-1]], :2]).astype(np.int32)
        cv2.fillPoly(pixels, [outline], (235, 235, 235), cv2.LINE_AA)
        centre = landmarks[[*upper, *lower], :2].mean(0)
        cv2.circle(pixels, (round(centre[0]), round(centre[1])), 5, (60, 90, 120), -1, cv2.LINE_AA)
        cv2.polylines(pixels, [outline[: len(upper)]], False, (30, 30, 30), 2, cv2.LINE_AA)
    shape = fit_face(landmarks)
    return Portrait(Photo(pixels), Face(landmarks), shape.rest_expression, shape.pose_rad.astype(np.float32))


@pytest.fixture(scope="module")
def renderer() -> MeshRenderer:
    return MeshRenderer(_low_browed_portrait())


def _dark_lines(frame: np.ndarray, renderer: MeshRenderer, upper: tuple[int, ...]) -> list[int]:
    """How many dark lines lie one above the other round an eye, in each column of its middle."""
    landmarks = renderer._landmarks
    low, high = landmarks[list(upper), :2].min(0), landmarks[list(upper), :2].max(0)
    quarter = (high[0] - low[0]) / 4
    rows = slice(int(low[1] - 0.3 * IOD), int(low[1] + 0.25 * IOD))
    dark = frame[rows, int(low[0] + quarter) : int(high[0] - quarter), 1] < 110
    return (np.diff(dark.astype(int), axis=0) == 1).sum(0).tolist()


@pytest.mark.parametrize("look_down", [0.0, 0.43])
@pytest.mark.parametrize("brows", [0.0, 0.4, 0.8, 1.0])
def test_a_closed_eye_shows_one_lash_line_however_high_the_brows(
    renderer: MeshRenderer, brows: float, look_down: float
):
    motion = Motion.neutral(1)
    for name, value in (("browInnerUp", brows), ("browOuterUpLeft", brows), ("browOuterUpRight", brows),
                        ("eyeBlinkLeft", 1), ("eyeBlinkRight", 1),
                        ("eyeLookDownLeft", look_down), ("eyeLookDownRight", look_down)):  # fmt: skip
        motion.expression[0, ARKIT_INDEX[name]] = value
    (frame,) = renderer.render(motion)
    for upper, _ in EYES:
        assert set(_dark_lines(frame, renderer, upper)) == {1}


def test_raised_brows_leave_an_open_eye_as_it_is(renderer: MeshRenderer):
    motion = Motion.neutral(2)
    motion.expression[:] = renderer.shape.rest_expression
    for name in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"):
        motion.expression[1, ARKIT_INDEX[name]] = 0.8
    rest, raised = renderer.render(motion)
    for upper, lower in EYES:
        x, y = np.round(renderer._landmarks[[*upper, *lower], :2].mean(0)).astype(int)
        eyeball = np.s_[y - 5 : y + 3, x - 8 : x + 9]
        assert np.abs(raised[eyeball].astype(int) - rest[eyeball]).max() <= 3
