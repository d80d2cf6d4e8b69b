"""Makes a portrait of a person who does not exist: the average of many faces, with detail lent by a few.

Shape and skin tone are the mean of all faces given; hair, clothes and background come from one photo, warped to the
mean shape; fine detail inside the face comes from other photos, so that the result is as sharp as a photo while its
features are nobody's.

    python -m loquent.data.average_portrait PORTRAITS LANDMARKS.npz --faces ID ... --frame ID --detail ID -o out.jpg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loquent.face.topology import EYELIDS, FACE_OVAL, LIPS, NOSE_TIP
from loquent.media.image import read_image
from loquent.render.fields import ThinPlate

ANCHORS = (*FACE_OVAL, *LIPS[::2], *EYELIDS[::2], NOSE_TIP, 4, 5, 6, 98, 327, 105, 334, 66, 296, 50, 280)
NUM_LEVELS = 6
BORDER_PX = 3  # scanned photos end in a light line
NUM_DETAIL_LEVELS = 3


def align(points: NDArray, size_px: int, interocular: float, eye_line: float) -> NDArray:
    """Similarity transform (2, 3) that puts the outer eye corners of `points` (478, 2) at the picture's eye line."""
    right, left = points[33], points[263]
    half = interocular * size_px / 2
    target = np.array([[size_px / 2 - half, eye_line * size_px], [size_px / 2 + half, eye_line * size_px]])
    scale = complex(*(target[1] - target[0])) / complex(*(left - right))
    linear = np.array([[scale.real, -scale.imag], [scale.imag, scale.real]])
    return np.column_stack([linear, target[0] - linear @ right])


def warp_to_shape(picture: NDArray, points: NDArray, shape: NDArray, size_px: int) -> NDArray:
    """Warps `picture` so that its `points` (478, 2) come to lie on `shape` (478, 2); float32 (S, S, 3)."""
    anchors = list(ANCHORS)
    plate = ThinPlate(shape[anchors], smoothing=1e-3)
    axis = np.linspace(0, size_px - 1, 97)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    source = grid + plate.matrix(grid) @ (points[anchors] - shape[anchors])
    coarse = source.reshape(97, 97, 2).astype(np.float32)
    at = np.mgrid[0:size_px, 0:size_px][::-1].astype(np.float32) * (96 / (size_px - 1))
    dense = cv2.remap(coarse, at[0], at[1], cv2.INTER_LINEAR)
    maps = np.ascontiguousarray(dense[..., 0]), np.ascontiguousarray(dense[..., 1])
    return cv2.remap(picture, *maps, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)


def pyramid(picture: NDArray) -> list[NDArray]:
    """Laplacian pyramid, finest first; the last level is the low-pass rest."""
    levels = []
    for _ in range(NUM_LEVELS - 1):
        small = cv2.pyrDown(picture)
        levels.append(picture - cv2.pyrUp(small, dstsize=picture.shape[1::-1]))
        picture = small
    return [*levels, picture]


def collapse(levels: Sequence[NDArray]) -> NDArray:
    picture = levels[-1]
    for level in reversed(levels[:-1]):
        picture = cv2.pyrUp(picture, dstsize=level.shape[1::-1]) + level
    return picture


def face_mask(shape: NDArray, size_px: int) -> NDArray:
    """Soft mask (S, S, 1) of the inside of the face, 1 inside."""
    oval = shape[list(FACE_OVAL)]
    oval = oval.mean(0) + (oval - oval.mean(0)) * 0.93
    mask = np.zeros((size_px, size_px), np.float32)
    cv2.fillPoly(mask, [np.round(oval * 8).astype(np.int32)], 1.0, cv2.LINE_AA, 3)
    return cv2.GaussianBlur(mask, (0, 0), size_px * 0.02)[..., None]


def average_portrait(
    pictures: Sequence[NDArray[np.uint8]],
    landmarks: Sequence[NDArray],
    *,
    frame: int,
    detail: int,
    size_px: int = 512,
    interocular: float = 0.30,
    eye_line: float = 0.43,
) -> NDArray[np.uint8]:
    """Averages portraits.

    Args:
        pictures: RGB photos, each (H, W, 3).
        landmarks: the face in each, (478, 2 or 3), photo pixels.
        frame: index of the photo that lends hair, clothes and background.
        detail: index of the photo that lends the fine detail of the face.
        size_px: side of the square result.
        interocular: distance of the outer eye corners in the result, as a share of its width.
        eye_line: height of the eyes in the result, from the top, as a share of its height.

    Returns:
        RGB uint8, (S, S, 3).
    """
    zoom = 4  # pictures are enlarged once, smoothly, before they are warped
    aligned = []
    for points in landmarks:
        to_result = align(points[:, :2], size_px, interocular, eye_line)
        aligned.append(points[:, :2] @ to_result[:, :2].T + to_result[:, 2])
    mean_shape = np.mean(aligned, axis=0)
    warped = []
    for picture, points in zip(pictures, landmarks, strict=True):
        large = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LANCZOS4)
        warped.append(warp_to_shape(large, points[:, :2] * zoom + (zoom - 1) / 2, mean_shape, size_px))
    mask = face_mask(mean_shape, size_px)
    tone = (np.mean(warped, axis=0) * mask).sum((0, 1)) / mask.sum()
    frame_tone = (warped[frame] * mask).sum((0, 1)) / mask.sum()
    outside = np.clip(warped[frame] * (1 + (tone / frame_tone - 1) * 0.5), 0, 255)
    inside = pyramid(np.mean(warped, axis=0).astype(np.float32))
    inside[:NUM_DETAIL_LEVELS] = pyramid(warped[detail])[:NUM_DETAIL_LEVELS]
    levels = []
    for a, b in zip(inside, pyramid(outside.astype(np.float32)), strict=True):
        levels.append(a * mask + b * (1 - mask))
        mask = cv2.pyrDown(mask)[..., None]
    result = collapse(levels)
    result += 0.6 * (result - cv2.GaussianBlur(result, (0, 0), 1.4))  # the enlargement's loss of sharpness
    return np.clip(result + 0.5, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("portraits", type=Path, help="folder of ID.jpg")
    parser.add_argument("landmarks", type=Path, help="npz with ids and landmarks (N, 478, 3) in pixels")
    parser.add_argument("--faces", nargs="+", required=True)
    parser.add_argument("--frame", required=True)
    parser.add_argument("--detail", required=True)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--interocular", type=float, default=0.30)
    parser.add_argument("--eye-line", type=float, default=0.43)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    table = np.load(args.landmarks)
    index = {name: k for k, name in enumerate(table["ids"])}
    pictures, landmarks = [], []
    for name in args.faces:
        picture = read_image(args.portraits / f"{name}.jpg").pixels
        pictures.append(picture[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX])
        landmarks.append(table["landmarks"][index[name]] - (BORDER_PX, BORDER_PX, 0))
    result = average_portrait(
        pictures,
        landmarks,
        frame=args.faces.index(args.frame),
        detail=args.faces.index(args.detail),
        size_px=args.size,
        interocular=args.interocular,
        eye_line=args.eye_line,
    )
    cv2.imwrite(str(args.output), result[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 94])


if __name__ == "__main__":
    main()
