"""The picture behind the lips: teeth, tongue and cavity, drawn once for a person and moved with skull and jaw."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.lip_line import INTEROCULAR_MM, crop_round, polygon_mask
from loquent.motion.pose import rotation_matrix
from loquent.render import mouth_geometry as geometry
from loquent.render import mouth_paint, mouth_photo
from loquent.render.mouth_layers import Layer, View, Wall
from loquent.render.warp import smoothstep
from loquent.types import ARKIT_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.motion.face_model import FaceShape

SPRITE_MM = (76.0, 46.0)  # width and height of the layers' pictures
SPRITE_PX_PER_MM = (3.0, 6.0)  # photos with fewer are enlarged, with more reduced
BELOW_LIP_LINE_MM = 3.1  # upper incisors' edge; median over the 184 of 220 portraits whose smile shows it
LOWER_TEETH_SHOWN_MM = 1.0  # above the lower lip when only the jaw opens
JAW_AT_HOME = 0.3  # jawOpen at which the lower layers are drawn
TONGUE_BETWEEN_TEETH = 0.16  # tongueOut at which the tip is between the teeth, as in "th"
MAX_PX_PER_MM = 5.0  # larger mouths are drawn at this size and enlarged
LIGHT_PX_PER_MM = 1.2  # light is smooth: that is enough for it


@dataclass(frozen=True, eq=False)
class _Skull:
    """Places the millimetre frame of `mouth_geometry` in the head of one person."""

    shape: FaceShape
    incisor: NDArray[np.float64]  # (3,), head coordinates of the millimetre frame's origin

    @staticmethod
    def of(shape: FaceShape) -> _Skull:
        """The incisors end a little below the line of the sealed lips, and stand a little behind it.

        A smile blurs where the sealed lips would be, so eyes and nose vote as well. Their vote is a fit over the 32
        portraits with closed lips and no smile: the lip line lies 0.904 times the nose's height and 28.4 mm below the
        eyes, within 2.4 mm.
        """
        sealed = shape.neutral[[13, 14]].mean(axis=0)
        eyes = shape.neutral[[33, 263, 133, 362]].mean(axis=0)
        nose = shape.neutral[2]
        voted = eyes[1] + 0.904 * (nose[1] - eyes[1]) + 28.4 / INTEROCULAR_MM
        lip_line = 0.5 * (sealed[1] + voted)
        middle = 0.5 * (sealed[0] + shape.neutral[[2, 164, 1], 0].mean())
        return _Skull(
            shape, np.array([middle, lip_line + BELOW_LIP_LINE_MM / INTEROCULAR_MM, sealed[2] + 4.0 / INTEROCULAR_MM])
        )

    def lowered(self, down_mm: float) -> _Skull:
        return replace(self, incisor=self.incisor + np.array([0.0, down_mm, 0.0]) / INTEROCULAR_MM)

    def with_lower_teeth_at_lip(self) -> _Skull:
        """Moved, for the lower jaw, so that its incisors end near the lower lip's border when the jaw is open."""
        open_jaw = np.zeros(len(ARKIT_INDEX))
        open_jaw[ARKIT_INDEX["jawOpen"]] = 0.4
        lip = self.shape.landmarks(open_jaw[None])[0, 14]
        edge = self.jaw_view(self.at_rest(), open_jaw).project(np.array(geometry.LOWER_EDGE_MM))
        miss_mm = (lip[1] - edge[1]) / self.at_rest().px_per_mm - LOWER_TEETH_SHOWN_MM
        return self.lowered(float(np.clip(0.7 * miss_mm, -4.0, 4.0)))

    def view(self, rotation: NDArray, translation: NDArray) -> View:
        """The skull in photo pixels after a motion relative to the photo."""
        ends = self.shape.to_photo(self.incisor[None, None], rotation[None], translation[None])[0, 0]
        per_mm = self.shape.scale_px / INTEROCULAR_MM
        return View(rotation_matrix(self.shape.pose_rad + rotation), np.zeros(3), per_mm, ends[:2])

    def at_rest(self) -> View:
        return self.view(np.zeros(3), np.zeros(3))

    def jaw_view(self, skull: View, expression: NDArray) -> View:
        """The view of what moves with the lower jaw."""
        turn, shift = self.shape.jaw_transform(expression[None])
        moved = turn[0] @ self.incisor + shift[0] - self.incisor
        return skull.after(turn[0], moved * INTEROCULAR_MM)


@dataclass(frozen=True, eq=False)
class _Window:
    """A part of the photo, enlarged: its pixel p is the window's (p - corner) * detail."""

    corner: NDArray[np.float64]  # (2,)
    detail: float
    size: tuple[int, int]  # width and height

    @staticmethod
    def round(view: View, centre_mm: NDArray) -> _Window:
        """Round a point; the photo's own pixels where they are neither too coarse nor too fine."""
        low, high = SPRITE_PX_PER_MM
        whole = float(np.clip(round(low / view.px_per_mm), 1, 4))
        detail = min(whole, high / view.px_per_mm)
        half = np.array(SPRITE_MM) / 2 * view.px_per_mm
        corner = np.floor(view.project(centre_mm)[:2] - half)
        width, height = np.ceil(2 * half * detail).astype(int)
        return _Window(corner, detail, (int(width), int(height)))

    def view(self, photo: View) -> View:
        """A view of the photo, in the window's pixels."""
        origin = (photo.origin_px - self.corner) * self.detail
        return View(photo.rotation, photo.shift_mm, photo.px_per_mm * self.detail, origin)

    def points(self, xy_px: NDArray) -> NDArray:
        return (np.asarray(xy_px, np.float64) - self.corner) * self.detail

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the photo shows in the window, (H, W, 3)."""
        place = np.hstack([np.eye(2) * self.detail, -self.corner[:, None] * self.detail])
        if self.detail >= 1:
            return cv2.warpAffine(pixels, place, self.size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        ends = np.stack([self.corner, self.corner + np.array(self.size) / self.detail])
        near, corner = crop_round(pixels, ends, 8.0)
        near = cv2.GaussianBlur(near, (0, 0), 0.4 / self.detail)
        place[:, 2] += corner * self.detail
        return cv2.warpAffine(near, place, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True, eq=False)
class MouthPlace:
    """Where the teeth of one person are: those of the upper jaw in the skull, those of the lower on the jaw."""

    teeth: geometry.Dentition
    look: mouth_photo.Appearance
    shown: mouth_photo.ShownTeeth | None  # upper teeth that the photo shows, in pixels of `window`
    bend_px: NDArray[np.float32]  # (W,), of the window: how far down the shown teeth end from where `teeth` would
    window: _Window
    crop: NDArray[np.uint8]  # what the photo shows in the window, (H, W, 3)
    ring: NDArray[np.float64]  # inner lips of the photo, pixels of the window
    _skull: _Skull
    _jaw_skull: _Skull

    @staticmethod
    def of(
        pixels: NDArray[np.uint8], shape: FaceShape, inner_lips_px: NDArray, *, seed: int | None = None
    ) -> MouthPlace:
        """Arguments as for `MouthInterior`."""
        skull = _Skull.of(shape)
        look = mouth_photo.measure(pixels, shape.landmarks(shape.rest_expression[None])[0])
        teeth = geometry.Dentition.varied(zlib.crc32(shape.neutral.round(3).tobytes()) if seed is None else seed)
        window = _Window.round(skull.at_rest(), np.array([0.0, -5.0, 5.0]))
        crop, ring = window.cut(pixels), window.points(inner_lips_px)
        home = window.view(skull.at_rest())
        edge = mouth_paint.edge_rows(teeth, home, window.size[0])
        shown = mouth_photo.find_teeth(crop, ring, home.px_per_mm, look.lip, edge)
        bend = np.zeros_like(edge)
        jaw_skull = skull.with_lower_teeth_at_lip()
        if shown is not None:
            look = mouth_photo.with_tooth_colour(look, shown.colour)
            middle = int(np.clip(window.points(skull.at_rest().origin_px)[0], 0, window.size[0] - 1))
            down = float(shown.edge_px[middle] - edge[middle])
            skull = skull.lowered(down / home.px_per_mm)
            bend = shown.edge_px - edge - down
        return MouthPlace(teeth, look, shown, bend, window, crop, ring, skull, jaw_skull)

    @property
    def home(self) -> View:
        """The upper jaw as the photo shows it, in the window's pixels."""
        return self.window.view(self._skull.at_rest())

    def shown_in_photo(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """How surely each pixel of the photo shows an upper tooth, (H, W), 0 to 1; `size` is its width and height."""
        if self.shown is None:
            return np.zeros(size[::-1], np.float32)
        window = self.window
        to_window = np.hstack([np.eye(2) * window.detail, -window.corner[:, None] * window.detail])
        return cv2.warpAffine(self.shown.upper, to_window, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    def wall(self, jaw: geometry.Jaw) -> Wall:
        """The surface on which the teeth of a jaw stand."""
        return Wall(self.teeth.wall(jaw))

    def views(self, expression: NDArray, rotation: NDArray, translation: NDArray) -> tuple[View, View]:
        """Upper and lower jaw in photo pixels; arguments as for `MouthInterior.draw`."""
        turn, move = np.asarray(rotation, np.float64), np.asarray(translation, np.float64)
        jaw = self._jaw_skull.jaw_view(self._jaw_skull.view(turn, move), expression)
        return self._skull.view(turn, move), jaw


class MouthInterior:
    """Draws what is seen between the lips of one person."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        shape: FaceShape,
        inner_lips_px: NDArray,
        *,
        seed: int | None = None,
    ) -> None:
        """Prepares one photo.

        Args:
            pixels: the photo, RGB (H, W, 3).
            shape: the face in it.
            inner_lips_px: (N, 2) ring of the inner lip border in the photo.
            seed: chooses the person's teeth where the photo does not show them; None takes it from the face's shape.
        """
        place = MouthPlace.of(pixels, shape, inner_lips_px, seed=seed)
        self._place, self._look, self._teeth = place, place.look, place.teeth
        self._shadow = 1.0  # how strongly the lips shade the front teeth, as a power of the light
        self._upper = self._upper_layer(place)
        self._lower, self._tongue = self._lower_layers(shape)

    def _upper_layer(self, place: MouthPlace) -> Layer:
        wall, window, home, shown = place.wall("upper"), place.window, place.home, place.shown
        painted = mouth_paint.Painter(self._look, self._teeth, window.detail).jaw("upper", home, window.size)
        if shown is None:
            return Layer(painted, wall, home)
        painted = mouth_paint.bend_columns(painted, place.bend_px)
        light = front_light(place.ring, window.size, home.px_per_mm)
        self._shadow = mouth_paint.shadow_strength(place.crop, shown.upper, light)
        light **= self._shadow
        laid = mouth_paint.lay_photo(painted, place.crop, shown.upper, shown.ended, light, home.px_per_mm)
        return Layer(laid, wall, home)

    def _lower_layers(self, shape: FaceShape) -> tuple[Layer, Layer]:
        """Lower teeth and tongue, drawn with the jaw ajar."""
        expression = shape.rest_expression.astype(np.float64)
        expression[ARKIT_INDEX["jawOpen"]] = JAW_AT_HOME
        still = np.zeros(3)
        jaw = self._place.views(expression, still, still)[1]
        window = _Window.round(jaw, np.array([0.0, 4.0, 5.0]))
        home = window.view(jaw)
        painter = mouth_paint.Painter(self._look, self._teeth, window.detail)
        teeth, tongue = painter.jaw("lower", home, window.size), painter.tongue(home, window.size)
        return Layer(teeth, self._place.wall("lower"), home), Layer(tongue, Wall(geometry.tongue_wall()), home)

    def draw(
        self,
        expression: NDArray,
        rotation: NDArray,
        translation: NDArray,
        inner_lips_px: NDArray,
        roi: tuple[int, int, int, int],
    ) -> NDArray[np.uint8]:
        """The mouth's inside in one frame; the caller lays the lips over it.

        Args:
            expression: (52,) absolute ARKit weights.
            rotation: (3,) pitch, yaw, roll in radians, relative to the photo.
            translation: (3,) in interocular distances, relative to the photo.
            inner_lips_px: (N, 2) ring of the inner lip border as it is in this frame.
            roi: x0, y0, x1, y1 of the wanted patch.

        Returns:
            RGB, (y1 - y0, x1 - x0, 3); dark beyond the ring.
        """
        x0, y0, x1, y1 = roi
        patch = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
        low = np.maximum(np.floor(inner_lips_px.min(axis=0)).astype(int) - 2, (x0, y0))
        high = np.minimum(np.ceil(inner_lips_px.max(axis=0)).astype(int) + 3, (x1, y1))
        if (high - low).min() < 2:
            return patch
        skull, jaw = self._place.views(expression, rotation, translation)
        shrink = min(1.0, MAX_PX_PER_MM / skull.px_per_mm)
        skull, jaw = (view.in_pixels(shrink, low * shrink) for view in (skull, jaw))
        ring = (inner_lips_px - low + 0.5) * shrink - 0.5
        inside = self._draw_opening(expression, skull, jaw, ring, np.ceil((high - low) * shrink).astype(int))
        if shrink < 1:
            from_full = np.array([[shrink, 0, 0.5 * shrink - 0.5], [0, shrink, 0.5 * shrink - 0.5]])
            flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            size = (int(high[0] - low[0]), int(high[1] - low[1]))
            inside = cv2.warpAffine(inside, from_full, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        patch[low[1] - y0 : high[1] - y0, low[0] - x0 : high[0] - x0] = inside
        return patch

    def _draw_opening(
        self, expression: NDArray, skull: View, jaw: View, ring: NDArray, size: NDArray
    ) -> NDArray[np.uint8]:
        """The opening's bounding box, `size` wide and high, with both views and the ring in its pixels."""
        width, height = int(size[0]), int(size[1])
        light = _Light.through(ring, width, height, skull.px_per_mm)
        near = light.near**self._shadow
        forward = min(float(expression[ARKIT_INDEX["tongueOut"]]) / TONGUE_BETWEEN_TEETH, 1.0)
        rounded = float(expression[ARKIT_INDEX["mouthPucker"]] + expression[ARKIT_INDEX["mouthFunnel"]])
        on_tongue = light.deep * ((1 - 0.35 * min(1.0, rounded)) * (1 - forward)) + near * (0.95 * forward)
        views = _tongue_view(jaw, float(expression[ARKIT_INDEX["jawOpen"]]), forward), jaw, skull

        picture = light.enlarge(self._look.cavity * (1 + 1.4 * light.rim[..., None]))
        tongue, lower, upper = (
            _lit(layer.warp(view, width, height), light.enlarge(self._look.tint(brightness)))
            for layer, view, brightness in zip(
                (self._tongue, self._lower, self._upper), views, (on_tongue, light.near, near), strict=True
            )
        )
        before_teeth = float(smoothstep((forward - 0.3) / 0.4))  # the tongue comes before the lower teeth bit by bit
        picture *= (1 - tongue[..., 3:]) * (1 - lower[..., 3:])
        picture += tongue[..., :3] * (1 - (1 - before_teeth) * lower[..., 3:])
        picture += lower[..., :3] * (1 - before_teeth * tongue[..., 3:])
        picture *= 1 - upper[..., 3:]
        picture += upper[..., :3]
        picture += 0.5
        return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class _Light:
    """Light that falls through the lips from above, on a coarse grid."""

    near: NDArray[np.float32]  # on the front teeth: 0.4 behind the lips to 1
    deep: NDArray[np.float32]  # on the tongue
    rim: NDArray[np.float32]  # 1 beside the lips, 0 in the middle of a wide opening
    size: tuple[int, int]  # of the picture, in full pixels

    @staticmethod
    def through(ring: NDArray, width: int, height: int, px_per_mm: float) -> _Light:
        step = max(1.0, px_per_mm / LIGHT_PX_PER_MM)
        small = (max(2, round(width / step)), max(2, round(height / step)))
        fit = np.array(small) / (width, height)
        margin = 4  # darkness outside the opening
        fine = polygon_mask(ring, width, height)
        mask = cv2.copyMakeBorder(
            cv2.resize(fine, small, interpolation=cv2.INTER_AREA), *(margin,) * 4, cv2.BORDER_CONSTANT
        )
        mm = px_per_mm * float(fit.mean())
        inner = (slice(margin, -margin),) * 2
        near = np.minimum(0.4 + 1.1 * _soften(mask, 1.1 * mm, 0.4 * mm)[inner], 1)
        deep = np.minimum(0.1 + 1.05 * _soften(mask, 3.0 * mm, 2.0 * mm)[inner], 1)
        rim = 1 - _soften(mask, 2.5 * mm, -0.5 * mm)[inner]
        return _Light(near, deep, rim, (width, height))

    def enlarge(self, values: NDArray) -> NDArray[np.float32]:
        """Values on the coarse grid, (h, w, 3), for every pixel."""
        return cv2.resize(values.astype(np.float32), self.size, interpolation=cv2.INTER_LINEAR)


def front_light(ring_px: NDArray, size: tuple[int, int], px_per_mm: float) -> NDArray[np.float32]:
    """How much light falls on the front teeth through the lips, 0.4 to 1, (H, W)."""
    light = _Light.through(ring_px, *size, px_per_mm)
    return cv2.resize(light.near, size, interpolation=cv2.INTER_LINEAR)


def _lit(layer: NDArray[np.float32], light: NDArray[np.float32]) -> NDArray[np.float32]:
    """A premultiplied layer (H, W, 4) in coloured light (H, W, 3)."""
    layer[..., :3] *= light
    return layer


def _tongue_view(jaw: View, jaw_open: float, forward: float) -> View:
    """The tongue follows the jaw; it is raised when the jaw is nearly shut, and `forward` (0 to 1) between the teeth."""
    from_below = max(0.0, float(jaw.rotation[1, 2]) + 0.12)  # a raised chin would hide it behind the lower teeth
    raised_mm = 2.5 * max(0.0, 1 - jaw_open / 0.3) * (1 - forward) + 4.5 * forward + 14.0 * from_below
    return jaw.after(np.eye(3), np.array([0.0, -raised_mm, -7.0 * forward]))


def _soften(mask: NDArray[np.float32], sigma_px: float, down_px: float) -> NDArray[np.float32]:
    """Light that falls through the opening onto something behind it, from above."""
    shift = np.array([[1, 0, 0], [0, 1, down_px]], np.float32)
    moved = cv2.warpAffine(mask, shift, mask.shape[::-1])
    return cv2.GaussianBlur(moved, (0, 0), max(sigma_px, 0.3))
