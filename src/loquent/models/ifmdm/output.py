"""Our extension of the renderer: a last stage that keeps the photo's own pixels wherever they can be kept.

The published decoder draws every pixel anew from warped feature maps, and is blurred where training was short. This
stage makes the picture larger once more and decides for each pixel between three: the photo as it is (background), the
photo warped by the decoder's own flow (skin, hair, clothes), and a newly drawn colour (inside of the mouth, lids,
uncovered background). Flow, colours and shares are smooth enough to be enlarged, so the photo may have any larger size.

Shape letters: B batch, C channels, s side of the decoder's last level in pixels, S side of the photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.errors import PhotoError
from loquent.models.ifmdm.layers import ConvLayer, EqualConv, StyledConv

if TYPE_CHECKING:
    from torch import Tensor

STILL, WARPED, DRAWN = range(3)  # order of the shares
_OVERSHOOT = 0.02  # shares this near to 0 and 1 become 0 and 1, so that what is still is exactly still
FINE_FLOW = 0.05  # half pictures: the unit in which the stage itself moves the photo
_START_LOGITS = (0.0, 1.5, 0.0)  # warping comes first: colours drawn early would take over what flow should learn


@dataclass(frozen=True, eq=False)
class Sketch:
    """What the decoder knows of a picture before it is put together."""

    flows: list[Tensor]  # raw flow (B, 3, side, side) of every level, see `FlowHead`
    colours: Tensor  # (B, 3, side, side)
    logits: Tensor | None = None  # (B, 3, side, side): of the photo as it is, the photo warped, the colours
    offsets: Tensor | None = None  # (B, 2, side, side): where the photo is read, half pictures
    warped: Tensor | None = None  # (B, 3, side, side): the photo of that size, warped


class OutputStage(nn.Module):
    """Colours, shares and finer flow at several times the size of the last level, worked out in square cells of pixels.

    Args:
        input_dim: channels of the last level.
        dim: channels of this stage.
        style_dim: channels of the style.
        factor: pixels along the side of a cell.
    """

    def __init__(self, input_dim: int, dim: int, style_dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = StyledConv(input_dim, dim, style_dim)
        self.look = ConvLayer(3 * factor**2, dim, 3)
        self.join = ConvLayer(dim, dim, 3)
        self.planes = EqualConv(dim, 8 * factor**2, 3, padding=1)
        self.bias = nn.Parameter(torch.tensor((0.0, 0.0, 0.0, 0.0, 0.0, *_START_LOGITS)))

    def forward(self, x: Tensor, style: Tensor, flows: list[Tensor], rgb: Tensor, photo: Tensor) -> Sketch:
        """Args:
            x: the last level's map, (B, C, s, s).
            style: (B, W).
            flows: raw flow of every level.
            rgb: the decoder's colours, (B, 3, s, s).
            photo: (B, 3, S, S), S a multiple of factor·s.

        Returns:
            Planes of factor·s pixels.
        """
        size = self.factor * x.shape[-1]
        photo, offsets = shrink(photo, size), enlarge(torch.tanh(flows[-1][:, :2]), size)
        cells = F.pixel_unshuffle(warp(photo, offsets), self.factor).to(x.dtype)
        x = self.join(self.conv(x, style) + self.look(cells))
        planes = F.pixel_shuffle(self.planes(x), self.factor) + self.bias[:, None, None]
        shift, colours, logits = planes.split((2, 3, 3), dim=1)
        offsets = offsets + FINE_FLOW * shift.to(offsets.dtype)
        return Sketch(flows, enlarge(rgb, size) + colours, logits, offsets, warp(photo, offsets))


def compose(photo: Tensor, sketch: Sketch) -> Tensor:
    """The picture (B, 3, S, S) of a photo of that size, in the flow's precision."""
    assert sketch.logits is not None  # the sketch of an output stage
    assert sketch.offsets is not None
    assert sketch.warped is not None
    offsets, size = sketch.offsets, photo.shape[-1]
    shares = enlarge(shares_of(sketch.logits.to(offsets.dtype)), size)
    colours = enlarge(sketch.colours.to(offsets.dtype), size)
    warped = sketch.warped if sketch.warped.shape[-1] == size else warp(photo, enlarge(offsets, size))
    return mix(shares, photo.to(offsets.dtype), warped, colours)


def mix(shares: Tensor, photo: Tensor, warped: Tensor, colours: Tensor) -> Tensor:
    """Photo, warped photo and colours (B, 3, S, S) by their shares (B, 3, S, S)."""
    still, moved, drawn = shares.split(1, dim=1)
    return still * photo + moved * warped + drawn * colours


def shares_of(logits: Tensor) -> Tensor:
    """Shares of photo, warped photo and colours, adding up to 1, exactly 0 or 1 where one of them clearly wins."""
    wide = torch.softmax(logits, dim=1) * (1 + 2 * _OVERSHOOT) - _OVERSHOOT
    shares = wide.clamp(0, 1)
    return shares / shares.sum(1, keepdim=True)


def warp(photo: Tensor, offsets: Tensor) -> Tensor:
    """The photo (B, 3, S, S) read at each pixel's own place plus an offset (B, 2, S, S) in half pictures.

    No offset is the photo itself, unlike in the published levels. Beyond the edge the edge goes on.
    """
    size = photo.shape[-1]
    line = (2 * torch.arange(size, device=photo.device, dtype=offsets.dtype) + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([x, y], dim=-1) + offsets.permute(0, 2, 3, 1)
    return F.grid_sample(photo.to(offsets.dtype), grid, padding_mode="border", align_corners=False)


def enlarge(planes: Tensor, size: int) -> Tensor:
    """(B, C, s, s) to (B, C, size, size), bilinear."""
    if planes.shape[-1] == size:
        return planes
    return F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False)


def shrink(photo: Tensor, size: int) -> Tensor:
    """The photo at a whole part of its size, by means of pixels.

    Raises:
        PhotoError: its size is no multiple of the wanted one.
    """
    factor, rest = divmod(photo.shape[-1], size)
    if rest or not factor or photo.shape[-2] != photo.shape[-1]:
        raise PhotoError(
            f"the picture has {photo.shape[-1]} x {photo.shape[-2]} pixels; give a square whose side is a multiple of {size}"
        )
    return photo if factor == 1 else F.avg_pool2d(photo, factor)
