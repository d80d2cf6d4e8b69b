"""What our output stage is given of a portrait besides its pixels: person, background, and where lips and lids part.

An addition to the published network, made once for a portrait from its landmarks. The stage cuts the photo along the
line of the lips and of each upper lid. What lies above such a line is read by one flow, what lies below by another, and
so lips part and lids close without stretching what lies between.

Shape letters: B batch, S side of the photo in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from loquent.errors import PhotoError
from loquent.face.lip_line import lip_ring
from loquent.face.topology import (
    LEFT_EYE_LOWER,
    LEFT_EYE_OUTER,
    LEFT_EYE_UPPER,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_OUTER,
    RIGHT_EYE_UPPER,
)
from loquent.models.ifmdm.landmark_flow import LandmarkField, make_field
from loquent.motion.face_model import fit_face
from loquent.render.aperture import Opening, dense_edge
from loquent.render.matte import split_layers
from loquent.render.mouth import MouthPlace
from loquent.render.mouth_geometry import LOWER_EDGE_MM
from loquent.render.mouth_layers import View
from loquent.render.mouth_paint import Painter, bend_columns
from loquent.render.warp import smoothstep

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

# Planes of `PhotoLayers`, such that each flow reads neighbours: the upper one NEAR to BLUE, the lower one ALPHA to LOWER,
# and what lies in the photo's mouth RED to TEETH.
NEAR, UPPER, ALPHA, RED, GREEN, BLUE, LOWER, INSIDE, TEETH = range(9)
SPRITE_PX = (90, 144)  # height and width of the pictures of the mouth's inside
SPRITE_HALF = (0.40, 0.25)  # of the box that they fill, interocular distances
_SPRITE_DOWN = -0.02  # of that box's middle below the edge of the incisors
_GAP = np.ones((5, 5), np.uint8)
_FAINT = 1e-3  # share of the neighbours' colours in a sprite's

_EDGE_PX = 1.2  # over which a line passes, in a photo of 256 pixels
_SPREAD = 0.6  # by which it grows with the distance from the corners, beyond which flows are one again
_NEAR_ABOVE = -0.35  # of the line between the corners, where the mouth may open, in its widths; below: one width
_CLOSED = 0.02  # lips closer than this, in interocular distances, are shut
_INSET = 0.006  # of the lids' lines: lashes belong to the lid
_EYE_REACH = (0.5, 0.55)  # how far an eye's lower layer goes beside and below, in widths of the eye
_TAPS = 8  # pixels from which one between them is made
_EYES = ((RIGHT_EYE_UPPER, RIGHT_EYE_LOWER), (LEFT_EYE_UPPER, LEFT_EYE_LOWER))


@dataclass(frozen=True, eq=False)
class PhotoLayers:
    """A photo taken apart: photo = person + (1 − alpha) · background, in [−1, 1].

    Of what moves there may be D pixels for each of the photo's, each way, so that reading between pixels blurs less. Every
    D-th of them is then the photo's own.
    """

    planes: Tensor  # (B, 9, D·S, D·S): see above; colours are the person's, times alpha
    background: Tensor  # (B, 3, S, S), completed behind the person
    to_mouth: Tensor  # (B, 2, 3): from −1 to 1 across the photo to −1 to 1 in the box of the mouth's sprites
    to_jaw: Tensor  # (B, 2): where the lower sprite lies in that box
    sprites: Tensor  # (B, 8, h, w): of the upper and of the lower jaw, colour in [−1, 1] and alpha in 0..1
    cavity: Tensor  # (B, 3): the colour behind them
    field: LandmarkField  # of the photos, or of the one photo that all rows are

    @property
    def size(self) -> int:
        return self.background.shape[-1]

    @property
    def detail(self) -> int:
        """D."""
        return self.planes.shape[-1] // self.size

    @property
    def shift(self) -> Tensor:
        """Where planes are read for the photo's own pixels, beside these, half pictures: (1, 2)."""
        return torch.full((1, 2), (1 - self.detail) / self.planes.shape[-1])

    @property
    def own(self) -> Tensor:
        """Planes at the photo's own pixels, (B, 9, S, S)."""
        return self.planes[:, :, :: self.detail, :: self.detail]

    def refined(self, detail: int) -> PhotoLayers:
        """The same with planes `detail` times as fine as the photo."""
        if detail == self.detail:
            return self
        planes = refine(self.own, detail)
        for weight in (NEAR, UPPER, LOWER, INSIDE, TEETH):
            planes[:, weight].clamp_(0, 1)
        return replace(self, planes=planes)

    def rows(self, numbers: Tensor) -> PhotoLayers:
        """Those of some photos of the batch."""
        return self._each(lambda x: x[numbers], self.field.rows(numbers))

    def shrunk(self, size: int) -> PhotoLayers:
        """The same for a smaller photo, whose side divides this one's."""
        return replace(self, planes=shrink(self.own, size), background=shrink(self.background, size))

    def repeat(self, count: int) -> PhotoLayers:
        """The same photo `count` times, in the same memory; for a batch of one."""
        return self._each(lambda x: x.expand(count, *x.shape[1:]), self.field)

    def to(self, device: torch.device | str) -> PhotoLayers:
        return self._each(lambda x: x.to(device), self.field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor], field: LandmarkField) -> PhotoLayers:
        return PhotoLayers(
            change(self.planes),
            change(self.background),
            change(self.to_mouth),
            change(self.to_jaw),
            change(self.sprites),
            change(self.cavity),
            field,
        )


def take_apart(pixels: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> PhotoLayers:
    """Layers of a photo, RGB (S, S, 3), with landmarks (478, 2 or 3) in its pixels."""
    layers = split_layers(pixels, np.asarray(landmarks, np.float32))
    photo, background = (x.astype(np.float32) / 127.5 - 1 for x in (pixels, layers.background))
    alpha = np.asarray(layers.person[..., 3] / 255, np.float32)
    return join_layers(photo[None], background[None], alpha[None], np.asarray(landmarks, np.float32)[None])


def join_layers(
    photos: NDArray[np.float32],
    backgrounds: NDArray[np.float32],
    alphas: NDArray[np.float32],
    landmarks: NDArray[np.float32],
) -> PhotoLayers:
    """Layers of photos and backgrounds (B, S, S, 3) in [−1, 1], alphas (B, S, S) and landmarks (B, 478, 2 or 3), pixels."""
    size = photos.shape[1]
    planes = np.empty((len(photos), 9, size, size), np.float32)
    person = photos - (1 - alphas[..., None]) * backgrounds
    planes[:, RED : BLUE + 1] = person.transpose(0, 3, 1, 2)
    planes[:, ALPHA] = alphas
    for plane, points in zip(planes, landmarks, strict=True):
        plane[[NEAR, UPPER, LOWER, INSIDE]] = mark_openings(points[:, :2], size)
    drawn = [draw_mouth(photo, points) for photo, points in zip(photos, landmarks, strict=True)]
    to_mouth, to_jaw, sprites, cavity, teeth = (torch.from_numpy(np.stack(x)) for x in zip(*drawn, strict=True))
    planes[:, TEETH] = teeth.numpy()
    return PhotoLayers(
        torch.from_numpy(planes),
        torch.from_numpy(np.ascontiguousarray(backgrounds.transpose(0, 3, 1, 2))),
        to_mouth,
        to_jaw,
        sprites,
        cavity,
        LandmarkField.stack([make_field(points, size) for points in landmarks]),
    )


def mark_openings(landmarks: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """Where the photo is cut, (4, S, S): near the mouth, of the upper and of the lower layer, between open lips.

    Args:
        landmarks: (478, 2), pixels.
        size: side of the photo.
    """
    unit = float(np.hypot(*(landmarks[LEFT_EYE_OUTER] - landmarks[RIGHT_EYE_OUTER])))
    edge = _EDGE_PX * (size / 256) ** 0.5
    mouth = _mouth_opening(landmarks, unit)
    u, v, heights, beyond = _seen(mouth, size)
    softness = edge + _SPREAD * beyond
    upper = np.clip((heights[..., 0] - v) / softness + 0.5, 0, 1)
    lower = np.clip((v - heights[..., 1]) / softness + 0.5, 0, 1)
    length = mouth.frame.length_px
    within = np.minimum(u, length - u) / length
    near = np.clip(within / 0.04, 0, 1) * (v > _NEAR_ABOVE * length) * (v < length)
    inside = near * np.clip(1 - upper - lower - 0.1, 0, 1) / 0.9
    upper = np.minimum(upper, 1 - lower)
    for points in _EYES:
        eye_upper, eye_lower = (dense_edge(landmarks[list(line)]) for line in points)
        share = _eye_share(Opening.of(eye_upper, eye_lower), size, edge, unit)
        upper, lower = upper * (1 - share), np.maximum(lower, share)
    return np.stack([near, upper, lower, inside]).astype(np.float32)


def _mouth_opening(landmarks: NDArray[np.floating], unit: float) -> Opening:
    upper, lower = (dense_edge(landmarks[list(line)]) for line in (LIPS_INNER_UPPER, LIPS_INNER_LOWER))
    opening = Opening.of(upper, lower)
    if opening.gap_px < _CLOSED * unit:
        upper = lower = (upper + lower) / 2
        return Opening.of(upper, lower)
    return opening


def _seen(opening: Opening, size: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """At each pixel: u, v, v of both edges (S, S, 2), and how far it is beyond the corners."""
    u, v = opening.frame.grid((0, 0, size, size))
    beyond = np.maximum(np.maximum(-u, u - opening.frame.length_px), 0)
    return u, v, opening.heights(u), beyond


def _eye_share(eye: Opening, size: int, edge: float, unit: float) -> NDArray[np.float32]:
    """How much of each pixel is of the layer under the upper lid: eyeball, lower lid, and fading away from these."""
    _, v, heights, beyond = _seen(eye, size)
    width = eye.frame.length_px
    below = np.clip((v - heights[..., 0] - _INSET * unit) / (edge + _SPREAD * beyond) + 0.5, 0, 1)
    aside = smoothstep(1 - beyond / (_EYE_REACH[0] * width))
    down = smoothstep(1 - np.maximum(v - heights[..., 1] - 0.1 * width, 0) / (_EYE_REACH[1] * width))
    return np.asarray(below * aside * down, np.float32)


def draw_mouth(photo: NDArray[np.float32], landmarks: NDArray[np.floating]) -> tuple[NDArray[np.float32], ...]:
    """Teeth and tongue of a person, drawn by `render.mouth` in the photo's colours, as the photo turns the head.

    Args:
        photo: RGB (S, S, 3) in [−1, 1].
        landmarks: (478, 2 or 3) in its pixels.

    Returns:
        `to_mouth` (2, 3), `to_jaw` (2,), `sprites` (8, h, w) and `cavity` (3,) of `PhotoLayers`, and how surely each pixel
        of the photo is an upper tooth, (S, S).
    """
    size, sprite_size = len(photo), (SPRITE_PX[1], SPRITE_PX[0])
    pixels = ((photo + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    points = np.zeros((len(landmarks), 3), np.float32)
    points[:, : landmarks.shape[1]] = landmarks
    shape = fit_face(points)
    place = MouthPlace.of(pixels, shape, lip_ring(points, LIPS_INNER_UPPER, LIPS_INNER_LOWER))
    upper, lower = place.views(shape.rest_expression, np.zeros(3), np.zeros(3))
    across = points[LEFT_EYE_OUTER, :2] - points[RIGHT_EYE_OUTER, :2]
    unit = float(np.hypot(*across))
    turn = np.array([[across[0], across[1]], [-across[1], across[0]]]) / unit
    scale = turn / (unit * np.array(SPRITE_HALF))[:, None]  # from pixels to the box
    down = np.array([0, _SPRITE_DOWN / SPRITE_HALF[1]])
    shift = scale.sum(1) * ((size - 1) / 2) - scale @ upper.origin_px - down
    to_mouth = np.column_stack([scale * (size / 2), shift]).astype(np.float32)
    to_jaw = (scale @ (lower.project(np.array(LOWER_EDGE_MM))[:2] - upper.origin_px)).astype(np.float32)
    zoom = SPRITE_PX[1] / (2 * unit * SPRITE_HALF[0])
    edge = (np.array(sprite_size) * (1 - down) - 1) / 2  # where the incisors of either sprite end
    columns = (2 * np.arange(sprite_size[0]) + 1) / sprite_size[0] - 1
    window = place.window.points(upper.origin_px + np.outer(columns, np.linalg.inv(scale)[:, 0]))[:, 0]
    bend_px = np.interp(window, np.arange(len(place.bend_px)), place.bend_px) * (zoom / place.window.detail)
    upper, lower = (_turned(view, turn, zoom, edge) for view in (upper, lower))
    lower = replace(lower, origin_px=2 * edge - lower.project(np.array(LOWER_EDGE_MM))[:2])
    painter = Painter(place.look, place.teeth, zoom)
    teeth, tongue = painter.jaw("lower", lower, sprite_size), painter.tongue(lower, sprite_size)
    jaws = bend_columns(painter.jaw("upper", upper, sprite_size), bend_px), teeth + tongue * (1 - teeth[..., 3:])
    cavity = np.asarray(place.look.cavity / 127.5 - 1, np.float32)
    sprites = np.concatenate([_straight(jaw) for jaw in jaws])
    return to_mouth, to_jaw, sprites, cavity, place.shown_in_photo((size, size))


def _turned(view: View, turn: NDArray[np.floating], zoom: float, origin_px: NDArray[np.float64]) -> View:
    """A view in a picture that is turned by (2, 2) and enlarged."""
    whole = np.eye(3)
    whole[:2, :2] = turn
    return View(whole @ view.rotation, whole @ view.shift_mm, view.px_per_mm * zoom, origin_px)


def _straight(painted: NDArray[np.floating]) -> NDArray[np.float32]:
    """RGBA (h, w, 4), 0..255 times alpha, as planes (4, h, w): colour in [−1, 1], which goes on beside what is painted, and
    alpha."""
    around = painted + _FAINT * cv2.GaussianBlur(painted, (0, 0), 2.0)
    colour = around[..., :3] / np.maximum(around[..., 3:], 1e-6)
    whole = cv2.morphologyEx(painted[..., 3], cv2.MORPH_CLOSE, _GAP)  # points leave a hole here and there
    straight = np.dstack([colour.clip(0, 255) / 127.5 - 1, whole.clip(0, 1)])
    return np.ascontiguousarray(straight.transpose(2, 0, 1), np.float32)


def shrink(photo: Tensor, size: int) -> Tensor:
    """The photo at a whole part of its size, by means of pixels.

    Raises:
        PhotoError: its size is no multiple of the wanted one.
    """
    factor, rest = divmod(photo.shape[-1], size)
    if rest or not factor or photo.shape[-2] != photo.shape[-1]:
        raise PhotoError(
            f"the picture has {photo.shape[-1]} x {photo.shape[-2]} pixels; give a square whose side is a multiple of {size}"
        )
    return photo if factor == 1 else F.avg_pool2d(photo, factor)


def refine(planes: Tensor, detail: int) -> Tensor:
    """Planes (B, C, S, S) with pixels in between, (B, C, D·S, D·S): windowed sinc, every D-th pixel as it is."""
    batch, channels, size, _ = planes.shape
    rows = planes.new_empty(batch, channels, size, detail * size)
    fine = planes.new_empty(batch, channels, detail * size, detail * size)
    around = (_TAPS // 2 - 1, _TAPS // 2)
    _fill_between(rows, F.pad(planes, (*around, 0, 0), mode="replicate"))
    _fill_between(fine.mT, F.pad(rows, (0, 0, *around), mode="replicate").mT)
    return fine


def _fill_between(fine: Tensor, padded: Tensor) -> None:
    """Writes lines (..., D·S) from lines (..., S + 7), which begin three pixels earlier and end four later."""
    size = padded.shape[-1] - _TAPS + 1
    neighbours = [padded[..., tap : tap + size] for tap in range(_TAPS)]
    own = _TAPS // 2 - 1
    detail = fine.shape[-1] // size
    fine[..., ::detail] = neighbours[own]
    for phase in range(1, detail):
        away = phase / detail + own - np.arange(_TAPS)
        weights = np.sinc(away) * np.sinc(away / (_TAPS // 2))
        lines = neighbours[0] * (weights[0] / weights.sum())
        for tap in range(1, _TAPS):
            lines.add_(neighbours[tap], alpha=weights[tap] / weights.sum())
        fine[..., phase::detail] = lines
