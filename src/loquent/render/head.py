"""How every point of the photo moves: with the head, with the expression, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loquent.face.topology import (
    CHIN,
    FACE_OVAL,
    FOREHEAD,
    LEFT_BROW_LOWER,
    LEFT_BROW_UPPER,
    LEFT_EYE_LOWER,
    LEFT_EYE_UPPER,
    LEFT_IRIS,
    NUM_MESH_LANDMARKS,
    RIGHT_BROW_LOWER,
    RIGHT_BROW_UPPER,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_UPPER,
    RIGHT_IRIS,
)
from loquent.render.warp import Lattice, SmoothInterpolator, smoothstep

# Shape letters: K landmarks (478), N points.

_BROWS = {*RIGHT_BROW_UPPER, *RIGHT_BROW_LOWER, *LEFT_BROW_UPPER, *LEFT_BROW_LOWER}
_SHOULDER_FOLLOW = 0.16  # how far the shoulders go along with the head
_ROW = 1024
_STEEPEST = 1.3  # change of depth over a distance
_REACH = 1.4  # of one landmark, in interocular distances


@dataclass(frozen=True, eq=False)
class Pose:
    """Where the head's points go: p -> matrix p + offset, in photo pixels (x, y, z)."""

    matrix: NDArray[np.float32]  # (3, 3)
    offset: NDArray[np.float32]  # (3,)


@dataclass(frozen=True, eq=False)
class PointField:
    """Displacement of a set of points as a function of the landmarks' displacement and the head's pose."""

    points: NDArray[np.float32]  # (N, 3), photo pixels with depth
    follow: NDArray[np.float32]  # (N,), 1 on the head, 0 on what stays still
    weights: NDArray[np.float32]  # (M, K): takes the landmarks' displacements to the first M or `active` points
    active: NDArray[np.intp] | None = None  # (M,), the points that `weights` is for; None: all

    def spread(self, landmark_shift: NDArray[np.float32]) -> NDArray[np.float32]:
        """Expression displacement (T, M, 3) of the points, from that of the landmarks (T, K, 3)."""
        frames, count, _ = landmark_shift.shape
        columns = landmark_shift.transpose(1, 0, 2).reshape(count, frames * 3)
        spread = (self.weights @ columns).reshape(-1, frames, 3)
        return np.ascontiguousarray(spread.transpose(1, 0, 2))

    def displacement(self, shift: NDArray[np.float32], pose: Pose) -> NDArray[np.float32]:
        """(N, 2): where each point goes, relative to itself; `shift` (M, 3) is one frame of `spread`."""
        turned = self.points @ pose.matrix[:2].T + pose.offset[:2] - self.points[:, :2]
        moved = shift @ pose.matrix[:2].T
        if self.active is None:
            turned += moved
        else:
            turned[self.active] += moved
        return turned * self.follow[:, None]


class HeadModel:
    """Depth, following weight and expression fields round one face."""

    def __init__(self, landmarks: NDArray[np.float32]) -> None:
        """Args: landmarks (478, 3) in photo pixels."""
        self.landmarks = landmarks
        self.interocular_px = float(np.linalg.norm(landmarks[33, :2] - landmarks[263, :2]))
        up = landmarks[FOREHEAD, :2] - landmarks[CHIN, :2]
        self._up = (up / np.linalg.norm(up)).astype(np.float32)
        self._across = np.array([-self._up[1], self._up[0]], np.float32)
        self.eye_points = np.flatnonzero(self._near_eyes())
        self._depth = self._depth_lattice()

    def _near_eyes(self) -> NDArray[np.bool_]:
        """Landmarks of lids and irises, whose movement belongs to the eyes' own layers: (478,)."""
        points = self.landmarks[:, :2]
        near = np.zeros(len(points), bool)
        for upper, lower in ((RIGHT_EYE_UPPER, RIGHT_EYE_LOWER), (LEFT_EYE_UPPER, LEFT_EYE_LOWER)):
            left, right = points[upper[0]], points[upper[-1]]
            width = np.linalg.norm(right - left)
            offset = points - (left + right) / 2
            near |= np.hypot(offset @ self._across / (0.8 * width), offset @ self._up / (0.55 * width)) < 1
            near[[*upper, *lower]] = True
        near[[*_BROWS]] = False
        near[[*LEFT_IRIS, *RIGHT_IRIS]] = True
        return near

    def _depth_lattice(self) -> tuple[Lattice, NDArray[np.float32]]:
        """Depth on a lattice: the landmarks' own on the face, that of the ears round it, nowhere too steep to turn.

        A slope s folds the picture over itself at a turn of atan(1 / s); near points spread until no slope is larger.
        """
        unit = self.interocular_px
        mesh = self.landmarks[:NUM_MESH_LANDMARKS].astype(np.float64)
        far = float(np.quantile(mesh[list(FACE_OVAL), 2], 0.6)) + 0.15 * unit
        low, high = mesh[:, :2].min(0) - 1.5 * unit, mesh[:, :2].max(0) + 1.5 * unit
        lattice = Lattice.over((*low, *high), unit / 14)
        grid = lattice.points()
        interpolator = SmoothInterpolator(mesh[:, :2], 1.6 * unit, smoothing=0.02)
        relative = interpolator.matrix(grid.reshape(-1, 2)) @ (mesh[:, 2] - far)
        depth = np.minimum(relative, 0.0).reshape(grid.shape[:2]).astype(np.float32)
        rise = np.float32(_STEEPEST * lattice.step_px)
        for _ in range(30):
            depth[1:] = np.minimum(depth[1:], depth[:-1] + rise)
            depth[:-1] = np.minimum(depth[:-1], depth[1:] + rise)
            depth[:, 1:] = np.minimum(depth[:, 1:], depth[:, :-1] + rise)
            depth[:, :-1] = np.minimum(depth[:, :-1], depth[:, 1:] + rise)
        return lattice, cv2.GaussianBlur(depth, (0, 0), 0.8) + np.float32(far)

    def depth(self, points: NDArray) -> NDArray[np.float32]:
        """(N,) softened depth at photo points (N, 2)."""
        lattice, depth = self._depth
        rows = -(-len(points) // _ROW)  # OpenCV takes pictures of up to 32766 columns
        padded = np.resize(np.asarray(points, np.float32), (rows, _ROW, 2))
        return lattice.sample(depth, padded).reshape(-1)[: len(points)]

    def follow(self, points: NDArray) -> NDArray[np.float32]:
        """(N,): how far points of the person go along with the head: 1 on the head, little on the shoulders."""
        below = (self.landmarks[CHIN, :2] - points) @ self._up / self.interocular_px
        neck = smoothstep((below + 0.35) / 1.5)
        torso = smoothstep((below - 2.0) / 4.0)
        return (1 - neck * (1 - _SHOULDER_FOLLOW)) * (1 - torso)

    def halo(self, points: NDArray) -> NDArray[np.float32]:
        """(N,): 1 on the head, falling to 0 round it; for pictures whose person cannot be cut out."""
        offset = points - self.landmarks[list(FACE_OVAL), :2].mean(0)
        across, up = offset @ self._across / self.interocular_px, offset @ self._up / self.interocular_px
        sideways = np.where(up < -1.2, 1.6, 1.35)
        radius = np.hypot(across / sideways, np.maximum(up - 0.2, 0) / 1.7)
        return 1 - smoothstep((radius - 1) / 0.9)

    def expression_weights(self, points: NDArray, left_out: set[int]) -> NDArray[np.float32]:
        """(N, 478): spreads displacements of all mesh landmarks but `left_out` to points (N, 2)."""
        used = np.setdiff1d(np.arange(NUM_MESH_LANDMARKS), sorted(left_out))
        interpolator = SmoothInterpolator(self.landmarks[used, :2], _REACH * self.interocular_px, smoothing=2e-4)
        weights = np.zeros((len(points), len(self.landmarks)), np.float32)
        weights[:, used] = interpolator.matrix(points)
        return weights

    def field(self, points: NDArray, weights: NDArray[np.float32], active: NDArray | None = None) -> PointField:
        """The field of points (N, 2) with the given expression weights."""
        deep = np.column_stack([points, self.depth(points)]).astype(np.float32)
        return PointField(deep, self.follow(points), weights, active)

    def reach_box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of what can move, in photo pixels."""
        x, y = self.landmarks[list(FACE_OVAL), :2].mean(0)
        unit = self.interocular_px
        return float(x - 4 * unit), float(y - 4 * unit), float(x + 4 * unit), float(y + 6 * unit)


def lattice_field(head: HeadModel, lattice: Lattice, left_out: set[int]) -> PointField:
    """The field of a lattice, with expression weights only where an expression reaches."""
    points = lattice.points().reshape(-1, 2)
    low = head.landmarks[:, :2].min(0) - 0.9 * head.interocular_px
    high = head.landmarks[:, :2].max(0) + 0.9 * head.interocular_px
    active = np.flatnonzero(((points > low) & (points < high)).all(1))
    return head.field(points, head.expression_weights(points[active], left_out), active)
