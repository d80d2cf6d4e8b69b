"""What happens to pictures of faces before we see them: light, colour, blur, noise, codecs, brushes, things in the way.

All functions take and give RGB uint8 (H, W, 3) and keep the landmarks where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


def degrade(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A random chain of everything below but what covers the face."""
    if rng.random() < 0.12:
        pixels = paint(pixels, rng)
    pixels = recolour(pixels, rng)
    if rng.random() < 0.4:
        pixels = relight(pixels, rng)
    if rng.random() < 0.25:
        pixels = blur(pixels, rng)
    if rng.random() < 0.2:
        pixels = lose_resolution(pixels, rng)
    if rng.random() < 0.25:
        pixels = add_noise(pixels, rng)
    if rng.random() < 0.15:
        pixels = compress(pixels, rng)
    return pixels


def recolour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Gamma, contrast, brightness, saturation and a cast; grey or sepia at times."""
    levels = np.linspace(0, 1, 256)
    levels = levels ** np.exp(rng.normal(0, 0.3))
    levels = 0.5 + np.exp(rng.normal(0, 0.2)) * (levels - 0.5) + rng.normal(0, 0.07)
    if rng.random() < 0.03:
        levels = np.round(levels * 7) / 7
    table = np.clip(levels * 255, 0, 255).astype(np.uint8)
    kind = rng.random()
    saturation = 0.0 if kind < 0.12 else float(np.exp(rng.normal(0, 0.35)))
    grey = np.array([0.299, 0.587, 0.114], np.float32)
    matrix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * grey[None]
    cast = np.exp(rng.normal(0, 0.02 if kind < 0.08 else 0.1, 3)).astype(np.float32)
    return np.asarray(cv2.transform(cv2.LUT(pixels, table), matrix * cast[:, None]), np.uint8)


def relight(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Light from a side, or a soft spot or shadow."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1:1:16j, -1:1:16j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if rng.random() < 0.4:
        along = np.tanh((along + rng.uniform(-0.5, 0.5)) * rng.uniform(1, 8))
    field = np.exp(rng.uniform(0.1, 0.9) * along).astype(np.float32)
    field = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(pixels * field[..., None], 0, 255).astype(np.uint8)


def blur(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Out of focus, or moved along a line."""
    if rng.random() < 0.6:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 2.0) * pixels.shape[0] / 128), np.uint8)
    length = int(rng.integers(3, 8))
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    angle = rng.uniform(0, np.pi)
    for step in np.linspace(-middle, middle, 2 * length):
        kernel[round(middle + step * np.sin(angle)), round(middle + step * np.cos(angle))] = 1
    return np.asarray(cv2.filter2D(pixels, -1, kernel / kernel.sum()), np.uint8)


def lose_resolution(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Down and up again, as small faces in large pictures."""
    height, width = pixels.shape[:2]
    factor = rng.uniform(0.2, 0.7)
    small = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    way = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[rng.choice(3, p=[0.5, 0.4, 0.1])]
    return np.asarray(cv2.resize(small, (width, height), interpolation=way), np.uint8)


def add_noise(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Sensor noise or film grain."""
    shape = pixels.shape[:2] if rng.random() < 0.3 else pixels.shape
    grain = np.float32(rng.uniform(2, 16)) * rng.standard_normal(shape, np.float32)
    if rng.random() < 0.4:
        grain = 1.8 * cv2.GaussianBlur(grain, (3, 3), 0)
    if grain.ndim == 2:
        grain = grain[..., None]
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def compress(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A JPEG of low to middling quality."""
    _, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 70))])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


def paint(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Brush strokes, flat areas, outlines or pencil lines."""
    kind = rng.integers(4)
    if kind == 0:
        flat = cv2.medianBlur(pixels, int(rng.choice([3, 5, 7])))
        canvas = cv2.resize(rng.normal(0, 12, (40, 60)).astype(np.float32), pixels.shape[1::-1])
        return np.clip(flat + canvas[..., None], 0, 255).astype(np.uint8)
    if kind == 1:
        flat = cv2.bilateralFilter(pixels, 5, 60, 4)
        steps = int(rng.integers(4, 10))
        return ((flat.astype(np.uint16) * steps // 256) * 255 // max(steps - 1, 1)).astype(np.uint8)
    edges = cv2.Laplacian(cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 1), cv2.CV_32F, ksize=3)
    if kind == 2:
        flat = cv2.medianBlur(pixels, 5)
        return np.clip(flat - 4 * np.maximum(edges, 0)[..., None], 0, 255).astype(np.uint8)
    lines = np.clip(235 - 7 * np.maximum(edges, 0), 0, 255)[..., None]
    shade = 0.35 * (cv2.GaussianBlur(pixels, (0, 0), 2).astype(np.float32) - 128)
    return np.clip(lines + shade, 0, 255).astype(np.uint8)


def cover(pixels: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Something in front: a patch of another picture or of plain colour, with a hard or soft edge."""
    height, width = pixels.shape[:2]
    mask = np.zeros((height, width), np.float32)
    centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
    size = (int(width * rng.uniform(0.04, 0.22)), int(height * rng.uniform(0.04, 0.22)))
    if rng.random() < 0.5:
        cv2.ellipse(mask, centre, size, rng.uniform(0, 180), 0, 360, 1.0, -1)
    else:
        corners = cv2.boxPoints((centre, (2 * size[0], 2 * size[1]), rng.uniform(0, 180)))
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 1.0)
    if rng.random() < 0.5:
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 3))
    front = other if rng.random() < 0.6 else np.full_like(pixels, rng.integers(0, 256, 3))
    return (pixels + mask[..., None] * (front.astype(np.float32) - pixels)).astype(np.uint8)


def put_on_glasses(pixels: Pixels, landmarks: NDArray[np.floating], rng: np.random.Generator) -> Pixels:
    """Rims round both eyes with a bridge and temples, clear or tinted."""
    result = pixels.copy()
    unit = float(np.linalg.norm(landmarks[33, :2] - landmarks[263, :2]))
    roll_deg = float(np.degrees(np.arctan2(*(landmarks[263, 1::-1] - landmarks[33, 1::-1]))))
    colour = tuple(int(c) for c in rng.integers(0, 120, 3))
    thickness = max(1, round(unit * rng.uniform(0.015, 0.07)))
    axes = (round(unit * rng.uniform(0.22, 0.3)), round(unit * rng.uniform(0.15, 0.25)))
    middles = [landmarks[[33, 133], :2].mean(0), landmarks[[362, 263], :2].mean(0)]
    centres = [(int(x), int(y + 0.03 * unit)) for x, y in middles]
    tint = rng.random()
    for centre in centres:
        if tint < 0.2:
            shaded = result.copy()
            cv2.ellipse(shaded, centre, axes, roll_deg, 0, 360, colour, -1)
            result = _mix(result, shaded, rng.uniform(0.3, 0.95))
        cv2.ellipse(result, centre, axes, roll_deg, 0, 360, colour, thickness, cv2.LINE_AA)
    inner = [np.array(c) + np.sign(k) * np.array([axes[0], 0]) for c, k in zip(centres, (1, -1), strict=True)]
    cv2.line(result, tuple(inner[0].tolist()), tuple(inner[1].tolist()), colour, thickness, cv2.LINE_AA)
    for centre, side, ear in zip(centres, (-1, 1), (127, 356), strict=True):
        start = (centre[0] + side * axes[0], centre[1])
        cv2.line(result, start, tuple(int(v) for v in landmarks[ear, :2]), colour, thickness, cv2.LINE_AA)
    return result


def _mix(first: Pixels, second: Pixels, part: float) -> Pixels:
    return np.asarray(cv2.addWeighted(first, 1 - part, second, part, 0), np.uint8)
