"""From a portrait to what IF-MDM's renderer takes, and its pictures back into the photo's frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.face.crop import Square, cut, head_square
from loquent.models.ifmdm.behaviour import FaceMoves
from loquent.models.ifmdm.code_space import before_tanh
from loquent.models.ifmdm.drawing import PortraitDrawer, to_pixels, to_tensor
from loquent.models.ifmdm.generate import PortraitMoves
from loquent.motion.controls import BLINK_CHANNELS, KEPT_CHANNELS
from loquent.motion.face_model import fit_face, lip_gap
from loquent.types import ARKIT_INDEX, ARKIT_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm.autoencoder import Autoencoder
    from loquent.motion.face_model import FaceShape
    from loquent.types import MotionCodes, Portrait

_EXAMPLES, _JAW = 400, 0.1  # faces by which a portrait's moves are read, and the weight of a jaw that parts the lips
_MIDDLE = slice(3, 6)  # of the pairs of lip points
_BATCH = 8  # frames drawn at once
_FADE = 0.06  # of the crop's side, over which it passes into the photo


@torch.no_grad()
def read_code(network: Autoencoder, portrait: Portrait) -> Tensor:
    """Motion code that draws a portrait's photo as it is, (M,)."""
    crop = cut(portrait.photo.pixels, head_square(portrait.face.landmarks), network.config.output_px)
    device = next(network.parameters()).device
    return network.own_motion(to_tensor(crop.pixels).to(device))[0].float().cpu()


class PortraitReader:
    """Tells where a portrait's codes begin.

    Args:
        network: the renderer.
        basis: (956, M), by which its codes follow landmarks (steering.safetensors); None where they follow nothing known.
    """

    def __init__(self, network: Autoencoder, basis: NDArray[np.float32] | None) -> None:
        self._network, self._basis = network, basis

    def __call__(self, portrait: Portrait, keep_expression: float) -> PortraitMoves:
        photo = before_tanh(read_code(self._network, portrait))
        if self._basis is None:
            return PortraitMoves(photo, photo, None)
        shape = fit_face(portrait.face.landmarks)
        half = head_square(portrait.face.landmarks).side_px / 2
        rest = np.zeros_like(shape.rest_expression)
        rest[KEPT_CHANNELS] = keep_expression * shape.rest_expression[KEPT_CHANNELS]
        points = shape.landmarks(np.stack([shape.rest_expression, rest]))[..., :2]
        to_rest = torch.from_numpy((points[1] - points[0]).reshape(-1) / half @ self._basis).float()
        return PortraitMoves(photo, photo + to_rest, self._face_moves(shape, half))

    def _face_moves(self, shape: FaceShape, half_px: float) -> FaceMoves:
        """What moves mean on a face, from its own landmarks in expressions and poses at random."""
        rng = np.random.default_rng(0)
        expressions = 0.5 * rng.random((_EXAMPLES, len(ARKIT_NAMES))) ** 3
        expressions[:3] = 0
        expressions[1, BLINK_CHANNELS] = 1
        expressions[2, ARKIT_INDEX["jawOpen"]] = _JAW
        turns = 0.1 * rng.standard_normal((_EXAMPLES, 3))
        turns[:3] = 0
        points = shape.landmarks(expressions, turns)[..., :2]
        moves = (points - points[0]).reshape(_EXAMPLES, -1) / half_px @ self._basis
        gaps = lip_gap(points)[:, _MIDDLE].mean(-1) / shape.scale_px
        gaps -= gaps[0]
        reading = np.linalg.lstsq(moves, gaps, rcond=None)[0].astype(np.float32)
        return FaceMoves(
            closing=moves[1].astype(np.float32), gap=reading, opening=(moves[2] / gaps[2]).astype(np.float32)
        )


class ImplicitRenderer:
    """Draws a portrait with motion codes. Implements `loquent.types.Renderer`.

    The network draws the square of head and shoulders; the rest of the frame is the photo, scaled so that the square
    has the network's size.
    """

    def __init__(
        self, drawer: PortraitDrawer, crop_px: int, portrait: Portrait, size: int | None = None, device: str = "cpu"
    ) -> None:
        """Encodes the portrait once.

        Args:
            drawer: of a trained renderer.
            crop_px: side of its pictures.
            portrait: the photo and its face.
            size: longer side of the frames in pixels; None takes the scale at which the network draws.
            device: where the drawer's network is.
        """
        pixels, square = _scaled(portrait, crop_px, size)
        self._drawer, self._device = drawer, device
        self._photo = pixels
        crop = cut(pixels, square, crop_px).pixels
        landmarks = _in_crop(portrait.face.landmarks, head_square(portrait.face.landmarks), crop_px)
        self._portrait = drawer.read(to_tensor(crop).to(device), landmarks)
        self._box, self._places = _places(square, crop_px, pixels.shape[1::-1])
        self._share = _fade(self._box, square, pixels.shape[1::-1])

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of every frame; both even."""
        return self._photo.shape[1], self._photo.shape[0]

    def render(self, motion: MotionCodes) -> Iterator[NDArray[np.uint8]]:
        """Yields one RGB frame (H, W, 3) for each row of codes."""
        for start in range(0, len(motion), _BATCH):
            codes = motion.values[start : start + _BATCH]
            # A batch of another size is rounded otherwise, so the last one of several is filled up.
            room = _BATCH - len(codes) if start else 0
            full = torch.from_numpy(np.pad(codes, ((0, room), (0, 0)), mode="edge")).to(self._device)
            for picture in to_pixels(self._drawer.draw(self._portrait, full)[: len(codes)]):
                yield self._into_photo(picture)

    def _into_photo(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        left, top, right, bottom = self._box
        frame = self._photo.copy()
        window = frame[top:bottom, left:right]
        drawn = cv2.warpAffine(
            picture, self._places, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        cv2.blendLinear(drawn, window.copy(), self._share, 1 - self._share, dst=window)
        return frame


def _scaled(portrait: Portrait, crop_px: int, size: int | None) -> tuple[NDArray[np.uint8], Square]:
    """The photo at the wanted size, sides cut to even lengths, and the head square in it."""
    pixels, square = portrait.photo.pixels, head_square(portrait.face.landmarks)
    height, width = pixels.shape[:2]
    zoom = crop_px / square.side_px if size is None else size / max(height, width)
    new = max(2, round(width * zoom)), max(2, round(height * zoom))
    if new != (width, height):
        pixels = cv2.resize(pixels, new, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LANCZOS4)
    scale_x, scale_y = new[0] / width, new[1] / height
    moved = Square(
        (square.centre_x + 0.5) * scale_x - 0.5, (square.centre_y + 0.5) * scale_y - 0.5, square.side_px * zoom
    )
    return np.ascontiguousarray(pixels[: new[1] // 2 * 2, : new[0] // 2 * 2], np.uint8), moved


def _in_crop(landmarks: NDArray[np.floating], square: Square, crop_px: int) -> NDArray[np.float32]:
    """Landmarks (478, 2) in pixels of the square's crop, from photo pixels (478, 3)."""
    return square.from_photo(landmarks)[:, :2] * crop_px + (crop_px - 1) / 2


def _places(square: Square, crop_px: int, size: tuple[int, int]) -> tuple[tuple[int, int, int, int], NDArray]:
    """Part of the photo (left, top, right, bottom) under the square, and the matrix (2, 3) from crop to it."""
    half = square.side_px / 2
    left, top = (max(0, int(np.ceil(centre - half))) for centre in (square.centre_x, square.centre_y))
    right = min(size[0], int(np.floor(square.centre_x + half)) + 1)
    bottom = min(size[1], int(np.floor(square.centre_y + half)) + 1)
    return (left, top, right, bottom), square.crop_to_photo(crop_px) - [[0, 0, left], [0, 0, top]]


def _fade(box: tuple[int, int, int, int], square: Square, size: tuple[int, int]) -> NDArray[np.float32]:
    """Share of the drawn picture, (h, w): 1 inside, falling to 0 at those sides that are not sides of the photo."""
    left, top, right, bottom = box
    x, y = np.arange(left, right), np.arange(top, bottom)
    fade = _FADE * square.side_px
    away_x = np.minimum(np.where(left > 0, x - left, fade), np.where(right < size[0], right - 1 - x, fade))
    away_y = np.minimum(np.where(top > 0, y - top, fade), np.where(bottom < size[1], bottom - 1 - y, fade))
    ramp_x, ramp_y = (np.clip((away + 0.5) / fade, 0, 1) for away in (away_x, away_y))
    smooth = [ramp * ramp * (3 - 2 * ramp) for ramp in (ramp_x, ramp_y)]
    return np.outer(smooth[1], smooth[0]).astype(np.float32)
