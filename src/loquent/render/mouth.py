"""The picture behind the lips: teeth, tongue and cavity, drawn once for a person and moved with skull and jaw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.motion.pose import rotation_matrix
from loquent.render import mouth_geometry as geometry
from loquent.render import mouth_photo
from loquent.render.mouth_layers import Layer, View, Wall, paint
from loquent.types import ARKIT_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.motion.face_model import FaceShape

INTEROCULAR_MM = 90.0  # between the outer eye corners; what millimetres mean here
LIGHT_TOWARDS = np.array([0.0, -0.55, -0.83])  # from above the camera, as most portraits are lit
SPRITE_MM = (74.0, 44.0)  # width and height of the layers' pictures
JAW_AT_HOME = 0.3  # jawOpen at which the lower layers are drawn


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
        return _Skull(shape, np.array([middle, lip_line + 1.7 / INTEROCULAR_MM, sealed[2] + 4.0 / INTEROCULAR_MM]))

    def view(self, rotation: NDArray, translation: NDArray) -> View:
        """The skull in photo pixels after a motion relative to the photo."""
        ends = self.shape.to_photo(self.incisor[None, None], rotation[None], translation[None])[0, 0]
        per_mm = self.shape.scale_px / INTEROCULAR_MM
        return View(rotation_matrix(self.shape.pose_rad + rotation), np.zeros(3), per_mm, ends[:2])

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
        seed: int = 0,
    ) -> None:
        self.skull = _Skull.of(shape)
        self.look = mouth_photo.measure(pixels, shape.landmarks(shape.rest_expression[None])[0])
        self.teeth = geometry.Dentition.varied(seed)
        still = self.skull.view(np.zeros(3), np.zeros(3))
        self.detail = float(np.clip(round(3.0 / still.px_per_mm), 1, 4))  # sprite pixels per photo pixel
        ajar = np.zeros(len(ARKIT_INDEX))
        ajar[ARKIT_INDEX["jawOpen"]] = JAW_AT_HOME
        jaw = self.skull.jaw_view(still, ajar)
        self.upper = self._jaw_layer("upper", still)
        self.lower = self._jaw_layer("lower", jaw)
        self.tongue = self._tongue_layer(jaw)

    def draw(
        self,
        expression: NDArray,
        rotation: NDArray,
        translation: NDArray,
        inner_lips_px: NDArray,
        roi: tuple[int, int, int, int],
        scale: float,
    ) -> NDArray[np.uint8]:
        """The mouth's inside in one frame, as if the lips were not there; the caller lays the lips over it.

        Args:
            expression: (52,) absolute ARKit weights.
            rotation: (3,) pitch, yaw, roll in radians, relative to the photo.
            translation: (3,) in interocular distances, relative to the photo.
            inner_lips_px: (N, 2) ring of the inner lip border as it is in this frame, in output pixels.
            roi: x0, y0, x1, y1 of the wanted patch in output pixels.
            scale: output pixels per photo pixel.

        Returns:
            RGB, (y1 - y0, x1 - x0, 3).
        """
        x0, y0, x1, y1 = roi
        width, height = x1 - x0, y1 - y0
        corner = np.array([x0, y0], np.float64)
        skull = self.skull.view(np.asarray(rotation, np.float64), np.asarray(translation, np.float64))
        jaw = self.skull.jaw_view(skull, expression)
        mm = skull.px_per_mm * scale
        opening = _lip_mask(inner_lips_px - corner, width, height)
        near = _soften(opening, 1.5 * mm, 0.8 * mm)
        deep = _soften(opening, 4.0 * mm, 1.5 * mm)

        lip = self.look.lip
        dark = np.array([0.16, 0.10, 0.09]) * lip
        picture = dark * (0.25 + 0.75 * deep[..., None])
        for layer, view, light in (
            (self.tongue, jaw, 0.15 + 0.85 * deep),
            (self.lower, jaw, 0.12 + 0.78 * near),
            (self.upper, skull, 0.25 + 0.8 * near),
        ):
            drawn = layer.warp(view.in_pixels(scale, corner), width, height)
            picture = picture * (1 - drawn[..., 3:]) + drawn[..., :3] * light[..., None]
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)

    def _sprite_view(self, view: View, centre_mm: NDArray) -> tuple[View, int, int]:
        """The view in a sprite's pixels, and the sprite's size."""
        centre = view.project(centre_mm)[:2]
        half = np.array(SPRITE_MM) / 2 * view.px_per_mm
        corner = np.floor(centre - half)
        size = np.ceil(2 * half * self.detail).astype(int)
        origin = (view.origin_px - corner) * self.detail
        return View(view.rotation, view.shift_mm, view.px_per_mm * self.detail, origin), int(size[0]), int(size[1])

    def _jaw_layer(self, jaw: geometry.Jaw, view: View) -> Layer:
        centre = np.array([0.0, -6.0 if jaw == "upper" else 4.0, 5.0])
        home, width, height = self._sprite_view(view, centre)
        oversample = 2
        density = home.px_per_mm * oversample
        teeth, gum = self.teeth.teeth(jaw, density), self.teeth.gum(jaw, density)
        points = geometry.join([gum, teeth])
        colours = np.concatenate([self._gum_colour(gum), self._tooth_colour(teeth, view)])
        picture = paint(points, colours, home, width, height, oversample)
        blur = max(0.3, np.sqrt(self.look.blur_px**2) * self.detail * 0.8)
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
        arch = self.teeth.arch(jaw)
        return Layer(picture, Wall(arch.curve[::8] + np.array([0.0, 0.8])), home)

    def _tooth_colour(self, points: geometry.Points, view: View) -> NDArray:
        normal = points.normal @ view.rotation.T
        facing = np.clip(normal @ LIGHT_TOWARDS, 0, 1)
        lit = 0.55 + 0.5 * facing
        sideways = 1 + 1.5 * self.look.light_right * np.clip(points.position[:, 0] / 25 + 0.6 * normal[:, 0], -1, 1)
        crevice = 1 - 0.35 * np.clip((np.abs(points.side) - 0.75) / 0.25, 0, 1) ** 2
        depth = np.exp(-np.maximum(points.position[:, 2] - 1.0, 0) / 22.0)
        neck = np.clip((points.height - 0.45) / 0.55, 0, 1)[:, None]
        edge = np.clip(1 - points.height / 0.14, 0, 1)[:, None]
        warm = 1 - neck * np.array([0.04, 0.10, 0.20])
        clear = 1 - edge * np.array([0.16, 0.12, 0.09])
        canine = np.where(np.isin(points.tooth, (3, 8))[:, None], [0.97, 0.94, 0.87], 1.0)
        shine = 26.0 * np.clip(normal @ _half_vector(), 0, 1)[:, None] ** 60
        shade = (lit * sideways * crevice * depth)[:, None]
        return self.look.tooth * shade * warm * clear * canine + shine * depth[:, None]

    def _gum_colour(self, points: geometry.Points) -> NDArray:
        shade = np.exp(-np.maximum(points.position[:, 2], 0) / 20.0) * 0.8
        return self.look.lip * np.array([0.95, 0.85, 0.85]) * shade[:, None]

    def _tongue_layer(self, view: View) -> Layer:
        centre = np.array([0.0, 4.0, 5.0])
        home, width, height = self._sprite_view(view, centre)
        density = home.px_per_mm * 2
        points = geometry.tongue(density)
        normal = points.normal @ view.rotation.T
        lit = 0.45 + 0.6 * np.clip(normal @ LIGHT_TOWARDS, 0, 1)
        groove = 1 - 0.18 * np.exp(-((points.position[:, 0] / 2.5) ** 2))
        depth = np.exp(-np.maximum(points.position[:, 2] - 8, 0) / 18.0)
        shine = 40.0 * np.clip(normal @ _half_vector(), 0, 1)[:, None] ** 25
        colours = (
            self.look.lip * np.array([0.92, 0.80, 0.82]) * (lit * groove * depth)[:, None] + shine * depth[:, None]
        )
        picture = paint(points, colours, home, width, height, 2)
        picture = cv2.GaussianBlur(picture, (0, 0), max(0.4, self.look.blur_px * self.detail))
        x = np.linspace(-30, 30, 61)
        return Layer(picture, Wall(np.stack([x, 14 + 0.01 * x**2], axis=1)), home)


def _half_vector() -> NDArray:
    half = LIGHT_TOWARDS + np.array([0.0, 0.0, -1.0])
    return half / np.linalg.norm(half)


def _lip_mask(contour_px: NDArray, width: int, height: int) -> NDArray[np.float32]:
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(contour_px * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def _soften(mask: NDArray[np.float32], sigma_px: float, down_px: float) -> NDArray[np.float32]:
    """Light that falls through the opening onto something behind it, from above."""
    shift = np.array([[1, 0, 0], [0, 1, down_px]], np.float32)
    moved = cv2.warpAffine(mask, shift, mask.shape[::-1])
    return cv2.GaussianBlur(moved, (0, 0), max(sigma_px, 0.5))
