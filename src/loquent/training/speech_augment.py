"""Other throats, microphones and rooms, drawn in the log-mel domain, where a batch of them costs nothing.

Shape letters: B batch, M mel bands, T frames. Values are natural logarithms of power.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

_SILENT = -9.2  # log of the floor that `loquent.speech.features` adds


def augment_log_mel(mel: Tensor, random: torch.Generator) -> Tensor:
    """Changes every item of (B, M, T) in its own way; about a tenth stay as they are."""
    size = len(mel)
    changed = _warp_bands(mel, random)
    changed = changed + _smooth_curves(size, mel.shape[1], 4, random)[:, :, None] * 0.6
    changed = changed + 0.6 * torch.randn(size, 1, 1, generator=random)  # level, 2.6 dB
    changed = _add_noise(changed, random)
    changed = _limit_band(changed, random)
    changed = _mask(changed.clamp(min=_SILENT), random)
    keep = torch.rand(size, generator=random) < 0.1
    return torch.where(keep[:, None, None], mel, changed)


def _warp_bands(mel: Tensor, random: torch.Generator) -> Tensor:
    """Vocal tract length: stretches the mel axis by 0.87 to 1.15."""
    size, bands, _ = mel.shape
    factor = torch.exp(0.14 * (2 * torch.rand(size, 1, generator=random) - 1))
    source = (torch.arange(bands) * factor).clamp(max=bands - 1.001)  # (B, M)
    low = source.long()
    part = source - low
    weights = F.one_hot(low, bands) * (1 - part)[..., None] + F.one_hot(low + 1, bands) * part[..., None]
    return weights @ mel


def _smooth_curves(size: int, bands: int, knots: int, random: torch.Generator) -> Tensor:
    """(B, M), random curves through `knots` values of unit deviation."""
    values = torch.randn(size, 1, knots, generator=random)
    return F.interpolate(values, bands, mode="linear", align_corners=True)[:, 0]


def _add_noise(mel: Tensor, random: torch.Generator) -> Tensor:
    """Steady coloured noise in two of three items, 10 to 40 dB below speech."""
    size, bands, _ = mel.shape
    level = -2.0 - 7.0 * torch.rand(size, 1, 1, generator=random)
    level = level + 1.2 * _smooth_curves(size, bands, 4, random)[:, :, None]
    # The power of one noise band in one frame has the logarithm of a gamma variable; 0.5 is its deviation here.
    noise = level + 0.5 * torch.randn(mel.shape, generator=random)
    noisy = torch.logaddexp(mel, noise)
    chosen = torch.rand(size, generator=random) < 0.65
    return torch.where(chosen[:, None, None], noisy, mel)


def _limit_band(mel: Tensor, random: torch.Generator) -> Tensor:
    """Telephones and cheap recorders: every fifth item loses its top bands, every tenth its lowest."""
    size, bands, _ = mel.shape
    index = torch.arange(bands)
    top = torch.where(torch.rand(size, generator=random) < 0.2, 0.68, 2.0)
    top = (top + 0.3 * torch.rand(size, generator=random)) * bands
    bottom = torch.where(torch.rand(size, generator=random) < 0.1, 0.10, 0.0) * bands
    lost = (index[None] - top[:, None]).clamp(min=0) * 2.0 + (bottom[:, None] - index[None]).clamp(min=0) * 1.0
    return mel - lost[:, :, None]


def _mask(mel: Tensor, random: torch.Generator) -> Tensor:
    """Hides a few bands or frames (Park et al. 2019, SpecAugment), never longer than half a short phone."""
    size, bands, frames = mel.shape
    mean = mel.mean((1, 2), keepdim=True)
    for length, positions, axis in ((6, bands, 1), (4, frames, 2)):
        start = torch.randint(0, positions, (size, 1), generator=random)
        width = torch.randint(0, length + 1, (size, 1), generator=random)
        index = torch.arange(positions)[None]
        hidden = ((index >= start) & (index < start + width)).unsqueeze(3 - axis)
        mel = torch.where(hidden, mean, mel)
    return mel
