"""Pictures of the mouth's parts, and moving them as the curved surfaces that they are.

A layer (teeth of one jaw, the tongue) is drawn once from its three-dimensional surface, as a picture with alpha. It is
then moved as a vertical wall standing on the dental arch: exact for turns of the head as long as the wall is seen from
outside, at the price of one `cv2.remap` a frame. Millimetre frame: see `mouth_geometry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.render.mouth_geometry import Points

GRID_PX = 8  # spacing of the coarse grid on which a layer's motion is computed


@dataclass(frozen=True, eq=False)
class View:
    """Orthographic view of millimetre points: `px = px_per_mm * (rotation @ p + shift)[:2] + origin_px`."""

    rotation: NDArray[np.float64]  # (3, 3)
    shift_mm: NDArray[np.float64]  # (3,)
    px_per_mm: float
    origin_px: NDArray[np.float64]  # (2,)

    def project(self, points_mm: NDArray) -> NDArray:
        """Picture position and depth in millimetres, (..., 3)."""
        kind = np.result_type(points_mm, np.float32)
        camera = points_mm @ self.rotation.T.astype(kind) + self.shift_mm.astype(kind)
        return np.concatenate(
            [(camera[..., :2] * self.px_per_mm + self.origin_px).astype(kind), camera[..., 2:]], axis=-1
        )

    def after(self, rotation: NDArray, shift_mm: NDArray) -> View:
        """The same view of points that are first moved rigidly."""
        return View(self.rotation @ rotation, self.rotation @ shift_mm + self.shift_mm, self.px_per_mm, self.origin_px)

    def in_pixels(self, scale: float, corner_px: NDArray) -> View:
        """The same view in a picture `scale` times as large, cut out from `corner_px` (in the large picture)."""
        origin = (self.origin_px + 0.5) * scale - 0.5 - corner_px
        return View(self.rotation, self.shift_mm, self.px_per_mm * scale, origin)


@dataclass(frozen=True, eq=False)
class Wall:
    """A vertical wall over a horizontal curve: the surface that a layer's picture is painted on."""

    curve_mm: NDArray[np.float64]  # (K, 2), x and z, from the picture's left

    def seen(self, view: View) -> _SeenWall:
        """Splits the view into turns about the vertical, sideways and viewing axes, and tables the curve in it."""
        rotation = view.rotation
        pitch = float(np.arcsin(np.clip(rotation[2, 1], -1, 1)))
        roll = float(np.arctan2(-rotation[0, 1], rotation[1, 1]))
        upright = _turn_x(pitch).T @ _turn_z(roll).T @ rotation
        sin_yaw, cos_yaw = upright[0, 2], upright[0, 0]
        x, z = self.curve_mm[:, 0], self.curve_mm[:, 1]
        across, depth = x * cos_yaw + z * sin_yaw, z * cos_yaw - x * sin_yaw
        front = int(np.argmin(depth))
        rising = np.diff(across) > 1e-3
        left = front - int(np.argmin(np.append(rising[:front][::-1], False)))
        right = front + int(np.argmin(np.append(rising[front:], False)))
        return _SeenWall(view, roll, pitch, across, depth, slice(left, right + 1))


@dataclass(frozen=True, eq=False)
class _SeenWall:
    view: View
    roll: float
    pitch: float
    across: NDArray[np.float64]  # (K,), along the de-rolled horizontal, mm
    depth: NDArray[np.float64]  # (K,), before pitch, mm
    visible: slice  # the part of the curve seen from outside

    def to_wall(self, xy_px: NDArray) -> tuple[NDArray, NDArray]:
        """Position along the curve (an index) and height in mm of the wall's point seen at `xy_px` (..., 2)."""
        mm = (xy_px - self.view.origin_px) / self.view.px_per_mm - self.view.shift_mm[:2]
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        across = mm[..., 0] * cos + mm[..., 1] * sin
        upright = mm[..., 1] * cos - mm[..., 0] * sin
        part = np.arange(self.visible.start, self.visible.stop)
        index = np.interp(across, self.across[self.visible], part)
        depth = np.interp(across, self.across[self.visible], self.depth[self.visible])
        return index, (upright + depth * np.sin(self.pitch)) / np.cos(self.pitch)

    def from_wall(self, index: NDArray, height: NDArray) -> NDArray:
        """Inverse of `to_wall`."""
        steps = np.arange(len(self.across))
        across, depth = np.interp(index, steps, self.across), np.interp(index, steps, self.depth)
        upright = height * np.cos(self.pitch) - depth * np.sin(self.pitch)
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        mm = np.stack([across * cos - upright * sin, across * sin + upright * cos], axis=-1)
        return (mm + self.view.shift_mm[:2]) * self.view.px_per_mm + self.view.origin_px


@dataclass(frozen=True, eq=False)
class Layer:
    """A picture with alpha painted on a wall."""

    picture: NDArray[np.float32]  # (H, W, 4), colours multiplied by alpha, 0..255 and alpha 0..1
    wall: Wall
    home: View  # the view in which the picture was drawn, in its own pixels

    def warp(self, view: View, width: int, height: int) -> NDArray[np.float32]:
        """The layer in another view, (height, width, 4)."""
        columns, rows = -(-width // GRID_PX) + 1, -(-height // GRID_PX) + 1
        x, y = np.meshgrid(np.arange(columns) * GRID_PX, np.arange(rows) * GRID_PX)
        index, up = self.wall.seen(view).to_wall(np.stack([x, y], axis=-1).astype(np.float64))
        source = self.wall.seen(self.home).from_wall(index, up).astype(np.float32)
        fine = refine_grid(source, width, height)
        return cv2.remap(self.picture, fine, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def refine_grid(coarse: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Bilinear values at every pixel from values at every `GRID_PX`-th, (height, width, C)."""
    rows, columns = coarse.shape[:2]
    enlarge = np.array([[GRID_PX, 0, 0], [0, GRID_PX, 0]], np.float32)
    size = (columns * GRID_PX, rows * GRID_PX)
    return cv2.warpAffine(coarse, enlarge, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[
        :height, :width
    ]


def paint(points: Points, rgba: NDArray, view: View, width: int, height: int, oversample: int) -> NDArray[np.float32]:
    """Draws points nearest last, then averages `oversample` squared samples.

    Args:
        points: N points of opaque or fading surfaces.
        rgba: (N, 4), colours 0..255 and alpha 0..1.
        view: in the picture's pixels.
        width: of the picture.
        height: of the picture.
        oversample: samples per pixel and side.

    Returns:
        Premultiplied RGBA, (height, width, 4).
    """
    fine = view.in_pixels(oversample, np.zeros(2))
    seen = fine.project(points.position)
    x, y = np.rint(seen[:, 0]).astype(np.int64), np.rint(seen[:, 1]).astype(np.int64)
    wide, high = width * oversample, height * oversample
    inside = np.flatnonzero((x >= 0) & (x < wide) & (y >= 0) & (y < high))
    order = inside[np.argsort(-seen[inside, 2], kind="stable")]
    target = np.zeros((high * wide, 4), np.float32)
    premultiplied = np.concatenate([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], axis=1).astype(np.float32)
    target[y[order] * wide + x[order]] = premultiplied[order]
    return cv2.resize(target.reshape(high, wide, 4), (width, height), interpolation=cv2.INTER_AREA)


def _turn_x(angle: float) -> NDArray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _turn_z(angle: float) -> NDArray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
