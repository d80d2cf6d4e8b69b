"""Linear layers for inference on the processor, their weights packed once for oneDNN.

On AMD's processors torch sends float32 products to a library that uses half of their width; oneDNN's own kernels, on
weights laid out for them, were measured at 2.3 times its speed (docs/moda.md, "Speed"). Results differ by rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["none", "gelu_tanh"]
_FUSED = {"none": ("none", ""), "gelu_tanh": ("gelu", "tanh")}
_ROWS = 640  # for which the layout is chosen; any number works


def packing_pays(weight: Tensor) -> bool:
    """Whether a weight can be packed: on the processor, in float32, by a torch that has oneDNN's operators."""
    on_processor = weight.device.type == "cpu" and weight.dtype == torch.float32
    has_operators = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    )
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
        self.bias = bias
        weight = weight.detach().contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if packing_pays(weight) else None
        self._weight = None if self._packed is not None else weight

    @staticmethod
    def of(linear: nn.Linear, activation: Activation = "none") -> PackedLinear:
        """The same layer, packed."""
        return PackedLinear(linear.weight, None if linear.bias is None else linear.bias.detach(), activation)

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is not None:
            kind, algorithm = _FUSED[self.activation]
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, kind, [], algorithm)
        assert self._weight is not None
        y = F.linear(x, self._weight, self.bias)
        return F.gelu(y, approximate="tanh") if self.activation == "gelu_tanh" else y
