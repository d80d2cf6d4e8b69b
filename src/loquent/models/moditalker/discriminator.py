"""Tells the autoencoder's frames and clips from real ones, patch by patch.

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks", section 3.2.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class PatchDiscriminator(nn.Module):
    """Logits of patches being real: (B, 3, H, W) or, with three axes, (B, 3, T, H, W), to one channel."""

    def __init__(self, num_axes: Literal[2, 3], width: int = 64, num_strided: int = 3) -> None:
        super().__init__()
        conv, norm = _CONV[num_axes], _BATCH_NORM[num_axes]
        stages = [nn.Sequential(conv(3, width, 4, 2, 2), nn.LeakyReLU(0.2))]
        for stage in range(1, num_strided + 1):
            stride = 2 if stage < num_strided else 1
            wide = 2 * width
            stages.append(nn.Sequential(conv(width, wide, 4, stride, 2), norm(wide), nn.LeakyReLU(0.2)))
            width = wide
        stages.append(nn.Sequential(conv(width, 1, 4, 1, 2)))
        self.stages = nn.ModuleList(stages)
        self.apply(_start)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features after every stage; the last are the logits."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1, 0.02)
