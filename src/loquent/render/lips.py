"""The mouth: two layers of skin, the upper moving with the skull, the lower with the jaw, over the mouth's inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.topology import LIPS, LIPS_INNER_LOWER, LIPS_INNER_UPPER, LIPS_OUTER_LOWER, LIPS_OUTER_UPPER
from loquent.motion.face_model import LIP_RING2_LOWER, LIP_RING2_UPPER, LIP_RING3_LOWER, LIP_RING3_UPPER
from loquent.render.aperture import Opening, Spread, dense_edge, presence
from loquent.render.head import HeadModel, PointField, Pose
from loquent.render.lip_border import lip_border_depths
from loquent.render.warp import Lattice, Texture, invert, smoothstep, unfold

if TYPE_CHECKING:
    from numpy.typing import NDArray

UPPER_LIP = {n for ring in (LIPS_INNER_UPPER, LIPS_OUTER_UPPER, LIP_RING2_UPPER, LIP_RING3_UPPER) for n in ring[1:-1]}
LOWER_LIP = {n for ring in (LIPS_INNER_LOWER, LIPS_OUTER_LOWER, LIP_RING2_LOWER, LIP_RING3_LOWER) for n in ring[1:-1]}
INNER_LIPS = {*LIPS_INNER_UPPER[1:-1], *LIPS_INNER_LOWER[1:-1], *LIP_RING3_LOWER[1:-1], *LIP_RING3_UPPER[1:-1]}

_INNER_EDGES = (LIPS_INNER_UPPER, LIPS_INNER_LOWER)
_OUTER_EDGES = (LIPS_OUTER_UPPER, LIPS_OUTER_LOWER)
_CLOSED = 0.02  # lips closer than this (interocular distances) count as closed in the photo
_FADE = 0.006  # movement of the lips, in interocular distances, over which the layers replace the photo
_SHUT_PX = 0.3  # lips closer than this show nothing between them
_EDGE_MIX = 0.013  # width of a lip's edge in which the photo mixes it with what is behind
_LINE_SHADE = 0.3  # darkening of the line between closed lips that were open in the photo


@dataclass(frozen=True, eq=False)
class LipFrame:
    """The mouth at one moment."""

    box_px: tuple[int, int, int, int]  # pixels of the frame that the mouth's layers cover
    opening: Opening
    contour_px: NDArray[np.float32]  # (N, 2) inner lips in the frame: upper edge left to right, then lower edge back
    shifts: tuple[NDArray[np.float32], NDArray[np.float32]]  # of the upper and lower layer's lattice, (H, W, 2)
    presence: float  # how far the layers replace the photo moved as one


class Lips:
    """Moves the skin round the mouth of one photo."""

    def __init__(self, pixels: NDArray[np.uint8], head: HeadModel) -> None:
        """Args: pixels RGB (H, W, 3); head: the model of the same photo."""
        self._unit = head.interocular_px
        self._landmarks = head.landmarks
        points = head.landmarks[:, :2]
        upper, lower = dense_edge(points[list(LIPS_INNER_UPPER)]), dense_edge(points[list(LIPS_INNER_LOWER)])
        self.closed_at_rest = Opening.of(upper, lower).gap_px < _CLOSED * self._unit
        if self.closed_at_rest:
            upper = lower = (upper + lower) / 2
        self.rest = Opening.of(upper, lower)
        self.rest_contour_px = np.vstack([upper, lower[::-1]])
        self._frame = self.rest.frame
        self._prepare_fields(head, upper, lower)
        self._prepare_textures(pixels)

    def _prepare_fields(self, head: HeadModel, upper: NDArray, lower: NDArray) -> None:
        unit, frame = self._unit, self._frame
        lips = frame.to_uv(head.landmarks[sorted(UPPER_LIP | LOWER_LIP), :2])
        self._middle = frame.to_xy(np.array([frame.length_px / 2, (lips[:, 1].min() + lips[:, 1].max()) / 2]))
        inner = np.array([frame.length_px / 2 + 0.12 * unit, np.ptp(lips[:, 1]) / 2 + 0.06 * unit])
        outer = inner + np.array([0.25, 0.28]) * unit
        radius = np.hypot(outer[0] * frame.across, outer[1] * frame.down)
        self._radii = outer
        self.source_box = (*(self._middle - radius), *(self._middle + radius))
        self.lattice = Lattice.over(self.source_box, max(1.0, unit / 36))
        grid = self.lattice.points().reshape(-1, 2)
        ellipse = np.abs(frame.to_uv(grid) - frame.to_uv(self._middle))
        inside, outside = np.hypot(*(ellipse / inner).T), np.hypot(*(ellipse / outer).T)
        near = 1 - smoothstep(_ring(inside, outside))

        eyes = set(head.eye_points.tolist())
        both = head.expression_weights(grid, eyes | INNER_LIPS)
        self._fields: list[PointField] = []
        self._edges: list[PointField] = []
        for left_out, edge in ((LOWER_LIP, upper), (UPPER_LIP, lower)):
            own = head.expression_weights(np.vstack([grid, edge]), eyes | left_out)
            weights = both + near[:, None] * (own[: len(grid)] - both)
            self._fields.append(head.field(grid, weights.astype(np.float32)))
            self._edges.append(head.field(edge, own[len(grid) :]))
        self._border = head.field(_border_points(self.source_box), head.expression_weights(
            _border_points(self.source_box), eyes | INNER_LIPS))  # fmt: skip

    def _prepare_textures(self, pixels: NDArray[np.uint8]) -> None:
        """The photo round the mouth, once with the upper lip continued downwards, once with the lower upwards."""
        margin = 0.12 * self._unit
        height, width = pixels.shape[:2]
        left, top, right, bottom = self.source_box
        box = (
            max(0, int(left - margin)), max(0, int(top - margin)),
            min(width, int(right + margin) + 1), min(height, int(bottom + margin) + 1),
        )  # fmt: skip
        patch = np.ascontiguousarray(pixels[box[1] : box[3], box[0] : box[2]])
        depths = self._border_depths(pixels)
        u, v = self._frame.grid(box)
        edge = self.rest.heights(u)
        between = (u > 0) & (u < self._frame.length_px)
        middle = self._frame.to_uv(self._middle)
        reach = np.hypot((u - middle[0]) / self._radii[0], (v - middle[1]) / self._radii[1])
        share = np.round(255 * (1 - smoothstep((reach - 0.85) / 0.15))).astype(np.uint8)
        self._textures = []
        for index, sign in ((0, 1.0), (1, -1.0)):
            line = edge[..., index] - sign * np.interp(
                u, np.linspace(0, self._frame.length_px, len(depths[index])), depths[index]
            )
            beyond = sign * (v - line)
            inwards = np.clip(np.minimum(u, self._frame.length_px - u) / (0.3 * self._frame.length_px), 0, 1)
            folded = line - sign * np.minimum(np.abs(beyond), 0.03 * self._unit * inwards)
            source_v = np.where((beyond > 0) & between, folded, v).astype(np.float32)
            source = self._frame.to_xy(np.stack([u, source_v], -1)) - np.float32(box[:2])
            skin = cv2.remap(patch, source.astype(np.float32), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            self._textures.append(Texture(np.dstack([skin, share]), box[0], box[1]))

    def _border_depths(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How far beyond its edge each lip's own colour begins, at stations along it."""
        if self.closed_at_rest:
            return np.zeros(2, np.float32), np.zeros(2, np.float32)
        found = lip_border_depths(pixels, self._landmarks, self._unit)
        points = self._landmarks[:, :2]
        depths = []
        for depth, inner, outer in zip(found, _INNER_EDGES, _OUTER_EDGES, strict=True):
            thickness = np.linalg.norm(dense_edge(points[list(outer)]) - dense_edge(points[list(inner)]), axis=1)
            place = np.linspace(0, 1, len(depth))
            thin = np.clip(np.minimum(place, 1 - place) / 0.15, 0.2, 1)  # as the red of the lips is at the corners
            depths.append(np.minimum((depth + _EDGE_MIX * self._unit) * thin, 0.4 * thickness))
        return depths[0], depths[1]

    def spread(self, landmark_shift: NDArray[np.float32]) -> Spread:
        """What displacements (T, 478, 3) of the landmarks do to the mouth."""
        fields = (*self._fields, *self._edges, self._border)
        moved = presence(landmark_shift[:, list(LIPS)], _FADE * self._unit)
        return Spread([field.spread(landmark_shift) for field in fields], moved)

    def place(self, spread: Spread, frame: int, pose: Pose, size_px: tuple[int, int]) -> LipFrame:
        """Where the mouth is in one frame of a batch; `size_px` is width and height of the frame."""
        shape = (self.lattice.num_rows, self.lattice.num_columns, 2)
        fields = (*self._fields, *self._edges, self._border)
        shifts = [field.displacement(values[frame], pose) for field, values in zip(fields, spread.shifts, strict=True)]
        upper_px, lower_px = (edge.points[:, :2] + shift for edge, shift in zip(self._edges, shifts[2:4], strict=True))
        border = self._border.points[:, :2] + shifts[4]
        low, high = np.floor(border.min(0)).astype(int), np.ceil(border.max(0)).astype(int) + 1
        box = (max(0, low[0]), max(0, low[1]), min(size_px[0], high[0]), min(size_px[1], high[1]))
        opening = Opening.of(upper_px, lower_px)
        contour = np.vstack([
            opening.frame.to_xy(np.stack([opening.u, opening.upper], -1)),
            opening.frame.to_xy(np.stack([opening.u, opening.lower], -1))[::-1],
        ])  # fmt: skip
        layers = shifts[0].reshape(shape), shifts[1].reshape(shape)
        return LipFrame(box, opening, contour, layers, float(spread.presence[frame]))

    def inside_box(self, lips: LipFrame) -> tuple[int, int, int, int] | None:
        """The pixels in which the mouth's inside can be seen; None when the lips are shut."""
        if lips.opening.gap_px < _SHUT_PX:
            return None
        left, top, right, bottom = lips.box_px
        low, high = np.floor(lips.contour_px.min(0)).astype(int) - 1, np.ceil(lips.contour_px.max(0)).astype(int) + 2
        box = (max(left, low[0]), max(top, low[1]), min(right, high[0]), min(bottom, high[1]))
        return box if box[2] - box[0] >= 2 and box[3] - box[1] >= 2 else None

    def compose(
        self,
        picture: NDArray[np.uint8],
        lips: LipFrame,
        inside: NDArray[np.uint8] | None,
        inside_box: tuple[int, int, int, int] | None,
    ) -> None:
        """Lays both layers of skin over the mouth's inside (h, w, 3) of `inside_box`, into a picture, in place."""
        left, top, right, bottom = lips.box_px
        first = int(np.clip(np.floor(lips.contour_px[:, 1].min()) - 2, top, bottom))
        last = int(np.clip(np.ceil(lips.contour_px[:, 1].max()) + 3, first, bottom))
        mixed = np.empty((bottom - top, right - left, 4), np.uint8)
        upper = self._skin(0, lips, (left, top, right, last))
        lower = self._skin(1, lips, (left, first, right, bottom))
        mixed[: first - top] = upper[: first - top]
        mixed[last - top :] = lower[last - first :]
        if last > first:
            band = self._meet(upper[first - top :], lower[: last - first], lips, first, last, inside, inside_box)
            mixed[first - top : last - top] = band
        share = mixed[..., 3] * np.float32(lips.presence / 255)
        below = picture[top:bottom, left:right]
        picture[top:bottom, left:right] = cv2.blendLinear(mixed[..., :3].copy(), below.copy(), share, 1 - share)

    def _skin(self, layer: int, lips: LipFrame, box_px: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """One layer of skin over a box of the frame, with the share by which it replaces what is below: RGBA."""
        targets = Lattice.over(box_px, self.lattice.step_px)
        source = invert(unfold(lips.shifts[layer], self.lattice.step_px), self.lattice, targets.points())
        return self._textures[layer].draw(source, targets, box_px)

    def _meet(
        self, upper: NDArray, lower: NDArray, lips: LipFrame, first: int, last: int,
        inside: NDArray | None, inside_box: tuple[int, int, int, int] | None,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Both layers and what is between them in the rows from `first` to `last`, RGBA."""
        left, _, right, _ = lips.box_px
        masks = lips.opening.masks((left, first, right, last))
        gap = 1 - masks.upper - masks.lower
        if inside is None or inside_box is None:
            mixed = upper + (lower.astype(np.float32) - upper) * (masks.lower + gap / 2)[..., None]
        else:
            mixed = upper * masks.upper[..., None] + lower * masks.lower[..., None]
            columns = slice(inside_box[0] - left, inside_box[2] - left)
            rows = slice(inside_box[1] - first, inside_box[3] - first)
            mixed[rows, columns, :3] += inside * gap[rows, columns, None]
            mixed[..., 3] += 255 * gap
        if not self.closed_at_rest:
            mixed[..., :3] *= self._line_shade(lips, masks)[..., None]
        return np.round(mixed).astype(np.uint8)

    def _line_shade(self, lips: LipFrame, masks) -> NDArray[np.float32]:
        """Darkening of the line where lips meet that are apart in the photo, (h, w)."""
        gap = masks.edge[..., 1] - masks.edge[..., 0]
        width = 0.014 * self._unit
        met = np.clip(1 - gap / width, 0, 1)
        ends = np.clip(np.minimum(masks.u, lips.opening.frame.length_px - masks.u) / (0.1 * self._unit), 0, 1)
        distance = (masks.v - (masks.edge[..., 0] + masks.edge[..., 1]) / 2) / width
        return 1 - np.float32(_LINE_SHADE) * met * ends * np.exp(-distance * distance)


def _ring(inside: NDArray, outside: NDArray) -> NDArray:
    """0 on the inner ellipse, 1 on the outer one, given distances in units of each."""
    return np.where(inside <= 1, 0, np.where(outside >= 1, 1, (inside - 1) / np.maximum(inside - outside, 1e-6)))


def _border_points(box_px: tuple[float, float, float, float]) -> NDArray[np.float32]:
    left, top, right, bottom = box_px
    x, y = np.linspace(left, right, 7), np.linspace(top, bottom, 7)
    sides = [(x, np.full(7, top)), (x, np.full(7, bottom)), (np.full(7, left), y), (np.full(7, right), y)]
    return np.concatenate([np.stack(side, -1) for side in sides]).astype(np.float32)
