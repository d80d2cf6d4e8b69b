"""Trains the speech encoder on a corpus: phones by cross-entropy, mouth shapes by regression.

    python -m loquent.training.speech_encoder CORPUS RUN --steps 4000 --export src/loquent/weights/speech-encoder

A run that was stopped goes on where its last checkpoint stands.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from loquent.data.phones import BILABIALS, LABIODENTALS, PHONE_INDEX, PHONES
from loquent.data.shards import Corpus
from loquent.speech.encoder import (
    ARTICULATORS,
    SUBFRAMES,
    LogMelEncoder,
    SpeechEncoderConfig,
    SpeechNetwork,
    SpeechOutput,
)
from loquent.speech.features import HOP, WINDOW, LogMel, speech_level
from loquent.training.loop import TrainSettings, train
from loquent.training.speech_augment import augment_log_mel
from loquent.types import ARKIT_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

WINDOW_ROWS = 100  # 4 s
EDGE_FRAMES = 12  # frames at either end of a window that are heard without their surroundings, and not judged
ARTICULATOR_WEIGHT = 0.5
LIP_CONTACT_WEIGHT = 2.0  # of m, b, p, f, v in the cross-entropy
_BATCH = 12


def articulator_values(motion: NDArray[np.float32]) -> NDArray[np.float32]:
    """The `ARTICULATORS` of motion vectors (T, 62); both sides of a face averaged: (T, A)."""
    columns = [
        motion[
            :, [ARKIT_INDEX[name]] if name in ARKIT_INDEX else [ARKIT_INDEX[name + "Left"], ARKIT_INDEX[name + "Right"]]
        ]
        for name in ARTICULATORS
    ]
    return np.stack([column.mean(1) for column in columns], axis=1)


@dataclass(frozen=True, eq=False)
class SpeechBatch:
    """What a step needs. T frames at 100 Hz, of which every fourth carries mouth shapes."""

    mel: Tensor  # (B, M, T)
    phones: Tensor  # (B, T)
    articulators: Tensor  # (B, T / 4, A), standardised
    judged: Tensor  # (B, T) bool


class SpeechWindows:
    """Random windows of a corpus as log-mel spectrograms."""

    def __init__(self, corpus: Corpus, config: SpeechEncoderConfig, seed: int = 0) -> None:
        self.corpus = corpus
        self.seed = seed
        self.log_mel = LogMel(config.num_mels)
        rows = np.array([corpus.num_frames(number) for number in range(len(corpus))], np.float64)
        self._cumulative = np.cumsum(rows) / rows.sum()
        sample = np.concatenate([articulator_values(corpus.read(number).motion) for number in self._some(300)])
        self.mean, self.std = sample.mean(0), sample.std(0) + 0.01

    def _some(self, count: int) -> NDArray[np.int64]:
        return np.linspace(0, len(self.corpus) - 1, min(count, len(self.corpus))).astype(np.int64)

    def mel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every band over the corpus."""
        mels = torch.cat([self._mel(self.corpus.read(number).audio)[0] for number in self._some(200)], dim=1)
        return mels.mean(1), mels.std(1)

    def _mel(self, audio: NDArray[np.int16]) -> Tensor:
        samples = np.divide(audio, 32768, dtype=np.float32)
        padded = np.pad(samples / speech_level(samples), (WINDOW // 2, WINDOW // 2 - HOP))
        return self.log_mel(torch.from_numpy(padded)[None])

    def batch(self, step: int) -> SpeechBatch:
        """The batch of a step; utterances are drawn in proportion to their length."""
        rng = np.random.default_rng((self.seed, step))
        items = [self._window(rng) for _ in range(_BATCH)]
        return SpeechBatch(*(torch.stack(parts) for parts in zip(*items, strict=True)))

    def _window(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        number = int(np.searchsorted(self._cumulative[:-1], rng.random(), side="right"))
        length = self.corpus.num_frames(number)
        start = int(rng.integers(0, max(1, length - WINDOW_ROWS + 1)))
        stop = min(length, start + WINDOW_ROWS)
        item = self.corpus.read(number, start, stop)
        missing = WINDOW_ROWS - item.num_frames
        frames = SUBFRAMES * item.num_frames
        mel = F.pad(self._mel(item.audio)[0], (0, SUBFRAMES * missing), value=float(np.log(1e-4)))
        judged = torch.zeros(SUBFRAMES * WINDOW_ROWS, dtype=torch.bool)
        judged[0 if start == 0 else EDGE_FRAMES : frames if stop == length else frames - EDGE_FRAMES] = True
        phones = np.pad(item.phones.astype(np.int64), (0, SUBFRAMES * missing))
        shapes = np.pad((articulator_values(item.motion) - self.mean) / self.std, ((0, missing), (0, 0)))
        return mel, torch.from_numpy(phones), torch.from_numpy(shapes.astype(np.float32)), judged


def speech_loss(network: nn.Module, batch: SpeechBatch, random: torch.Generator) -> dict[str, Tensor]:
    """Cross-entropy of the phones plus weighted squared error of the mouth shapes, under augmentation."""
    with torch.autocast("cpu", torch.bfloat16):  # twice as fast; the heads' results go on in float32
        output = SpeechOutput(*(part.float() for part in network(augment_log_mel(batch.mel, random))))
    weights = torch.ones(len(PHONES))
    weights[[PHONE_INDEX[name] for name in (*BILABIALS, *LABIODENTALS)]] = LIP_CONTACT_WEIGHT
    logits, labels = output.phone_logits[batch.judged], batch.phones[batch.judged]
    phones = F.cross_entropy(logits, labels, weights, label_smoothing=0.05)
    at_rows = batch.judged[:, ::SUBFRAMES]
    shapes = F.mse_loss(output.articulators[:, ::SUBFRAMES][at_rows], batch.articulators[at_rows])
    return {
        "loss": phones + ARTICULATOR_WEIGHT * shapes,
        "phones": phones,
        "shapes": shapes,
        "accuracy": (logits.argmax(-1) == labels).float().mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--export", type=Path, help="folder that takes the averaged weights at every checkpoint")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = SpeechEncoderConfig(num_phones=len(PHONES))
    windows = SpeechWindows(Corpus(arguments.corpus), config)
    network = SpeechNetwork(config)
    network.mel_mean, network.mel_std = windows.mel_statistics()

    def export(ema: nn.Module, step: int) -> None:
        if arguments.export and isinstance(ema, SpeechNetwork):
            LogMelEncoder(ema).save_pretrained(arguments.export)

    settings = TrainSettings(steps=arguments.steps, learning_rate=2e-3, decay_share=0.5, save_every=250)
    train(network, speech_loss, windows.batch, settings, arguments.run, export)


if __name__ == "__main__":
    main()
