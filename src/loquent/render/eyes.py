"""The eyes: lids that slide over the eyeball, and an iris that turns under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.topology import (
    LEFT_BROW_LOWER,
    LEFT_EYE_LOWER,
    LEFT_EYE_UPPER,
    LEFT_IRIS,
    RIGHT_BROW_LOWER,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_UPPER,
    RIGHT_IRIS,
)
from loquent.render.aperture import EdgeMasks, Opening, Spread, dense_edge, presence
from loquent.render.head import HeadModel, PointField, Pose
from loquent.render.warp import Lattice, Texture, inversion_start, invert, smoothstep, unfold

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LASHES = 0.03  # height of the strip at a lid's border that keeps its shape, in interocular distances
_LID_INSET = (0.004, 0.012)  # of upper and lower lid: how much of the border is eyeball in the landmarks' error
_LASH_SHADE = 0.5  # darkening of the line along which the lids of a closed eye meet
_FADE = 0.004  # movement of lids or iris, in interocular distances, over which the layers replace the photo


@dataclass(frozen=True)
class EyePoints:
    """Landmark numbers of one eye; lids run from the picture's left to its right."""

    upper: tuple[int, ...]
    lower: tuple[int, ...]
    iris: tuple[int, ...]
    brow: tuple[int, ...]


EYES = (
    EyePoints(RIGHT_EYE_UPPER, RIGHT_EYE_LOWER, RIGHT_IRIS, RIGHT_BROW_LOWER),
    EyePoints(LEFT_EYE_UPPER, LEFT_EYE_LOWER, LEFT_IRIS, LEFT_BROW_LOWER),
)


class Eye:
    """Moves the lids and the eyeball of one eye of one photo."""

    def __init__(self, pixels: NDArray[np.uint8], head: HeadModel, points: EyePoints) -> None:
        """Args: pixels RGB (H, W, 3); head: the model of the same photo; points: which eye."""
        self._unit = head.interocular_px
        self._points = points
        landmarks = head.landmarks[:, :2]
        self._edges_px = dense_edge(landmarks[list(points.upper)]), dense_edge(landmarks[list(points.lower)])
        self.rest = Opening.of(*self._edges_px)
        self._frame = self.rest.frame
        self._width = self._frame.length_px
        self._iris_centre = landmarks[points.iris[0]]
        rim = landmarks[list(points.iris[1:])] - self._iris_centre
        self._iris_radius = float(np.linalg.norm(rim, axis=1).mean())
        self._prepare_fields(head)
        self._prepare_textures(pixels)

    def _prepare_fields(self, head: HeadModel) -> None:
        frame, width = self._frame, self._width
        brow = frame.to_uv(head.landmarks[list(self._points.brow), :2])[:, 1]
        lid_top = float(self.rest.upper.min())
        room = 0.9 * (lid_top - float(brow.mean())) - _LASHES * self._unit  # the brow itself stays
        self._falls = (float(np.clip(room, 0.16 * width, 0.7 * width)), 0.4 * width)
        corners = np.array([
            [-0.3 * width, lid_top - self._falls[0] - _LASHES * self._unit], [1.3 * width, lid_top - self._falls[0] - _LASHES * self._unit],
            [-0.3 * width, float(self.rest.lower.max()) + self._falls[1] + _LASHES * self._unit],
            [1.3 * width, float(self.rest.lower.max()) + self._falls[1] + _LASHES * self._unit],
        ])  # fmt: skip
        box = frame.to_xy(corners)
        self.source_box = (*(box.min(0) - 2), *(box.max(0) + 2))
        self.lattice = Lattice.over(self.source_box, max(1.0, self._unit / 48))
        grid = self.lattice.points().reshape(-1, 2)
        left_out = set(head.eye_points.tolist())
        lids = (self._points.upper, self._points.lower)
        lids_px = [head.landmarks[list(lid), :2] for lid in lids]
        targets = [grid, *lids_px, *self._edges_px]
        smooth = head.expression_weights(np.vstack(targets), left_out)
        smooth_grid, *smooth_lids = np.split(smooth, np.cumsum([len(t) for t in targets])[:-1])
        self._fields: list[PointField] = []
        self._edges: list[PointField] = []
        for index, lid in enumerate(lids):
            own = -smooth_lids[index]
            own[np.arange(len(lid)), list(lid)] += 1  # what the lid's points do beyond the smooth field
            spread_grid = self._lid_spread(grid, lids_px[index], index)
            self._fields.append(head.field(grid, smooth_grid + spread_grid @ own))
            along = self._lid_spread(self._edges_px[index], lids_px[index], index, on_edge=True)
            self._edges.append(head.field(self._edges_px[index], smooth_lids[2 + index] + along @ own))
        self._around = head.field(np.vstack(lids_px), np.vstack(smooth_lids[:2]))
        self._ball = head.field(grid, np.zeros((len(grid), 0), np.float32))
        border = frame.to_xy(_outline(corners))
        self._border = head.field(border, head.expression_weights(border, left_out))

    def _lid_spread(self, points: NDArray, lid_px: NDArray, index: int, on_edge: bool = False) -> NDArray[np.float32]:
        """(N, 9): share of each lid landmark's movement that points take on, falling to 0 away from the lid."""
        frame = self._frame
        u, v = frame.to_uv(points).T
        lid_u = np.maximum.accumulate(frame.to_uv(lid_px)[:, 0] + np.arange(len(lid_px)) * 1e-3)
        position = np.interp(u, lid_u, np.arange(len(lid_u), dtype=np.float32))
        hats = np.maximum(1 - np.abs(position[:, None] - np.arange(len(lid_u))), 0)
        if on_edge:
            return hats.astype(np.float32)
        edge = self.rest.heights(u[None].astype(np.float32))[0, :, index]
        away = ((edge - v if index == 0 else v - edge) - _LASHES * self._unit) / self._falls[index]
        fall = 1 - (0.6 * smoothstep(away) + 0.4 * np.clip(away, 0, 1))  # the lashes themselves are not stretched
        beyond = np.maximum(-u, u - self._width) / (0.3 * self._width)
        return (hats * (fall * (1 - smoothstep(beyond)))[:, None]).astype(np.float32)

    def _prepare_textures(self, pixels: NDArray[np.uint8]) -> None:
        margin = int(np.ceil(0.15 * self._width))
        height, width = pixels.shape[:2]
        left, top, right, bottom = self.source_box
        box = (
            max(0, int(left) - margin), max(0, int(top) - margin),
            min(width, int(right) + margin + 1), min(height, int(bottom) + margin + 1),
        )  # fmt: skip
        self.patch_box = box
        self.patch = np.ascontiguousarray(pixels[box[1] : box[3], box[0] : box[2]])
        share = np.round(255 * self._share()).astype(np.uint8)
        left, top = box[:2]
        self._skins = [Texture(np.dstack([self._continue_lid(index), share]), left, top) for index in (0, 1)]
        self._eyeball = Texture(self._continue_eyeball(), left, top)

    def _share(self) -> NDArray[np.float32]:
        """How much of each pixel of the patch the lids replace: 1 near the eye, 0 where they no longer move."""
        u, v = self._frame.grid(self.patch_box)
        edge = self.rest.heights(u)
        lashes = _LASHES * self._unit
        above, below = (edge[..., 0] - v - lashes) / self._falls[0], (v - edge[..., 1] - lashes) / self._falls[1]
        beyond = np.maximum(-u, u - self._width) / (0.3 * self._width)
        return 1 - smoothstep((np.maximum(np.maximum(above, below), beyond) - 0.7) / 0.3)

    def _continue_lid(self, index: int) -> NDArray[np.uint8]:
        """The photo with a lid's border continued over the eyeball."""
        u, v = self._frame.grid(self.patch_box)
        sign = 1.0 if index == 0 else -1.0
        line = self.rest.heights(u)[..., index] - sign * _LID_INSET[index] * self._unit
        beyond = sign * (v - line)
        between = (u > 0) & (u < self._width)
        source_v = np.where((beyond > 0) & between, line - sign * np.minimum(np.abs(beyond), 0.03 * self._unit), v)
        source = self._frame.to_xy(np.stack([u, source_v], -1)) - np.float32(self.patch_box[:2])
        return cv2.remap(self.patch, source.astype(np.float32), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def _continue_eyeball(self) -> NDArray[np.uint8]:
        """The eyeball continued under the lids: the iris by its mirror image, the white from what is seen of it."""
        u, v = self._frame.grid(self.patch_box)
        edge = self.rest.heights(u)
        inset = 0.012 * self._unit
        seen = (v > edge[..., 0] + inset) & (v < edge[..., 1] - inset) & (u > 0) & (u < self._width)
        left, top, right, bottom = self.patch_box
        x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
        radius = np.hypot(x - self._iris_centre[0], y - self._iris_centre[1]) / self._iris_radius
        iris = radius < 1.1
        if (seen & iris).sum() < 8 or (seen & ~iris).sum() < 8:
            return self.patch.copy()
        painted = _painted_iris(self.patch, radius, seen)
        picture = self.patch.copy()
        hidden = iris & ~seen
        picture[hidden] = painted[hidden]
        picture = cv2.inpaint(picture, (~iris & ~seen).astype(np.uint8), 2, cv2.INPAINT_TELEA)
        soft = cv2.GaussianBlur(picture, (0, 0), 0.02 * self._unit)
        kept = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), 0.008 * self._unit)[..., None]
        return np.round(soft + (picture.astype(np.float32) - soft) * np.where(seen[..., None], 1, kept)).astype(
            np.uint8
        )

    def spread(self, landmark_shift: NDArray[np.float32]) -> Spread:
        """What displacements (T, 478, 3) of the landmarks do to the eye."""
        fields = (*self._fields, *self._edges, self._border)
        own = landmark_shift[:, [*self._points.upper, *self._points.lower, *self._points.iris]]
        iris = landmark_shift[:, list(self._points.iris)].mean(1, keepdims=True)
        # Brows and cheeks carry the eye along in the photo moved as one, even where its own landmarks stay.
        moved = np.concatenate([own, self._around.spread(landmark_shift)], axis=1)
        return Spread([*(f.spread(landmark_shift) for f in fields), iris], presence(moved, _FADE * self._unit))

    def draw(self, picture: NDArray[np.uint8], spread: Spread, frame: int, pose: Pose) -> None:
        """Draws the eye into an RGB picture (H, W, 3), in place."""
        if spread.presence[frame] < 0.01:
            return
        shape = (self.lattice.num_rows, self.lattice.num_columns, 2)
        fields = (*self._fields, *self._edges, self._border)
        shifts = [f.displacement(values[frame], pose) for f, values in zip(fields, spread.shifts, strict=False)]
        edges = [e.points[:, :2] + s for e, s in zip(self._edges, shifts[2:4], strict=True)]
        border = self._border.points[:, :2] + shifts[4]
        low, high = np.floor(border.min(0)).astype(int), np.ceil(border.max(0)).astype(int) + 1
        box = (max(0, low[0]), max(0, low[1]), min(picture.shape[1], high[0]), min(picture.shape[0], high[1]))
        if box[2] - box[0] < 4 or box[3] - box[1] < 4:
            return
        targets = Lattice.over(box, self.lattice.step_px)
        points = targets.points()
        opening = Opening.of(*edges, slack_px=0.02 * self._unit)
        masks = opening.masks(box)
        layers = []
        for texture, shift in zip(self._skins, shifts[:2], strict=True):
            field = unfold(shift.reshape(shape), self.lattice.step_px)
            start = inversion_start(field, self.lattice, points)  # a closing lid under a raised brow is very steep
            source = invert(field, self.lattice, points, start)
            layers.append(texture.draw(source, targets, box))
        ball = self._ball.displacement(np.zeros((len(self._ball.points), 3), np.float32), pose).reshape(shape)
        source = invert(ball, self.lattice, points, iterations=2)
        source -= self._iris_shift(source, spread.shifts[5][frame, 0, :2])
        eyeball = self._eyeball.draw(source, targets, box)
        gap = (1 - masks.upper - masks.lower)[..., None]
        mixed = layers[0] * masks.upper[..., None] + layers[1] * masks.lower[..., None]
        mixed[..., :3] += eyeball * gap
        mixed[..., :3] *= self._lash_line(opening, masks)[..., None]
        share = (mixed[..., 3:] + 255 * gap) * np.float32(spread.presence[frame] / 255)
        below = picture[box[1] : box[3], box[0] : box[2]]
        picture[box[1] : box[3], box[0] : box[2]] = np.round(below + (mixed[..., :3] - below) * share).astype(np.uint8)

    def _lash_line(self, opening: Opening, masks: EdgeMasks) -> NDArray[np.float32]:
        """Darkening along the lashes of an eye that is more closed than in the photo, (h, w)."""
        gap = masks.edge[..., 1] - masks.edge[..., 0]
        closed = smoothstep(1 - 1.6 * gap / max(self.rest.gap_px, 0.03 * self._unit))
        ends = smoothstep(np.minimum(masks.u, opening.frame.length_px - masks.u) / (0.25 * self._width))
        distance = (masks.v - masks.edge[..., 0]) / (0.011 * self._unit)
        return 1 - np.float32(_LASH_SHADE) * closed * ends * np.exp(-distance * distance)

    def _iris_shift(self, points: NDArray[np.float32], shift: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far what shows at photo points was carried by the gaze: whole on the iris, fading on the white."""
        offset = points - (self._iris_centre + shift)
        radius = np.hypot(offset[..., 0], offset[..., 1]) / self._iris_radius
        return (1 - smoothstep((radius - 1.1) / 1.2))[..., None] * shift


def _painted_iris(patch: NDArray[np.uint8], radius: NDArray, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A plain iris in the colours of the seen one, (h, w, 3); `radius` is the distance from its centre, 1 at the rim."""
    ring = patch[seen & (radius > 0.45) & (radius < 0.9)]
    centre = patch[seen & (radius < 0.45)]
    seen_iris = patch[seen & (radius < 1)]
    iris = np.median(ring if len(ring) >= 8 else seen_iris, axis=0)
    pupil = np.minimum(np.quantile(centre if len(centre) >= 8 else seen_iris, 0.15, axis=0), 0.4 * iris)
    white = np.median(patch[seen & (radius > 1.1)], axis=0)
    stops = np.array([pupil, pupil, iris, iris, 0.65 * iris, white])
    at = (0, 0.36, 0.5, 0.8, 0.98, 1.15)
    return np.stack([np.interp(radius, at, stops[:, channel]) for channel in range(3)], -1)


def _outline(corners: NDArray) -> NDArray:
    """Points along the sides of a quadrilateral given as rows (top left, top right, bottom left, bottom right)."""
    t = np.linspace(0, 1, 6)[:, None]
    a, b, c, d = corners
    return np.vstack([a + t * (b - a), c + t * (d - c), a + t * (c - a), b + t * (d - b)])
