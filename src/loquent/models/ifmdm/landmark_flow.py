"""Flow that the portrait's landmarks make of a code: our extension, exact where a decoder would have to learn it slowly.

Steered codes tell how the landmarks of a face move, all but linearly: a fixed table holds what each number of a code
(before tanh) does to them. Spread smoothly from the portrait's own landmarks, once for what lies above the openings of
mouth and eyes and once for what lies below, this is the flow of the face. Away from it the decoder's own flow takes over.

Shape letters: B batch, P photos (B, or 1 for all), K landmarks, L side of the lattice, M numbers of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from loquent.face.topology import (
    EYELIDS,
    FACE_OVAL,
    LEFT_EYE_LOWER,
    LEFT_EYE_OUTER,
    LEFT_EYE_UPPER,
    LIPS,
    NUM_MESH_LANDMARKS,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_OUTER,
    RIGHT_EYE_UPPER,
)
from loquent.motion.face_model import LOWER_RINGS, UPPER_RINGS
from loquent.render.warp import SmoothInterpolator, smoothstep

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

LATTICE_PX = 64
# Landmarks of what lies above and what lies below an opening, corners left out.
UPPER_SIDE = tuple(n for line in (*UPPER_RINGS, RIGHT_EYE_UPPER, LEFT_EYE_UPPER) for n in line[1:-1])
LOWER_SIDE = tuple(n for line in (*LOWER_RINGS, RIGHT_EYE_LOWER, LEFT_EYE_LOWER) for n in line[1:-1])
# Landmarks that move with the skull, of forehead, temples and nose; those of the chin; and those around the upper teeth.
SKULL = (8, 9, 10, 54, 67, 103, 109, 151, 284, 297, 332, 338, 21, 127, 162, 234, 251, 356, 389, 454,
         1, 4, 5, 6, 168, 195, 197)  # fmt: skip
JAW = (152, 148, 377, 176, 400, 175, 199)
_HINGE = (136, 172, 365, 397)
# The lower teeth's shift beside the skull, of the mean shifts of chin and jaw's corners: least squares over 60 drawn people;
# 0.7 across and 1.3 down off, pixels of 256 (root mean square on 60 others; the chin alone 0.7 and 2.1).
_OF_CHIN, _OF_HINGE = 1.47, -1.22
_BEFORE_TEETH = (78, 308, 164, 2)  # as far from the camera as the upper teeth, in the mean
POINTS = tuple(sorted({*LIPS, *EYELIDS, *FACE_OVAL, *SKULL, *JAW, *range(0, NUM_MESH_LANDMARKS, 6)}))
_REACH = 1.4  # of one landmark, in interocular distances
_SMOOTHING = 2e-4
_NARROW = 0.7  # of the outline's width: a turned cheek folds, and the decoder knows outlines
_HAND_OVER = (0.0, 0.28)  # from the face's outline, in interocular distances: all is the landmarks' flow, none is
_UNFOLDINGS = 6
_LONGEST_STEP = 0.15  # of Newton's, half pictures
_LOST = 0.02  # half pictures: an inverse that misses by more is none
_SPREAD = 3.0  # of such places over their neighbours
_NEWTON_STEPS = 4
_FLATTEST = 0.25  # of the photo's area, to which a place may shrink


@dataclass(frozen=True, eq=False)
class LandmarkField:
    """How a photo's landmarks carry what is around them."""

    spread: Tensor  # (P, 2, L·L, K): what the upper and the lower layer do beside the head as a whole
    near: Tensor  # (P, 1, L, L): 1 on the face, 0 away from it
    head: Tensor  # (P, 3, K): affine displacement of the head as a whole, transposed
    skull: Tensor  # (P, 3, K): the same of the skull
    jaw: Tensor  # (P, K): how far the lower teeth move beside the skull

    def rows(self, numbers: Tensor) -> LandmarkField:
        """Those of some photos; the one that is for all stays."""
        return self if len(self.near) == 1 else LandmarkField(*(x[numbers] for x in self._tensors()))

    def to(self, device: torch.device | str) -> LandmarkField:
        return LandmarkField(*(x.to(device) for x in self._tensors()))

    @staticmethod
    def stack(fields: list[LandmarkField]) -> LandmarkField:
        return LandmarkField(*(torch.cat(parts) for parts in zip(*(field._tensors() for field in fields), strict=True)))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.spread, self.near, self.head, self.skull, self.jaw

    @torch.no_grad()
    def flows(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where both layers are read, (B, 2, L, L) each, half pictures, and where in the picture that is the flow,
        (B, 1, L, L): on the face, and where a place of the photo was found at all; moved (B, K, 2): what landmarks do.

        Nothing is learnt through them: what codes are to be, landmarks tell directly.
        """
        spread = self.spread.flatten(1, 2)
        if len(spread) == 1:
            beside = (spread[0] @ moved.transpose(0, 1).flatten(1)).unflatten(1, (len(moved), 2)).transpose(0, 1)
        else:
            beside = spread @ moved
        beside = beside.mT.unflatten(2, (2, LATTICE_PX, LATTICE_PX)).transpose(1, 2).flatten(0, 1)  # (2 B, 2, L, L)
        head = _affine(self.head, moved)
        place = places_of(LATTICE_PX).to(beside)
        whole = _carry(head, place) - place
        ahead = unfold(whole.repeat_interleave(2, 0) + beside)
        start = (_carry(inverse_affine(head), place) - place).repeat_interleave(2, 0)
        offsets, missed = invert(ahead, start)
        upper, lower = offsets.unflatten(0, (-1, 2)).unbind(1)
        lost = (missed.unflatten(0, (-1, 2)).amax(1) > _LOST).to(moved)
        found = 1 - (_SPREAD * gaussian_blur(lost, 1.6, 7)).clamp(max=1)
        return upper, lower, found * warp(self.near.expand(len(upper), -1, -1, -1), upper)

    def skull_of(self, moved: Tensor) -> Tensor:
        """The affine map (B, 2, 3) by which the skull goes from photo to picture; moved (B, K, 2)."""
        return _affine(self.skull, moved)

    def jaw_of(self, moved: Tensor) -> Tensor:
        """How far the lower teeth move beside the skull (B, 2), half pictures; moved (B, K, 2)."""
        return (self.jaw[:, None] @ moved)[:, 0]


def _affine(displacement: Tensor, moved: Tensor) -> Tensor:
    """The map (B, 2, 3) of an affine displacement (P, 3, K) of landmarks moved by (B, K, 2)."""
    return torch.eye(2, 3, dtype=moved.dtype, device=moved.device) + (displacement @ moved).mT


def inverse_affine(affine: Tensor) -> Tensor:
    """Of affine maps (B, 2, 3)."""
    (a, b, x), (c, d, y) = (row.unbind(1) for row in affine.unbind(1))
    rows = [torch.stack([d, -b, b * y - d * x], 1), torch.stack([-c, a, c * x - a * y], 1)]
    return torch.stack(rows, 1) / (a * d - b * c)[:, None, None]


def _carry(affine: Tensor, place: Tensor) -> Tensor:
    """Places (2, L, L) carried by maps (B, 2, 3): (B, 2, L, L)."""
    return torch.einsum("bij,jyx->biyx", affine[:, :, :2], place) + affine[:, :, 2, None, None]


def unfold(ahead: Tensor) -> Tensor:
    """A displacement field (N, 2, L, L) with places that fold over themselves, or nearly so, smoothed until they no longer
    do; as `render.warp.unfold`."""
    for _ in range(_UNFOLDINGS):
        a, b, c, d = _jacobian(ahead)
        folded = ((a * d - b * c < _FLATTEST) | (a < _FLATTEST) | (d < _FLATTEST))[:, None].to(ahead)
        if not folded.any():
            break
        share = (2 * gaussian_blur(F.max_pool2d(folded, 3, stride=1, padding=1), 1.2, 5)).clamp(max=1)
        ahead = ahead + share * (gaussian_blur(ahead, 1.6, 7) - ahead)
    return ahead


def invert(ahead: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (N, 2, L, L) at which a displacement field of the photo is read from the picture: Newton's method from a
    first guess; and how far they miss, (N, 1, L, L)."""
    a, b, c, d = _jacobian(ahead)
    inverse = torch.stack([d, -b, -c, a], 1) / (a * d - b * c).clamp_min(_FLATTEST)[:, None]
    both = torch.cat([ahead, inverse], 1)
    for _ in range(_NEWTON_STEPS):
        found = warp(both, offsets)
        error = -offsets - found[:, :2]
        step = found[:, 2::2] * error[:, :1] + found[:, 3::2] * error[:, 1:]
        offsets = offsets + step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
    return offsets, (offsets + warp(ahead, offsets)).abs().amax(1, keepdim=True)


def _jacobian(ahead: Tensor) -> tuple[Tensor, ...]:
    """The four entries (N, L, L), row by row, of the Jacobian of x + displacement(x)."""
    wide = F.pad(ahead, (1, 1, 1, 1), mode="replicate")
    step = 4 / ahead.shape[-1]
    dx = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / step
    dy = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / step
    return 1 + dx[:, 0], dy[:, 0], dx[:, 1], 1 + dy[:, 1]


def gaussian_blur(planes: Tensor, sigma: float, taps: int) -> Tensor:
    """Gaussian blur of planes (N, C, L, L); the edge goes on."""
    place = torch.arange(taps, dtype=planes.dtype, device=planes.device) - taps // 2
    kernel = torch.softmax(-(place**2) / (2 * sigma**2), 0)
    flat = F.pad(planes, (taps // 2,) * 4, mode="replicate").flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0].unflatten(
        0, planes.shape[:2]
    )


@lru_cache(maxsize=16)
def _read_places(size: int, fine: int) -> Tensor:
    """Where planes of side `fine` are read for a picture of side `size` without flow, (2, size, size)."""
    return places_of(size) + (size - fine) / (size * fine)


def places_of(size: int) -> Tensor:
    """Middles of pixels from −1 to 1, (2, S, S), x and y."""
    line = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y])


def warp(planes: Tensor, offsets: Tensor, beyond: str = "border") -> Tensor:
    """Planes (B, C, D·S, D·S) read at each pixel's own place plus an offset (B, 2, S, S) in half pictures.

    No offset is no change, unlike in the published levels: of planes that are finer, see `PhotoLayers.refined`, every
    D-th pixel is read then. Beyond the edge the edge goes on, or the mirrored picture (`beyond="reflection"`).
    """
    places = _read_places(offsets.shape[-1], planes.shape[-1]).to(offsets)
    grid = (places + offsets).permute(0, 2, 3, 1)
    return F.grid_sample(planes.to(offsets.dtype), grid, padding_mode=beyond, align_corners=False)


def make_field(landmarks: NDArray[np.floating], size: int) -> LandmarkField:
    """The field of a photo with landmarks (478, 2 or 3) in its pixels; size: its side.

    With depth, a turning head carries the teeth as what lies behind the lips, not as the mean of the face.
    """
    points = (np.asarray(landmarks[:NUM_MESH_LANDMARKS, :2], np.float64) + 0.5) * (2 / size) - 1
    unit = float(np.hypot(*(points[LEFT_EYE_OUTER] - points[RIGHT_EYE_OUTER])))
    places = places_of(LATTICE_PX).numpy().reshape(2, -1).T
    own = points[list(POINTS)]
    left = np.ones(len(POINTS)) * ~np.isin(POINTS, (*UPPER_SIDE, *LOWER_SIDE))
    head = _fit(own, left)
    beside = np.eye(len(POINTS)) - _with_one(own) @ head
    spread = []
    for other_side in (LOWER_SIDE, UPPER_SIDE):
        used = ~np.isin(POINTS, other_side)
        smooth = SmoothInterpolator(own[used], _REACH * unit, _SMOOTHING).matrix(places)
        spread.append(smooth @ beside[used].astype(np.float32))
    depth = landmarks[:NUM_MESH_LANDMARKS, 2] * (2 / size) if landmarks.shape[1] > 2 else np.zeros(len(points))
    solid = np.column_stack([own, depth[list(POINTS)]])
    rigid = _fit(solid, np.isin(POINTS, SKULL))
    skull = _plane(float(depth[list(_BEFORE_TEETH)].mean())) @ rigid
    lower = _OF_CHIN * np.isin(POINTS, JAW) / len(JAW) + _OF_HINGE * np.isin(POINTS, _HINGE) / len(_HINGE)
    jaw = lower - lower @ _with_one(solid) @ rigid
    parts = (np.stack(spread), _near(points, unit), head, skull, jaw)
    return LandmarkField(*(torch.from_numpy(np.asarray(part, np.float32))[None] for part in parts))


def _plane(depth: float) -> NDArray:
    """(3, 4): from an affine map of x, y, z and 1 to that of x, y and 1 at one depth."""
    return np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, depth, 1]])


def _fit(points: NDArray, weights: NDArray) -> NDArray:
    """(D + 1, K): from displacements of points (K, D) to the affine one that fits them best."""
    root = np.sqrt(weights)
    return np.linalg.pinv(root[:, None] * _with_one(points)) * root


def _with_one(points: NDArray) -> NDArray:
    return np.column_stack([points, np.ones(len(points))])


def _near(points: NDArray, unit: float) -> NDArray[np.float32]:
    """(1, L, L): 1 within the outline of the points, made narrower, smoothly to 0 around it."""
    fine = 4 * LATTICE_PX
    across = (points[LEFT_EYE_OUTER] - points[RIGHT_EYE_OUTER]) / unit
    aside = (points - points[list(FACE_OVAL)].mean(0)) @ across
    narrow = points - (1 - _NARROW) * aside[:, None] * across
    hull = cv2.convexHull(((narrow + 1) * (fine / 2) - 0.5).astype(np.float32))
    inside = np.zeros((fine, fine), np.uint8)
    cv2.fillConvexPoly(inside, np.round(hull).astype(np.int32), 1)
    away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5) * (2 / fine / unit)
    full, none = _HAND_OVER
    near = smoothstep((none - away) / (none - full))
    small = cv2.resize(near.astype(np.float32), (LATTICE_PX, LATTICE_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)[None]
