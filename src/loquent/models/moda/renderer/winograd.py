"""3x3 and 3x3x3 convolutions on the processor with a quarter of the multiplications.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(4x4, 3x3): a tile of 4 x 4 results
is made of 36 products instead of 144. Results differ from a direct convolution by about 1e-5 of their size.

Shape letters: B batch, C channels, D, H, W, P planes (D with its padding), R rows of tiles, N tiles of a row.
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
_MOST_WEIGHTS_3D = 1 << 15  # products of channels
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def winograd_pays(conv: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether a convolution gains: 3x3(x3) that keeps the size, on the processor, in float32, with enough channels."""
    ones = (1,) * len(conv.kernel_size)
    fits = set(conv.kernel_size) == {3} and conv.stride == ones and conv.padding == ones and conv.groups == 1
    on_processor = conv.weight.device.type == "cpu" and conv.weight.dtype == torch.float32
    narrowest = min(conv.in_channels, conv.out_channels)
    if isinstance(conv, nn.Conv3d):
        # The many weights of the wide ones, on small maps, would cost more to read than they save.
        wide = narrowest >= 64 and conv.in_channels * conv.out_channels <= _MOST_WEIGHTS_3D
    else:
        wide = narrowest >= 128
    return fits and wide and on_processor and torch.backends.mkldnn.is_available()


class WinogradConv(nn.Module):
    """A 3x3 or 3x3x3 convolution with padding 1, for inference on the processor; depth is convolved directly."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv
        self.is_3d = isinstance(conv, nn.Conv3d)
        # Weights in the order that oneDNN reads for strips of one size; it would sort them on every call otherwise.
        self._packed_for: tuple[int, ...] | None = None
        self._packed = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, [D,] H, W) to (B, C_out, [D,] H, W), channels last in memory."""
        height, width = x.shape[-2:]
        if height % _TILE or width % _TILE:
            return self.conv(x)
        rows, columns = height // _TILE, width // _TILE
        planes = x.movedim(1, -1) if self.is_3d else x.movedim(1, -1)[:, None]  # (B, D, H, W, C)
        batch, depth, channels = len(x), planes.shape[1], x.shape[1]
        margin = 1 if self.is_3d else 0
        padded = F.pad(planes, (0, 0, 1, 1, 1, 1, margin, margin))
        out = x.new_empty(batch, depth, rows, _TILE, columns, _TILE, self.conv.out_channels)
        row_bytes = 4 * _POINTS * padded.shape[1] * columns * max(channels, self.conv.out_channels)
        strip = _equal_strips(rows, row_bytes)
        self._pack((padded.shape[1], strip, columns))
        for image, result in zip(padded, out, strict=True):
            for top in range(0, rows, strip):
                points = _input_points(image[:, _TILE * top :], strip, columns)
                _write_results(self._products(points), result[:, top : top + strip])
        if self.conv.bias is not None:
            out.add_(self.conv.bias)
        whole = out.view(batch, depth, height, width, -1)
        return whole.movedim(-1, 1) if self.is_3d else whole[:, 0].movedim(-1, 1)

    def _pack(self, size: tuple[int, ...]) -> None:
        """Prepares the weights for strips of (planes, rows, columns)."""
        if self._packed_for == size:
            return
        kernel = torch.tensor(_KERNEL, dtype=torch.float64)
        points = torch.einsum("ai,oc...ij,bj->aboc...", kernel, self.conv.weight.detach().double(), kernel).float()
        weight = points.reshape(_POINTS * self.conv.out_channels, self.conv.in_channels, *points.shape[4:], 1, 1)
        expected = [1, _POINTS * self.conv.in_channels, *(size if self.is_3d else size[1:])]
        functions = torch._C._nn  # type: ignore[attr-defined]
        reorder = functions.mkldnn_reorder_conv3d_weight if self.is_3d else functions.mkldnn_reorder_conv2d_weight
        zeros, ones = self._zeros_and_ones()
        self._packed = reorder(weight.to_mkldnn(), zeros, ones, ones, _POINTS, expected)
        self._packed_for = size

    def _products(self, points: Tensor) -> Tensor:
        """(P, R, N, 36, C_in) to (D, R, N, 36, C_out): a matrix for each of the 36, as groups of a 1x1 convolution."""
        x = points.flatten(3).movedim(-1, 0)[None]  # (1, 36 C_in, P, R, N)
        zeros, ones = self._zeros_and_ones()
        y = torch.ops.mkldnn._convolution_pointwise(
            x if self.is_3d else x[:, :, 0], self._packed, None, zeros, ones, ones, _POINTS, "none", [], ""
        )
        y = y if self.is_3d else y[:, :, None]
        return y[0].movedim(0, -1).unflatten(-1, (_POINTS, -1))

    def _zeros_and_ones(self) -> tuple[list[int], list[int]]:
        axes = 3 if self.is_3d else 2
        return [0] * axes, [1] * axes


def _equal_strips(rows: int, bytes_of_a_row: int) -> int:
    """Rows of tiles worked on at once: as many as the cache holds, and all strips of one size."""
    most = max(1, _STRIP_BYTES // bytes_of_a_row)
    return max(count for count in range(1, rows + 1) if count <= most and rows % count == 0)


def _input_points(padded: Tensor, rows: int, columns: int) -> Tensor:
    """The 36 numbers of every tile, (P, R, N, 36, C), from rows of the padded planes (P, H', W + 2, C)."""
    points = padded.new_empty(len(padded), rows, columns, _POINTS, padded.shape[-1])
    lines = _input_transform([padded[:, i : i + _TILE * (rows - 1) + 1 : _TILE] for i in range(6)])
    for i, line in enumerate(lines):
        parts = _input_transform([line[:, :, j : j + _TILE * (columns - 1) + 1 : _TILE] for j in range(6)])
        for j, part in enumerate(parts):
            points[:, :, :, 6 * i + j] = part
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
    """Results of every tile, (D, R, 4, N, 4, C), from its 36 products (D, R, N, 36, C)."""
    lines = _output_transform(list(points.unflatten(3, (6, 6)).unbind(3)))
    for i, line in enumerate(lines):
        for j, part in enumerate(_output_transform(list(line.unbind(3)))):
            out[:, :, i, :, j] = part


def _output_transform(m: Sequence[Tensor]) -> list[Tensor]:
    near, near_odd = m[1] + m[2], m[1] - m[2]
    far, far_odd = m[3] + m[4], m[3] - m[4]
    return [
        m[0] + near + far,
        torch.add(near_odd, far_odd, alpha=2),
        torch.add(near, far, alpha=4),
        torch.add(near_odd, far_odd, alpha=8) + m[5],
    ]
