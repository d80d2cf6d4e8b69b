"""From appearance and motion to a picture, by warping the appearance's maps level by level.

Shape letters: B batch, W width of the appearance vector, M motion numbers, s side of a level in pixels, C its channels.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.errors import PhotoError
from loquent.models.ifmdm.config import SMALLEST_PX
from loquent.models.ifmdm.layers import ConvLayer, ModulatedConv, StyledConv, Upsample
from loquent.models.ifmdm.output import OutputStage, Sketch, compose

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.ifmdm.config import AutoencoderConfig
    from loquent.models.ifmdm.encoder import Appearance

QR_OFFSET = 1e-8


class Directions(nn.Module):
    """Orthonormal directions of motion in appearance space: the columns of Q, from a reduced QR of the weight.

    The signs of the columns are those of Householder's method as LAPACK does it; weights depend on them.
    """

    def __init__(self, style_dim: int, motion_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(style_dim, motion_dim))

    def basis(self) -> Tensor:
        """Q, (W, M), worked out in float32 where the weights are shorter."""
        weight = self.weight + QR_OFFSET
        exact = weight.float() if weight.dtype == torch.bfloat16 else weight
        return torch.linalg.qr(exact, mode="reduced").Q.to(weight.dtype)

    def forward(self, motion: Tensor) -> Tensor:
        """Q·motion: (B, M) to (B, W)."""
        return motion @ self.basis().T


def relative_motion(target: Tensor, source: Tensor, start: Tensor) -> Tensor:
    """Motion that moves `source` by as much as `target` is away from `start`; all (B, M).

    It passes on only the change of a driving face, not its identity (LIA's relative transfer).
    """
    return target - start + source


def identity_grid(size: int) -> Tensor:
    """(x, y) of every pixel, (s, s, 2), from −1 to 1 with both ends.

    `grid_sample` is called with align_corners=False, for which ±1 are the outer edges of the picture: a flow of zero
    is not quite the identity. So published, and weights depend on it.
    """
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


class FlowHead(nn.Module):
    """Warps the appearance's map of one level and fills in what the mask leaves open.

    Args:
        dim: channels of the level.
        style_dim: channels of the style.
        size: side of the level in pixels.
        fills: False for the last level, whose filled map nobody reads.
    """

    grid: Tensor

    def __init__(self, dim: int, style_dim: int, size: int, *, fills: bool = True) -> None:
        super().__init__()
        self.flow = ModulatedConv(dim, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))
        self.fill = ModulatedConv(dim, dim, 1, style_dim, demodulate=False) if fills else None
        self.upsample = Upsample()
        self.register_buffer("grid", identity_grid(size), persistent=False)

    def forward(
        self, x: Tensor, style: Tensor, features: Tensor, previous: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Args:
            x: the decoder's map, (B, C, s, s).
            style: (B, W).
            features: the appearance's map, (B, C, s, s).
            previous: raw flow of the level before, (B, 3, s/2, s/2).

        Returns:
            The masked warped map, the filled map (None where `fills` is False) and the raw flow (B, 3, s, s):
            horizontal and vertical offset in half pictures before tanh, mask before sigmoid.
        """
        raw = self.flow(x, style) + self.bias[:, None, None]
        if raw.dtype == torch.bfloat16:  # places need more digits than maps
            raw = raw.float()
        if previous is not None:
            raw = raw + self.upsample(previous)
        offsets = torch.tanh(raw[:, :2]).permute(0, 2, 3, 1)  # (B, s, s, 2)
        mask = torch.sigmoid(raw[:, 2:])
        sampled = F.grid_sample(features.to(raw.dtype), self.grid.to(raw.dtype) + offsets, align_corners=False)
        warped = (mask * sampled).to(x.dtype)
        mask = mask.to(x.dtype)
        filled = None if self.fill is None else warped + (1 - mask) * self.fill(x, style)
        return warped, filled, raw


class RgbHead(nn.Module):
    """Colours of a warped map, on top of those of the level before."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = ConvLayer(dim, 3, 1)
        self.bias = nn.Parameter(torch.zeros(3))
        self.upsample = Upsample()

    def forward(self, warped: Tensor, previous: Tensor | None) -> Tensor:
        rgb = self.layer(warped) + self.bias[:, None, None]
        return rgb if previous is None else rgb + self.upsample(previous)


class Level(nn.Module):
    """One doubling of the decoder."""

    def __init__(self, input_dim: int, dim: int, style_dim: int, size: int, *, last: bool) -> None:
        super().__init__()
        self.up = StyledConv(input_dim, dim, style_dim, up=True)
        self.conv = StyledConv(dim, dim, style_dim)
        self.flow = FlowHead(dim, style_dim, size, fills=not last)
        self.rgb = RgbHead(dim)


class RefineBlock(nn.Module):
    """Plain convolutions at full size whose result is added to the picture."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [3] + [dim] * num_layers
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.final = nn.Conv2d(dim, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for conv in self.convs:
            x = F.relu(conv(x))
        return image + self.final(x)


class Decoder(nn.Module):
    """Draws the portrait with a given motion."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, style_dim = config.channels, config.style_dim
        self.relative, self.motion_gain = config.relative, config.motion_gain
        self.directions = Directions(style_dim, config.motion_dim)
        self.start = nn.Parameter(torch.randn(widths[0], SMALLEST_PX, SMALLEST_PX))
        self.first = StyledConv(widths[0], widths[0], style_dim)
        self.levels = nn.ModuleList(
            Level(a, b, style_dim, size, last=size == config.size_px)
            for a, b, size in zip(widths, widths[1:], config.level_sizes, strict=False)
        )
        self.refine = RefineBlock(config.refine_dim, config.refine_layers) if config.refine_dim else None
        self.output = (
            OutputStage(
                widths[-1],
                config.output_dim,
                style_dim,
                config.output_factor,
                config.motion_dim if config.relative else 0,
            )
            if config.output_dim
            else None
        )

    def forward(self, appearance: Appearance, motion: Tensor | None, *, refine: bool = True) -> Tensor:
        """Args:
            appearance: of the portrait.
            motion: (B, M); None draws the appearance vector as it is.
            refine: False leaves the refine block out where there is one.

        Returns:
            RGB, (B, 3, size_px, size_px), mostly in [−1, 1]: nothing limits it. With an output stage it is as large as
            the portrait's photo.
        """
        sketch = self.sketch(appearance, motion)
        if self.output is not None:
            assert appearance.layers is not None  # `sketch` has looked at them
            return compose(appearance.layers, sketch)
        rgb = sketch.colours
        return rgb if self.refine is None or not refine else self.refine(rgb)

    def still_style(self, vector: Tensor) -> Tensor:
        """The latent (B, W) of an appearance vector without motion.

        Relative codes have their directions for themselves: what the appearance holds there is left out.
        """
        if not self.relative:
            return vector
        basis = self.directions.basis()
        return vector - vector @ basis @ basis.T

    def sketch(self, appearance: Appearance, motion: Tensor | None, *, whole: bool = True) -> Sketch:
        """What the levels make of it, and the output stage if there is one; `whole` as there."""
        style = self.still_style(appearance.vector)
        style = style if motion is None else style + self.motion_gain * self.directions(motion.to(style.dtype))
        x: Tensor | None = self.first(self.start.expand(len(style), -1, -1, -1), style)
        raw = rgb = drawn = None
        flows = []
        for level, features in zip(self.levels, appearance.features, strict=True):
            drawn = level.conv(level.up(x, style), style)  # type: ignore[operator]
            warped, x, raw = level.flow(drawn, style, features, raw)  # type: ignore[operator]
            rgb = level.rgb(warped, rgb)  # type: ignore[operator]
            flows.append(raw)
        assert rgb is not None  # a decoder has two levels or more
        assert drawn is not None
        if self.output is None:
            return Sketch(flows, rgb)
        if appearance.layers is None:
            raise PhotoError(
                "a renderer with an output stage draws from the layers of a photo; give `take_apart(photo, landmarks)`"
            )
        return self.output(drawn, style, flows, rgb, appearance.layers, motion, whole=whole)
