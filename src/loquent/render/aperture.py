"""An opening in the skin (mouth or eye): an upper and a lower layer of skin that slide over what lies behind.

Each layer is a smooth field of its own, so that the edges of the opening part and meet freely. The line of each edge is
kept as a height over the line that joins the corners; every pixel then knows how far it is from both edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_STATIONS = 41  # points along each edge


@dataclass(frozen=True, eq=False)
class EdgeFrame:
    """Coordinates of an opening: u along the line that joins its corners, v across it, downwards, in pixels."""

    origin: NDArray[np.float32]  # (2,), the left corner
    across: NDArray[np.float32]  # (2,), unit vector towards the right corner
    length_px: float  # from corner to corner

    @staticmethod
    def of(left: NDArray, right: NDArray) -> EdgeFrame:
        across = np.asarray(right, np.float32) - np.asarray(left, np.float32)
        length = max(float(np.hypot(*across)), 1e-3)
        return EdgeFrame(np.asarray(left, np.float32), across / np.float32(length), length)

    @property
    def down(self) -> NDArray[np.float32]:
        return np.array([-self.across[1], self.across[0]], np.float32)

    def to_uv(self, points: NDArray) -> NDArray[np.float32]:
        """(..., 2) photo points as (..., 2) coordinates u, v."""
        offset = np.asarray(points, np.float32) - self.origin
        return np.stack([offset @ self.across, offset @ self.down], axis=-1)

    def to_xy(self, uv: NDArray) -> NDArray[np.float32]:
        """Inverse of `to_uv`."""
        uv = np.asarray(uv, np.float32)
        return self.origin + uv[..., :1] * self.across + uv[..., 1:] * self.down

    def grid(self, box_px: tuple[int, int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """u and v at each pixel of a box (left, top, right, bottom): two (h, w) arrays."""
        left, top, right, bottom = box_px
        x = np.arange(left, right, dtype=np.float32) - self.origin[0]
        y = np.arange(top, bottom, dtype=np.float32) - self.origin[1]
        a, b = self.across
        return x * a + (y * b)[:, None], x * -b + (y * a)[:, None]


@dataclass(frozen=True, eq=False)
class Opening:
    """The edges of an opening at one moment."""

    frame: EdgeFrame
    u: NDArray[np.float32]  # (U,), uniform
    upper: NDArray[np.float32]  # (U,), v of the upper edge
    lower: NDArray[np.float32]  # (U,), v of the lower edge, never above the upper edge

    @staticmethod
    def of(upper_px: NDArray, lower_px: NDArray, slack_px: float = 0.0) -> Opening:
        """From the edges (S, 2) each, left corner to right corner; where they cross, they meet half-way.

        A gap well below `slack_px` closes, a larger one stays as it is.
        """
        left, right = (upper_px[0] + lower_px[0]) / 2, (upper_px[-1] + lower_px[-1]) / 2
        frame = EdgeFrame.of(left, right)
        u = np.linspace(0, frame.length_px, max(int(frame.length_px * 2), 8), dtype=np.float32)
        edges = []
        for edge in (upper_px, lower_px):
            along, height = frame.to_uv(edge).T
            along = np.maximum.accumulate(along)
            taper = np.interp(u, (0, 0.04 * frame.length_px, 0.96 * frame.length_px, frame.length_px), (0, 1, 1, 0))
            edges.append(np.interp(u, along, height).astype(np.float32) * taper.astype(np.float32))
        gap = edges[1] - edges[0]
        if slack_px > 0:
            closing = np.minimum(slack_px * np.exp(-((np.maximum(gap, 0) / (2 * slack_px)) ** 2)), np.maximum(gap, 0))
            edges[0] = edges[0] + closing * np.float32(0.8)
            edges[1] = edges[1] - closing * np.float32(0.2)
        middle = (edges[0] + edges[1]) / 2
        crossed = edges[0] > edges[1]
        return Opening(frame, u, np.where(crossed, middle, edges[0]), np.where(crossed, middle, edges[1]))

    @property
    def gap_px(self) -> float:
        """Widest distance between the edges."""
        return float((self.lower - self.upper).max())

    def heights(self, u: NDArray[np.float32]) -> NDArray[np.float32]:
        """v of the upper and of the lower edge at each u: (h, w, 2); the corners' height beyond them."""
        table = np.stack([self.upper, self.lower], -1)[None]
        scale = np.float32((len(self.u) - 1) / self.frame.length_px)
        return cv2.remap(table, u * scale, np.zeros_like(u), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def masks(self, box_px: tuple[int, int, int, int], softness_px: float = 1.0) -> EdgeMasks:
        """How much of each pixel belongs to the skin above, the skin below, and the opening."""
        u, v = self.frame.grid(box_px)
        edge = self.heights(u)
        lower = np.clip((v - edge[..., 1]) * np.float32(1 / softness_px) + np.float32(0.5), 0, 1)
        upper = np.clip((edge[..., 0] - v) * np.float32(1 / softness_px) + np.float32(0.5), 0, 1)
        upper = np.minimum(upper, 1 - lower)
        return EdgeMasks(u, v, edge, upper, lower)


@dataclass(frozen=True, eq=False)
class Spread:
    """What the landmarks of some frames do to an opening and the skin round it. Shape letter: T frames."""

    shifts: list[NDArray[np.float32]]  # expression displacement (T, N, 3) of each of the opening's point fields
    presence: NDArray[np.float32]  # (T,), how far the opening's layers replace the photo moved as one: 0 at rest


def presence(shift: NDArray[np.float32], fade_px: float) -> NDArray[np.float32]:
    """(T,) from displacements (T, K, 3) of an opening's landmarks: 0 where none moves, 1 from about `fade_px` on."""
    largest = np.sqrt((shift[..., :2] ** 2).sum(-1).max(1))
    return (1 - np.exp(-((largest / fade_px) ** 2))).astype(np.float32)


@dataclass(frozen=True, eq=False)
class EdgeMasks:
    """Parts of the pixels of a box; upper + lower + opening = 1."""

    u: NDArray[np.float32]  # (h, w)
    v: NDArray[np.float32]  # (h, w)
    edge: NDArray[np.float32]  # (h, w, 2): v of the upper and lower edge
    upper: NDArray[np.float32]  # (h, w)
    lower: NDArray[np.float32]  # (h, w)


def dense_edge(points: NDArray) -> NDArray[np.float32]:
    """A smooth curve through an edge's landmarks (n, 2): (41, 2), corner to corner (Catmull-Rom)."""
    points = np.asarray(points, np.float64)
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    position = np.linspace(0, len(points) - 1, _STATIONS)
    index = np.minimum(position.astype(int), len(points) - 2)
    t = (position - index)[:, None]
    p0, p1, p2, p3 = (padded[index + k] for k in range(4))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return curve.astype(np.float32)
