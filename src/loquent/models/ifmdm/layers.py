"""Equalised, blurred and modulated layers of the renderer and its discriminator.

Equalised: weights are drawn from N(0, 1) and scaled by 1/√(inputs) at run time, so that every layer learns at the same
pace (Karras et al. 2018, "Progressive Growing of GANs", section 4.1). Modulated convolutions and the blurred changes of
size follow Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN".

Shape letters: B batch, C and O channels in and out, H x W pixels, S channels of the style, k kernel side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAK = 0.2
GAIN = math.sqrt(2)  # restores the variance that the leaky ReLU takes
DEMODULATION_EPS = 1e-8
_TAPS = (1.0, 3.0, 3.0, 1.0)


def leaky(x: Tensor) -> Tensor:
    """√2 · LeakyReLU(x), slope 0.2."""
    return F.leaky_relu(x, LEAK) * GAIN


def blur_kernel(gain: float = 1.0) -> Tensor:
    """[1, 3, 3, 1] ⊗ [1, 3, 3, 1], summing to `gain`, (4, 4)."""
    taps = torch.tensor(_TAPS)
    kernel = taps[:, None] * taps
    return kernel * (gain / kernel.sum())


class Blur(nn.Module):
    """Smooths every channel; `stride` 2 also halves the picture."""

    kernel: Tensor

    def __init__(self, padding: int, gain: float = 1.0, stride: int = 1) -> None:
        super().__init__()
        self.padding = padding
        self.stride = stride
        self.register_buffer("kernel", blur_kernel(gain), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=x.shape[1])


class Upsample(nn.Module):
    """Doubles a picture: zeros between the samples, then the blur kernel times 4."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], 1, 4, 4).to(x.dtype)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class EqualMatrix(nn.Module):
    """x · (W/√in)ᵀ."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(output_dim, input_dim))

    def scaled_weight(self) -> Tensor:
        return self.weight * self.weight.shape[1] ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled_weight())


class EqualLinear(EqualMatrix):
    """x · (W/√in)ᵀ + b."""

    def __init__(self, input_dim: int, output_dim: int, *, initial_bias: float = 0.0) -> None:
        super().__init__(input_dim, output_dim)
        self.bias = nn.Parameter(torch.full((output_dim,), initial_bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled_weight(), self.bias)


class EqualConv(nn.Module):
    """Convolution with W/√(in·k²) and without bias."""

    def __init__(self, input_dim: int, output_dim: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(output_dim, input_dim, kernel, kernel))
        self.stride = stride
        self.padding = padding

    def scaled_weight(self) -> Tensor:
        return self.weight * self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return F.conv2d(x, self.scaled_weight() * gain, stride=self.stride, padding=self.padding)


class BiasedLeaky(nn.Module):
    """leaky(x + b), one b a channel; given √2·x, for √2·leaky(y) = leaky(√2·y) and what comes before is scaled anyway."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def scaled_bias(self) -> Tensor:
        """√2·b, (C, 1, 1)."""
        return (self.bias * GAIN)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.scaled_bias(), LEAK)


class ConvLayer(nn.Module):
    """Equalised convolution that keeps the size, then the biased leaky ReLU."""

    def __init__(self, input_dim: int, output_dim: int, kernel: int) -> None:
        super().__init__()
        self.conv = EqualConv(input_dim, output_dim, kernel, padding=kernel // 2)
        self.activation = BiasedLeaky(output_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x, GAIN))


class ResBlock(nn.Module):
    """Halves the picture; main path and shortcut add up to unit variance."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(input_dim, input_dim, 3)
        self.blur = Blur(padding=2)
        self.conv2 = EqualConv(input_dim, output_dim, 3, stride=2)
        self.activation = BiasedLeaky(output_dim)
        # The published shortcut blurs all pixels and then takes every second one; only those are computed here.
        self.skip_blur = Blur(padding=1, stride=2)
        self.skip = EqualConv(input_dim, output_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        # The sum is divided by √2, which the activation's own √2 and the shortcut's weights take in.
        main = F.leaky_relu(self.conv2(self.blur(self.conv1(x))) + self.activation.bias[:, None, None], LEAK)
        return main + self.skip(self.skip_blur(x), 1 / GAIN)


class ModulatedConv(nn.Module):
    """Convolution whose weights are scaled per sample: by a style on the input side, to unit length on the output side.

    w = W·s/√(in·k²), s = A·style + b; demodulated: w ← w·rsqrt(Σ w² + 1e-8), the sum per output channel. Scaling input
    and output instead of the weights gives the same picture with one convolution for the whole batch.
    """

    def __init__(
        self, input_dim: int, output_dim: int, kernel: int, style_dim: int, *, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(output_dim, input_dim, kernel, kernel))
        self.modulation = EqualLinear(style_dim, input_dim, initial_bias=1.0)
        self.demodulate = demodulate

    def scaled_weight(self) -> Tensor:
        return self.weight * self.weight[0].numel() ** -0.5

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C, H, W), style (B, S) to (B, O, H, W)."""
        weight = self.scaled_weight()
        scale = self.modulation(style)  # (B, C)
        x = self.convolve(x * scale[:, :, None, None], weight)
        if self.demodulate:
            x = x * demodulation(weight, scale)[:, :, None, None]
        return x


class UpModulatedConv(ModulatedConv):
    """Modulated convolution that doubles the picture: transposed with stride 2, then blurred."""

    def __init__(self, input_dim: int, output_dim: int, kernel: int, style_dim: int) -> None:
        super().__init__(input_dim, output_dim, kernel, style_dim)
        self.blur = Blur(padding=1, gain=4.0)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))


def demodulation(weight: Tensor, scale: Tensor) -> Tensor:
    """1/√(Σ (W·s)² + 1e-8) over inputs and taps: W (O, C, k, k), s (B, C) to (B, O)."""
    return torch.rsqrt(scale.square() @ weight.square().sum((2, 3)).T + DEMODULATION_EPS)


class StyledConv(nn.Module):
    """Modulated convolution, then the biased leaky ReLU.

    The published layer adds noise between them that no caller ever gives.
    """

    def __init__(self, input_dim: int, output_dim: int, style_dim: int, *, up: bool = False) -> None:
        super().__init__()
        kind = UpModulatedConv if up else ModulatedConv
        self.conv = kind(input_dim, output_dim, 3, style_dim)
        self.activation = BiasedLeaky(output_dim)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight, scale = self.conv.scaled_weight(), self.conv.modulation(style)
        x = self.conv.convolve(x * scale[:, :, None, None], weight)
        energy = demodulation(weight, scale) * GAIN
        return F.leaky_relu(torch.addcmul(self.activation.scaled_bias(), x, energy[:, :, None, None]), LEAK)
