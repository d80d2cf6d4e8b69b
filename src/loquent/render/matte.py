"""The person cut out of the photo, and the background completed behind them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from loquent.face.topology import CHIN, FACE_OVAL, FOREHEAD
from loquent.render.warp import smoothstep

_WORK_PX = 256  # longer side of the picture on which the cut is searched
_CLEAR_DIFFERENCE = 24  # in a channel, between a person and the background continued behind them
_REFINE_PX = 768  # longer side on which its edge is refined


@dataclass(frozen=True, eq=False)
class Layers:
    """Photo = person + (1 - alpha) * background, exactly."""

    person: NDArray[np.uint8]  # (H, W, 4): colour multiplied by alpha, alpha
    background: NDArray[np.uint8]  # (H, W, 3): the photo, completed where the person stands
    reliable: bool  # False: no cut was found; the person is the whole photo


def split_layers(pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> Layers:
    """Splits a picture into the person and the background.

    Args:
        pixels: RGB, (H, W, 3).
        landmarks: (478, 3), in pixels of the picture.
    """
    alpha = person_alpha(pixels, landmarks)
    if alpha is None:
        opaque = np.full(pixels.shape[:2], 255, np.uint8)
        return Layers(np.dstack([pixels, opaque]), pixels.copy(), reliable=False)
    background = complete_background(pixels, alpha)
    dark = 1 - ((pixels + 0.5) / np.maximum(background, 0.5)).min(-1)  # so dark that less alpha cannot explain it
    alpha8 = np.ceil(np.maximum(alpha, dark) * 255).clip(0, 255).astype(np.uint8)
    behind = cv2.multiply(background, cv2.merge([255 - alpha8] * 3), scale=1 / 255)
    return Layers(np.dstack([cv2.subtract(pixels, behind), alpha8]), background, reliable=True)


def person_alpha(pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """How much each pixel belongs to the person, (H, W) in 0..1; None when no believable cut is found."""
    height, width = pixels.shape[:2]
    zoom = min(1.0, _WORK_PX / max(height, width))
    small = cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA) if zoom < 1 else pixels
    seeds = _seeds(small.shape[:2], landmarks[:, :2] * zoom)
    mask = _start(cv2.GaussianBlur(small, (0, 0), 1.0), seeds, landmarks[:, :2] * zoom)
    cv2.setRNGSeed(1)  # colour clusters start at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(cv2.GaussianBlur(small, (0, 0), 0.6), mask, None, *models, 4, cv2.GC_INIT_WITH_MASK)
    person = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    person = _largest_part(person, seeds == cv2.GC_FGD)
    person = _fill_holes(person)
    if not _believable(person, seeds):
        return None
    return _refine_edge(pixels, person.astype(np.float32))


def complete_background(pixels: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture with the person painted over from around them, by a pyramid of known pixels: (H, W, 3).

    A band round the person is painted over too, passing into the photo: what differs from the background there, such
    as single hairs and the rims of sharpened photos, then counts as person and moves along.
    """
    band = max(4, round(max(pixels.shape[:2]) / 50))
    touched = (alpha >= 0.004).astype(np.uint8)
    away = cv2.distanceTransform(1 - touched, cv2.DIST_L2, 5)
    known = (away > band).astype(np.uint8)
    if not known.any():
        return pixels.copy()
    smooth = _push_pull(pixels.astype(np.float32), known.astype(np.float32))
    filled = smooth + _grain(pixels, known) * (1 - known[..., None])
    original = smoothstep((away / band - 0.5) / 0.5)[..., None]
    return np.round(np.clip(filled + (pixels - filled) * original, 0, 255)).astype(np.uint8)


def _seeds(shape: tuple[int, int], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What is surely person (GC_FGD: face, neck, chest), surely not (GC_BGD: far from the head), or open (GC_PR_BGD)."""
    lateral, above, iod = _head_coordinates(shape, points)
    mask = np.full(shape, cv2.GC_PR_BGD, np.uint8)
    far = np.hypot(lateral / 1.75, (above - 0.3) / 2.2) > 1
    mask[far & (above > -0.3)] = cv2.GC_BGD

    centre = points[list(FACE_OVAL)].mean(0)
    inner = centre + (points[list(FACE_OVAL)] - centre) * 0.93
    cv2.fillPoly(mask, [np.round(inner).astype(np.int32)], (cv2.GC_FGD,))
    mask[np.hypot(lateral / 0.6, (above - 0.36) / 0.62) < 1] = cv2.GC_FGD
    below = -above - np.linalg.norm(points[CHIN] - centre) / iod  # the chin's level is 0
    neck = (below > 0) & (below < 1.0) & (np.abs(lateral) < 0.35)
    chest = (below >= 0.5) & (np.abs(lateral) < np.clip(0.45 + 1.6 * (below - 0.5), 0, 1.9))
    mask[neck | chest] = cv2.GC_FGD
    return mask


def _head_coordinates(shape: tuple[int, int], points: NDArray[np.float32]) -> tuple[NDArray, NDArray, float]:
    """Each pixel's distance sideways from and upwards of the face's centre, in interocular distances, and that."""
    iod = float(np.linalg.norm(points[33] - points[263]))
    up = points[FOREHEAD] - points[CHIN]
    up = up / np.linalg.norm(up)
    centre = points[list(FACE_OVAL)].mean(0)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    x, y = x - centre[0], y - centre[1]
    return (-x * up[1] + y * up[0]) / iod, (x * up[0] + y * up[1]) / iod, iod


def _start(picture: NDArray[np.uint8], seeds: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """GrabCut's start: a likely person is an oval round the head and all below it.

    Where the background is plain, also where its light changes, more is sure: that itself, what differs from it round
    the head, and what it does not reach below the head.
    """
    lateral, above, _ = _head_coordinates(seeds.shape, points)
    skull = np.hypot(lateral / 0.68, (above - 0.4) / 1.05) < 1
    plain = _plain_background(picture, seeds == cv2.GC_BGD, (seeds == cv2.GC_FGD) | skull)
    head = np.hypot(lateral / 1.6, (above - 0.25) / 1.8) < 1
    is_plain = plain.mean() > 0.1
    slope = 0.0 if is_plain else 0.35
    body = above < -1.0 - slope * np.minimum(np.abs(lateral), 1.5)
    mask = np.where(head | body, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    hair = np.hypot(lateral / 1.15, (above - 0.3) / 1.65) < 1  # the flood may have run into it: not sure there
    background = (plain > 0) & ~hair
    mask[background] = cv2.GC_BGD
    if is_plain:
        continued = _push_pull(picture.astype(np.float32), background.astype(np.float32))
        differs = np.abs(picture - continued).max(-1) > _CLEAR_DIFFERENCE
        unreached = cv2.dilate(plain, np.ones((9, 9), np.uint8)) == 0
        mask[(hair & differs) | (body & unreached)] = cv2.GC_FGD
    mask[seeds != cv2.GC_PR_BGD] = seeds[seeds != cv2.GC_PR_BGD]
    return mask


def _plain_background(
    picture: NDArray[np.uint8], sure: NDArray[np.bool_], person: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """1 on what is reached from the sure background without a step in colour, (H, W).

    Of several steps allowed, the largest that hardly runs more into the person, as far as known, than the others;
    0 everywhere where all do.
    """
    starts = np.argwhere(sure)
    starts = starts[:: max(1, len(starts) // 60)]
    floods = []
    for step in (5, 4, 3, 2, 1):
        filled = np.zeros((sure.shape[0] + 2, sure.shape[1] + 2), np.uint8)
        for y, x in starts:
            if not filled[y + 1, x + 1]:
                steps = (step,) * 3
                cv2.floodFill(picture, filled, (int(x), int(y)), (0,), steps, steps, 4 | cv2.FLOODFILL_MASK_ONLY)
        floods.append(filled[1:-1, 1:-1])
    leaks = np.array([flood[person].mean() for flood in floods])
    chosen = floods[int(np.argmax(leaks <= leaks.min() + 0.006))]
    if leaks.min() > 0.12:
        return np.zeros(sure.shape, np.uint8)
    return cv2.erode(chosen, np.ones((3, 3), np.uint8), borderValue=1)


def _largest_part(person: NDArray[np.uint8], sure: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Keeps only what hangs together with the sure person."""
    _, labels = cv2.connectedComponents(person, connectivity=4)
    kept = np.unique(labels[sure & (person > 0)])
    return np.isin(labels, kept[kept > 0]).astype(np.uint8)


def _fill_holes(person: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fills background parts that do not touch the picture's border: usually glasses, collars, highlights."""
    _, labels = cv2.connectedComponents(1 - person, connectivity=4)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.where(np.isin(labels, np.unique(border)) & (person == 0), 0, 1).astype(np.uint8)


def _believable(person: NDArray[np.uint8], seeds: NDArray[np.uint8]) -> bool:
    """A cut is believed when it holds the sure person and neither fills nor spares everything that was open."""
    share = person.mean()
    if not 0.02 < share < 0.93:
        return False
    sure = seeds == cv2.GC_FGD
    return person[sure].mean() > 0.97


def _refine_edge(pixels: NDArray[np.uint8], person: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft edge that follows the picture's own edges, by a guided filter.

    Source: He, Sun and Tang 2013, "Guided Image Filtering", and its fast form: coefficients at low resolution.
    """
    height, width = pixels.shape[:2]
    zoom = min(1.0, _REFINE_PX / max(height, width))
    size = (round(width * zoom), round(height * zoom))
    guide = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    target = cv2.resize(person, size, interpolation=cv2.INTER_LINEAR)
    radius = max(2, round(max(size) / 90))
    slope, offset = _guided_coefficients(guide, target, radius, 1e-4)
    slope = cv2.resize(slope, (width, height), interpolation=cv2.INTER_LINEAR)
    offset = cv2.resize(offset, (width, height), interpolation=cv2.INTER_LINEAR)
    alpha = (slope * (pixels.astype(np.float32) / 255)).sum(-1) + offset
    alpha = np.clip((alpha - 0.08) / 0.84, 0, 1)
    near = cv2.resize(cv2.dilate(person, np.ones((3, 3))), (width, height), interpolation=cv2.INTER_LINEAR)
    far = cv2.GaussianBlur(near, (0, 0), max(1.0, max(height, width) / 90))
    alpha = np.where(far < 0.02, 0, alpha)
    return np.where(far > 0.98, 1, alpha).astype(np.float32)


def _guided_coefficients(
    guide: NDArray[np.float32], target: NDArray[np.float32], radius: int, epsilon: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Local linear model target = slope . guide + offset over windows of the colour guide: (H, W, 3), (H, W)."""

    def mean(values: NDArray) -> NDArray:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_target = mean(guide), mean(target)
    covariance = mean(guide * target[..., None]) - mean_guide * mean_target[..., None]
    pairs = [mean(guide[..., i] * guide[..., j]) - mean_guide[..., i] * mean_guide[..., j]
             for i in range(3) for j in range(3)]  # fmt: skip
    sigma = np.stack(pairs, -1).reshape(*target.shape, 3, 3) + epsilon * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(sigma, covariance[..., None])[..., 0].astype(np.float32)
    offset = mean_target - (slope * mean_guide).sum(-1)
    return mean(slope), mean(offset)


def _push_pull(values: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fills unknown pixels from coarser and coarser means of the known ones."""
    height, width = weight.shape
    if min(height, width) <= 4 or weight.all():
        total = max(float(weight.sum()), 1e-6)
        mean = (values * weight[..., None]).sum((0, 1)) / total
        return np.where(weight[..., None] > 0, values, mean).astype(np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    weighted = cv2.resize(cv2.GaussianBlur(values * weight[..., None], (5, 5), 1.2), half, interpolation=cv2.INTER_AREA)
    coarse_weight = cv2.resize(cv2.GaussianBlur(weight, (5, 5), 1.2), half, interpolation=cv2.INTER_AREA)
    coarse = weighted / np.maximum(coarse_weight, 1e-6)[..., None]
    coarse = _push_pull(coarse, (coarse_weight > 0.02).astype(np.float32))
    fill = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.where(weight[..., None] > 0, values, fill).astype(np.float32)


def _grain(pixels: NDArray[np.uint8], known: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Noise as strong as the fine grain of the known background, (H, W, 1)."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.5))[known > 0]
    strength = min(1.55 * float(np.median(fine)), 12.0)  # 1.4826 for a normal distribution, and what the blur kept
    noise = np.random.default_rng(1).standard_normal(grey.shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.5)
    return (noise / float(noise.std()) * strength)[..., None]
