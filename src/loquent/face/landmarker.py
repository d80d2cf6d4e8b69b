"""The embedded landmarker: one network for the whole face, one for the lips, one for an eye.

The whole-face network gives all 478 points and says whether the crop shows a face. The other two look at lips and eyes
from near and replace the points there, as in Grishchenko et al. 2020, "Attention Mesh". Left eyes are seen in a mirror,
so that one network serves both.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from loquent.face import topology as topo
from loquent.face.blocks import ResidualBlock, conv_norm
from loquent.face.crop import Square, square_around

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

# Shape letters: B batch, S side of the crop in pixels, P points.


@dataclass(frozen=True, kw_only=True)
class PointNetConfig:
    """Sizes of one network from a square crop to points."""

    crop_size: int = 128
    channels: tuple[int, ...] = (16, 32, 64, 96, 128)  # the first for the stem, then one stage of two blocks each
    hidden_dim: int = 256
    num_points: int = topo.NUM_LANDMARKS

    def __post_init__(self) -> None:
        if self.crop_size % self.stride:
            raise ValueError(f"crop_size ({self.crop_size}) must be a multiple of the stride ({self.stride})")

    @property
    def stride(self) -> int:
        return 2 ** len(self.channels)


# Points that the eye network places, for the eye on the picture's left: lids, iris, and the skin round them.
EYE_POINTS = (
    7, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 33, 46, 47, 52, 53, 55, 56, 65, 110, 112, 113, 114, 117, 118, 119,
    120, 121, 122, 128, 130, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 174, 188, 189, 190,
    193, 196, 221, 222, 223, 224, 225, 226, 228, 229, 230, 231, 232, 233, 243, 244, 245, 246, 247, 468, 469, 470,
    471, 472,
)  # fmt: skip
LIP_POINTS = tuple(
    sorted({*topo.LIP_CORNERS, *(i for row in (*topo.UPPER_LIP_ROWS, *topo.LOWER_LIP_ROWS) for i in row)})
)
RIGHT_EYELIDS = tuple(sorted({*topo.RIGHT_EYE_UPPER, *topo.RIGHT_EYE_LOWER}))
Part = Literal["face", "lips", "eye"]
FACE_MARGIN, LIPS_MARGIN, EYE_MARGIN = 1.3, 1.5, 1.9  # side of each crop in units of the box of its points


def part_square(part: Part, landmarks: NDArray[np.float32]) -> Square:
    """Where each network looks, given the landmarks (478, 3) as known so far.

    The eye network looks at the eye on the picture's left; for the other one, mirror picture and landmarks.
    """
    if part == "face":
        return square_around(landmarks, FACE_MARGIN)
    if part == "lips":
        return square_around(landmarks, LIPS_MARGIN, points=list(LIP_POINTS))
    return square_around(landmarks, EYE_MARGIN, points=list(RIGHT_EYELIDS))


def part_points(part: Part) -> list[int]:
    """The points that each network places, in the order of its answer."""
    return {"face": list(range(topo.NUM_LANDMARKS)), "lips": list(LIP_POINTS), "eye": list(EYE_POINTS)}[part]


@dataclass(frozen=True, kw_only=True)
class LandmarkerConfig:
    """The three networks."""

    face: PointNetConfig = field(default_factory=PointNetConfig)
    lips: PointNetConfig = PointNetConfig(
        crop_size=64, channels=(16, 32, 64, 96), hidden_dim=192, num_points=len(LIP_POINTS)
    )
    eye: PointNetConfig = PointNetConfig(
        crop_size=64, channels=(16, 32, 48, 64), hidden_dim=160, num_points=len(EYE_POINTS)
    )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Mapping[str, Any]]) -> LandmarkerConfig:
        parts = {name: PointNetConfig(**{**part, "channels": tuple(part["channels"])}) for name, part in values.items()}
        return LandmarkerConfig(**parts)


TINY = LandmarkerConfig(  # for tests
    face=PointNetConfig(crop_size=32, channels=(4, 8), hidden_dim=16),
    lips=PointNetConfig(crop_size=16, channels=(4, 8), hidden_dim=8, num_points=len(LIP_POINTS)),
    eye=PointNetConfig(crop_size=16, channels=(4, 8), hidden_dim=8, num_points=len(EYE_POINTS)),
)


class PointNet(nn.Module):
    """From a square crop to points in it."""

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        layers: list[nn.Module] = [conv_norm(3, channels[0], kernel=5, stride=2), nn.ReLU(inplace=True)]
        for before, after in itertools.pairwise(channels):
            layers += [ResidualBlock(before, after, stride=2), ResidualBlock(after, after)]
        self.body = nn.Sequential(*layers)
        side = config.crop_size // config.stride
        self.hidden = nn.Linear(channels[-1] * side * side, config.hidden_dim)
        self.points = nn.Linear(config.hidden_dim, config.num_points * 3)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Looks at crops.

        Args:
            crops: (B, 3, S, S) in [-1, 1].

        Returns:
            Points (B, P, 3) in sides of the crop, the origin in its middle, x right, y down, z away from the camera;
            the features they were read from, (B, hidden_dim).
        """
        features = torch.relu(self.hidden(self.body(crops).flatten(1)))
        return self.points(features).unflatten(1, (-1, 3)), features


class Landmarker(nn.Module):
    """The three networks in one set of weights, and the score that tells faces from other things."""

    def __init__(self, config: LandmarkerConfig) -> None:
        super().__init__()
        self.config = config
        self.face = PointNet(config.face)
        self.lips = PointNet(config.lips)
        self.eye = PointNet(config.eye)
        self.presence = nn.Linear(config.face.hidden_dim, 1)  # logit that the crop shows a face

    def part(self, part: Part) -> PointNet:
        """The network of one part."""
        return {"face": self.face, "lips": self.lips, "eye": self.eye}[part]

    def find_face(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """All points of face crops (B, 478, 3), as `PointNet.forward`, and the logits (B,) that they show faces."""
        points, features = self.face(crops)
        return points, self.presence(features).squeeze(1)


def to_network(pixels: NDArray[np.uint8]) -> Tensor:
    """RGB uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [-1, 1], channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)
