"""Draws one portrait with many motions: the decoder with everything that frames share computed once.

The pictures are those of `Decoder.forward` but for rounding. What is saved:

* channels-last memory, which convolutions, blurs and row look-ups want;
* warping is a weighted sum of four rows of a table of feature vectors, with the mask in the weights;
* the last level warps colours alone: its 1 x 1 colour convolution may as well go before the warp, which is linear;
* styles, demodulation, the √2 of the leaky ReLU and biases sit in weights or blur kernels where these are smaller than
  the maps;
* styles of all layers are one small product a frame, for they are affine in the motion: A·(w + Q·m) + b.

Shape letters: B frames, C and O channels in and out, s side of a level in pixels, M motion numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from loquent.errors import PhotoError
from loquent.models.ifmdm.decoder import identity_grid
from loquent.models.ifmdm.layers import DEMODULATION_EPS, GAIN, LEAK, UpModulatedConv, blur_kernel
from loquent.models.ifmdm.output import base_offsets, compose, finish, look, seen_planes
from loquent.models.ifmdm.photo_layers import take_apart

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm.autoencoder import Autoencoder
    from loquent.models.ifmdm.decoder import Level
    from loquent.models.ifmdm.encoder import Appearance
    from loquent.models.ifmdm.layers import EqualConv, ModulatedConv, StyledConv
    from loquent.models.ifmdm.output import OutputStage
    from loquent.models.ifmdm.photo_layers import PhotoLayers

DETAIL = 2  # as which the systems draw, see `PortraitDrawer`
_CHANNELS_LAST = torch.channels_last
_BORDER = 3  # zeros around a table: one pixel before and two after


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """RGB (S, S, 3) as (1, 3, S, S) in [−1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(pictures: Tensor) -> NDArray[np.uint8]:
    """(B, 3, S, S) as RGB (B, S, S, 3); what lies outside [−1, 1] is limited."""
    scaled = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


class FeatureTable:
    """Feature vectors of a map (1, C, s, s), one a row, with zeros around them."""

    def __init__(self, features: Tensor) -> None:
        self.size = features.shape[-1]
        self._stride = self.size + _BORDER
        self._rows = F.pad(features[0], (1, 2, 1, 2)).permute(1, 2, 0).flatten(0, 1).contiguous()
        corners = [0, 1, self._stride, self._stride + 1]
        self._corners = torch.tensor(corners, device=features.device, dtype=torch.int32)
        # Where a pixel is read without flow: the published grid, seen by align_corners=False, counted in the table.
        line = identity_grid(self.size)[0, :, 0].to(features.device)
        self._line = (line + 1) * (self.size / 2) + 0.5

    def warp(self, flow: Tensor, mask: Tensor) -> Tensor:
        """mask · bilinear samples: flow (B, 2, s, s) in half pictures, mask (B, 1, s, s) to (B, C, s, s)."""
        x = self._position(flow[:, 0], self._line)
        y = self._position(flow[:, 1], self._line[:, None])
        left, top = x.floor(), y.floor()
        corner = (top * self._stride + left).to(torch.int32)  # floats count exactly up to 2^24
        right_share, low_share = x - left, y - top
        lower = mask[:, 0] * low_share
        upper = mask[:, 0] - lower
        lower_right, upper_right = lower * right_share, upper * right_share
        shares = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=-1)
        flat = F.embedding_bag(
            (corner[..., None] + self._corners).view(-1, 4),
            self._rows,
            per_sample_weights=shares.view(-1, 4).to(self._rows.dtype),
            mode="sum",
        )
        return flat.view(len(flow), self.size, self.size, -1).permute(0, 3, 1, 2)

    def _position(self, offset: Tensor, line: Tensor) -> Tensor:
        """Coordinate in the table; what lies outside reads zeros."""
        return (offset.to(line.dtype) * (self.size / 2) + line).clamp(0, self.size + 1)


class _StyledConv:
    """A `StyledConv` whose weights are scaled once."""

    def __init__(self, layer: StyledConv) -> None:
        weight = layer.conv.scaled_weight()
        self._energy = weight.square().sum((2, 3)).T  # (C, O)
        self._bias = layer.activation.bias * GAIN
        self._up = isinstance(layer.conv, UpModulatedConv)
        if self._up:
            self._blur = blur_kernel(4.0).to(weight)
            weight = weight.transpose(0, 1)
        self._weight = weight.contiguous(memory_format=_CHANNELS_LAST)

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C, h, w), style (B, C) to (B, O, h, w) or (B, O, 2h, 2w)."""
        scale = torch.rsqrt(style.square() @ self._energy + DEMODULATION_EPS) * GAIN  # (B, O)
        convolve = self._double if self._up else self._keep_size
        return F.leaky_relu_(convolve(x, style, scale), LEAK)

    def _keep_size(self, x: Tensor, style: Tensor, scale: Tensor) -> Tensor:
        if self._is_smaller_than(x):
            weight = self._weight * (scale[0, :, None] * style)[:, :, None, None]
            return F.conv2d(x, weight, self._bias, padding=1)
        x = F.conv2d(x * style[:, :, None, None], self._weight, padding=1)
        return torch.addcmul(self._bias[:, None, None], x, scale[:, :, None, None])

    def _double(self, x: Tensor, style: Tensor, scale: Tensor) -> Tensor:
        weight = self._weight  # (C, O, k, k)
        if self._is_smaller_than(x):
            weight = weight * style[0, :, None, None, None]
        else:
            x = x * style[:, :, None, None]
        x = F.conv_transpose2d(x, weight, stride=2)
        groups = x.shape[1]
        if len(x) == 1:
            blur = (scale[0, :, None, None] * self._blur)[:, None]
            return F.conv2d(x, blur, self._bias, padding=1, groups=groups)
        x = F.conv2d(x, self._blur.expand(groups, 1, 4, 4), padding=1, groups=groups)
        return torch.addcmul(self._bias[:, None, None], x, scale[:, :, None, None])

    def _is_smaller_than(self, x: Tensor) -> bool:
        """Whether scaling the weights of a single frame is less work than scaling its maps."""
        return len(x) == 1 and self._weight.numel() <= x.numel()


def _point_weight(conv: ModulatedConv | EqualConv) -> Tensor:
    """Scaled weight (O, C) of a 1 x 1 convolution."""
    return conv.scaled_weight().flatten(1)


def _rows(x: Tensor) -> Tensor:
    """(B, C, s, s) in channels-last memory to (B, s·s, C) without a copy."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _planes(x: Tensor, weight: Tensor) -> Tensor:
    """1 x 1 convolution to a few channels (B, O, s, s), each a plane of its own; weight (O, C) or (B, O, C)."""
    return (weight @ _rows(x).transpose(1, 2)).unflatten(2, x.shape[2:])


def _vectors(x: Tensor, weight: Tensor) -> Tensor:
    """1 x 1 convolution to (B, O, s, s) in channels-last memory; weight (B, O, C)."""
    return (_rows(x) @ weight.transpose(1, 2)).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class _Level:
    """One doubling of the decoder."""

    def __init__(self, level: Level) -> None:
        self.up = _StyledConv(level.up)
        self.conv = _StyledConv(level.conv)
        self.flow_weight = _point_weight(level.flow.flow)
        self.flow_bias = level.flow.bias[:, None, None]
        self.fill_weight = None if level.flow.fill is None else _point_weight(level.flow.fill)
        self.colour_weight = _point_weight(level.rgb.layer.conv) * GAIN
        self.colour_bias = level.rgb.layer.activation.bias[:, None, None] * GAIN
        self.final_bias = level.rgb.bias[:, None, None]


class _PlainConv:
    """A `ConvLayer` or plain 3 x 3 convolution whose weights are scaled once."""

    def __init__(self, conv: EqualConv, bias: Tensor, gain: float = 1.0) -> None:
        self._weight = (conv.scaled_weight() * gain).contiguous(memory_format=_CHANNELS_LAST)
        self._bias = bias * gain

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x.contiguous(memory_format=_CHANNELS_LAST), self._weight, self._bias, padding=1)


class _Output:
    """The output stage."""

    def __init__(self, stage: OutputStage) -> None:
        self._factor = stage.factor
        self._conv = _StyledConv(stage.conv)
        self._look = _PlainConv(stage.look.conv, stage.look.activation.bias, GAIN)
        self._join = _PlainConv(stage.join.conv, stage.join.activation.bias, GAIN)
        self._shift = stage.shift.scaled_weight().contiguous(memory_format=_CHANNELS_LAST)
        self._planes = _PlainConv(stage.planes, stage.bias.repeat_interleave(stage.factor**2))
        self._stage = stage

    def __call__(
        self,
        x: Tensor,
        styles: Iterator[Tensor],
        latent: Tensor,
        motion: Tensor,
        offsets: Tensor,
        rgb: Tensor,
        portrait: PreparedPortrait,
    ) -> Tensor:
        """As `OutputStage` and `compose`; styles (B, C) of the modulated convolutions, latent (B, W), motion (B, M)."""
        assert portrait.layers is not None  # `PortraitDrawer.prepare` asks for them
        assert portrait.seen is not None
        face = self._stage.face_move(portrait.layers, motion)
        base = base_offsets(offsets, face)
        seen = look(portrait.seen, base[0])
        x = self._conv(x, next(styles)) + F.leaky_relu_(self._look(seen), LEAK)
        x = F.leaky_relu_(self._join(x), LEAK)
        planes = F.pixel_shuffle(self._planes(x).contiguous(), self._factor)
        shift = F.conv2d(x * next(styles)[:, :, None, None], self._shift, padding=1)
        sketch = finish([], base, shift, rgb, planes, self._stage.mouth(latent, portrait.layers.sprites, face))
        # One at a time, for the planes of a single picture stay in the cache.
        return torch.cat([compose(portrait.layers, sketch.row(number)) for number in range(len(x))])


@dataclass(frozen=True, eq=False)
class PreparedPortrait:
    """What the frames of a portrait share."""

    styles: Tensor  # (1, all modulated channels), without motion
    tables: list[FeatureTable]  # of each level but the last
    colours: Tensor  # (1, 3, size_px, size_px), the last level's before warping
    vector: Tensor  # (1, W), the style without motion
    layers: PhotoLayers | None  # of the photo at the size that is drawn; read by the output stage alone, as is
    seen: Tensor | None  # `seen_planes`


class PortraitDrawer:
    """Draws with a trained renderer; it takes the weights as they are when it is made.

    Args:
        network: the renderer.
        detail: how many times as fine as its pictures the photo's layers are read, see `PhotoLayers.refined`; training
            and the decoder read them as they are.
    """

    @torch.no_grad()
    def __init__(self, network: Autoencoder, detail: int = 1) -> None:
        self._network, self._detail = network, detail
        decoder = network.decoder
        levels: list[Level] = list(decoder.levels)  # type: ignore[arg-type]
        layers: list[ModulatedConv] = [decoder.first.conv]
        for level in levels:
            layers += [level.up.conv, level.conv.conv, level.flow.flow]
            layers += [] if level.flow.fill is None else [level.flow.fill]
        layers += [] if decoder.output is None else [decoder.output.conv.conv, decoder.output.shift]
        self._style_weight = torch.cat([layer.modulation.scaled_weight() for layer in layers])
        self._style_bias = torch.cat([layer.modulation.bias for layer in layers])
        self._directions = decoder.directions.basis() * decoder.motion_gain  # (W, M)
        self._motion_weight = self._style_weight @ self._directions
        self._style_dims = [layer.weight.shape[1] for layer in layers]
        self._start = decoder.start[None].contiguous(memory_format=_CHANNELS_LAST)
        self._first = _StyledConv(decoder.first)
        self._levels = [_Level(level) for level in levels]
        self._output = None if decoder.output is None else _Output(decoder.output)
        self._grid = levels[-1].flow.grid
        self._double_kernel = blur_kernel(4.0).to(self._start).expand(3, 1, 4, 4).contiguous()

    @torch.no_grad()
    def read(self, image: Tensor, landmarks: NDArray[np.floating] | None = None) -> PreparedPortrait:
        """The portrait in a picture.

        Args:
            image: (1, 3, output_px, output_px) in [−1, 1]; with an output stage larger if wanted.
            landmarks: (478, 2 or 3), pixels of the picture; for the output stage.
        """
        layers = None
        if self._output is not None and landmarks is not None:
            layers = take_apart(to_pixels(image)[0], landmarks).to(image.device)
        return self.prepare(self._network.encode(image.contiguous(memory_format=_CHANNELS_LAST), layers))

    @torch.no_grad()
    def prepare(self, appearance: Appearance) -> PreparedPortrait:
        """The portrait of an appearance of one picture.

        Raises:
            PhotoError: there is an output stage, and the appearance has no layers.
        """
        vector, layers, seen = self._network.decoder.still_style(appearance.vector), appearance.layers, None
        if self._output is not None:
            if layers is None:
                raise PhotoError("a renderer with an output stage cuts the photo at the mouth and eyes; give landmarks")
            seen = seen_planes(layers, self._network.config.size_px)
            layers = layers.refined(self._detail)
        return PreparedPortrait(
            styles=F.linear(vector, self._style_weight, self._style_bias),
            tables=[FeatureTable(features) for features in appearance.features[:-1]],
            colours=_planes(appearance.features[-1], self._levels[-1].colour_weight).contiguous(),
            vector=vector,
            layers=layers,
            seen=seen,
        )

    @torch.no_grad()
    def draw(self, portrait: PreparedPortrait, motion: Tensor, *, refine: bool = True) -> Tensor:
        """Pictures of the portrait with motion (B, M), as `Decoder.forward` draws them: (B, 3, S, S), S being size_px,
        or with an output stage the side of the picture that was read."""
        styles = iter((portrait.styles + motion @ self._motion_weight.T).split(self._style_dims, dim=1))
        x = self._first(self._start.expand(len(motion), -1, -1, -1), next(styles))
        raw = rgb = offsets = None
        for level, table in zip(self._levels, [*portrait.tables, None], strict=True):
            x = level.conv(level.up(x, next(styles)), next(styles))
            flow = _planes(x, level.flow_weight * next(styles)[:, None]) + level.flow_bias
            raw = flow if raw is None else flow + self._double(raw)
            offsets, mask = torch.tanh(raw[:, :2]), torch.sigmoid(raw[:, 2:])
            if table is None or level.fill_weight is None:
                colours = self._warp_colours(portrait.colours, offsets, mask)
            else:
                warped = table.warp(offsets, mask)
                colours = _planes(warped, level.colour_weight)
                x = torch.addcmul(warped, _vectors(x, level.fill_weight * next(styles)[:, None]), 1 - mask)
            colours = F.leaky_relu_(colours + level.colour_bias, LEAK) + level.final_bias
            rgb = colours if rgb is None else colours + self._double(rgb)
        block = self._network.decoder.refine
        assert rgb is not None  # a decoder has two levels or more
        if self._output is not None:
            assert offsets is not None
            latent = portrait.vector + motion @ self._directions.T
            return self._output(x, styles, latent, motion, offsets, rgb, portrait)
        return rgb if block is None or not refine else block(rgb)

    def _warp_colours(self, colours: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
        # For three channels a table would cost more to address than to read.
        grid = self._grid + offsets.permute(0, 2, 3, 1)
        return mask * F.grid_sample(colours.expand(len(mask), -1, -1, -1), grid, align_corners=False)

    def _double(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self._double_kernel, stride=2, padding=1, groups=3)
