"""Products and convolutions for inference on the processor, their weights packed once for oneDNN.

On AMD's processors torch sends float32 products to a library that uses half of their width; oneDNN's own kernels, on
weights laid out for them, were measured at 2.3 times its speed (docs/moda.md, "Speed"). Results differ by rounding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["none", "gelu", "gelu_tanh", "tanh"]
_FUSED = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "tanh": ("tanh", "")}
_ACTIVATIONS = {
    "none": lambda y: y,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "tanh": torch.tanh,
}
_ROWS = 640  # for which the layout is chosen; any number works
# Scores of attention that are made at once. Larger blocks would leave the processor's cache, and C's allocator would
# give them back to the system each time: asking for them again took longer than the products.
_MOST_SCORES = 1 << 18
_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_convolution_pointwise")


def packing_pays(weight: Tensor) -> bool:
    """Whether a weight can be packed: on the processor, in float32, by a torch that has oneDNN's operators."""
    on_processor = weight.device.type == "cpu" and weight.dtype == torch.float32
    has_operators = all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    return on_processor and torch.backends.mkldnn.is_available() and has_operators


class PackedLinear(nn.Module):
    """y = activation(x·Wᵀ + b); an ordinary product where packing is not possible.

    Args:
        weight: (out, in).
        bias: (out,).
        activation: applied within the product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> None:
        super().__init__()
        self.activation: Activation = activation
        self.bias = None if bias is None else bias.detach().contiguous()
        weight = weight.detach().contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if packing_pays(weight) else None
        self._weight = None if self._packed is not None else weight

    @staticmethod
    def of(linear: nn.Linear, activation: Activation = "none") -> PackedLinear:
        """The same layer, packed."""
        return PackedLinear(linear.weight, linear.bias, activation)

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is not None:
            kind, algorithm = _FUSED[self.activation]
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, kind, [], algorithm)
        assert self._weight is not None
        return _ACTIVATIONS[self.activation](F.linear(x, self._weight, self.bias))


class PackedConv(nn.Module):
    """A convolution of pictures with their channels last, (B, H, W, C_in) to (B, H', W', C_out).

    Only for weights for which `packing_pays`. oneDNN's order depends on the size of the pictures: weights are packed
    anew when it changes.

    Args:
        weight: (C_out, C_in, k, k).
        bias: (C_out,), or None.
        padding: zeros around the pictures.
        stride: pixels from one result to the next.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int = 0, stride: int = 1) -> None:
        super().__init__()
        self._weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.detach().contiguous()
        self._padding, self._stride = [padding, padding], [stride, stride]
        self._packed, self._packed_for = self._weight, torch.Size()

    @staticmethod
    def of(conv: nn.Conv2d) -> PackedConv:
        """The same layer, packed."""
        padding = conv.padding[0]
        assert isinstance(padding, int)
        return PackedConv(conv.weight, conv.bias, padding, conv.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        pictures = x.permute(0, 3, 1, 2)
        if pictures.shape != self._packed_for:
            reorder = torch._C._nn.mkldnn_reorder_conv2d_weight  # type: ignore[attr-defined]
            ones = [1, 1]
            self._packed = reorder(self._weight.to_mkldnn(), self._padding, self._stride, ones, 1, list(pictures.shape))
            self._packed_for = pictures.shape
        out = torch.ops.mkldnn._convolution_pointwise(
            pictures, self._packed, self.bias, self._padding, self._stride, [1, 1], 1, "none", [], ""
        )
        return out.permute(0, 2, 3, 1)


def attend_packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ)·v of one sequence, for hundreds of tokens or more; see `packing_pays`.

    torch's attention makes its products with the slow library. Here keys and values are the weights of oneDNN's.

    Args:
        q: queries (H, T, d), scaled already.
        k: keys (H, T, d).
        v: values, transposed: (H, d, T).

    Returns:
        (T, H·d).
    """
    num_heads, length, dim = q.shape
    num_parts = math.ceil(length * length / _MOST_SCORES)
    rows = math.ceil(length / num_parts)
    out = q.new_empty(length, num_heads, dim)
    for head, (queries, keys, values) in enumerate(zip(q, k, v, strict=True)):
        for part, result in zip(queries.split(rows), out[:, head].split(rows), strict=True):
            result.copy_(project(project(part, keys).softmax(-1), values))
    return out.flatten(1)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ for x (T, in) and W (out, in), both contiguous, W of this moment: (T, out); see `packing_pays`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
