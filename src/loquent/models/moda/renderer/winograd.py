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
        self.conv = conv
        # Weights in the order that oneDNN reads for strips of one size; it would sort them on every call otherwise.
        self._packed_for: tuple[int, int] | None = None
        self._packed = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H, W), channels last in memory."""
        batch, channels, height, width = x.shape
        if height % _TILE or width % _TILE:
            return self.conv(x)
        rows, columns = height // _TILE, width // _TILE
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, H + 2, W + 2, C)
        out = x.new_empty(batch, rows, _TILE, columns, _TILE, self.conv.out_channels)
        strip = _equal_strips(rows, 4 * _POINTS * columns * max(channels, self.conv.out_channels))
        self._pack(strip, columns)
        for image, result in zip(padded, out, strict=True):
            for top in range(0, rows, strip):
                points = _input_points(image[_TILE * top :], strip, columns)
                _write_results(self._products(points), result[top : top + strip])
        if self.conv.bias is not None:
            out.add_(self.conv.bias)
        return out.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _pack(self, rows: int, columns: int) -> None:
        if self._packed_for == (rows, columns):
            return
        kernel = torch.tensor(_KERNEL, dtype=torch.float64)
        points = torch.einsum("ai,ocij,bj->aboc", kernel, self.conv.weight.detach().double(), kernel).float()
        weight = points.reshape(_POINTS * self.conv.out_channels, self.conv.in_channels, 1, 1)
        ones, zeros = [1, 1], [0, 0]
        expected = [1, _POINTS * self.conv.in_channels, rows, columns]
        reorder = torch._C._nn.mkldnn_reorder_conv2d_weight  # type: ignore[attr-defined]
        self._packed = reorder(weight.to_mkldnn(), zeros, ones, ones, _POINTS, expected)
        self._packed_for = rows, columns

    def _products(self, points: Tensor) -> Tensor:
        """(R, N, 36, C_in) to (R, N, 36, C_out): a matrix for each of the 36, as 36 groups of a 1x1 convolution."""
        rows, columns = points.shape[:2]
        x = points.view(1, rows, columns, -1).permute(0, 3, 1, 2)
        ones, zeros = [1, 1], [0, 0]
        y = torch.ops.mkldnn._convolution_pointwise(x, self._packed, None, zeros, ones, ones, _POINTS, "none", [], "")
        return y.permute(0, 2, 3, 1).reshape(rows, columns, _POINTS, -1)


def _equal_strips(rows: int, bytes_of_a_row: int) -> int:
    """Rows of tiles worked on at once: as many as the cache holds, and all strips of one size."""
    most = max(1, _STRIP_BYTES // bytes_of_a_row)
    return max(count for count in range(1, rows + 1) if count <= most and rows % count == 0)


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
