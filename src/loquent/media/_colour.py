"""RGB to limited-range YUV 4:2:0, by the matrix that the file's tags name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class YuvMatrix:
    """A way from RGB to YUV.

    Attributes:
        tag: its number in ITU-T H.273, table 4 (matrix coefficients).
        rgb_to_yuv: (3, 4), takes (R, G, B, 1) in 0..255 to (Y, Cb, Cr), Y in 16..235, Cb and Cr in 16..240.
    """

    tag: int
    rgb_to_yuv: NDArray[np.float32]

    @staticmethod
    def from_luma_weights(tag: int, red: float, blue: float) -> YuvMatrix:
        """Builds the matrix from the two weights that define it (ITU-R BT.601-7 and BT.709-6, section 3)."""
        luma = np.array([red, 1.0 - red - blue, blue])
        cb = (np.array([0.0, 0.0, 1.0]) - luma) / (2.0 * (1.0 - blue))
        cr = (np.array([1.0, 0.0, 0.0]) - luma) / (2.0 * (1.0 - red))
        scaled = np.stack([luma * 219.0, cb * 224.0, cr * 224.0]) / 255.0
        return YuvMatrix(tag, np.column_stack([scaled, [16.0, 128.0, 128.0]]).astype(np.float32))


BT601 = YuvMatrix.from_luma_weights(6, red=0.299, blue=0.114)
BT709 = YuvMatrix.from_luma_weights(1, red=0.2126, blue=0.0722)


def matrix_for(height_px: int) -> YuvMatrix:
    """The matrix that players assume, by docs/conventions.md: BT.709 from 720 lines on."""
    return BT709 if height_px >= 720 else BT601


def rgb_to_i420(pixels: NDArray[np.uint8], matrix: YuvMatrix) -> NDArray[np.uint8]:
    """Converts RGB (H, W, 3), H and W even, to (3 H / 2, W): Y, then Cb and Cr at half the size.

    OpenCV's own RGB2YUV_I420 takes the colour of one pixel in four, which frays coloured edges such as the lip
    line, and knows BT.601 only; here each 2 x 2 block is averaged.
    """
    height, width = pixels.shape[:2]
    yuv = cv2.transform(pixels, matrix.rgb_to_yuv)
    halved = cv2.resize(yuv, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    i420 = np.empty((height * 3 // 2, width), np.uint8)
    chroma = i420[height:].reshape(2, height // 2, width // 2)
    cv2.extractChannel(yuv, 0, dst=i420[:height])
    cv2.extractChannel(halved, 1, dst=chroma[0])
    cv2.extractChannel(halved, 2, dst=chroma[1])
    return i420
