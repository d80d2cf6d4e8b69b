"""3x3 convolutions on the processor with a quarter of the multiplications.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(4x4, 3x3): a tile of 4 x 4 results
is made of 36 products instead of 144. Results differ from a direct convolution by about 1e-5 of their size.

Shape letters: B batch, C channels, H, W, R rows of tiles, N tiles of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_TILE = 4
_POINTS = 36  # products of a tile
_STRIP_BYTES = 16 << 20  # of transformed values: what stays in a processor's cache
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def winograd_pays(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one of those that gain: 3x3, on the processor, in float32, with enough channels."""
    fits = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.padding == (1, 1) and conv.groups == 1
    wide = min(conv.in_channels, conv.out_channels) >= 128
    on_processor = conv.weight.device.type == "cpu" and conv.weight.dtype == torch.float32
    return fits and wide and on_processor and torch.backends.mkldnn.is_available()


class WinogradConv2d(nn.Module):
    """A 3x3 convolution with padding 1, for inference on the processor."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv  # for maps that do not divide into tiles
        kernel = torch.tensor(_KERNEL, dtype=torch.float64)
        points = torch.einsum("ai,ocij,bj->aboc", kernel, conv.weight.detach().double(), kernel).float()
        self._weight = points.reshape(_POINTS * conv.out_channels, conv.in_channels, 1, 1)
        self._packed: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W), channels last in memory."""
        batch, channels, height, width = x.shape
        if height % _TILE or width % _TILE:
            return self.conv(x)
        rows, columns = height // _TILE, width // _TILE
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, H + 2, W + 2, C)
        out = x.new_empty(batch, rows, _TILE, columns, _TILE, self.conv.out_channels)
        widest = max(channels, self.conv.out_channels)
        strip = max(1, _STRIP_BYTES // (4 * _POINTS * columns * widest))
        for image, result in zip(padded, out, strict=True):
            for top in range(0, rows, strip):
                count = min(strip, rows - top)
                points = _input_points(image[_TILE * top :], count, columns)
                _write_results(self._products(points), result[top : top + count])
        if self.conv.bias is not None:
            out.add_(self.conv.bias)
        return out.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _products(self, points: Tensor) -> Tensor:
        """(R, N, 36, C_in) to (R, N, 36, C_out): a matrix for each of the 36."""
        rows, columns = points.shape[:2]
        x = points.view(1, rows, columns, -1).permute(0, 3, 1, 2)
        if (rows, columns) not in self._packed:
            self._packed[rows, columns] = _pack(self._weight, x)
        y = _packed_conv(x, self._packed[rows, columns])
        return y.permute(0, 2, 3, 1).reshape(rows, columns, _POINTS, -1)


def _pack(weight: Tensor, x: Tensor) -> Tensor:
    """The grouped 1x1 weights in the order that oneDNN reads them in; otherwise it would sort them on every call."""
    ones, zeros = [1, 1], [0, 0]
    reorder = torch._C._nn.mkldnn_reorder_conv2d_weight  # type: ignore[attr-defined]
    return reorder(weight.to_mkldnn(), zeros, ones, ones, _POINTS, list(x.shape))


def _packed_conv(x: Tensor, weight: Tensor) -> Tensor:
    ones, zeros = [1, 1], [0, 0]
    return torch.ops.mkldnn._convolution_pointwise(x, weight, None, zeros, ones, ones, _POINTS, "none", [], "")


def _input_points(padded: Tensor, rows: int, columns: int) -> Tensor:
    """The 36 numbers of every tile, (R, N, 36, C), from rows of the padded image (H', W + 2, C)."""
    points = padded.new_empty(rows, columns, _POINTS, padded.shape[-1])
    lines = _input_transform([padded[i : i + _TILE * (rows - 1) + 1 : _TILE] for i in range(6)])
    for i, line in enumerate(lines):
        parts = _input_transform([line[:, j : j + _TILE * (columns - 1) + 1 : _TILE] for j in range(6)])
        for j, part in enumerate(parts):
            points[:, :, 6 * i + j] = part
    return points


def _input_transform(d: Sequence[Tensor]) -> list[Tensor]:
    far_even, far_odd = torch.add(d[4], d[2], alpha=-4), torch.add(d[3], d[1], alpha=-4)
    even, odd = d[4] - d[2], 2 * (d[3] - d[1])
    return [
        torch.add(torch.add(d[4], d[0], alpha=4), d[2], alpha=-5),
        far_even + far_odd,
        far_even - far_odd,
        even + odd,
        even - odd,
        torch.add(torch.add(d[5], d[1], alpha=4), d[3], alpha=-5),
    ]


def _write_results(points: Tensor, out: Tensor) -> None:
    """Results of every tile, (R, 4, N, 4, C), from its 36 products (R, N, 36, C)."""
    lines = _output_transform(list(points.unflatten(2, (6, 6)).unbind(2)))
    for i, line in enumerate(lines):
        for j, part in enumerate(_output_transform(list(line.unbind(2)))):
            out[:, i, :, j] = part


def _output_transform(m: Sequence[Tensor]) -> list[Tensor]:
    near, near_odd = m[1] + m[2], m[1] - m[2]
    far, far_odd = m[3] + m[4], m[3] - m[4]
    return [
        m[0] + near + far,
        torch.add(near_odd, far_odd, alpha=2),
        torch.add(near, far, alpha=4),
        torch.add(near_odd, far_odd, alpha=8) + m[5],
    ]
