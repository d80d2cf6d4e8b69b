"""What the photo tells about the mouth's inside: colours, light, sharpness, and the teeth that it shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face import topology
from loquent.face.lip_line import crop_round, lightness_and_redness, lip_ring, polygon_mask, tooth_certainty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LUMA = np.array([0.299, 0.587, 0.114])
FLESH_OF_TOOTH, CAVITY_OF_TOOTH = np.array([0.98, 0.60, 0.62]), np.array([0.115, 0.05, 0.05])
LEFT_CHEEK, RIGHT_CHEEK = (50, 205, 187, 117, 101, 207), (280, 425, 411, 346, 330, 427)  # as seen in the picture

_GREY = 12.0  # between the channels of a colour without hue
_SAME_TONE = 0.025  # of the luma: skin, lips and eye white of 101 test portraits in colours differ by 0.04 and more

# Tooth colour from (skin RGB, eye white RGB, 1): least squares over the portraits of the training split whose smile
# shows teeth (494 of them; on the 74 of the test split the luminance errs by 18.6 of 255, against 28.4 for the mean).
TOOTH_FROM_SKIN_AND_EYE = np.array(
    [
        [0.499, 0.240, 0.128],
        [0.092, 0.392, 0.459],
        [-0.028, -0.040, 0.000],
        [0.067, -0.223, -0.162],
        [0.379, 0.520, -0.391],
        [-0.202, -0.058, 0.803],
        [44.717, 39.979, 38.550],
    ]
)


@dataclass(frozen=True, eq=False)
class Appearance:
    """Colours (RGB, 0..255) and light near the mouth."""

    tooth: NDArray[np.float64]
    lip: NDArray[np.float64]
    flesh: NDArray[np.float64]  # tongue and gums in full light
    cavity: NDArray[np.float64]  # the darkness behind them
    tone: NDArray[np.float64] | None  # (3,), the one colour of a grey or sepia photo, of luma 1; None: all colours
    light_right: float  # -1..1: how much brighter the picture's right cheek is than the left
    blur_px: float  # standard deviation of the photo's own softness, in photo pixels

    def tint(self, light: NDArray) -> NDArray[np.float32]:
        """Light (H, W) as colour (H, W, 3): what reaches the depth has been reflected by red skin."""
        if self.tone is not None:
            return np.repeat(light[..., None], 3, axis=2)
        return np.stack([light**0.85, light**1.1, light**1.15], axis=-1)


def measure(pixels: NDArray[np.uint8], landmarks: NDArray) -> Appearance:
    """Looks at cheeks, lips and eye whites of one face; `landmarks` are (478, 3) in pixels of `pixels`."""
    pixels, corner = crop_round(pixels, landmarks[:, :2], 4.0)
    points = landmarks[:, :2] - corner
    reach = max(1, round(0.03 * float(np.linalg.norm(points[33] - points[263]))))
    left, right = _patch_colour(pixels, points, LEFT_CHEEK, reach), _patch_colour(pixels, points, RIGHT_CHEEK, reach)
    skin = (left + right) / 2
    lips_ring = _polygon(pixels, points, topology.LIPS_OUTER_UPPER, topology.LIPS_OUTER_LOWER)
    lips_ring &= ~_polygon(pixels, points, topology.LIPS_INNER_UPPER, topology.LIPS_INNER_LOWER)
    lip = np.median(pixels[lips_ring], axis=0) if lips_ring.any() else skin * (0.9, 0.75, 0.75)
    eye_white = _eye_white(pixels, points, skin)
    tooth = np.concatenate([skin, eye_white, [1.0]]) @ TOOTH_FROM_SKIN_AND_EYE
    bright_left, bright_right = left @ LUMA, right @ LUMA
    tooth = tooth.clip(20, 245)
    tone = _single_tone(np.stack([skin, lip, eye_white]))
    return Appearance(
        tooth=tooth if tone is None else tooth @ LUMA * tone,
        lip=lip,
        flesh=_tissue(tooth, FLESH_OF_TOOTH, tone),
        cavity=_tissue(tooth, CAVITY_OF_TOOTH, tone),
        tone=tone,
        light_right=float((bright_right - bright_left) / max(bright_right + bright_left, 1.0)),
        blur_px=_softness(pixels, points),
    )


def with_tooth_colour(look: Appearance, tooth: NDArray) -> Appearance:
    """The same light, known better from teeth that the photo shows."""
    return replace(
        look,
        tooth=np.asarray(tooth, np.float64),
        flesh=_tissue(tooth, FLESH_OF_TOOTH, look.tone),
        cavity=_tissue(tooth, CAVITY_OF_TOOTH, look.tone),
    )


def _single_tone(colours: NDArray) -> NDArray[np.float64] | None:
    """The colour (3,) of luma 1 that skin, lips and eye white (3, 3) share in a grey or sepia photo, else None."""
    luma = np.maximum(colours @ LUMA, 1.0)[:, None]
    if float(np.ptp(colours, axis=1).max()) < _GREY:
        return np.ones(3)
    if float((np.ptp(colours / luma, axis=0)).max()) > _SAME_TONE:
        return None
    tone = (colours / luma).mean(0)
    return tone / (tone @ LUMA)


def _tissue(tooth: NDArray, share: NDArray, tone: NDArray | None) -> NDArray[np.float64]:
    """Colour of moist tissue in the light that makes teeth look like `tooth`: it varies little between people."""
    colour = np.asarray(tooth, np.float64) * share
    return colour if tone is None else colour @ LUMA * tone


def _patch_colour(pixels: NDArray, points: NDArray, indices: Sequence[int], reach: int) -> NDArray[np.float64]:
    height, width = pixels.shape[:2]
    x = points[list(indices), 0].round().astype(int).clip(0, width - 1)
    y = points[list(indices), 1].round().astype(int).clip(0, height - 1)
    patches = [
        np.median(pixels[max(b - reach, 0) : b + reach + 1, max(a - reach, 0) : a + reach + 1], axis=(0, 1))
        for a, b in zip(x, y, strict=True)
    ]
    return np.median(patches, axis=0)


def _polygon(pixels: NDArray, points: NDArray, upper: Sequence[int], lower: Sequence[int]) -> NDArray[np.bool_]:
    return polygon_mask(lip_ring(points, upper, lower), pixels.shape[1], pixels.shape[0]) > 0.5


def _eye_white(pixels: NDArray, points: NDArray, skin: NDArray) -> NDArray[np.float64]:
    """Mean colour of the brighter part of both eyes' whites."""
    found = []
    for upper, lower, iris in (
        (topology.RIGHT_EYE_UPPER, topology.RIGHT_EYE_LOWER, topology.RIGHT_IRIS),
        (topology.LEFT_EYE_UPPER, topology.LEFT_EYE_LOWER, topology.LEFT_IRIS),
    ):
        white = _polygon(pixels, points, upper, lower)
        rim = 1.15 * float(np.linalg.norm(points[iris[1]] - points[iris[3]])) / 2
        cv2.circle(shown := white.astype(np.uint8), points[iris[0]].round().astype(int).tolist(), round(rim), (0,), -1)
        found.append(pixels[shown > 0])
    colours = np.concatenate(found).astype(np.float64)
    if len(colours) < 4:
        return skin * (0.85, 0.93, 0.98)  # the portraits' mean ratio
    luma = colours @ LUMA
    return colours[luma >= np.percentile(luma, 60)].mean(axis=0)


def _softness(pixels: NDArray, points: NDArray) -> float:
    """Standard deviation, in pixels, of the blur that would make the sharpest edges round the eyes as they are."""
    box = points[[*topology.EYELIDS, *topology.LIPS]]
    low, high = np.floor(box.min(0)).astype(int).clip(0), np.ceil(box.max(0)).astype(int)
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[low[1] : high[1], low[0] : high[0]]), cv2.COLOR_RGB2GRAY)
    grey = grey.astype(np.float32)
    if min(grey.shape) < 8:
        return 0.7
    slope = cv2.magnitude(cv2.Sobel(grey, -1, 1, 0, scale=0.125), cv2.Sobel(grey, -1, 0, 1, scale=0.125))
    size = max(3, 2 * round(0.04 * grey.shape[1]) + 1)
    contrast = cv2.dilate(grey, np.ones((size, size))) - cv2.erode(grey, np.ones((size, size)))
    strong = slope >= np.percentile(slope, 98)
    return float(np.clip(np.median(contrast[strong] / np.maximum(slope[strong], 1.0)) / np.sqrt(2 * np.pi), 0.5, 6.0))


@dataclass(frozen=True, eq=False)
class ShownTeeth:
    """Upper teeth that a picture shows between the lips; all masks have the picture's height and width."""

    upper: NDArray[np.float32]  # how surely each pixel is an upper tooth, 0..1
    ended: NDArray[np.float32]  # how surely each pixel shows darkness below the upper teeth
    edge_px: NDArray[np.float32]  # (W,) row where the upper teeth end, for every column, seen or presumed
    colour: NDArray[np.float64]  # (3,) median of the upper teeth, 0..255


def find_teeth(
    pixels: NDArray[np.uint8],
    ring_px: NDArray,
    px_per_mm: float,
    lip: NDArray,
    expected_edge_px: NDArray,
) -> ShownTeeth | None:
    """Tells teeth from lips, tongue and darkness between the lips.

    Args:
        pixels: RGB, (H, W, 3).
        ring_px: (N, 2) inner lip border in that picture.
        px_per_mm: size of a millimetre at the mouth.
        lip: (3,) colour of the lips, 0..255.
        expected_edge_px: (W,) row where the upper teeth of an average person end, for every column.

    Returns:
        None when the picture shows no upper teeth: lips shut or nearly so, or nothing bright and colourless there.
    """
    inside = polygon_mask(ring_px, pixels.shape[1], pixels.shape[0])
    core = inside > 0.5
    if core.sum() < 40 * px_per_mm**2:
        return None
    lightness, redness = lightness_and_redness(pixels)
    certainty = tooth_certainty(lightness, redness, core, px_per_mm, lip)
    if certainty is None:
        return None
    certainty = _keep_large(certainty * cv2.dilate(inside, _disc(1.0 * px_per_mm)), core, px_per_mm)
    runs = _first_runs(certainty, px_per_mm)
    if len(runs) < 8 * px_per_mm:
        return None
    edge = _upper_edge(runs, lightness, core, px_per_mm, expected_edge_px)
    rows = np.arange(pixels.shape[0], dtype=np.float32)[:, None]
    is_upper = np.clip((edge + 0.8 * px_per_mm - rows) / max(1.0, 0.3 * px_per_mm) + 0.5, 0, 1)
    sure = certainty * is_upper > 0.8
    row = cv2.morphologyEx(certainty, cv2.MORPH_CLOSE, _disc(0.9 * px_per_mm))  # with the gaps between teeth
    upper = (row * is_upper).astype(np.float32)
    if sure.sum() < 12 * px_per_mm**2:
        return None
    level = float(np.median(lightness[sure]))
    dark = np.clip((0.55 * level - lightness) / (0.1 * level), 0, 1) * core
    ended = dark * (1 - upper) * (rows > edge - 1.0 * px_per_mm) * (np.maximum.accumulate(upper, axis=0) > 0.5)
    colour = np.median(pixels[sure], axis=0)
    return ShownTeeth(upper, ended.astype(np.float32), edge.astype(np.float32), colour)


def _disc(radius_px: float) -> NDArray[np.uint8]:
    size = 2 * max(1, round(radius_px)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)).astype(np.uint8)


def _keep_large(certainty: NDArray[np.float32], core: NDArray, px_per_mm: float) -> NDArray[np.float32]:
    """Drops slivers: parts that are thin, smaller than 3 square millimetres, or lie mostly on the lips."""
    solid = cv2.morphologyEx((certainty > 0.4).astype(np.uint8), cv2.MORPH_OPEN, _disc(0.45 * px_per_mm))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid)
    inside = np.bincount(labels.ravel(), weights=core.ravel(), minlength=count)
    area = stats[:, cv2.CC_STAT_AREA]
    keep = (area > 3 * px_per_mm**2) & (inside > 0.5 * area)
    keep[0] = False
    return certainty * cv2.dilate(keep[labels].astype(np.uint8), np.ones((3, 3), np.uint8))


def _first_runs(certainty: NDArray, px_per_mm: float) -> NDArray[np.intp]:
    """Column, first row and end row of the uppermost teeth, for each column that shows 1.5 mm of them, (C, 3)."""
    tooth = cv2.morphologyEx((certainty > 0.5).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 1), np.uint8)) > 0
    runs = []
    for column in np.flatnonzero(tooth.sum(axis=0) > 1.5 * px_per_mm):
        changes = np.flatnonzero(np.diff(np.concatenate([[0], tooth[:, column], [0]]).astype(np.int8)))
        starts, ends = changes[::2], changes[1::2]
        long = np.flatnonzero(ends - starts > 1.2 * px_per_mm)
        if len(long):
            runs.append((column, starts[long[0]], ends[long[0]]))
    return np.array(runs, np.intp).reshape(-1, 3)


def _upper_edge(
    runs: NDArray[np.intp], lightness: NDArray, core: NDArray, px_per_mm: float, expected: NDArray
) -> NDArray[np.float64]:
    """Row (W,) in each column where the upper teeth end."""
    columns = runs[:, 0]
    middle = 0.5 * (columns[0] + columns[-1])
    front = np.abs(columns - middle) < 13 * px_per_mm
    reached = runs[:, 2] - expected[columns]
    is_dark = np.array([_ends_in_darkness(run, lightness, core, px_per_mm) for run in runs])
    if is_dark[front].mean() > 0.3:
        shift = float(np.median(reached[front & is_dark]))
    else:
        shift = float(np.percentile(reached[front], 70)) + 0.4 * px_per_mm  # the lower lip hides the edges
        seam = _seam(lightness, columns[front], px_per_mm, expected, shift) if shift > 3 * px_per_mm else None
        shift = shift if seam is None else seam
    near = np.abs(reached - shift) < 2.5 * px_per_mm
    side_mm = (np.arange(len(expected)) - middle) / px_per_mm / 20
    terms = np.stack([np.ones_like(side_mm), side_mm, side_mm**2], axis=1)
    known = terms[columns[near]]
    stiffness = np.diag([0.02, 0.05, 0.05]) * len(runs)
    bend = (
        np.linalg.solve(known.T @ known + stiffness, known.T @ (reached[near] - shift)) if near.any() else np.zeros(3)
    )
    limit = 2.5 * px_per_mm
    return expected + shift + np.clip(terms @ bend, -limit, limit)


def _ends_in_darkness(run: NDArray[np.intp], lightness: NDArray, core: NDArray, px_per_mm: float) -> bool:
    """Whether a column's teeth end before darkness, rather than behind the lower lip."""
    column, first, end = run
    below = slice(end, end + max(1, round(1.2 * px_per_mm)))
    level = np.median(lightness[first:end, column])
    return bool(lightness[below, column].min(initial=100.0) < 0.62 * level and core[below, column].all())


def _seam(lightness: NDArray, columns: NDArray, px_per_mm: float, expected: NDArray, reached: float) -> float | None:
    """Where upper teeth meet lower ones without a gap: the darkest line along the expected edge, if there is one."""
    step = max(1, round(0.8 * px_per_mm))
    best, best_shift = 1.5, None
    for shift in np.arange(-1.5 * px_per_mm, reached - 1.5 * px_per_mm, 0.25 * px_per_mm):
        rows = np.clip(np.rint(expected[columns] + shift).astype(int), step, lightness.shape[0] - step - 1)
        around = 0.5 * (lightness[rows - step, columns] + lightness[rows + step, columns])
        dip = float(np.median(around - lightness[rows, columns]))
        if dip > best:
            best, best_shift = dip, float(shift)
    return best_shift
