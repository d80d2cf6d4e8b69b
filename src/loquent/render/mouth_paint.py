"""Draws the parts of the mouth in the photo's colours, light and softness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.render import mouth_geometry as geometry
from loquent.render.mouth_layers import View, paint
from loquent.render.mouth_photo import LUMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.render.mouth_photo import Appearance

LIGHT_TOWARDS = np.array([0.0, -0.55, -0.83])  # from above the camera, as most portraits are lit
FINE_PX_PER_MM = 4.0  # above, edges are soft enough without averaging several samples a pixel


@dataclass(frozen=True, eq=False)
class Painter:
    """Paints the surfaces of one person."""

    look: Appearance
    teeth: geometry.Dentition
    detail: float  # sprite pixels per photo pixel

    def jaw(self, jaw: geometry.Jaw, home: View, size: tuple[int, int]) -> NDArray[np.float32]:
        """Teeth and gum of one jaw, premultiplied RGBA (H, W, 4)."""
        oversample = _oversample(home)
        density = home.px_per_mm * oversample
        teeth, gum = self.teeth.teeth(jaw, density), self.teeth.gum(jaw, density)
        points = geometry.join([gum, teeth])
        colours = np.concatenate([self._gum_colour(gum), self._tooth_colour(teeth, home)])
        alpha = np.ones((len(colours), 1))
        if jaw == "lower":  # in the shadow of lower lip and upper teeth; further back the tongue covers them
            depth = points.position[:, 2:]
            lit = np.exp(-np.maximum(depth - 6.0, 0) / 13.0)
            colours *= 0.88 * lit ** np.array([0.8, 1.1, 1.2])
            alpha = np.clip(1 - (depth - 16.0) / 9.0, 0, 1)
        return self._soften(paint(points, np.hstack([colours, alpha]), home, *size, oversample))

    def tongue(self, home: View, size: tuple[int, int]) -> NDArray[np.float32]:
        """The tongue, premultiplied RGBA (H, W, 4)."""
        oversample = _oversample(home)
        points = geometry.tongue(home.px_per_mm * oversample)
        normal = points.normal @ home.rotation.T.astype(np.float32)
        x, _, z = points.position.T
        uneven = _mottle(points.position, self.teeth.seed)
        lit = 0.62 + 0.42 * np.clip(normal @ LIGHT_TOWARDS, 0, 1)
        groove = 1 - 0.16 * np.exp(-((x / 2.0) ** 2)) * np.clip((z - 9) / 8, 0, 1)
        depth = np.exp(-np.maximum(z - 11, 0) / 21.0)
        shine = 70.0 * np.clip(normal @ _half_vector() + 0.05 * uneven, 0, 1) ** 40 * np.clip(0.6 + uneven, 0, 1.6)
        shade = (lit * groove * depth * (1 + 0.06 * uneven))[:, None] ** np.array([0.9, 1.1, 1.1])
        colours = self.look.flesh * shade + (shine * depth)[:, None]
        return self._soften(paint(points, np.hstack([colours, np.ones((len(colours), 1))]), home, *size, oversample))

    def _soften(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.look.tone is not None:
            picture[..., :3] = (picture[..., :3] @ LUMA.astype(np.float32))[..., None] * self.look.tone.astype(
                np.float32
            )
        return cv2.GaussianBlur(picture, (0, 0), max(0.5, 0.45 * self.look.blur_px * self.detail))

    def _tooth_colour(self, points: geometry.Points, view: View) -> NDArray:
        normal = points.normal @ view.rotation.T.astype(np.float32)
        lit = 0.80 + 0.50 * np.clip(normal @ LIGHT_TOWARDS, 0, 1)
        sideways = 1 + 1.5 * self.look.light_right * np.clip(points.position[:, 0] / 25 + 0.6 * normal[:, 0], -1, 1)
        crevice = 1 - 0.5 * np.clip((np.abs(points.side) - 0.7) / 0.3, 0, 1) ** 2
        depth = np.exp(-np.maximum(points.position[:, 2] - 8.0, 0) / 30.0)
        neck = np.clip((points.height - 0.45) / 0.55, 0, 1)[:, None]
        edge = np.clip(1 - points.height / 0.14, 0, 1)[:, None]
        warm = 1 - neck * np.array([0.04, 0.10, 0.20])
        clear = 1 - edge * np.array([0.16, 0.12, 0.09])
        canine = np.where(np.isin(points.tooth, (3, 8))[:, None], [0.97, 0.94, 0.87], 1.0)
        shine = 34.0 * np.clip(normal @ _half_vector(), 0, 1)[:, None] ** 60
        shade = (lit * sideways * crevice * depth)[:, None] ** np.array([0.9, 1.05, 1.1])
        colour = self.look.tooth * shade * warm * clear * canine + shine * depth[:, None]
        return np.minimum(colour, self.look.tooth * 1.12 + 4)  # wet, not glowing

    def _gum_colour(self, points: geometry.Points) -> NDArray:
        shade = np.exp(-np.maximum(points.position[:, 2], 0) / 20.0) * 0.8
        return self.look.flesh * shade[:, None]


def _oversample(view: View) -> int:
    return 2 if view.px_per_mm <= FINE_PX_PER_MM else 1


def _mottle(position: NDArray, seed: int) -> NDArray:
    """Smooth unevenness over a surface, about -1 to 1, (N,)."""
    rng = np.random.default_rng([seed, 7])
    x, z = position[:, 0], position[:, 2]
    total = np.zeros_like(x)
    for along_x, along_z, phase in rng.normal(0, 1.1, (8, 3)):  # radians a millimetre
        total += np.sin(x * np.float32(along_x) + z * np.float32(along_z) + np.float32(3 * phase))
    return total / np.float32(np.sqrt(8))


def edge_rows(teeth: geometry.Dentition, view: View, width: int) -> NDArray[np.float64]:
    """The row where the upper teeth end, for every column of a view, (W,)."""
    curve = teeth.wall("upper")
    curve = curve[np.abs(curve[:, 0]) < 24]
    points = np.stack([curve[:, 0], np.full(len(curve), -0.3), curve[:, 1]], axis=1)
    seen = view.project(points)
    order = np.argsort(seen[:, 0])
    return np.interp(np.arange(width), seen[order, 0], seen[order, 1])


def bend_columns(picture: NDArray[np.float32], down_px: NDArray) -> NDArray[np.float32]:
    """Moves each column of a picture (H, W, C) down by so many pixels (W,)."""
    height, width = picture.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(picture, x, y - down_px[None].astype(np.float32), cv2.INTER_LINEAR)


def lay_photo(
    painted: NDArray[np.float32],
    photo: NDArray[np.uint8],
    certainty: NDArray[np.float32],
    ended: NDArray[np.float32],
    light: NDArray[np.float32],
    px_per_mm: float,
) -> NDArray[np.float32]:
    """Puts the teeth that the photo shows over painted ones, and gives the painted ones the photo's colours.

    Args:
        painted: premultiplied RGBA, (H, W, 4).
        photo: RGB, (H, W, 3), the same view.
        certainty: (H, W), where the photo shows these teeth.
        ended: (H, W), where the photo shows darkness below them.
        light: (H, W), share of light that reaches the teeth in the photo, above 0; the result is free of it.
        px_per_mm: scale of all of them.
    """
    unlit = photo.astype(np.float32) / light[..., None]
    inset = 2 * max(1, round(0.4 * px_per_mm)) + 1  # the rim of what is shown is mixed with lip and shadow
    weight = cv2.erode(certainty, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (inset, inset)))
    mask = cv2.GaussianBlur(weight, (0, 0), max(0.6, 0.25 * px_per_mm))[..., None]
    alpha = painted[..., 3:]
    colour = painted[..., :3] / np.maximum(alpha, 1e-3)
    colour = colour * _colour_ratio(unlit, colour, weight * (alpha[..., 0] > 0.9), 3.5 * px_per_mm)
    hole = cv2.GaussianBlur(ended, (0, 0), max(0.6, 0.25 * px_per_mm))[..., None]
    alpha = np.maximum(alpha * (1 - hole), mask)
    colour = colour * (1 - mask) + unlit * mask
    return np.concatenate([np.clip(colour, 0, 255) * alpha, alpha], axis=2).astype(np.float32)


def shadow_strength(photo: NDArray, certainty: NDArray, light: NDArray) -> float:
    """The power of `light` that the photo's teeth show, 0.15 (flash: hardly a shadow of the lips) to 1."""
    sure = (certainty > 0.8) & (light > 0.4)
    if sure.sum() < 30:
        return 0.5
    x, y = np.log(light[sure]), np.log(np.maximum(photo[sure].mean(axis=1), 8.0))
    x = x - x.mean()
    return float(np.clip((x @ (y - y.mean())) / max(x @ x, 1e-6), 0.15, 1.0))


def _colour_ratio(photo: NDArray, painted: NDArray, weight: NDArray, reach_px: float) -> NDArray[np.float32]:
    """Photo over painted colours, spread smoothly from where both are known, (H, W, 3)."""
    ratio = np.clip(photo / np.maximum(painted, 10.0), 0.5, 1.6) * weight[..., None]
    total = max(float(weight.sum()), 1e-6)
    mean = ratio.sum(axis=(0, 1)) / total if total > 1 else np.ones(3)
    near = cv2.GaussianBlur(weight.astype(np.float32), (0, 0), reach_px)
    spread = cv2.GaussianBlur(ratio.astype(np.float32), (0, 0), reach_px)
    trust = 0.02
    return (spread + trust * mean) / (near + trust)[..., None]


def _half_vector() -> NDArray:
    half = LIGHT_TOWARDS + np.array([0.0, 0.0, -1.0])
    return half / np.linalg.norm(half)
