"""The renderer's networks with less arithmetic: the same functions, arranged for inference.

What is saved:

- A convolution of a map that was enlarged by nearest neighbour sees few different pixels. It becomes a convolution of
  the small map, whose kernels are sums of the large ones' taps (`WindowConv`).
- Enlarged four times, only 3 of 4 rows and columns of such a convolution's result differ. What follows reads those
  (`CompactConv`), as 16 convolutions with merged taps instead of one.
- The instance norm of an enlarged map is that of the small map; the largest enlarged maps are never made.
- A 1x1 convolution after a SPADE norm merges with the convolution that makes its shift.
- Keypoint motions of the volume are shifts of a grid, so each axis is interpolated on its own (`shifted_volumes`).
- Batch norms merge into the convolutions before them.
- On the processor, 3x3 and 3x3x3 convolutions of many channels are done in Winograd's way (`winograd`), and the 7x7x7 one through
  spectra (`SpectralConv3d`).

docs/moda.md, "Speed", has the figures. Shape letters: B batch, C channels, D, H, W, K keypoints, T frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from loquent.models.moda.renderer.blocks import ConvNorm2d, ConvNorm3d
from loquent.models.moda.renderer.decoder import SLOPE, SpadeDecoder
from loquent.models.moda.renderer.dense_motion import DenseMotion, coordinate_grid, heat_maps, sample_volume
from loquent.models.moda.renderer.warping import Warped, WarpingNetwork
from loquent.models.moda.renderer.winograd import WinogradConv, winograd_pays

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import EllipsisType

    from torch import Tensor

    from loquent.models.moda.renderer.decoder import Spade, SpadeBlock
    from loquent.models.moda.renderer.dense_motion import DenseMotionNetwork

_LAYOUT_2D, _LAYOUT_3D = torch.channels_last, torch.channels_last_3d
_MANY_WEIGHTS = 100_000  # products of channels above which a small map does not pay for four kernels

# Taps of a 3-tap kernel on an enlarged line -> taps of a 2-tap window on the line itself, one matrix for each result
# that differs. The line is padded by one pixel, and result 0 reads from one pixel earlier than the others.
_WINDOWS = {
    2: ([[1.0, 0, 0], [0, 1, 1]], [[1.0, 1, 0], [0, 0, 1]]),
    4: ([[1.0, 0, 0], [0, 1, 1]], [[1.0, 1, 1], [0, 0, 0]], [[1.0, 1, 0], [0, 0, 1]]),
}
# Enlarged four times, the line of results is A B B C for each pixel; A B C are kept. For each of the four places, the
# first kept result that its 3 taps read (A is 0), and the taps merged.
_COMPACT = (
    (-1, [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]),
    (0, [[1.0, 0, 0], [0, 1, 1]]),
    (1, [[1.0, 1, 0], [0, 0, 1]]),
    (1, [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]),
)


class WindowConv(nn.Module):
    """3x3 (or 3x3x3) convolution of a map enlarged by nearest neighbour in height and width, from the small map.

    Args:
        weight: (C_out, C_in, [3,] 3, 3) of the convolution.
        bias: (C_out,).
        factor: 2 or 4. With 4, the result holds the 3 rows and columns of each 4 that differ.
    """

    def __init__(self, weight: Tensor, bias: Tensor, factor: int) -> None:
        super().__init__()
        merge = torch.tensor(_WINDOWS[factor], dtype=weight.dtype, device=weight.device)  # (results, 2, 3)
        self.results = len(merge)
        self.is_3d = weight.ndim == 5
        windows = torch.einsum("yij,xkl,oc...jl->yxoc...ik", merge, merge, weight).flatten(0, 2)
        layout = _LAYOUT_3D if self.is_3d else _LAYOUT_2D
        self.weight = nn.Parameter(windows.contiguous(memory_format=layout), requires_grad=False)
        self.bias = nn.Parameter(bias.repeat(self.results**2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, [D,] H, W) to (B, C_out, [D,] results·H, results·W)."""
        if self.is_3d:
            windows = F.conv3d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, padding=(1, 0, 0))
        else:
            windows = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)
        n, (height, width) = self.results, x.shape[-2:]
        parts = windows.unflatten(1, (n, n, -1))  # (B, y, x, C_out, [D,] H + 1, W + 1)
        shape = (*x.shape[:1], parts.shape[3], *x.shape[2:-2], n * height, n * width)
        out = x.new_empty(shape).contiguous(memory_format=_LAYOUT_3D if self.is_3d else _LAYOUT_2D)
        for i in range(n):
            for j in range(n):
                top, left = min(i, 1), min(j, 1)
                out[..., i::n, j::n] = parts[:, i, j, ..., top : top + height, left : left + width]
        return out


class CompactConv(nn.Module):
    """3x3 convolution of the fourfold enlarged map whose differing rows and columns `WindowConv` gives."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.weights = nn.ParameterList()
        for _, merge_y in _COMPACT:
            for _, merge_x in _COMPACT:
                y, x = (torch.tensor(m, dtype=weight.dtype, device=weight.device) for m in (merge_y, merge_x))
                merged = torch.einsum("ij,kl,ocjl->ocik", y, x, weight).contiguous(memory_format=_LAYOUT_2D)
                self.weights.append(nn.Parameter(merged, requires_grad=False))

    def place(self, padded: Tensor, y: int, x: int) -> Tensor:
        """Result at rows y::4 and columns x::4, from the compact map padded by one on every side."""
        top, left = _COMPACT[y][0] + 1, _COMPACT[x][0] + 1
        return F.conv2d(padded[:, :, top:, left:], self.weights[4 * y + x], self.bias, stride=3)


def _norm(x: Tensor) -> Tensor:
    return F.instance_norm(x).contiguous(memory_format=_LAYOUT_2D)


def _modulation(norm: Spade) -> tuple[Tensor, Tensor]:
    """Weight and bias that give 1 + gamma and beta one after the other."""
    assert norm.gamma.bias is not None
    assert norm.beta.bias is not None
    return torch.cat([norm.gamma.weight, norm.beta.weight]), torch.cat([norm.gamma.bias + 1, norm.beta.bias])


def _joined_shared(norms: Sequence[Spade]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the first convolutions of several norms, which read the same map."""
    weight = torch.cat([norm.shared.weight for norm in norms])
    return weight, torch.cat([norm.shared.bias for norm in norms if norm.shared.bias is not None])


def _conv2d(weight: Tensor, bias: Tensor | None, padding: int = 1) -> nn.Module:
    channels_out, channels_in, *kernel = weight.shape
    conv = nn.Conv2d(
        channels_in, channels_out, (kernel[0], kernel[1]), padding=padding, bias=bias is not None, device="meta"
    )
    conv.weight = nn.Parameter(weight.contiguous(memory_format=_LAYOUT_2D), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias, requires_grad=False)
    return _accelerated(conv)


def _accelerated(conv: nn.Conv2d | nn.Conv3d) -> nn.Module:
    return WinogradConv(conv) if winograd_pays(conv) else conv


class _Modulated(nn.Module):
    """A SPADE norm with both of its convolutions in one."""

    def __init__(self, norm: Spade) -> None:
        super().__init__()
        self.conv = _conv2d(*_modulation(norm))

    def forward(self, normed: Tensor, shared: Tensor) -> Tensor:
        scale, shift = self.conv(shared).chunk(2, dim=1)
        return torch.addcmul(shift, normed, scale)


class FastMiddleBlock(nn.Module):
    """`SpadeBlock` without a change of size or width."""

    def __init__(self, block: SpadeBlock) -> None:
        super().__init__()
        norms = (block.norm0, block.norm1)
        self.shared = _conv2d(*_joined_shared(norms))
        self.norm0, self.norm1 = (_Modulated(n) for n in norms)
        self.conv0, self.conv1 = _accelerated(block.conv0), _accelerated(block.conv1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shared0, shared1 = F.relu_(self.shared(condition)).chunk(2, dim=1)
        y = self.conv0(F.leaky_relu_(self.norm0(_norm(x), shared0), SLOPE))
        y = self.conv1(F.leaky_relu_(self.norm1(_norm(y), shared1), SLOPE))
        return y.add_(x)


class FastUpBlock(nn.Module):
    """`SpadeBlock` of a map enlarged twice, with a condition to be enlarged `factor` (2 or 4) times.

    With 4, neither the enlarged map nor the enlarged condition is made.
    """

    def __init__(self, block: SpadeBlock, factor: int) -> None:
        super().__init__()
        norms = (block.norm_shortcut, block.norm0, block.norm1)
        self.shared = WindowConv(*_joined_shared(norms), factor)
        shortcut = block.conv_shortcut.weight.detach()  # (C_out, C_in, 1, 1)
        self.shortcut = _conv2d(shortcut, None, padding=0)
        self.width_out, self.width = shortcut.shape[:2]
        gamma, beta = block.norm_shortcut.gamma, block.norm_shortcut.beta
        assert gamma.bias is not None
        assert beta.bias is not None
        merged_weight = torch.einsum("oc,cikl->oikl", shortcut[:, :, 0, 0], beta.weight)
        merged_bias = shortcut[:, :, 0, 0] @ beta.bias
        parts = [
            (torch.cat([gamma.weight, merged_weight]), torch.cat([gamma.bias + 1, merged_bias])),
            _modulation(block.norm0),
            _modulation(block.norm1),
        ]
        self.modulations = nn.ModuleList(
            CompactConv(w.detach(), b.detach()) if factor == 4 else _conv2d(w.detach(), b.detach()) for w, b in parts
        )
        self.conv0, self.conv1 = _accelerated(block.conv0), _accelerated(block.conv1)

    def forward(self, small: Tensor, condition: Tensor) -> Tensor:
        """Small (B, C, H, W) and condition (B, C', 2H / factor, 2W / factor) to (B, C_out, 2H, 2W)."""
        shared = F.relu_(self.shared(condition)).chunk(3, dim=1)
        normed = _norm(small)
        out = self._empty(small, self.width_out)
        modulated = self._empty(small, self.width)
        for at, x, values in self._places(0, normed, shared[0]):
            scale, shift = values.split([self.width, self.width_out], dim=1)
            out[at] = self.shortcut((x * scale).contiguous(memory_format=_LAYOUT_2D)).add_(shift)
        for at, x, values in self._places(1, normed, shared[1]):
            scale, shift = values.chunk(2, dim=1)
            modulated[at] = F.leaky_relu_(torch.addcmul(shift, x, scale), SLOPE)
        inner = _norm(self.conv0(modulated))
        modulated = torch.empty_like(inner)
        for at, x, values in self._places(2, inner, shared[2], enlarged=True):
            scale, shift = values.chunk(2, dim=1)
            modulated[at] = F.leaky_relu_(torch.addcmul(shift, x, scale), SLOPE)
        return out.add_(self.conv1(modulated))

    def _empty(self, small: Tensor, channels: int) -> Tensor:
        batch, _, height, width = small.shape
        return small.new_empty(batch, channels, 2 * height, 2 * width).contiguous(memory_format=_LAYOUT_2D)

    def _places(
        self, index: int, x: Tensor, shared: Tensor, *, enlarged: bool = False
    ) -> Iterator[tuple[EllipsisType | tuple[EllipsisType | slice, ...], Tensor, Tensor]]:
        """Index of places in the result, x there, and the modulation's values there.

        `enlarged` says that x is at the size of the result already.
        """
        conv = self.modulations[index]
        if not isinstance(conv, CompactConv):
            yield ..., x if enlarged else F.interpolate(x, scale_factor=2), conv(shared)
            return
        padded = F.pad(shared, (1, 1, 1, 1))
        for i in range(4):
            for j in range(4):
                at = (..., slice(i, None, 4), slice(j, None, 4))
                there = x[at] if enlarged else x[..., i // 2 :: 2, j // 2 :: 2]
                yield at, there, conv.place(padded, i, j)


class FastDecoder(nn.Module):
    """`SpadeDecoder` for inference; it takes over the layers of the one it is made from."""

    def __init__(self, decoder: SpadeDecoder) -> None:
        super().__init__()
        decoder.to(memory_format=_LAYOUT_2D).requires_grad_(False)  # type: ignore[call-overload]
        self.upscale = decoder.upscale
        self.stem = _accelerated(decoder.stem)
        self.middle = nn.ModuleList(FastMiddleBlock(block) for block in decoder.middle)  # type: ignore[arg-type]
        self.up = nn.ModuleList(
            FastUpBlock(block, factor)  # type: ignore[arg-type]
            for block, factor in zip(decoder.up, (2, 4), strict=True)
        )
        self.to_picture = decoder.to_picture

    def forward(self, features: Tensor) -> Tensor:
        """As `SpadeDecoder.forward`."""
        features = features.contiguous(memory_format=_LAYOUT_2D)
        x = self.stem(features)
        for block in (*self.middle, *self.up):
            x = block(x, features)
        x = self.to_picture(F.leaky_relu_(x, SLOPE))
        return F.pixel_shuffle(x, self.upscale).sigmoid_()


def fold_norm(block: ConvNorm2d | ConvNorm3d) -> nn.Conv2d | nn.Conv3d:
    """The block's convolution with its batch norm merged in, inference only."""
    return fuse_conv_bn_eval(block.conv.eval(), block.norm.eval())


def shifted_volumes(volume: Tensor, shifts: Tensor) -> Tensor:
    """What `warp_by_each` gives for motions that are shifts of the grid.

    Args:
        volume: (B, C, D, H, W).
        shifts: (B, K, 3): x, y, z.

    Returns:
        (B, K, C, D, H, W).
    """
    readers = [_line_reader(n, shifts[..., axis]) for axis, n in zip((2, 1, 0), volume.shape[2:], strict=True)]
    z, y, x = readers  # (B, K, n, n) each
    moved = torch.einsum("bcdhw,bkvw->bkcdhv", volume, x)
    moved = torch.einsum("bkcdhv,bkuh->bkcduv", moved, y)
    return torch.einsum("bkcduv,bked->bkceuv", moved, z)


def _line_reader(n: int, shift: Tensor) -> Tensor:
    """Linear interpolation of a line of n pixels at -1..1 + shift, zeros outside, (B, K) to (B, K, n, n).

    The places run from -1 to 1 between pixel centres, but are read as if between pixel edges, as published.
    """
    line = torch.linspace(-1, 1, n, dtype=shift.dtype, device=shift.device)
    places = ((line + shift[..., None] + 1) * n - 1) / 2
    pixels = torch.arange(n, dtype=shift.dtype, device=shift.device)
    return (1 - (places[..., None] - pixels).abs()).clamp_(min=0)


class Source(NamedTuple):
    """What the warping of every frame shares."""

    volume: Tensor  # (1, C, D, H, W)
    compressed: Tensor  # (1, c, D, H, W)
    keypoints: Tensor  # (1, K, 3)
    heat: Tensor  # (1, K, D, H, W)


class SpectralConv3d(nn.Module):
    """Convolution with a large kernel as a product of spectra, on tiles of height and width.

    A tile of 16 x 16 results reads 22 x 22 values; depth is taken whole. For the 7x7x7 mask convolution this is a
    sixtieth of the multiplications.
    """

    TILE = 16

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.kernel = conv.kernel_size
        self.bias = conv.bias
        self.weight = conv.weight
        self._spectra: dict[int, Tensor] = {}  # depth of the volume -> (frequencies, C_out, C_in)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, D, H, W) to (B, C_out, D, H, W)."""
        depth, height, width = x.shape[2:]
        margins = [k // 2 for k in self.kernel]
        rows, columns = -(-height // self.TILE), -(-width // self.TILE)
        spare_y, spare_x = rows * self.TILE - height, columns * self.TILE - width
        left, right = margins[2], margins[2] + spare_x
        padded = F.pad(x, (left, right, margins[1], margins[1] + spare_y, margins[0], margins[0]))
        span_y, span_x = self.TILE + self.kernel[1] - 1, self.TILE + self.kernel[2] - 1
        tiles = padded.unfold(3, span_y, self.TILE).unfold(4, span_x, self.TILE)  # (B, C, D', rows, columns, y, x)
        tiles = tiles.permute(0, 3, 4, 1, 2, 5, 6)  # (B, rows, columns, C, D', y, x)
        size = tiles.shape[4:]
        spectra = torch.fft.rfftn(tiles, dim=(4, 5, 6))
        places = spectra.flatten(4).flatten(0, 2).permute(2, 1, 0)  # (frequencies, C, B * tiles)
        out = torch.bmm(self._weight_spectrum(size), places)  # (frequencies, C_out, B * tiles)
        out = out.permute(2, 1, 0).unflatten(2, spectra.shape[4:])
        results = torch.fft.irfftn(out, s=size, dim=(2, 3, 4))[..., :depth, : self.TILE, : self.TILE]
        results = results.unflatten(0, (len(x), rows, columns)).permute(0, 3, 4, 1, 5, 2, 6)
        whole = results.flatten(5, 6).flatten(3, 4)[..., :height, :width]
        return whole + self.bias[:, None, None, None]

    def _weight_spectrum(self, size: torch.Size) -> Tensor:
        """Conjugate spectrum of the kernel, so that the product is a correlation: computed once for each depth."""
        if size[0] not in self._spectra:
            spectrum = torch.fft.rfftn(self.weight, s=size, dim=(2, 3, 4)).conj()
            self._spectra[size[0]] = spectrum.flatten(2).permute(2, 0, 1).resolve_conj().contiguous()
        return self._spectra[size[0]]


class EnlargingConv(nn.Module):
    """Convolution of a volume enlarged twice in height and width, for layers whose weights are many and maps small.

    There the four kernels of `WindowConv` cost more to read than they save.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=(1, 2, 2)))


def _up_conv(conv: nn.Conv3d) -> nn.Module:
    assert conv.bias is not None
    if conv.in_channels * conv.out_channels > _MANY_WEIGHTS:
        return EnlargingConv(conv)
    return WindowConv(conv.weight.detach(), conv.bias.detach(), 2)


class FastHourglass(nn.Module):
    """`Hourglass` with merged norms and small-map convolutions on the way up."""

    def __init__(self, network: DenseMotionNetwork) -> None:
        super().__init__()
        hourglass = network.hourglass
        self.down = nn.ModuleList(_accelerated(fold_norm(block)) for block in hourglass.down)  # type: ignore[arg-type]
        self.up = nn.ModuleList(_up_conv(fold_norm(block)) for block in hourglass.up)  # type: ignore[arg-type]
        self.out = _accelerated(fold_norm(hourglass.out))

    def forward(self, x: Tensor) -> Tensor:
        skips = [x]
        for conv in self.down:
            skips.append(F.avg_pool3d(F.relu_(conv(skips[-1])), (1, 2, 2)))
        x = skips.pop()
        for conv in self.up:
            x = torch.cat([F.relu_(conv(x)), skips.pop()], dim=1)
        return F.relu_(self.out(x))


class FastWarping(nn.Module):
    """`WarpingNetwork` for inference, split into what a source and what a frame needs; it takes over the layers."""

    def __init__(self, network: WarpingNetwork) -> None:
        super().__init__()
        dense = network.dense_motion
        self.compress = fold_norm(dense.compress)
        self.hourglass = FastHourglass(dense)
        # On other devices a direct convolution of this size is well served.
        self.mask = SpectralConv3d(dense.mask) if dense.mask.weight.device.type == "cpu" else dense.mask
        self.occlusion = dense.occlusion
        self.flatten = fold_norm(network.flatten)
        self.mix = network.mix
        self.requires_grad_(False)

    def prepare(self, volume: Tensor, keypoints: Tensor) -> Source:
        """Once for each photo: volume (1, C, D, H, W) and transformed keypoints (1, K, 3)."""
        compressed = F.relu(self.compress(volume))
        return Source(volume, compressed, keypoints, heat_maps(keypoints, volume.shape[2:]))

    def forward(self, source: Source, target: Tensor) -> Warped:
        """Moves the source to keypoints (T, K, 3)."""
        num_frames = len(target)
        size = source.volume.shape[2:]
        shifts = F.pad(source.keypoints - target, (0, 0, 1, 0))  # the background, first, stays
        moved = shifted_volumes(source.compressed.expand(num_frames, -1, -1, -1, -1), shifts)
        heat = F.pad(heat_maps(target, size) - source.heat, (0, 0, 0, 0, 0, 0, 1, 0))
        features = self.hourglass(torch.cat([heat[:, :, None], moved], dim=2).flatten(1, 2))
        mask = self.mask(features).softmax(1)
        flow = coordinate_grid(size, target) + torch.einsum("tkdhw,tkx->tdhwx", mask, shifts)
        occlusion = self._occlusion(features)
        volume = source.volume.expand(num_frames, -1, -1, -1, -1)
        read = sample_volume(volume, flow).flatten(1, 2)
        out = self.mix(F.leaky_relu_(self.flatten(read), 0.01)).mul_(occlusion)
        return Warped(out, DenseMotion(flow, occlusion, mask))

    def _occlusion(self, features: Tensor) -> Tensor:
        """7x7 convolution to one channel, as a product with every tap and a sum of shifted maps: (T, 1, H, W)."""
        weight, bias = self.occlusion.weight, self.occlusion.bias
        size = self.occlusion.kernel_size[0]
        taps = weight[0].flip(1, 2).flatten(1).T  # (49, C·D); the sum below reads them backwards
        maps = features.flatten(1, 2).flatten(2)  # (T, C·D, H·W)
        summed = F.fold(taps @ maps, features.shape[-2:], size, padding=size // 2)
        return (summed + bias).sigmoid_() if bias is not None else summed.sigmoid_()
