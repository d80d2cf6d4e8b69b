"""New faces with exact labels from labelled portraits: turned heads, other expressions, blends of two people.

A portrait is a picture and its 478 landmarks. Moving the landmarks and warping the picture through the triangles
between them gives a new picture whose landmarks are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face import topology as topo

if TYPE_CHECKING:
    from numpy.typing import NDArray

RINGS = (1.25, 1.6, 2.3)  # radii of the rings round the face oval that carry hair, ears and neck, in oval radii
RING_FOLLOWS = (1.0, 0.6, 0.15)  # how far each ring follows the face


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and the landmarks of the face in it."""

    pixels: NDArray[np.uint8]  # RGB, (H, W, 3)
    landmarks: NDArray[np.float32]  # (478, 3), pixels


class FaceWarper:
    """Warps pictures by their landmarks through one fixed triangulation of face and surroundings."""

    def __init__(self, mean_landmarks: NDArray[np.float32]) -> None:
        """Args: mean_landmarks: (478, 3), the mean face, upright, in units of its interocular distance."""
        self.mean = mean_landmarks

    @cached_property
    def triangles(self) -> NDArray[np.int32]:
        """(T, 3) vertex indices: the Delaunay triangulation of the mean face with its rings."""
        opened = self.mean.copy()  # so that the opening between the lips gets triangles of its own
        opened[:, 1] += 0.08 * _lower_lip_side(self.mean)
        vertices = self.with_rings(opened, self.mean)[:, :2]
        vertices = (vertices - vertices.min(0)) * 100 + 10
        width, height = np.ceil(vertices.max(0)).astype(int) + 10
        divider = cv2.Subdiv2D((0, 0, int(width), int(height)))
        divider.insert([(float(x), float(y)) for x, y in vertices])
        corners = np.array(divider.getTriangleList()).reshape(-1, 3, 2)
        distances = np.linalg.norm(corners[:, :, None] - vertices, axis=-1)
        near = distances.min(-1).max(-1) < 1e-2
        triangles = distances[near].argmin(-1)
        distinct = (triangles[:, [0, 1, 2]] != triangles[:, [1, 2, 0]]).all(1)
        return triangles[distinct].astype(np.int32)

    @cached_property
    def mouth_triangles(self) -> NDArray[np.bool_]:
        """(T,): which triangles lie inside the inner lip line."""
        inner = {*topo.LIPS_INNER_UPPER, *topo.LIPS_INNER_LOWER}
        return np.array([inner.issuperset(triangle.tolist()) for triangle in self.triangles])

    def with_rings(self, landmarks: NDArray[np.floating], before: NDArray[np.floating]) -> NDArray[np.floating]:
        """Landmarks and the ring points round them, (478 + rings, 3).

        Ring points sit where they were round `before` and follow the face's oval by RING_FOLLOWS.
        """
        oval = list(topo.FACE_OVAL)
        centre = before[oval].mean(0)
        moved = (landmarks[oval] - before[oval]).astype(np.float64)
        size = np.linalg.norm(before[topo.FOREHEAD, :2] - before[topo.CHIN, :2])
        rings = []
        for radius, follows in zip(RINGS, RING_FOLLOWS, strict=True):
            ring = centre + (before[oval] - centre) * radius
            ring[:, 2] = before[oval, 2] + 0.1 * size * (radius - 1)
            rings.append(ring + follows * moved)
        far = centre + np.array([[x, y, 0.0] for x in (-4, 0, 4) for y in (-4, 0, 4) if x or y]) * size
        return np.concatenate([landmarks, *rings, far])

    def warp(
        self, sample: Sample, wanted: NDArray[np.floating], out_from_photo: NDArray[np.floating], size: int
    ) -> tuple[Sample, NDArray[np.bool_]]:
        """Moves the sample's face to the `wanted` landmarks, then cuts out a crop.

        Args:
            sample: the picture as it is.
            wanted: (478, 3), in pixels of the same picture.
            out_from_photo: (2, 3) from the picture's pixels to the crop's.
            size: of the square crop.

        Returns:
            The crop with its landmarks, and the mask (size, size) of the opening between the lips.
        """
        source = self.with_rings(sample.landmarks, sample.landmarks)
        target = self.with_rings(wanted, sample.landmarks)
        scale = float(np.sqrt(abs(np.linalg.det(out_from_photo[:, :2]))))
        target[:, :2] = target[:, :2] @ out_from_photo[:, :2].T + out_from_photo[:, 2]
        target[:, 2] *= scale
        painted = self._paint_triangles(target, size)
        maps = self._backward_maps(source, target)[painted]  # (size, size, 2, 3)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        lookup = maps[..., 0] * x[..., None] + maps[..., 1] * y[..., None] + maps[..., 2]
        pixels = cv2.remap(
            sample.pixels, lookup[..., 0], lookup[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        landmarks = target[: topo.NUM_LANDMARKS].astype(np.float32)
        return Sample(np.asarray(pixels, np.uint8), landmarks), self.mouth_triangles[painted]

    def _paint_triangles(self, target: NDArray[np.floating], size: int) -> NDArray[np.int32]:
        """(size, size): the index of the nearest triangle that covers each pixel."""
        corners = target[self.triangles]  # (T, 3, 3)
        order = np.argsort(-corners[..., 2].mean(1))
        fixed = np.rint(corners[..., :2] * 16).clip(-(2**20), 2**20).astype(np.int32)
        painted = np.zeros((size, size), np.int32)
        for index in order:
            cv2.fillConvexPoly(painted, fixed[index], int(index), shift=4)
        return painted

    def _backward_maps(self, source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float32]:
        """(T, 2, 3): for each triangle the affine map from target to source pixels."""
        ends = np.concatenate([target[self.triangles][..., :2], np.ones((len(self.triangles), 3, 1))], axis=-1)
        starts = source[self.triangles][..., :2]
        determinant = np.linalg.det(ends)
        ends[np.abs(determinant) < 1e-6] = np.array([[0.0, 0, 1], [1, 0, 1], [0, 1, 1]])  # seen edge-on: never shown
        return np.linalg.solve(ends, starts).transpose(0, 2, 1).astype(np.float32)


def random_expression(
    landmarks: NDArray[np.floating], rng: np.random.Generator, strength: float = 1.0
) -> NDArray[np.float32]:
    """Moves mouth, lids, irises and brows by smooth fields.

    Args:
        landmarks: (478, 3), upright, any scale.
        rng: source of chance.
        strength: 1 spans what people do.

    Returns:
        New landmarks, (478, 3).
    """
    unit = float(np.linalg.norm(landmarks[33, :2] - landmarks[263, :2]))
    points = np.asarray(landmarks, np.float64) / unit
    _move_mouth(points, rng, strength)
    _move_eyes(points, rng, strength)
    _move_brows(points, rng, strength)
    return (points * unit).astype(np.float32)


def _bump(points: NDArray[np.float64], centre: NDArray[np.float64], width: float, height: float) -> NDArray[np.float64]:
    """(478,): a smooth weight, 1 at the centre."""
    away = (points[:, :2] - centre[:2]) / [width, height]
    return np.exp(-0.5 * (away**2).sum(1))


def _soft_step(x: NDArray[np.floating]) -> NDArray[np.floating]:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def _smoothstep(x: NDArray[np.floating]) -> NDArray[np.floating]:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def _lower_lip_side(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """(478,): 0 for what stays with the skull, 1 for what hangs on the jaw."""
    mouth_y = 0.5 * (points[78, 1] + points[308, 1])
    chin_y = points[topo.CHIN, 1]
    weight = _smoothstep((points[:, 1] - mouth_y + 0.02) / (0.35 * (chin_y - mouth_y)))
    middle_x = 0.5 * (points[78, 0] + points[308, 0])
    weight *= np.exp(-0.5 * ((points[:, 0] - middle_x) / 0.55) ** 2)
    half_width = 0.5 * abs(points[308, 0] - points[78, 0])
    across = np.clip(1 - ((points[:, 0] - middle_x) / half_width) ** 2, 0, 1) ** 0.5
    for row in topo.LOWER_LIP_ROWS:
        weight[list(row)] = across[list(row)]
    for row in (*topo.UPPER_LIP_ROWS, topo.LIP_CORNERS):
        weight[list(row)] = 0
    return weight


def _move_mouth(points: NDArray[np.float64], rng: np.random.Generator, strength: float) -> None:
    middle = 0.5 * (points[78] + points[308])
    around = _bump(points, middle, 0.38, 0.3)
    if rng.random() < 0.5:
        _close_lips(points, amount=rng.uniform(0.4, 1.0), upper_part=rng.uniform(0.2, 0.6))
    if rng.random() < 0.55:  # jaw
        drop = strength * rng.choice([rng.uniform(0, 0.12), rng.uniform(0.05, 0.36)])
        points[:, 1] += drop * _lower_lip_side(points)
        for row in topo.UPPER_LIP_ROWS:
            points[list(row[1:-1]), 1] -= 0.1 * drop
    narrow = 1 - strength * rng.choice([0.0, rng.uniform(0, 0.45), -rng.uniform(0, 0.25)], p=[0.4, 0.4, 0.2])
    points[:, 0] += around * (narrow - 1) * (points[:, 0] - middle[0])
    points[:, 1] += around * rng.uniform(0, 0.5) * (1 - narrow) * (points[:, 1] - middle[1])
    points[:, 2] -= around * 0.3 * max(0.0, 1 - narrow)
    for corner in (61, 291):
        weight = _bump(points, points[corner], 0.13, 0.13)
        points[:, 1] += weight * strength * rng.uniform(-0.09, 0.1)
    points[:, 0] += around * strength * rng.normal(0, 0.03)
    points[:, 1] += around * strength * rng.normal(0, 0.02)
    for rows in (topo.UPPER_LIP_ROWS, topo.LOWER_LIP_ROWS):
        if rng.random() < 0.3:
            _scale_lip(points, rows, rng.uniform(0.55, 1.3))


def _close_lips(points: NDArray[np.float64], amount: float, upper_part: float) -> None:
    """Moves the lips towards each other; `amount` 1 seals them, `upper_part` of the way is the upper lip's."""
    gap = points[list(topo.LOWER_LIP_ROWS[0])] - points[list(topo.UPPER_LIP_ROWS[0])]
    for depth in range(4):  # the outer rows follow less
        step = amount * (1 - 0.1 * depth) * gap
        points[list(topo.UPPER_LIP_ROWS[depth])] += upper_part * step
        points[list(topo.LOWER_LIP_ROWS[depth])] -= (1 - upper_part) * step


def _scale_lip(points: NDArray[np.float64], rows: tuple[tuple[int, ...], ...], factor: float) -> None:
    """Makes a lip thicker or thinner, its inner line kept."""
    inner_y = points[list(rows[0]), 1]
    for row in rows[1:]:
        points[list(row), 1] = inner_y + factor * (points[list(row), 1] - inner_y)


def _move_eyes(points: NDArray[np.float64], rng: np.random.Generator, strength: float) -> None:
    both = rng.random() < 0.85
    amount = _lid_amount(rng, strength)
    look = rng.normal(0, 1, 2) * [0.035, 0.018] * strength
    for upper, lower, iris in (
        (topo.RIGHT_EYE_UPPER, topo.RIGHT_EYE_LOWER, topo.RIGHT_IRIS),
        (topo.LEFT_EYE_UPPER, topo.LEFT_EYE_LOWER, topo.LEFT_IRIS),
    ):
        close = amount if both else _lid_amount(rng, strength)
        upper_inner, lower_inner = list(upper[1:-1]), list(lower[1:-1])
        centre = 0.5 * (points[upper[0]] + points[upper[-1]])
        gap = (points[lower_inner, 1] - points[upper_inner, 1]).copy()
        lift = _bump(points, centre - [0, 0.06, 0], 0.17, 0.05) * (points[:, 1] < centre[1])
        lift[[*upper, *lower]] = 0
        points[:, 1] += lift * 0.5 * close * gap.max()
        points[upper_inner, 1] += 0.85 * close * gap
        points[lower_inner, 1] -= 0.15 * close * gap
        points[list(iris), :2] += look


def _lid_amount(rng: np.random.Generator, strength: float) -> float:
    """How far lids close: 1 shut, negative widened."""
    kind = rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])
    return strength * float([0.0, rng.uniform(-0.5, 0.1), rng.uniform(0, 0.8), rng.uniform(0.85, 1.0)][kind])


def _move_brows(points: NDArray[np.float64], rng: np.random.Generator, strength: float) -> None:
    for brow in (topo.RIGHT_BROW_LOWER, topo.LEFT_BROW_LOWER):
        centre = points[list(brow)].mean(0)
        weight = _bump(points, centre - [0, 0.06, 0], 0.25, 0.12)
        points[:, 1] -= weight * strength * rng.normal(0.01, 0.05)


def rotate_head(landmarks: NDArray[np.floating], pitch_rad: float, yaw_rad: float) -> NDArray[np.float32]:
    """Turns the landmarks about the head's middle, with the signs of docs/conventions.md."""
    cos_x, sin_x = np.cos(-pitch_rad), np.sin(-pitch_rad)
    cos_y, sin_y = np.cos(-yaw_rad), np.sin(-yaw_rad)
    about_x = np.array([[1, 0, 0], [0, cos_x, -sin_x], [0, sin_x, cos_x]])
    about_y = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
    low, high = landmarks.min(0), landmarks.max(0)
    centre = 0.5 * (low + high)
    centre[2] = landmarks[[234, 454], 2].mean()
    return ((landmarks - centre) @ (about_y @ about_x).T + centre).astype(np.float32)


def fill_mouth(sample: Sample, opening: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paints an inside of the mouth into the opening: dark, with teeth or tongue at times."""
    size = sample.pixels.shape[0]
    y = np.arange(size, dtype=np.float32)[:, None, None]
    unit = np.linalg.norm(sample.landmarks[33, :2] - sample.landmarks[263, :2])
    top, bottom = sample.landmarks[13, 1], sample.landmarks[14, 1]
    light = sample.pixels[opening].mean() if opening.any() else 60.0
    dark = np.array([1.0, 0.55, 0.5], np.float32) * rng.uniform(8, 60)
    inside = np.broadcast_to(dark, sample.pixels.shape).copy()
    if rng.random() < 0.6:
        edge = top + unit * rng.uniform(0.03, 0.11)
        teeth = _soft_step((edge - y) / (0.01 * unit + 0.5))
        inside += teeth * (np.array([1, 0.94, 0.85], np.float32) * rng.uniform(0.6, 1.0) * max(light, 130.0) - inside)
    if rng.random() < 0.4:
        edge = bottom - unit * rng.uniform(0.03, 0.12)
        tongue = _soft_step((y - edge) / (0.015 * unit + 0.5))
        inside += tongue * (np.array([1, 0.5, 0.5], np.float32) * rng.uniform(60, 170) - inside)
    weight = cv2.GaussianBlur(opening.astype(np.float32), (0, 0), 0.8)[..., None] * opening[..., None]
    return np.clip(sample.pixels + weight * (inside - sample.pixels), 0, 255).astype(np.uint8)
