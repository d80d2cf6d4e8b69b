"""From the landmarks of a video to face parameters: what the person in it does, as weights that fit any other face.

The person's shape is settled once, from frames at rest; then every frame is pose and weights alone. The fit is that of
`face_model` with the identity known: a linear problem with bounds, alternating with the head's pose.

Shape letters: T frames, N points (478), C expression weights (52), P pairs of opposite lip points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loquent.face import topology
from loquent.motion.face_model import (
    EYEBALL_RADIUS,
    EYES,
    HEAD_PIVOT,
    FaceShape,
    fit_face,
    lip_gap,
    pose_precision,
    rotation_of_vector,
)
from loquent.motion.pose import angles_of, rotation_matrix
from loquent.types import ARKIT_INDEX, ARKIT_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REFERENCES = 9  # frames at rest, the median of whose shapes is the person's
_ROUNDS, _SWEEPS, _POSE_STEPS = 4, 40, 4
# Standard deviations of a landmark in interocular distances, once the person is known.
_POINT_SIGMA, _LIP_SIGMA, _LID_SIGMA, _OVAL_SIGMA, _GAP_SIGMA, _DEPTH = 0.012, 0.007, 0.005, 0.03, 0.004, 4.0

# How far each weight is likely to go, where it is not the general figure; 0 is not estimated.
_GENERAL = 0.25
_SPREAD = {
    "jawOpen": 0.4, "eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0, "mouthSmileLeft": 0.4, "mouthSmileRight": 0.4,
    "mouthPucker": 0.4, "mouthFunnel": 0.3, "mouthClose": 0.15, "mouthLeft": 0.1, "mouthRight": 0.1, "jawLeft": 0.1,
    "jawRight": 0.1, "jawForward": 0.05, "cheekPuff": 0.0, "tongueOut": 0.0, "mouthShrugUpper": 0.1,
    "mouthShrugLower": 0.15, "browInnerUp": 0.4,
    **{name: 0.0 for name in ARKIT_NAMES if name.startswith("eyeLook")},
}  # fmt: skip
_OPEN_QUANTILE = 0.8  # of the lids' opening over the video is an eye that is open
_SHUT_SHARE, _OPEN_SHARE = 0.25, 0.8  # of that opening, at which an eye counts as shut, and at which as open


@dataclass(frozen=True, eq=False)
class TrackedFace:
    """What a face does over T frames."""

    expression: NDArray[np.float32]  # (T, 52), ARKit weights
    pose_rad: NDArray[np.float32]  # (T, 3), pitch, yaw, roll towards the camera
    position: NDArray[np.float32]  # (T, 3), of the neck, x right, y down in interocular distances; z is 0
    gaze: NDArray[np.float32]  # (T, 2, 2), left and right eye, pitch and yaw within the head, relative to its usual
    rate_hz: float

    def __len__(self) -> int:
        return len(self.expression)


def track_expression(landmarks: NDArray[np.floating], closure: NDArray[np.floating], rate_hz: float) -> TrackedFace:
    """Fits pose, weights and gaze to a video.

    Args:
        landmarks: (T, 478, 3), in pixels.
        closure: (T, 2), how far the eyes are closed, the picture's left one first.
        rate_hz: frames a second.

    Raises:
        FaceError: the landmarks are no face.
    """
    points = np.asarray(landmarks, np.float64)
    shape = _settle_person(points)
    system = _System(shape)
    weights = np.zeros((len(points), len(ARKIT_NAMES)))
    rotation = np.repeat(rotation_matrix(shape.pose_rad)[None], len(points), 0)
    rotation, scale, origin, in_head = _look(shape, weights, points, rotation)
    for _ in range(_ROUNDS):
        weights = system.solve(in_head, weights)
        rotation, scale, origin, in_head = _look(shape, weights, points, rotation)
    _close_eyes(weights, _lid_opening(in_head), closure)
    unit_px = float(np.median(scale))
    neck = (rotation @ HEAD_PIVOT) * scale[:, None] + origin
    position = np.where([True, True, False], neck / unit_px, 0)
    return TrackedFace(
        expression=weights.astype(np.float32),
        pose_rad=angles_of(rotation).astype(np.float32),
        position=position.astype(np.float32),
        gaze=_gaze(in_head, shape).astype(np.float32),
        rate_hz=rate_hz,
    )


def _settle_person(points: NDArray[np.float64]) -> FaceShape:
    """The person's shape: the median of the fits of frames with shut lips, open eyes and an upright head."""
    size = np.linalg.norm(points[:, topology.LEFT_EYE_OUTER] - points[:, topology.RIGHT_EYE_OUTER], axis=1)
    gap = np.abs(lip_gap(points)).mean(1) / size
    opening = _lid_opening(points).min(1) / size
    turned = np.abs(points[:, topology.LEFT_EYE_OUTER, 2] - points[:, topology.RIGHT_EYE_OUTER, 2]) / size
    unrest = gap + np.maximum(np.median(opening) - opening, 0) + 0.1 * turned
    shapes = [fit_face(points[frame]) for frame in np.argsort(unrest, kind="stable")[:_REFERENCES]]
    middle = shapes[0]
    return FaceShape(
        **{
            **middle.__dict__,
            "neutral": np.median([shape.neutral for shape in shapes], axis=0),
            "expressions": np.median([shape.expressions for shape in shapes], axis=0),
        }
    )


class _System:
    """The linear problem of one person, the same in every frame."""

    def __init__(self, shape: FaceShape) -> None:
        self.neutral = shape.neutral
        spread = np.array([_SPREAD.get(name, _GENERAL) for name in ARKIT_NAMES])
        self.names = np.flatnonzero(spread)
        self.precision = _precision()
        basis = shape.expressions[self.names]
        rows = [(basis * self.precision).reshape(len(basis), -1), lip_gap(basis) / _GAP_SIGMA]
        self.design = np.concatenate(rows, 1).T
        self.normal = self.design.T @ self.design + np.diag(spread[self.names] ** -2.0)

    def solve(self, in_head: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights (T, C) within 0 and 1 of points in head coordinates (T, N, 3)."""
        change = in_head - self.neutral
        rows = [(change * self.precision).reshape(len(change), -1), lip_gap(change) / _GAP_SIGMA]
        target = np.concatenate(rows, 1) @ self.design
        x = start[:, self.names]
        slope = x @ self.normal - target
        for _ in range(_SWEEPS):
            largest = 0.0
            for index in range(x.shape[1]):
                step = np.clip(x[:, index] - slope[:, index] / self.normal[index, index], 0, 1) - x[:, index]
                x[:, index] += step
                slope += step[:, None] * self.normal[index]
                largest = max(largest, float(np.abs(step).max()))
            if largest < 1e-3:
                break
        weights = np.zeros((len(x), len(ARKIT_NAMES)))
        weights[:, self.names] = x
        return weights


def _precision() -> NDArray[np.float64]:
    """Inverse standard deviations (N, 3)."""
    sigma = np.full((topology.NUM_LANDMARKS, 3), _POINT_SIGMA)
    sigma[list(topology.LIPS)] = _LIP_SIGMA
    sigma[list(topology.EYELIDS)] = _LID_SIGMA
    sigma[list(topology.FACE_OVAL)] = _OVAL_SIGMA
    sigma[:, 2] *= _DEPTH
    precision = 1 / sigma
    precision[topology.NUM_MESH_LANDMARKS :] = 0  # irises follow the gaze
    return precision


def _look(
    shape: FaceShape, weights: NDArray[np.float64], points: NDArray[np.float64], rotation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Poses of a person with these weights, as `_poses` gives them, and the points in head coordinates (T, N, 3)."""
    posed = shape.neutral + np.tensordot(weights, shape.expressions, 1)
    rotation, scale, origin = _poses(posed, points, rotation)
    seen = (points - origin[:, None]) / scale[:, None, None]
    seen[..., 2] = np.einsum("ti,tni->tn", rotation[:, 2], posed)  # depth as the shape has it
    return rotation, scale, origin, np.einsum("tni,tij->tnj", seen, rotation)


def _poses(
    shapes: NDArray[np.float64], points: NDArray[np.float64], rotation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (T, 3, 3), scales (T,) and origins (T, 3) under which each shape (T, N, 3) is seen at its points.

    By Gauss and Newton from a first guess of the rotation, on x and y alone: depths of landmarks are a network's guess,
    which follows a turn too little. The depths of `points` are not read; those of the origins are 0.
    """
    weights = pose_precision()
    share = weights / weights.sum()
    seen = points[..., :2] - (share @ points[..., :2])[:, None]
    centred = shapes - (share @ shapes)[:, None]
    scale = np.ones(len(points))
    for _ in range(_POSE_STEPS):
        turned = np.einsum("tij,tnj->tni", rotation, centred)
        x, y, z = np.moveaxis(turned, -1, 0)
        flat = turned[..., :2]
        scale = (share * (flat * seen).sum(-1)).sum(1) / (share * np.square(flat).sum(-1)).sum(1)
        miss = seen - scale[:, None, None] * flat  # (T, N, 2)
        zero = np.zeros_like(x)
        slopes = scale[:, None, None, None] * np.stack(
            [np.stack([zero, -z], -1), np.stack([z, zero], -1), np.stack([-y, x], -1), flat], -1
        )  # (T, N, 2, 4): turns about x, y, z, and growth
        normal = np.einsum("n,tnik,tnil->tkl", share, slopes, slopes)
        target = np.einsum("n,tnik,tni->tk", share, slopes, miss)
        step = np.linalg.solve(normal, target[..., None])[..., 0]
        rotation = rotation_of_vector(step[:, :3]) @ rotation
        scale = scale * (1 + step[:, 3])
    middle = np.einsum("tij,tj->ti", rotation, share @ shapes) * scale[:, None]
    origin = np.pad(share @ points[..., :2], ((0, 0), (0, 1))) - middle
    return rotation, scale, origin * [1, 1, 0]


def _lid_opening(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean distance of the lids of both eyes, (T, 2)."""
    return np.stack(
        [
            np.linalg.norm(points[:, list(upper[1:-1])] - points[:, list(lower[1:-1])], axis=2).mean(1)
            for upper, lower, _, _ in EYES
        ],
        axis=1,
    )


def _close_eyes(weights: NDArray, opening: NDArray, closure: NDArray) -> None:
    """Replaces blinks by what pixels and the lids' opening say, in place: an eye that is nearly shut is shut."""
    share = opening / np.quantile(opening, _OPEN_QUANTILE, axis=0)
    by_lids = np.clip((_OPEN_SHARE - share) / (_OPEN_SHARE - _SHUT_SHARE), 0, 1)
    for eye, (_, _, _, name) in enumerate(EYES):
        weights[:, ARKIT_INDEX[name]] = np.maximum(by_lids, closure)[:, eye]


def _gaze(in_head: NDArray[np.float64], shape: FaceShape) -> NDArray[np.float64]:
    """Turn of the eyes (T, 2, 2) away from their usual direction, from the irises' places between the corners."""
    gaze = np.zeros((len(in_head), 2, 2))
    for eye, (upper, _, iris, _) in enumerate(EYES):
        corners = in_head[:, [upper[0], upper[-1]]].mean(1)
        place = in_head[:, list(iris)].mean(1) - corners
        moved = np.clip((place - np.median(place, axis=0))[:, :2] / EYEBALL_RADIUS, -0.6, 0.6)
        gaze[:, eye] = np.arcsin(np.stack([-moved[:, 1], moved[:, 0]], axis=1))
    return gaze
