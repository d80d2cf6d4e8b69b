"""Pictures without a face: scrambled faces, places beside them, drawings, textures, writing, faces of no animal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.crop import Square, cut, square_around
from loquent.face.topology import CHIN
from loquent.training.face_photometric import degrade
from loquent.training.face_warps import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


def not_a_face(sample: Sample, margin: float, size: int, rng: np.random.Generator) -> Pixels:
    """A crop (size, size, 3) that the landmarker must refuse: beside a face, or without any."""
    if rng.random() < 0.3:
        return degrade(beside_face(sample, margin, size, rng), rng)
    return without_face(sample, margin, size, rng)


def without_face(sample: Sample, margin: float, size: int, rng: np.random.Generator) -> Pixels:
    """A picture (size, size, 3) without an upright face in it, made from one with a face or from nothing."""
    kind = rng.random()
    if kind < 0.12:
        pixels = turned_face(sample, margin, size, rng)
    elif kind < 0.32:
        pixels = scramble(cut(sample.pixels, square_around(sample.landmarks, margin), size).pixels, rng)
    elif kind < 0.52:
        pixels = head_without_face(sample, margin, size, rng)
    elif kind < 0.7:
        pixels = cut_without_face(sample, size, rng)
    elif kind < 0.85:
        pixels = texture(size, rng)
    else:
        pixels = drawing(size, rng)
    return degrade(pixels, rng)


def beside_face(sample: Sample, margin: float, size: int, rng: np.random.Generator) -> Pixels:
    """A crop that misses the face: too far off, or much too large or small."""
    face = square_around(sample.landmarks, margin)
    angle = rng.uniform(0, 2 * np.pi)
    shift, scale = rng.uniform(0, 0.1) * face.side_px, 1.0
    kind = rng.integers(3)
    if kind == 0:
        shift = rng.uniform(0.45, 0.9) * face.side_px
    elif kind == 1:
        scale = rng.uniform(2.2, 3.0)
    else:
        scale, shift = rng.uniform(0.15, 0.42), rng.uniform(0, 0.4) * face.side_px
    centre_x, centre_y = face.centre_x + shift * np.cos(angle), face.centre_y + shift * np.sin(angle)
    square = Square(centre_x, centre_y, scale * face.side_px, face.roll_rad + rng.normal(0, 0.15))
    return cut(sample.pixels, square, size).pixels


def turned_face(sample: Sample, margin: float, size: int, rng: np.random.Generator) -> Pixels:
    """A face that lies on its side or stands on its head."""
    face = square_around(sample.landmarks, margin)
    roll = face.roll_rad + rng.choice([-1, 1]) * rng.uniform(1.4, np.pi)
    return cut(sample.pixels, Square(face.centre_x, face.centre_y, face.side_px, roll), size).pixels


def scramble(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The parts of a picture in a wrong order."""
    parts = int(rng.integers(2, 6))
    size = pixels.shape[0] // parts * parts
    tile = size // parts
    tiles = pixels[:size, :size].reshape(parts, tile, parts, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    order = rng.permutation(len(tiles))
    if (order == np.arange(len(tiles))).mean() > 0.3:
        order = np.roll(order, 1)
    mixed = tiles[order].reshape(parts, parts, tile, tile, 3).swapaxes(1, 2).reshape(size, size, 3)
    return np.asarray(cv2.resize(mixed, pixels.shape[1::-1]), np.uint8)


def cut_without_face(sample: Sample, size: int, rng: np.random.Generator) -> Pixels:
    """Clothes, hair and background of a portrait from which the face is wiped away."""
    wiped = wipe_face(sample, rng)
    height, width = wiped.shape[:2]
    side = rng.uniform(0.25, 1.1) * min(height, width)
    square = Square(rng.uniform(0, width), rng.uniform(0.2, 1) * height, side, rng.normal(0, 0.3))
    return cut(wiped, square, size).pixels


def head_without_face(sample: Sample, margin: float, size: int, rng: np.random.Generator) -> Pixels:
    """Hair, ears and collar round a face that is wiped away."""
    face = square_around(sample.landmarks, margin)
    shift = 0.08 * face.side_px * rng.normal(0, 1, 2)
    turn, side = face.roll_rad + rng.normal(0, 0.2), face.side_px * np.exp(rng.normal(0, 0.15))
    square = Square(face.centre_x + float(shift[0]), face.centre_y + float(shift[1]), float(side), float(turn))
    return cut(wipe_face(sample, rng), square, size).pixels


def wipe_face(sample: Sample, rng: np.random.Generator) -> Pixels:
    """The picture with its face painted over: in one colour, smeared, or with what is below the chin."""
    mask = np.zeros(sample.pixels.shape[:2], np.float32)
    oval = cv2.convexHull(np.rint(sample.landmarks[:, :2]).astype(np.int32))
    cv2.fillConvexPoly(mask, oval, 1.0)
    unit = float(np.linalg.norm(sample.landmarks[33, :2] - sample.landmarks[263, :2]))
    mask = cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3)), iterations=max(1, int(unit / 20))), (0, 0), unit / 25)
    kind = rng.integers(3)
    if kind == 0:
        skin = sample.pixels[mask > 0.5].mean(0)
        filling = np.broadcast_to(skin * rng.uniform(0.5, 1.2), sample.pixels.shape)
    elif kind == 1:
        coarse = cv2.resize(sample.pixels, (8, 8), interpolation=cv2.INTER_AREA)
        filling = cv2.resize(coarse, sample.pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    else:
        height, width = sample.pixels.shape[:2]
        below = min(height - 2, int(sample.landmarks[CHIN, 1] + 0.1 * unit))
        filling = cv2.resize(sample.pixels[max(0, below) :], (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(sample.pixels + mask[..., None] * (filling - sample.pixels.astype(np.float32)), 0, 255).astype(
        np.uint8
    )


def texture(size: int, rng: np.random.Generator) -> Pixels:
    """Noise of several grains, or stripes, in random colours."""
    field = np.zeros((size, size), np.float32)
    for grain in rng.choice([2, 3, 5, 9, 17, 33], 3, replace=False):
        noise = rng.normal(0, 1, (int(grain) + 1, int(grain * rng.uniform(0.3, 3)) + 1)).astype(np.float32)
        field += rng.uniform(0.2, 1) * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.4:
        y, x = np.mgrid[:size, :size] / size
        angle = rng.uniform(0, np.pi)
        stripes = np.sin(rng.uniform(5, 90) * (x * np.cos(angle) + y * np.sin(angle)) + field)
        field = (rng.uniform(0.2, 1) * field + stripes).astype(np.float32)
    level = 0.5 + 0.5 * np.tanh(field * rng.uniform(0.4, 3))
    colours = rng.uniform(0, 255, (2, 3))
    return (colours[0] + level[..., None] * (colours[1] - colours[0])).astype(np.uint8)


def drawing(size: int, rng: np.random.Generator) -> Pixels:
    """Shapes, lines and writing; at times two discs and a blob, which are not a face either."""
    canvas = texture(size, rng) if rng.random() < 0.5 else np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(int(rng.integers(2, 14))):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        at = (int(rng.uniform(0, size)), int(rng.uniform(0, size)))
        extent = (int(rng.uniform(0.02, 0.4) * size) + 1, int(rng.uniform(0.02, 0.4) * size) + 1)
        thickness = -1 if rng.random() < 0.6 else int(rng.integers(1, 5))
        kind = rng.integers(4)
        if kind == 0:
            cv2.ellipse(canvas, at, extent, rng.uniform(0, 180), 0, 360, colour, thickness, cv2.LINE_AA)
        elif kind == 1:
            corners = rng.uniform(0, size, (int(rng.integers(3, 6)), 1, 2)).astype(np.int32)
            cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA)
        elif kind == 2:
            end = (at[0] + extent[0], at[1] - extent[1])
            cv2.line(canvas, at, end, colour, abs(thickness), cv2.LINE_AA)
        else:
            letters = "".join(chr(c) for c in rng.integers(33, 127, int(rng.integers(1, 9))))
            cv2.putText(canvas, letters, at, int(rng.integers(0, 8)), size / 128 * rng.uniform(0.3, 2), colour, 1)
    if rng.random() < 0.35:
        _draw_animal(canvas, rng)
    return canvas


def _draw_animal(canvas: Pixels, rng: np.random.Generator) -> None:
    """A round or long head with ears, two dark discs and a snout."""
    size = canvas.shape[0]
    fur = tuple(int(c) for c in rng.integers(0, 256, 3))
    dark = tuple(int(c) for c in rng.integers(0, 60, 3))
    x, y, radius = (
        int(size * rng.uniform(0.3, 0.7)),
        int(size * rng.uniform(0.3, 0.7)),
        int(size * rng.uniform(0.15, 0.4)),
    )
    for side in (-1, 1):
        ear = np.array(
            [[x + side * radius, y - int(rng.uniform(0.9, 1.8) * radius)], [x, y - radius], [x + side * radius, y]]
        )
        cv2.fillConvexPoly(canvas, ear.astype(np.int32), fur)
    cv2.ellipse(canvas, (x, y), (radius, int(radius * rng.uniform(0.8, 1.4))), 0, 0, 360, fur, -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(
            canvas,
            (x + int(side * 0.45 * radius), y - radius // 4),
            max(1, radius // int(rng.integers(5, 9))),
            dark,
            -1,
        )
    cv2.ellipse(canvas, (x, y + radius // 2), (max(1, radius // 4), max(1, radius // 6)), 0, 0, 360, dark, -1)
