"""Log-mel spectrogram of speech, at 100 frames a second, independent of the recording's level.

Shape letters: B batch, N samples at 16 kHz, T frames at 100 Hz, M mel bands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from loquent.types import SPEECH_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FRAME_RATE_HZ = 100
HOP = SPEECH_RATE_HZ // FRAME_RATE_HZ  # 160 samples
WINDOW = 400  # 25 ms
FFT_SIZE = 512
_LOW_HZ, _HIGH_HZ = 60.0, 7600.0
_POWER_FLOOR = 1e-4  # bands 40 dB below white noise of the speech's level count as silent
_LEVEL_BLOCK = SPEECH_RATE_HZ // 5
_LEVEL_CHUNK = 300 * _LEVEL_BLOCK  # samples read at once, so that a memory-mapped recording stays on disk
_QUIETEST_LEVEL = 1e-3  # -60 dB full scale: a recording below that is silence and is not amplified further


def mel_filters(num_mels: int) -> Tensor:
    """Triangles equally spaced in mel, (FFT_SIZE / 2 + 1, M), each with the weight sum 1.

    Source: O'Shaughnessy 1987, mel = 2595·log10(1 + f/700).
    """
    low, high = (2595 * np.log10(1 + f / 700) for f in (_LOW_HZ, _HIGH_HZ))
    corners_hz = 700 * (10 ** (np.linspace(low, high, num_mels + 2) / 2595) - 1)
    bins_hz = np.linspace(0, SPEECH_RATE_HZ / 2, FFT_SIZE // 2 + 1)[:, None]
    rising = (bins_hz - corners_hz[:-2]) / (corners_hz[1:-1] - corners_hz[:-2])
    falling = (corners_hz[2:] - bins_hz) / (corners_hz[2:] - corners_hz[1:-1])
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    return torch.from_numpy((triangles / np.maximum(triangles.sum(0), 1e-3)).astype(np.float32))


def speech_level(samples: NDArray[np.float32]) -> float:
    """Root mean square of the loud parts of a recording: the 95th percentile of its fifths of a second.

    Read in chunks, so that a memory-mapped recording of any length costs no memory.
    """
    levels = []
    for start in range(0, len(samples), _LEVEL_CHUNK):
        chunk = np.asarray(samples[start : start + _LEVEL_CHUNK], np.float32)
        blocks = np.array_split(chunk, max(1, len(chunk) // _LEVEL_BLOCK))
        levels += [float(np.sqrt(np.mean(block**2))) for block in blocks]
    return max(float(np.percentile(levels, 95)) if levels else 0.0, _QUIETEST_LEVEL)


class LogMel(nn.Module):
    """Samples of unit level to log-mel frames; frame i is centred on sample HOP·i."""

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=True), persistent=False)
        self.register_buffer("filters", mel_filters(num_mels), persistent=False)
        self.window: Tensor
        self.filters: Tensor

    def forward(self, padded: Tensor) -> Tensor:
        """(B, N) samples, beginning and ending WINDOW/2 samples beyond the first and last centre, to (B, M, T)."""
        frames = padded.unfold(1, WINDOW, HOP) * self.window
        power = torch.fft.rfft(frames, FFT_SIZE).abs().square() / (WINDOW / 2)
        return torch.log(power @ self.filters + _POWER_FLOOR).transpose(1, 2)
