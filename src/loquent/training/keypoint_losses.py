"""Losses that make keypoints mean something, without labels of them.

Shape letters: B batch, K keypoints, P points. Keypoints and points lie in −1..1 over the picture, x right, y down.

Source: Wang et al. 2021, "One-Shot Free-View Neural Talking-Head Synthesis", section 3.4 and appendix; Guo et al. 2024,
"LivePortrait", section 3.2, for the guidance by landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.face import topology

if TYPE_CHECKING:
    from torch import Tensor

LEAST_DISTANCE = 0.1  # squared, between two keypoints
MEAN_DEPTH = 0.33
WING_WIDTH, WING_CURVE = 10.0, 2.0  # pixels of a picture of 256 (Feng et al. 2018)
_HALF_PICTURE_PX = 128

# Keypoint -> landmark that it is led to, for the ten around lips and eyes. Which of them is where is our choice; which
# are of the lips and which of the eyes is what the published editor moves.
GUIDED = {
    6: topology.LIPS_OUTER_UPPER[0], 12: topology.LIPS_OUTER_UPPER[-1], 14: topology.LIPS_OUTER_UPPER[5],
    17: topology.LIPS_OUTER_LOWER[5], 20: topology.LIPS_INNER_UPPER[5], 19: topology.LIPS_INNER_LOWER[5],
    11: topology.RIGHT_EYE_UPPER[4], 13: topology.RIGHT_EYE_LOWER[4],
    15: topology.LEFT_EYE_UPPER[4], 16: topology.LEFT_EYE_LOWER[4],
}  # fmt: skip


def spread_loss(keypoints: Tensor) -> Tensor:
    """Keeps keypoints (B, K, 3) apart from one another, and their mean depth at `MEAN_DEPTH`."""
    distance = torch.cdist(keypoints, keypoints).square()
    others = ~torch.eye(keypoints.shape[1], dtype=torch.bool, device=keypoints.device)
    too_near = (LEAST_DISTANCE - distance).clamp(min=0) * others
    depth = (keypoints[..., 2].mean(1) - MEAN_DEPTH).abs()
    return too_near.sum((1, 2)).mean() + depth.mean()


def guidance_loss(keypoints: Tensor, landmarks: Tensor) -> Tensor:
    """Wing loss of the guided keypoints, of (B, K, 3), against landmarks (B, 478, 2)."""
    led, leaders = list(GUIDED.keys()), list(GUIDED.values())
    away_px = (keypoints[:, led, :2] - landmarks[:, leaders]).abs() * _HALF_PICTURE_PX
    return wing(away_px).mean() / _HALF_PICTURE_PX


def wing(distance: Tensor) -> Tensor:
    """Logarithmic near zero, linear beyond `WING_WIDTH` (Feng et al. 2018, "Wing Loss", equation 5)."""
    shift = WING_WIDTH - WING_WIDTH * torch.log1p(torch.tensor(WING_WIDTH / WING_CURVE))
    return torch.where(
        distance < WING_WIDTH, WING_WIDTH * torch.log1p(distance / WING_CURVE), distance - shift.to(distance)
    )


def expression_loss(expression: Tensor) -> Tensor:
    """Keeps expression (B, K, 3) small, so that it holds nothing of the pose."""
    return expression.abs().sum(-1).mean()


def equivariance_loss(keypoints: Tensor, of_warped: Tensor, warp: RandomWarp) -> Tensor:
    """Keypoints (B, K, 3) must be where the warp takes those of the warped picture."""
    return (keypoints[..., :2] - warp.places(of_warped[..., :2])).abs().mean()


@dataclass(frozen=True, eq=False)
class RandomWarp:
    """An affine map and a thin-plate spline over a grid of control points, one for each picture.

    Source: Siarohin et al. 2019, "First Order Motion Model for Image Animation", section 3.1.
    """

    affine: Tensor  # (B, 2, 3)
    controls: Tensor  # (C, 2)
    weights: Tensor  # (B, C, 2)

    @staticmethod
    def draw(batch: int, random: torch.Generator, spread: float = 0.05, side: int = 5) -> RandomWarp:
        """Warps near to the identity: deviations of all numbers are `spread`, on a grid of `side` times `side`."""
        affine = torch.eye(2, 3) + spread * torch.randn(batch, 2, 3, generator=random)
        line = torch.linspace(-1, 1, side)
        controls = torch.cartesian_prod(line, line)
        return RandomWarp(affine, controls, spread * torch.randn(batch, side * side, 2, generator=random) / side)

    def to(self, like: Tensor) -> RandomWarp:
        """The same where `like` is."""
        return RandomWarp(self.affine.to(like), self.controls.to(like), self.weights.to(like))

    def places(self, points: Tensor) -> Tensor:
        """Where points (B, P, 2) of the warped pictures lie in the pictures, (B, P, 2)."""
        moved = points @ self.affine[:, :, :2].mT + self.affine[:, None, :, 2]
        distance = torch.cdist(points, self.controls.expand(len(points), -1, -1))
        return moved + (distance.square() * torch.log(distance + 1e-6)) @ self.weights

    def apply(self, pictures: Tensor) -> Tensor:
        """The warped pictures (B, C, H, W); beyond the edge they are mirrored."""
        batch, _, height, width = pictures.shape
        identity = torch.eye(2, 3).to(pictures).expand(batch, 2, 3)
        grid = F.affine_grid(identity, [batch, 1, height, width], align_corners=False)
        places = self.places(grid.flatten(1, 2)).view_as(grid)
        return F.grid_sample(pictures, places, padding_mode="reflection", align_corners=False)
