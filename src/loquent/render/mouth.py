"""The picture behind the lips: teeth, tongue and cavity, drawn once for a person and moved with skull and jaw."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.lip_line import INTEROCULAR_MM, polygon_mask
from loquent.motion.pose import rotation_matrix
from loquent.render import mouth_geometry as geometry
from loquent.render import mouth_paint, mouth_photo
from loquent.render.mouth_layers import Layer, View, Wall
from loquent.types import ARKIT_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.motion.face_model import FaceShape

SPRITE_MM = (76.0, 46.0)  # width and height of the layers' pictures
BELOW_LIP_LINE_MM = 3.1  # upper incisors' edge; median over the 184 of 220 portraits whose smile shows it
LOWER_TEETH_SHOWN_MM = 1.0  # above the lower lip when only the jaw opens
JAW_AT_HOME = 0.3  # jawOpen at which the lower layers are drawn, unless the photo shows lower teeth
TONGUE_BETWEEN_TEETH = 0.16  # tongueOut at which the tip is between the teeth, as in "th"
MAX_PX_PER_MM = 5.0  # larger mouths are drawn at this size and enlarged


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
        look = mouth_photo.measure(pixels, shape.landmarks(shape.rest_expression[None])[0])
        teeth = geometry.Dentition.varied(zlib.crc32(shape.neutral.round(3).tobytes()) if seed is None else seed)
        skull = _Skull.of(shape)
        self._jaw_skull = skull.with_lower_teeth_at_lip()
        photo = skull.at_rest()
        home, size = _sprite_view(photo, np.array([0.0, -5.0, 5.0]))
        crop = _cut(pixels, home, photo, size)
        ring = home.relate(photo, inner_lips_px)
        edge = mouth_paint.edge_rows(teeth, home, size[0])
        shown = mouth_photo.find_teeth(crop, ring, home.px_per_mm, look.lip, edge)
        bend = np.zeros(size[0])
        if shown is not None:
            middle = int(np.clip(home.origin_px[0], 0, size[0] - 1))
            down = float(shown.edge_px[middle] - edge[middle])
            skull = skull.lowered(down / home.px_per_mm)
            bend = shown.edge_px - edge - down
            look = replace(look, tooth=shown.colour)
        painter = mouth_paint.Painter(look, teeth, home.px_per_mm / photo.px_per_mm)

        self._look = look
        self._skull = skull
        upper_home = replace(home, origin_px=home.relate(photo, skull.at_rest().origin_px))
        upper = mouth_paint.bend_columns(painter.jaw("upper", upper_home, size), bend)
        ajar = shape.rest_expression.astype(np.float64).copy()
        if shown is None or shown.lower.sum() < 10 * home.px_per_mm**2:
            ajar[ARKIT_INDEX["jawOpen"]] = JAW_AT_HOME
        jaw = self._jaw_skull.jaw_view(self._jaw_skull.at_rest(), ajar)
        lower_home, lower_size = _sprite_view(jaw, np.array([0.0, 4.0, 5.0]))
        lower = painter.jaw("lower", lower_home, lower_size)
        if shown is not None:
            light = front_light(ring, size, home.px_per_mm)
            upper = mouth_paint.lay_photo(upper, crop, shown.upper, shown.ended, light, home.px_per_mm)
        self._upper = Layer(upper, Wall(teeth.wall("upper")), upper_home)
        self._lower = Layer(lower, Wall(teeth.wall("lower")), lower_home)
        self._tongue = Layer(painter.tongue(lower_home, lower_size), Wall(geometry.tongue_wall()), lower_home)

    def draw(
        self,
        expression: NDArray,
        rotation: NDArray,
        translation: NDArray,
        inner_lips_px: NDArray,
        roi: tuple[int, int, int, int],
    ) -> NDArray[np.uint8]:
        """The mouth's inside in one frame, as if the lips were not there; the caller lays the lips over it.

        Args:
            expression: (52,) absolute ARKit weights.
            rotation: (3,) pitch, yaw, roll in radians, relative to the photo.
            translation: (3,) in interocular distances, relative to the photo.
            inner_lips_px: (N, 2) ring of the inner lip border as it is in this frame.
            roi: x0, y0, x1, y1 of the wanted patch.

        Returns:
            RGB, (y1 - y0, x1 - x0, 3).
        """
        x0, y0, x1, y1 = roi
        width, height = x1 - x0, y1 - y0
        corner = np.array([x0, y0], np.float64)
        turn, move = np.asarray(rotation, np.float64), np.asarray(translation, np.float64)
        skull = self._skull.view(turn, move)
        jaw = self._jaw_skull.jaw_view(self._jaw_skull.view(turn, move), expression)
        mm = skull.px_per_mm
        ring = inner_lips_px - corner
        opening = polygon_mask(ring, width, height)
        near = front_light(ring, (width, height), mm)
        deep = np.minimum(0.1 + 1.05 * _soften(opening, 3.0 * mm, 2.0 * mm), 1.0)
        rim = 1 - _soften(opening, 2.5 * mm, -0.5 * mm)

        lip = self._look.lip
        picture = lip * np.array([0.12, 0.055, 0.05]) + lip * np.array([0.20, 0.09, 0.09]) * rim[..., None]
        tongue = (self._tongue, *self._tongue_pose(jaw, expression, near, deep))
        lower, upper = (self._lower, jaw, near), (self._upper, skull, near)
        out = float(expression[ARKIT_INDEX["tongueOut"]]) > 0.5 * TONGUE_BETWEEN_TEETH
        for layer, view, light in (lower, tongue, upper) if out else (tongue, lower, upper):
            drawn = layer.warp(view.in_pixels(1.0, corner), width, height)
            picture = picture * (1 - drawn[..., 3:]) + drawn[..., :3] * _warm(light)
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)

    def _tongue_pose(
        self, jaw: View, expression: NDArray, near: NDArray, deep: NDArray
    ) -> tuple[View, NDArray[np.float32]]:
        """Where the tongue is, and the light on it."""
        jaw_open, pucker, funnel = (
            float(expression[ARKIT_INDEX[name]]) for name in ("jawOpen", "mouthPucker", "mouthFunnel")
        )
        forward = min(float(expression[ARKIT_INDEX["tongueOut"]]) / TONGUE_BETWEEN_TEETH, 1.0)
        raised_mm = 2.5 * max(0.0, 1 - jaw_open / 0.3) * (1 - forward) + 4.5 * forward
        view = jaw.after(np.eye(3), np.array([0.0, -raised_mm, -7.0 * forward]))
        drawn_back = 1 - 0.35 * min(1.0, pucker + funnel)
        return view, (deep * drawn_back * (1 - forward) + near * forward * 0.95).astype(np.float32)


def front_light(ring_px: NDArray, size: tuple[int, int], px_per_mm: float) -> NDArray[np.float32]:
    """How much light falls on the front teeth through the opening, about 0.25 under the lips to 1, (H, W)."""
    opening = polygon_mask(ring_px, *size)
    return np.minimum(0.4 + 1.1 * _soften(opening, 1.1 * px_per_mm, 0.4 * px_per_mm), 1.0)


def _warm(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light (H, W) as colour (H, W, 3): what reaches the depth has been reflected by red skin."""
    return np.stack([light**0.85, light**1.1, light**1.15], axis=-1)


def _sprite_view(view: View, centre_mm: NDArray) -> tuple[View, tuple[int, int]]:
    """A view in the pixels of a picture round a point, at a whole multiple of the photo's size, and its size."""
    detail = float(np.clip(round(3.0 / view.px_per_mm), 1, 4))
    half = np.array(SPRITE_MM) / 2 * view.px_per_mm
    corner = np.floor(view.project(centre_mm)[:2] - half)
    width, height = np.ceil(2 * half * detail).astype(int)
    origin = (view.origin_px - corner) * detail
    return View(view.rotation, view.shift_mm, view.px_per_mm * detail, origin), (int(width), int(height))


def _cut(pixels: NDArray[np.uint8], home: View, photo: View, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The part of the photo that a sprite covers, in the sprite's pixels."""
    detail = home.px_per_mm / photo.px_per_mm
    offset = home.origin_px - photo.origin_px * detail
    place = np.array([[detail, 0, offset[0]], [0, detail, offset[1]]])
    return cv2.warpAffine(pixels, place, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _soften(mask: NDArray[np.float32], sigma_px: float, down_px: float) -> NDArray[np.float32]:
    """Light that falls through the opening onto something behind it, from above."""
    shift = np.array([[1, 0, 0], [0, 1, down_px]], np.float32)
    moved = cv2.warpAffine(mask, shift, mask.shape[::-1])
    return cv2.GaussianBlur(moved, (0, 0), max(sigma_px, 0.5))
