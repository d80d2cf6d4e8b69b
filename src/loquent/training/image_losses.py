"""Losses of networks that draw pictures: an anti-aliased pyramid for perceptual terms, and the adversarial terms.

Shape letters: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable

PYRAMID_SHRINKS = (1, 2, 4, 8)  # published levels of the perceptual term


def pyramid_kernel(shrink: int) -> Tensor:
    """Gaussian before keeping every `shrink`-th pixel, (k, k), summing to 1; sigma = (shrink − 1)/2, cut at 4 sigma."""
    sigma = (shrink - 1) / 2
    reach = round(4 * sigma)
    line = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * sigma**2))
    kernel = line[:, None] * line
    return kernel / kernel.sum()


def pyramid_level(image: Tensor, shrink: int) -> Tensor:
    """(B, C, H, W) to (B, C, ⌈H/shrink⌉, ⌈W/shrink⌉): smoothed, with zeros beyond the edge, then thinned out."""
    if shrink == 1:
        return image
    kernel = pyramid_kernel(shrink).to(image)
    channels = image.shape[1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    return F.conv2d(image, weight, stride=shrink, padding=len(kernel) // 2, groups=channels)


def adversarial_loss(fake_logits: Tensor) -> Tensor:
    """What the drawing network pays when its pictures are told from real ones: mean softplus(−D(fake))."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean softplus(−D(real)) + mean softplus(D(fake)) (Goodfellow et al. 2014, non-saturating)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def slope_difference(real: Tensor, made: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean difference of neighbouring pixels' steps, (B, C, H, W) and weights (B, 1, H, W)."""
    away = made - real
    return (weights[..., 1:] * away.diff(dim=3).abs()).mean() + (weights[:, :, 1:] * away.diff(dim=2).abs()).mean()


def total(terms: Iterable[Tensor]) -> Tensor:
    """Sum of scalars, in full precision."""
    return torch.stack([term.float() for term in terms]).sum()
