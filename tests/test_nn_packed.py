"""Packed layers give what the ordinary ones give."""

import pytest
import torch
from torch.nn import functional as F

from loquent.nn.packed import PackedConv, PackedLinear, attend_packed, packing_pays, project

CLOSE = {"rtol": 1e-4, "atol": 1e-5}

needs_operators = pytest.mark.skipif(
    not packing_pays(torch.empty(1)), reason="this torch has no packed layers on the processor"
)


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("none", lambda y: y),
        ("gelu", F.gelu),
        ("gelu_tanh", lambda y: F.gelu(y, approximate="tanh")),
        ("tanh", torch.tanh),
    ],
)
@torch.no_grad()
def test_packed_products_are_products(activation, function):
    linear, x = torch.nn.Linear(24, 40), random_tensor(2, 5, 24)
    torch.testing.assert_close(PackedLinear.of(linear, activation)(x), function(linear(x)), **CLOSE)
    unpacked = PackedLinear.of(linear.double(), activation)  # double precision cannot be packed
    torch.testing.assert_close(unpacked(x.double()), function(linear(x.double())), rtol=1e-6, atol=1e-6)


def test_only_float32_on_the_processor_is_packed():
    assert not packing_pays(torch.empty(1, dtype=torch.bfloat16))
    assert not packing_pays(torch.empty(1, device="meta"))


@needs_operators
@torch.no_grad()
def test_packed_convolutions_are_convolutions_of_any_size():
    conv = torch.nn.Conv2d(6, 10, 3, padding=1)
    packed = PackedConv.of(conv)
    for size in ((4, 4), (8, 6)):
        x = random_tensor(2, 6, *size)
        torch.testing.assert_close(packed(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), conv(x), **CLOSE)


@needs_operators
@torch.no_grad()
def test_packed_attention_is_attention(monkeypatch):
    q, k, v = (random_tensor(2, 300, 8, seed=seed) for seed in range(3))
    wanted = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(0, 1).flatten(1)
    values = v.transpose(1, 2).contiguous()
    torch.testing.assert_close(attend_packed(q, k, values), wanted, **CLOSE)
    monkeypatch.setattr("loquent.nn.packed._MOST_SCORES", 300 * 128)  # three parts
    torch.testing.assert_close(attend_packed(q, k, values), wanted, **CLOSE)


@needs_operators
def test_projections_by_weights_of_the_moment():
    x, weight = random_tensor(7, 16), random_tensor(24, 16, seed=1)
    torch.testing.assert_close(project(x, weight), x @ weight.t(), **CLOSE)
