"""The renderer: compresses a frame to a short motion vector and draws the portrait with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from loquent.models.ifmdm.decoder import Decoder
from loquent.models.ifmdm.encoder import Appearance, Encoder
from loquent.models.ifmdm.photo_layers import shrink

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.ifmdm.config import AutoencoderConfig
    from loquent.models.ifmdm.photo_layers import PhotoLayers


class Autoencoder(nn.Module):
    """Pictures are RGB, (B, 3, size_px, size_px), in [−1, 1]; motion is (B, motion_dim), in (−1, 1).

    With an output stage pictures are larger by a whole factor, 2 or more, and are shrunk for the encoder.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, image: Tensor, layers: PhotoLayers | None = None) -> Appearance:
        """Appearance of pictures; layers of the same pictures are needed to draw with an output stage."""
        if not self.config.output_dim:
            return self.encoder.appearance(image)
        return replace(self.encoder.appearance(shrink(image, self.config.size_px)), layers=layers)

    def motion_of(self, image: Tensor) -> Tensor:
        """Motion of a frame, absolute: it needs no other frame to compare with."""
        return self.encoder.motion(self.encode(image).vector)

    def own_motion(self, image: Tensor) -> Tensor:
        """The motion that draws a portrait as it is."""
        return torch.zeros_like(self.motion_of(image)) if self.config.relative else self.motion_of(image)

    def motion_between(self, source: Tensor, drive: Tensor) -> Tensor:
        """The motion that draws `source` as `drive` is; where codes are relative, both show one person."""
        if not self.config.relative:
            return self.motion_of(drive)
        wide = self.encoder.motion.wide
        return torch.tanh(wide(self.encode(drive).vector) - wide(self.encode(source).vector))

    def forward(self, source: Tensor, drive: Tensor, layers: PhotoLayers | None = None) -> Tensor:
        """Draws `source` with the motion of `drive`; `layers` as in `encode`."""
        return self.decoder(self.encode(source, layers), self.motion_between(source, drive))
