"""The renderer: compresses a frame to a short motion vector and draws the portrait with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from loquent.models.ifmdm.decoder import Decoder
from loquent.models.ifmdm.encoder import Appearance, Encoder
from loquent.models.ifmdm.output import shrink

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.ifmdm.config import AutoencoderConfig


class Autoencoder(nn.Module):
    """Pictures are RGB, (B, 3, size_px, size_px), in [−1, 1]; motion is (B, motion_dim), in (−1, 1).

    With an output stage pictures are larger by a whole factor, 2 or more, and are shrunk for the encoder.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, image: Tensor) -> Appearance:
        if not self.config.output_dim:
            return self.encoder.appearance(image)
        return replace(self.encoder.appearance(shrink(image, self.config.size_px)), photo=image)

    def motion_of(self, image: Tensor) -> Tensor:
        """Motion of a frame, absolute: it needs no other frame to compare with."""
        return self.encoder.motion(self.encode(image).vector)

    def forward(self, source: Tensor, drive: Tensor) -> Tensor:
        """Draws `source` with the motion of `drive`."""
        return self.decoder(self.encode(source), self.motion_of(drive))
