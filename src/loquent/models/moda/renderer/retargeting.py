"""Small networks that correct keypoints: stitching to the body, and opening of lips and eyes.

Source: Guo et al. 2024, "LivePortrait", section 3.3. T frames, K keypoints.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class KeypointMlp(nn.Module):
    """Linear layers with ReLU between: (T, size_in) to (T, size_out)."""

    def __init__(self, size_in: int, hidden: Sequence[int], size_out: int) -> None:
        super().__init__()
        sizes = [size_in, *hidden, size_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def stitching_network(num_keypoints: int = 21) -> KeypointMlp:
    """Source and target keypoints to a correction of the target and of its place."""
    return KeypointMlp(2 * 3 * num_keypoints, (128, 128, 64), 3 * num_keypoints + 2)


def lip_network(num_keypoints: int = 21) -> KeypointMlp:
    """Source keypoints, the source's lip opening and the wanted one to a change of the keypoints."""
    return KeypointMlp(3 * num_keypoints + 2, (128, 128, 64), 3 * num_keypoints)


def eye_network(num_keypoints: int = 21) -> KeypointMlp:
    """Source keypoints, the source's two eye openings and the wanted one to a change of the keypoints."""
    return KeypointMlp(3 * num_keypoints + 3, (256, 256, 128, 128, 64), 3 * num_keypoints)


def stitch(network: KeypointMlp, source: Tensor, target: Tensor) -> Tensor:
    """Target keypoints (T, K, 3) corrected so that the shoulders stay where the source (1 or T, K, 3) has them."""
    source = source.expand_as(target)
    change = network(torch.cat([source.flatten(1), target.flatten(1)], dim=1))
    moved = target + change[:, :-2].view_as(target)
    return torch.cat([moved[..., :2] + change[:, None, -2:], moved[..., 2:]], dim=-1)


def retarget(network: KeypointMlp, source: Tensor, ratios: Tensor) -> Tensor:
    """Change of the keypoints (T, K, 3) that opens lips or eyes as wanted.

    Args:
        network: for lips or eyes.
        source: transformed keypoints of the source, (1 or T, K, 3).
        ratios: openings of the source and the wanted one, (T, 2) for lips and (T, 3) for eyes.
    """
    source = source.expand(len(ratios), -1, -1)
    return network(torch.cat([source.flatten(1), ratios], dim=1)).view_as(source)
