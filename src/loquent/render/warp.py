"""Smooth displacement fields on lattices, and their inversion.

A field is known forwards: where does a point of the photo go? Drawing needs it backwards: which point of the photo
shows at this pixel? `invert` answers on a coarse lattice; the answer is smooth, so it is enlarged by interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_LARGEST_DOUBLED = 1400  # pixels of the longer side up to which textures are kept at twice the size
_FLATTEST = 0.25  # of the photo's area, to which a place may shrink

# Shape letters: K landmarks, N points, (H, W) rows and columns of a lattice or a picture.


@dataclass(frozen=True)
class Lattice:
    """A regular grid of points round a box of whole pixels; it reaches at least half a step beyond each side."""

    left_px: float
    top_px: float
    step_px: int
    num_columns: int
    num_rows: int

    @staticmethod
    def over(box_px: tuple[float, float, float, float], step_px: float) -> Lattice:
        """The lattice for a box (left, top, right, bottom), its step rounded to whole pixels."""
        step = max(1, round(step_px))
        left, top = int(np.floor(box_px[0])), int(np.floor(box_px[1]))
        right, bottom = int(np.ceil(box_px[2])), int(np.ceil(box_px[3]))
        columns, rows = -(-(right - left) // step) + 2, -(-(bottom - top) // step) + 2
        # A point is the centre of a cell of step x step pixels, so that `cv2.resize` enlarges exactly.
        first = (step - 1) / 2 - step
        return Lattice(left + first, top + first, step, columns, rows)

    def points(self) -> NDArray[np.float32]:
        """(H, W, 2): x and y of each point, in photo pixels."""
        x = self.left_px + self.step_px * np.arange(self.num_columns, dtype=np.float32)
        y = self.top_px + self.step_px * np.arange(self.num_rows, dtype=np.float32)
        return np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)

    def sample(self, values: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (H, W, C) with C of 1 to 4, interpolated at `points` (h, w, 2); constant beyond the edge."""
        where = (points - np.float32((self.left_px, self.top_px))) * np.float32(1 / self.step_px)
        return cv2.remap(values, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def pixel_map(self, values: NDArray[np.float32], box_px: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """Values (H, W, 2) enlarged to every pixel of a whole-pixel box inside the lattice: (h, w, 2)."""
        left, top, right, bottom = box_px
        size = (self.num_columns * self.step_px, self.num_rows * self.step_px)
        enlarged = cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)
        x, y = round(left - self.left_px + (self.step_px - 1) / 2), round(top - self.top_px + (self.step_px - 1) / 2)
        return enlarged[y : y + bottom - top, x : x + right - left]


class Texture:
    """A part of the photo that is resampled for every frame, without losing sharpness between its pixels.

    Small ones are kept at twice the size, with the photo's own pixels at every second place, and read bilinearly:
    that is as sharp as bicubic reading (54 dB from Lanczos either way) at a sixth of the time.
    """

    def __init__(self, pixels: NDArray[np.uint8], left_px: int, top_px: int) -> None:
        """Args: pixels (h, w, C); left_px, top_px: where its first pixel lies in the photo."""
        self._corner = np.float32((left_px, top_px))
        self._zoom = 2 if max(pixels.shape) <= _LARGEST_DOUBLED else 1
        if self._zoom == 2:
            size = (2 * pixels.shape[1], 2 * pixels.shape[0])
            flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
            pixels = cv2.warpAffine(
                pixels, np.diag([0.5, 0.5, 1])[:2], size, flags=flags, borderMode=cv2.BORDER_REFLECT_101
            )
        self._pixels = pixels
        self._method = cv2.INTER_LINEAR if self._zoom == 2 else cv2.INTER_CUBIC

    def draw(
        self, source: NDArray[np.float32], lattice: Lattice, box_px: tuple[int, int, int, int]
    ) -> NDArray[np.uint8]:
        """The texture over a box of the frame: `source` (H, W, 2) are the photo points shown at the lattice's points."""
        where = lattice.pixel_map((source - self._corner) * np.float32(self._zoom), box_px)
        return cv2.remap(self._pixels, where, None, self._method, borderMode=cv2.BORDER_REPLICATE)


class SmoothInterpolator:
    """Spreads values at scattered centres into a smooth field that falls to zero away from them.

    Source: Wendland 1995, the compactly supported C2 function (1 - r)^4 (4 r + 1). The field is linear in the
    values, so it is kept as a matrix.
    """

    def __init__(self, centres: NDArray, support_px: float, smoothing: float = 1e-4) -> None:
        """Args: centres (K, 2); support_px: reach of one centre; smoothing: added to the diagonal, 0 is exact."""
        self._origin = np.asarray(centres, np.float64).mean(0)
        self._scale = 1 / support_px
        self._centres = (np.asarray(centres, np.float64) - self._origin) * self._scale
        system = _wendland(self._centres, self._centres) + smoothing * np.eye(len(self._centres))
        self._solve = np.linalg.inv(system).astype(np.float32)

    def matrix(self, points: NDArray) -> NDArray[np.float32]:
        """(N, K) matrix that takes values at the centres to values at `points` (N, 2)."""
        unit = ((np.asarray(points, np.float64) - self._origin) * self._scale).astype(np.float32)
        return _wendland(unit, self._centres.astype(np.float32)) @ self._solve


def _wendland(points: NDArray, centres: NDArray) -> NDArray:
    """(N, K): the function of the distance, in units of its reach, between points (N, 2) and centres (K, 2)."""
    squared = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
    r = np.sqrt(np.clip(squared, 0, 1))
    falling = (1 - r) ** 2
    return falling * falling * (4 * r + 1)


def invert(
    displacement: NDArray[np.float32],
    lattice: Lattice,
    targets: NDArray[np.float32],
    start: NDArray[np.float32] | None = None,
    iterations: int = 4,
) -> NDArray[np.float32]:
    """Finds the photo points that the field carries to `targets`, by Newton's method.

    Args:
        displacement: where each lattice point moves, relative to itself, (H, W, 2) in pixels.
        lattice: the lattice of `displacement`.
        targets: points of the frame, (h, w, 2).
        start: first guess, (h, w, 2); the targets less the mean displacement by default.
        iterations: Newton steps; 4 leave less than a tenth of a lattice step.

    Returns:
        (h, w, 2) points of the photo.
    """
    inverse = _inverse_jacobian(displacement, lattice.step_px)
    source = targets - displacement.mean((0, 1)) if start is None else start
    for _ in range(iterations):
        error = targets - source
        error -= lattice.sample(displacement, source)
        j = lattice.sample(inverse, source)
        source = source + j[..., 0::2] * error[..., :1] + j[..., 1::2] * error[..., 1:]
    return source


def inversion_start(
    displacement: NDArray[np.float32], lattice: Lattice, targets: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A start for `invert` in fields that stretch so much from top to bottom that its own start can lead it astray.

    Follows each column of the lattice, moved sideways by the mean only, down to the cell that holds the target's
    height. Arguments and result as for `invert`; the columns must not fold (`unfold`).
    """
    x = targets[..., 0] - displacement[..., 0].mean()
    column = np.clip(np.rint((x - lattice.left_px) / lattice.step_px), 0, lattice.num_columns - 1).astype(np.intp)
    rows = lattice.top_px + lattice.step_px * np.arange(lattice.num_rows, dtype=np.float32)
    moved = np.maximum.accumulate(rows[:, None] + displacement[..., 1], axis=0)
    above = (moved[1:-1, column] <= targets[..., 1]).sum(0)
    low, high = moved[above, column], moved[above + 1, column]
    share = (targets[..., 1] - low) / np.maximum(high - low, np.float32(1e-3))
    # Beyond the lattice the field is constant: there a point is as far from the last row as its target from that row's.
    beyond = np.where(share < 0, targets[..., 1] - low, np.where(share > 1, targets[..., 1] - high, 0))
    y = rows[above] + lattice.step_px * np.clip(share, 0, 1) + beyond
    return np.stack([x, y], axis=-1).astype(np.float32)


def unfold(displacement: NDArray[np.float32], step_px: float, rounds: int = 6) -> NDArray[np.float32]:
    """The field (H, W, 2) with places that fold over themselves, or nearly so, smoothed until they no longer do."""
    for _ in range(rounds):
        a, b, c, d = _jacobian(displacement, step_px)
        folded = ((a * d - b * c < _FLATTEST) | (a < _FLATTEST) | (d < _FLATTEST)).astype(np.float32)
        if not folded.any():
            break
        share = np.minimum(2 * cv2.GaussianBlur(cv2.dilate(folded, np.ones((3, 3))), (5, 5), 1.2), 1)[..., None]
        displacement = displacement + share * (cv2.GaussianBlur(displacement, (7, 7), 1.6) - displacement)
    return displacement


def _inverse_jacobian(displacement: NDArray[np.float32], step_px: float) -> NDArray[np.float32]:
    """(H, W, 4): rows of the inverse of the field's Jacobian, kept away from folding."""
    a, b, c, d = _jacobian(displacement, step_px)
    determinant = np.maximum(a * d - b * c, np.float32(_FLATTEST))
    return np.stack([d, -b, -c, a], axis=-1) / determinant[..., None]


def _jacobian(displacement: NDArray[np.float32], step_px: float) -> tuple[NDArray[np.float32], ...]:
    """The four entries, row by row, of the Jacobian of x + displacement(x): each (H, W)."""
    kernel = np.array([[-0.5, 0.0, 0.5]], np.float32) / np.float32(step_px)
    unit = np.ones((1, 1), np.float32)
    dx = cv2.sepFilter2D(displacement, cv2.CV_32F, kernel, unit, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.sepFilter2D(displacement, cv2.CV_32F, unit, kernel, borderType=cv2.BORDER_REPLICATE)
    return 1 + dx[..., 0], dy[..., 0], dx[..., 1], 1 + dy[..., 1]


def smoothstep(x: NDArray | float) -> NDArray[np.float32]:
    """0 below 0, 1 above 1, smooth between."""
    t = np.clip(np.asarray(x, np.float32), 0, 1)
    return t * t * (3 - 2 * t)
