"""The project's own speech encoder: log-mel frames to phones, mouth shapes and an embedding.

It plays the part that HuBERT plays in the published system, at a hundredth of its size. Features are rows at 25 Hz; the
"layers" of a row are its four 10 ms sub-frames.

Shape letters: B batch, T frames at 100 Hz, M mel bands, W width, E embedding channels, P phones, A articulators.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from loquent.data.phones import PHONE_INDEX, SILENCE
from loquent.errors import WeightsError
from loquent.speech.features import HOP, WINDOW, LogMel, speech_level
from loquent.types import MOTION_RATE_HZ, SpeechFeatures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.types import Speech

SUBFRAMES = 4  # 10 ms frames of a 25 Hz row
# Mouth shapes that the network predicts: ARKit weights, the two sides of a face averaged.
ARTICULATORS = (
    "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthStretch", "mouthSmile", "mouthUpperUp",
    "mouthLowerDown", "mouthShrugLower", "mouthRollLower", "mouthRollUpper", "mouthPress", "mouthDimple", "tongueOut",
)  # fmt: skip
_BLOCK_ROWS = 250  # rows encoded at once: 10 s
_PROSODY_CHANNELS = 2
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig:
    """Sizes of the speech encoder."""

    num_mels: int = 64
    width: int = 160
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    embedding_dim: int = 64
    num_phones: int = 48
    num_articulators: int = len(ARTICULATORS)

    @property
    def context_frames(self) -> int:
        """10 ms frames on either side that a frame depends on."""
        return 2 + sum(self.dilations)

    @property
    def feature_dim(self) -> int:
        """Channels of one sub-frame: embedding, articulators, phone probabilities, loudness."""
        return self.embedding_dim + self.num_articulators + self.num_phones + _PROSODY_CHANNELS


class SpeechOutput(NamedTuple):
    """What the network hears in every 10 ms frame."""

    embedding: Tensor  # (B, T, E)
    articulators: Tensor  # (B, T, A), mouth shapes in standard deviations of the training data
    phone_logits: Tensor  # (B, T, P)
    loudness: Tensor  # (B, T, 2): mean of the lower and of the upper half of the bands

    def features(self) -> Tensor:
        """All of it side by side, with probabilities for logits: (B, T, feature_dim)."""
        return torch.cat([self.embedding, self.articulators, self.phone_logits.softmax(-1), self.loudness], dim=-1)


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(width)
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.norm2 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(hidden)))


class SpeechNetwork(nn.Module):
    """Dilated residual convolutions over log-mel frames, (B, M, T)."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mel_mean", torch.zeros(config.num_mels))
        self.register_buffer("mel_std", torch.ones(config.num_mels))
        self.mel_mean: Tensor
        self.mel_std: Tensor
        self.stem = nn.Conv1d(config.num_mels, config.width, 5, padding=2)
        self.blocks = nn.ModuleList(_ResidualBlock(config.width, dilation) for dilation in config.dilations)
        self.norm = nn.BatchNorm1d(config.width)
        self.embed = nn.Conv1d(config.width, config.embedding_dim, 1)
        self.embed_norm = nn.BatchNorm1d(config.embedding_dim, affine=False)
        self.phones = nn.Conv1d(config.embedding_dim, config.num_phones, 1)
        self.articulators = nn.Conv1d(config.width, config.num_articulators, 1)

    def forward(self, mel: Tensor) -> SpeechOutput:
        x = (mel - self.mel_mean[:, None]) / self.mel_std[:, None]
        halves = x.unflatten(1, (2, -1)).mean(2)  # (B, 2, T)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.norm(x))
        embedding = self.embed_norm(self.embed(x))
        parts = (embedding, self.articulators(x), self.phones(F.relu(embedding)), halves)
        return SpeechOutput(*(part.transpose(1, 2) for part in parts))


class LogMelEncoder:
    """Encodes recordings with a trained `SpeechNetwork`. Implements `loquent.types.SpeechEncoder`."""

    def __init__(self, network: SpeechNetwork) -> None:
        self.network = network.eval()
        self.log_mel = LogMel(network.config.num_mels)

    @staticmethod
    def from_pretrained(folder: Path) -> LogMelEncoder:
        """Loads config.json and model.safetensors.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        try:
            values = json.loads((folder / _CONFIG).read_text())
            state = load_file(folder / _WEIGHTS)
            config = SpeechEncoderConfig(**values | {"dilations": tuple(values["dilations"])})
            network = SpeechNetwork(config)
            network.load_state_dict(state)
        except (OSError, KeyError, TypeError, RuntimeError) as error:
            raise WeightsError(f"{folder} does not hold a speech encoder ({error}); restore the folder") from error
        return LogMelEncoder(network.float())

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and model.safetensors, in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(json.dumps(asdict(self.network.config), indent=2) + "\n")
        half = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in self.network.state_dict().items()
        }
        save_file(half, folder / _WEIGHTS)

    def encode(self, speech: Speech) -> Iterator[SpeechFeatures]:
        """Yields blocks of at most 10 s; values are (t, SUBFRAMES, feature_dim), row i belongs to time i / 25 s."""
        num_rows = speech.num_frames(MOTION_RATE_HZ)
        level = speech_level(speech.samples)
        for start in range(0, num_rows, _BLOCK_ROWS):
            stop = min(num_rows, start + _BLOCK_ROWS)
            output = self._run(speech.samples, level, SUBFRAMES * start, SUBFRAMES * stop)
            rows = output.features()[0].unflatten(0, (-1, SUBFRAMES))
            silence = output.phone_logits[0].softmax(-1)[:, PHONE_INDEX[SILENCE]].unflatten(0, (-1, SUBFRAMES))
            yield SpeechFeatures(values=rows.numpy(), start_frame=start, silence=silence.numpy())

    def hear(self, samples: NDArray[np.float32]) -> SpeechOutput:
        """Everything the network hears in (N,) samples, at 100 Hz and with a batch axis of one."""
        return self._run(samples, speech_level(samples), 0, len(samples) // HOP)

    @torch.inference_mode()
    def _run(self, samples: NDArray[np.float32], level: float, start: int, stop: int) -> SpeechOutput:
        """Frames `start` to `stop`; silence is assumed before and after the recording."""
        context = self.network.config.context_frames
        first = (start - context) * HOP - WINDOW // 2
        last = (stop + context - 1) * HOP + WINDOW // 2
        inside = np.asarray(samples[max(0, first) : max(0, last)], np.float32)
        before = max(0, -first)
        padded = np.pad(inside, (before, last - first - before - len(inside)))
        output = self.network(self.log_mel(torch.from_numpy(padded / level)[None]))
        return SpeechOutput(*(part[:, context : context + stop - start] for part in output))
