"""Flow that a portrait's landmarks make of a code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from loquent.face.analyze import analyze
from loquent.face.topology import CHIN, LEFT_EYE_UPPER, LIPS_INNER_LOWER, LIPS_INNER_UPPER
from loquent.media.image import read_image
from loquent.models.ifmdm.landmark_flow import (
    JAW,
    LOWER_SIDE,
    POINTS,
    UPPER_SIDE,
    LandmarkField,
    inverse_affine,
    invert,
    make_field,
    unfold,
    warp,
)

EXAMPLE = Path(__file__).parents[1] / "src/loquent/examples/portrait_a.jpg"
SIZE = 128


@pytest.fixture(scope="module")
def solid() -> np.ndarray:
    """(478, 3), pixels of a picture whose middle the face fills."""
    points = analyze(read_image(EXAMPLE)).face.landmarks
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    scaled = (points - [*(low + high) / 2, 0]) / (high - low).max() * 0.6 * SIZE
    return (scaled + np.array([SIZE / 2 - 0.5, SIZE / 2 - 0.5, 0])).astype(np.float32)


@pytest.fixture(scope="module")
def landmarks(solid) -> np.ndarray:
    return solid[:, :2]


@pytest.fixture(scope="module")
def field(landmarks) -> LandmarkField:
    return make_field(landmarks, SIZE)


def moves(landmarks: np.ndarray, moved: dict[int, tuple[float, float]]) -> torch.Tensor:
    """(1, K, 2): some landmarks moved, in pixels."""
    table = np.zeros((1, len(POINTS), 2), np.float32)
    for number, shift in moved.items():
        table[0, POINTS.index(number)] = shift
    return torch.from_numpy(table * (2 / SIZE))


def read_at(offsets: torch.Tensor, landmarks: np.ndarray, number: int, shift: tuple[float, float]) -> np.ndarray:
    """What offsets read where a landmark has gone, in pixels."""
    place = (landmarks[number] + shift + 0.5) * (2 / SIZE) - 1
    grid = torch.from_numpy(place.astype(np.float32)).view(1, 1, 1, 2)
    return F.grid_sample(offsets, grid, align_corners=False).flatten().numpy() * (SIZE / 2)


def test_a_still_face_does_not_move(field):
    upper, lower, near = field.flows(torch.zeros(2, len(POINTS), 2))
    assert upper.abs().max() < 1e-5
    assert lower.abs().max() < 1e-5
    torch.testing.assert_close(near, field.near.expand(2, -1, -1, -1), atol=1e-4, rtol=0)


def test_a_turned_and_moved_head_is_followed_as_a_whole(field, landmarks):
    points = torch.from_numpy((landmarks[list(POINTS)] + 0.5) * (2 / SIZE) - 1).float()
    turn = torch.tensor([[0.98, -0.12], [0.12, 0.98]])
    moved = (points @ turn.T + torch.tensor([0.06, -0.04]) - points)[None]
    upper, lower, near = field.flows(moved)
    place = (landmarks[1] + 0.5) * (2 / SIZE) - 1
    shift = tuple((turn.numpy() @ place + [0.06, -0.04] - place) * (SIZE / 2))
    for offsets in (upper, lower):
        np.testing.assert_allclose(read_at(offsets, landmarks, 1, shift), [-x for x in shift], atol=0.1)
    skull = field.skull_of(moved)
    torch.testing.assert_close(skull[0], torch.cat([turn, torch.tensor([[0.06], [-0.04]])], 1), atol=1e-4, rtol=0)
    assert near.max() > 0.99
    assert near[0, 0, 0, 0] == 0


def test_a_turning_head_carries_the_teeth_as_what_lies_at_their_depth(solid):
    turn = np.radians(15)
    middle = np.array([SIZE / 2, SIZE / 2, 0])
    turned = solid.copy()
    turned[:, 0] = (solid - middle) @ [np.cos(turn), 0, -np.sin(turn)] + middle[0]
    moved = torch.from_numpy((turned - solid)[None, list(POINTS), :2] * np.float32(2 / SIZE))
    teeth = solid[[78, 308, 164, 2]].mean(0)
    place = torch.tensor([*(teeth[:2] + 0.5) * (2 / SIZE) - 1, 1.0], dtype=torch.float32)
    wanted = (teeth - middle) @ [np.cos(turn), 0, -np.sin(turn)] + middle[0]
    off = []
    for points in (solid, solid[:, :2]):
        found = (make_field(points, SIZE).skull_of(moved)[0] @ place).numpy()
        off.append(float(abs((found[0] + 1) * (SIZE / 2) - 0.5 - wanted)))
    assert off[0] < 0.05
    assert off[1] > 0.5


def test_layers_part_where_lips_part(field, landmarks):
    down, up = (0.0, 5.0), (0.0, 0.0)
    upper, lower, _ = field.flows(
        moves(landmarks, {n: down for n in LOWER_SIDE if n in POINTS and landmarks[n, 1] > 64})
    )
    lip_above, lip_below = LIPS_INNER_UPPER[5], LIPS_INNER_LOWER[5]
    np.testing.assert_allclose(read_at(lower, landmarks, lip_below, down), [0, -5], atol=0.6)
    np.testing.assert_allclose(read_at(upper, landmarks, lip_above, up), [0, 0], atol=0.6)


def test_an_upper_lid_moves_in_the_upper_layer_alone(field, landmarks):
    lid = LEFT_EYE_UPPER[1:-1]
    upper, lower, _ = field.flows(moves(landmarks, dict.fromkeys(lid, (0.0, 2.0))))
    np.testing.assert_allclose(read_at(upper, landmarks, lid[3], (0, 2)), [0, -2], atol=0.5)
    assert np.abs(read_at(lower, landmarks, lid[3], (0, 2))).max() < 0.5


def test_lower_teeth_go_with_the_chin_and_not_with_the_whole_lower_face(field, landmarks):
    chin = field.jaw_of(moves(landmarks, dict.fromkeys(JAW, (0.0, 7.0))))[0] * (SIZE / 2)
    assert chin[1] == pytest.approx(1.47 * 7, rel=0.01)
    assert abs(chin[0]) < 1e-3
    both = field.jaw_of(moves(landmarks, dict.fromkeys((*JAW, 136, 172, 365, 397), (0.0, 7.0))))[0] * (SIZE / 2)
    assert both[1] == pytest.approx(0.25 * 7, rel=0.01)


def test_fields_of_several_photos_go_together(field, landmarks):
    both = LandmarkField.stack([field, field]).rows(torch.tensor([1, 0, 1]))
    moved = moves(landmarks, {CHIN: (1.0, 3.0)})
    for one, three in zip(field.flows(moved), both.flows(moved.expand(3, -1, -1)), strict=True):
        torch.testing.assert_close(three, one.expand(3, -1, -1, -1), atol=1e-5, rtol=0)


def test_folds_are_smoothed_and_inverses_say_where_they_fail():
    line = torch.linspace(-1, 1, 64)
    gentle = torch.zeros(1, 2, 64, 64)
    gentle[:, 0] = 0.1 * torch.sin(3 * line)
    torch.testing.assert_close(unfold(gentle), gentle)
    offsets, missed = invert(gentle, -gentle)
    assert missed[..., 8:-8].max() < 1e-3
    torch.testing.assert_close(-warp(gentle, offsets)[..., 8:-8], offsets[..., 8:-8], atol=1e-3, rtol=0)
    torn = torch.zeros(1, 2, 64, 64)
    torn[:, 0] = torch.where(line < 0, -0.3, 0.3)
    _, missed = invert(torn, torch.zeros_like(torn))
    assert missed.max() > 0.05
    assert unfold(-torn).diff(dim=3).amin() > -torn.diff(dim=3).amax()


def test_maps_are_inverted():
    affine = torch.tensor([[[1.2, 0.3, 0.1], [-0.2, 0.9, -0.4]]])
    again = inverse_affine(inverse_affine(affine))
    torch.testing.assert_close(again, affine)


def test_sides_are_apart():
    assert not set(UPPER_SIDE) & set(LOWER_SIDE)
    assert {*LIPS_INNER_UPPER[1:-1], *LEFT_EYE_UPPER[1:-1]} <= set(UPPER_SIDE)
