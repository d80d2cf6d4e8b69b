"""The last stage of MToV's decoder where it paints over the photo, moved by the landmarks. Ours, not published.

A small autoencoder blurs what it draws. Here it draws only what the photo does not hold, the mouth's inside, and says
for every pixel which layer of the moved photo shows: skin above the opening, skin below it, teeth that the photo shows,
the head as a whole, or its own colour. Teeth that no photo shows are learnt as two textures, one fixed to the skull and
one to the jaw, that are read where the landmarks place them (Thies et al. 2019, "Deferred Neural Rendering", section
4). Away from the mouth the moved photo stays as it is.

Shape letters: B batch, T frames, N = B·T pictures, S tokens along a picture's side, C channels, G channels of a guide,
h, w height and width of the box round the mouth, r, c its height and width in tokens.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moditalker.config import AutoencoderConfig

SKETCH = 4  # places along the side of a token that the decoder gives a colour by itself
NUM_LAYERS = 5
TEXTURE_SIZE = (56, 144)  # across and along a row of teeth, at two to three places a millimetre
_PRIOR = 3.0  # by which the guide speaks for each layer at the start of training


class Guide(NamedTuple):
    """Parts of a guide (N, G, h, w) in [−1, 1]."""

    base: Tensor  # RGB: the head as a whole
    upper: Tensor  # RGB: skin that moves with the upper lip
    is_upper: Tensor  # one channel, 1 where that is skin above the opening
    lower: Tensor
    is_lower: Tensor
    near: Tensor  # one channel, 1 where the mouth is near
    teeth: Tensor  # RGB: the photo, moved with the skull
    is_teeth: Tensor  # one channel, 1 where it shows an upper tooth
    on_upper: Tensor  # place along and across the upper row of teeth
    on_lower: Tensor

    @staticmethod
    def of(guide: Tensor) -> Guide:
        return Guide(*guide.split([3, 3, 1, 3, 1, 1, 3, 1, 2, 2], dim=1))


class Paint(NamedTuple):
    """What the painter adds to a guide."""

    shares: Tensor  # (N, NUM_LAYERS, h, w), summing to 1: of base, upper, lower, teeth and colour
    colour: Tensor  # (N, 3, h, w) in [−1, 1]

    def over(self, guide: Tensor) -> Tensor:
        """Frames (N, 3, h, w) over a guide (N, G, h, w)."""
        parts = Guide.of(guide)
        layers = (parts.base, parts.upper, parts.lower, parts.teeth, self.colour)
        painted = torch.stack(
            [share[:, None] * layer for share, layer in zip(self.shares.unbind(1), layers, strict=True)]
        ).sum(0)
        return torch.lerp(parts.base, painted, (parts.near + 1) / 2)


class Painter(nn.Module):
    """Tokens of the decoder and a guide to paint: a small U-Net from half the picture's size to the tokens' and back.

    Level k is 2^(k+1) times smaller than the picture; tokens join at the last.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        num_halvings = (config.patch_px // 2).bit_length() - 1
        widths = [config.paint_channels * (2 + level) // 2 for level in range(num_halvings + 1)]
        steps = list(itertools.pairwise(widths))
        self.textures = nn.Parameter(torch.zeros(2, config.texture_channels, *TEXTURE_SIZE))
        inputs = config.guide_channels + 2 * config.texture_channels
        self.guide_in = nn.Conv2d(4 * inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.tokens_in = nn.Conv2d(config.channels, widths[-1], 1)
        self.bottom = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in steps)
        self.middle = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self.out = nn.Conv2d(widths[0], 4 * (NUM_LAYERS + 3), 3, padding=1)
        self.sketch_out = nn.Linear(config.channels, 3 * SKETCH**2)

    def forward(self, tokens: Tensor, guide: Tensor) -> Paint:
        """Tokens (N, r, c, C) and a guide (N, G, h, w) in float32 of the same box."""
        kind = self.guide_in.weight.dtype
        seen = torch.cat([guide.to(kind), *self.read_textures(guide)], dim=1)
        levels = [F.silu(self.guide_in(F.pixel_unshuffle(seen, 2)))]
        for down in self.down:
            levels.append(F.silu(down(levels[-1])))
        h = levels[-1] + self.tokens_in(tokens.movedim(-1, 1))
        h = h + F.silu(self.bottom(F.silu(h)))
        for up, level in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            h = F.silu(level + F.interpolate(up(h), scale_factor=2, mode="bilinear"))
        h = h + F.silu(self.middle(h))
        logits, detail = F.pixel_shuffle(self.out(h), 2).split([NUM_LAYERS, 3], dim=1)
        sketch = F.interpolate(self.sketch(tokens), size=guide.shape[2:], mode="bilinear")
        return Paint((logits + _PRIOR * _first_guess(guide).to(kind)).softmax(1), torch.tanh(sketch + detail))

    def read_textures(self, guide: Tensor) -> list[Tensor]:
        """What the textures hold where a guide (N, G, h, w) says: two of (N, texture_channels, h, w)."""
        parts = Guide.of(guide)
        found = []
        for texture, places in zip(self.textures.float(), (parts.on_upper, parts.on_lower), strict=True):
            grid = places.movedim(1, -1).float()
            read = F.grid_sample(
                texture.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=False
            )
            found.append(read.to(self.textures.dtype))
        return found

    def sketch(self, tokens: Tensor) -> Tensor:
        """Colour at a few places of every token, before its limits: (N, r, c, C) to (N, 3, 4 r, 4 c)."""
        return F.pixel_shuffle(self.sketch_out(tokens).movedim(-1, 1), SKETCH)


def _first_guess(guide: Tensor) -> Tensor:
    """How much a guide (N, G, h, w) speaks for each layer, (N, NUM_LAYERS, h, w), 1 at most."""
    parts = Guide.of(guide)
    opening = -(parts.is_upper + parts.is_lower) / 2
    shown = torch.minimum(opening, parts.is_teeth)
    return torch.cat([torch.zeros_like(opening), parts.is_upper, parts.is_lower, shown, opening], dim=1)


def tokens_of_boxes(tokens: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Tokens (F, r, c, C) of boxes of `size` (r, c) at `corners` (F, 2), row and column, of tokens (F, S, S, C)."""
    height, width = size
    boxes = [picture[y : y + height, x : x + width] for picture, (y, x) in zip(tokens, corners.tolist(), strict=True)]
    return torch.stack(boxes)
