"""DPM-Solver++ of second order with several steps (2M): sampling in a tenth of the steps of DDIM, without fresh noise.

Builds on `gaussian` and `stochastic`; see there for steps, timesteps and denoisers.

Source: Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", algorithm 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loquent.diffusion.gaussian import Denoised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from loquent.diffusion.gaussian import Schedule
    from loquent.diffusion.stochastic import Denoiser


@torch.no_grad()
def dpm_solver(denoise: Denoiser, x: Tensor, schedule: Schedule) -> Iterator[Denoised]:
    """Walks back from noise; the last state holds the sample. The first and the last step are of first order.

    With λ = log(signal / noise), h the rise of λ in a step, h' in the one before, and c, c' the clean estimates:
    x ← (noise after / noise)·x + signal after·(1 − e^(−h))·(c + h / (2 h')·(c − c')).

    Args:
        denoise: see `stochastic.from_clean` and `stochastic.from_noise`.
        x: noise at the last step of the schedule, (B, ...).
        schedule: the steps to walk.
    """
    signal, noise = schedule.signal.double(), schedule.noise.double()
    log_snr = (signal / noise).log()
    before: Tensor | None = None
    rise_before = 0.0
    for index in reversed(range(len(schedule))):
        clean = denoise(x, torch.full((len(x),), index, device=x.device)).clean
        if index == 0:
            x = clean
        else:
            rise = float(log_snr[index - 1] - log_snr[index])
            ahead = clean if before is None else clean + rise / (2 * rise_before) * (clean - before)
            share = -torch.expm1(torch.tensor(-rise, dtype=torch.float64))
            x = float(noise[index - 1] / noise[index]) * x + float(signal[index - 1] * share) * ahead
            before, rise_before = clean, rise
        yield Denoised(x, clean)
