"""The embedded face detector: a small convolution network slid over the picture at several scales."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from loquent.face.blocks import ResidualBlock, conv_norm
from loquent.face.crop import Square

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Shape letters: B batch, H and W picture, h and w cells (H / STRIDE, W / STRIDE).

STRIDE = 8
MIN_FACE_PX, MAX_FACE_PX = 22.0, 58.0  # longer side of the landmarks' box that one scale of the pyramid answers for
TYPICAL_FACE_PX = 36.0
TOP_HEIGHT_PX = 352  # height of the largest scale: a face of a tenth of the picture is 35 px high there
PAD_PX = 32  # of edge pixels round each scale, so that faces at the border are seen whole


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Sizes of the detector."""

    channels: tuple[int, int, int] = (16, 32, 64)  # at strides 2, 4 and 8
    num_blocks: int = 4  # at stride 8

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> DetectorConfig:
        return DetectorConfig(channels=tuple(values["channels"]), num_blocks=values["num_blocks"])


TINY = DetectorConfig(channels=(4, 4, 8), num_blocks=1)  # for tests


class Detector(nn.Module):
    """For every cell: is the middle of a face here, where exactly, how large, how turned."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        low, middle, high = config.channels
        self.body = nn.Sequential(
            conv_norm(3, low, kernel=5, stride=2),
            nn.ReLU(inplace=True),
            ResidualBlock(low, middle, stride=2),
            ResidualBlock(middle, high, stride=2),
            *(ResidualBlock(high, high) for _ in range(config.num_blocks - 1)),
        )
        self.answer = nn.Conv2d(high, 6, kernel_size=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Answers for a batch of pictures.

        Args:
            pictures: (B, 3, H, W) in [-1, 1], H and W multiples of STRIDE.

        Returns:
            (B, 6, h, w): score logit; offset x and y of the face's middle from the cell's, in units of
            TYPICAL_FACE_PX; log of its size over TYPICAL_FACE_PX; cosine and sine of its roll.
        """
        return self.answer(self.body(pictures))


@dataclass(frozen=True)
class Detection:
    """A face as the detector sees it."""

    square: Square  # round the landmarks' box, without margin
    score: float  # 0..1


@torch.inference_mode()
def detect(model: Detector, photo: NDArray[np.uint8], min_score: float = 0.3, max_faces: int = 32) -> list[Detection]:
    """Faces in a picture, the surest first.

    Args:
        model: the network, in evaluation mode.
        photo: RGB, (H, W, 3).
        min_score: below it a cell says nothing.
        max_faces: how many are given at most.
    """
    found = []
    for scale, level in _pyramid(photo):
        tensor = torch.from_numpy(level).permute(2, 0, 1)[None].float().div(127.5).sub(1)
        answer = model(tensor.contiguous(memory_format=torch.channels_last))[0].numpy()
        found += _read_answer(answer, scale, min_score)
    return _keep_best(found)[:max_faces]


def _pyramid(photo: NDArray[np.uint8]) -> list[tuple[float, NDArray[np.uint8]]]:
    """The picture at TOP_HEIGHT_PX and smaller heights, padded; with each its scale, level / photo.

    Small levels cost next to nothing, so they are closer to each other: a large face gets two looks.
    """
    height, width = photo.shape[:2]
    levels = []
    scale, source = TOP_HEIGHT_PX / height, photo
    while scale * max(height, width) >= MIN_FACE_PX:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        shrinks = size[1] < source.shape[0]
        small = cv2.resize(source, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        source = small if not levels else source  # the smaller levels are made from the largest one
        right, bottom = (-size[0]) % STRIDE, (-size[1]) % STRIDE
        level = cv2.copyMakeBorder(small, PAD_PX, PAD_PX + bottom, PAD_PX, PAD_PX + right, cv2.BORDER_REPLICATE)
        levels.append((scale, np.asarray(level, np.uint8)))
        if scale * min(height, width) < MAX_FACE_PX:
            break
        scale /= 2 if scale * height > TOP_HEIGHT_PX / 2 else np.sqrt(2)
    return levels


def _read_answer(answer: NDArray[np.float32], scale: float, min_score: float) -> list[Detection]:
    """Detections of one level, in photo pixels. `answer` is (6, h, w)."""
    scores = 1 / (1 + np.exp(-answer[0]))
    rows, columns = np.nonzero(scores >= min_score)
    detections = []
    for row, column in zip(rows, columns, strict=True):
        _, across, down, log_size, cos, sin = answer[:, row, column]
        x = (column + 0.5) * STRIDE - 0.5 + across * TYPICAL_FACE_PX - PAD_PX
        y = (row + 0.5) * STRIDE - 0.5 + down * TYPICAL_FACE_PX - PAD_PX
        size = TYPICAL_FACE_PX * np.exp(np.clip(log_size, -2, 2))
        centre = ((x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5)
        square = Square(float(centre[0]), float(centre[1]), float(size / scale), float(np.arctan2(sin, cos)))
        detections.append(Detection(square, float(scores[row, column])))
    return detections


def _keep_best(detections: list[Detection]) -> list[Detection]:
    """Drops detections of a face that a surer one already covers."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda item: -item.score):
        if not any(same_face(detection.square, other.square) for other in kept):
            kept.append(detection)
    return kept


def same_face(first: Square, second: Square) -> bool:
    """True when two squares, taken as discs, overlap by more than what two neighbouring faces do."""
    apart = np.hypot(first.centre_x - second.centre_x, first.centre_y - second.centre_y)
    return bool(apart < 0.5 * max(first.side_px, second.side_px))
