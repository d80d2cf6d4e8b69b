"""From a portrait to what IF-MDM's renderer takes, and its pictures back into the photo's frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.face.crop import cut, head_square
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
_PIXEL_MIDDLE = np.array([0.5, 0.5, 0.0])  # of pixels, from their corners; depth has none
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


@dataclass(frozen=True)
class _Window:
    """The head square in whole pixels of a frame; it may go beyond the frame."""

    left: int
    top: int
    side: int

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB (side, side, 3) from a frame; outside of it its edge pixels go on."""
        rows, columns = (
            np.clip(np.arange(first, first + self.side), 0, length - 1)
            for first, length in ((self.top, pixels.shape[0]), (self.left, pixels.shape[1]))
        )
        return pixels[rows[:, None], columns]

    def inside(self, width: int, height: int) -> tuple[slice, slice]:
        """Rows and columns of a frame that it covers."""
        return (
            slice(max(0, self.top), min(height, self.top + self.side)),
            slice(max(0, self.left), min(width, self.left + self.side)),
        )


class ImplicitRenderer:
    """Draws a portrait with motion codes. Implements `loquent.types.Renderer`.

    The network draws the square of head and shoulders; the rest of the frame is the photo. The photo is scaled such, and
    the square lies such, that its pixels are the network's: nothing is resampled on the way there and back, unless
    another size is asked for.
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
        self._drawer, self._device = drawer, device
        self._photo, window, landmarks = _scaled(portrait, crop_px, size)
        crop = _resized(window.cut(self._photo), crop_px)
        in_crop = (landmarks - [window.left, window.top, 0] + _PIXEL_MIDDLE) * (crop_px / window.side) - _PIXEL_MIDDLE
        self._portrait = drawer.read(to_tensor(crop).to(device), in_crop.astype(np.float32))
        self._window, self._inside = window, window.inside(*self.size_px)
        self._share = _fade(window, self.size_px)

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
        frame = self._photo.copy()
        below = frame[self._inside]
        rows, columns = self._inside
        top, left = rows.start - self._window.top, columns.start - self._window.left
        drawn = _resized(picture, self._window.side)[top : top + below.shape[0], left : left + below.shape[1]]
        cv2.blendLinear(np.ascontiguousarray(drawn), below.copy(), self._share, 1 - self._share, dst=below)
        return frame


def _scaled(
    portrait: Portrait, crop_px: int, size: int | None
) -> tuple[NDArray[np.uint8], _Window, NDArray[np.floating]]:
    """The photo at the wanted size, sides cut to even lengths, the head square in it, and landmarks (478, 3) in its
    pixels."""
    pixels, square = portrait.photo.pixels, head_square(portrait.face.landmarks)
    height, width = pixels.shape[:2]
    zoom = crop_px / square.side_px if size is None else size / max(height, width)
    new = max(2, round(width * zoom)), max(2, round(height * zoom))
    if new != (width, height):
        pixels = cv2.resize(pixels, new, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LANCZOS4)
    scale = np.array(new) / (width, height)
    side = max(1, round(square.side_px * zoom))
    left, top = np.round((np.array([square.centre_x, square.centre_y]) + 0.5) * scale - side / 2).astype(int)
    landmarks = (portrait.face.landmarks + _PIXEL_MIDDLE) * [*scale, scale.mean()] - _PIXEL_MIDDLE
    frame = np.ascontiguousarray(pixels[: new[1] // 2 * 2, : new[0] // 2 * 2], np.uint8)
    return frame, _Window(int(left), int(top), side), landmarks


def _resized(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A square picture at another side: means where it becomes smaller, cubic where larger."""
    if len(picture) == side:
        return picture
    method = cv2.INTER_AREA if len(picture) > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=method), np.uint8)


def _fade(window: _Window, size: tuple[int, int]) -> NDArray[np.float32]:
    """Share of the drawn picture, (h, w): 1 inside, falling to 0 at those sides that are not sides of the photo."""
    ramps = []
    for part, length in zip(window.inside(*size), size[::-1], strict=True):
        place, fade = np.arange(part.start, part.stop), _FADE * window.side
        before = place - part.start if part.start > 0 else fade
        after = part.stop - 1 - place if part.stop < length else fade
        ramp = np.clip((np.minimum(before, after) + 0.5) / fade, 0, 1)
        ramps.append(np.broadcast_to(ramp * ramp * (3 - 2 * ramp), place.shape))
    return np.outer(*ramps).astype(np.float32)
