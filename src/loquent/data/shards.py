"""The project's own format for speech with motion: safetensors files and one JSON index. docs/corpus.md describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import Dataset

from loquent.data.phones import PHONE_RATE_HZ, PHONES
from loquent.errors import LoquentError
from loquent.types import EMOTIONS, MOTION_DIM, MOTION_RATE_HZ, SPEECH_RATE_HZ, Motion

FORMAT = "loquent-corpus/1"
_INDEX = "index.json"
_SAMPLES_PER_FRAME = SPEECH_RATE_HZ // int(MOTION_RATE_HZ)
_PHONES_PER_FRAME = PHONE_RATE_HZ // int(MOTION_RATE_HZ)


class CorpusError(LoquentError):
    """A corpus folder cannot be used."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """One recording with the motion that belongs to it. Audio, motion and phones cover the same whole frames."""

    audio: NDArray[np.int16]  # (T * 640,), 16 kHz
    motion: NDArray[np.float32]  # (T, 62), 25 Hz
    phones: NDArray[np.uint8]  # (T * 4,), indices into PHONES, 100 Hz
    emotion_id: int
    intensity: float
    style: NDArray[np.float32]  # (8,), order of loquent.data.behaviour.STYLE_NAMES
    speaker: str
    language: str

    @property
    def num_frames(self) -> int:
        return len(self.motion)


class ShardWriter:
    """Collects utterances and writes a shard whenever `per_shard` of them are there. Use it as a context.

    The index is written on leaving the context and after every shard, so a corpus in the making is already readable.
    """

    def __init__(self, folder: Path, per_shard: int = 200, about: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._per_shard = per_shard
        self._about = dict(about or {})
        self._pending: list[Utterance] = []
        self._shards: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_shard()

    def add(self, utterance: Utterance) -> None:
        """Takes one utterance.

        Raises:
            CorpusError: its arrays do not cover the same frames.
        """
        _check(utterance)
        self._pending.append(utterance)
        if len(self._pending) >= self._per_shard:
            self._write_shard()

    def _write_shard(self) -> None:
        if not self._pending:
            return
        name = f"shard-{len(self._shards):05d}.safetensors"
        lengths = [item.num_frames for item in self._pending]
        tensors = {
            "audio": np.concatenate([item.audio for item in self._pending]),
            "motion": np.concatenate([item.motion for item in self._pending]).astype(np.float16),
            "phones": np.concatenate([item.phones for item in self._pending]),
            "starts": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            "emotion": np.array([item.emotion_id for item in self._pending], np.int64),
            "intensity": np.array([item.intensity for item in self._pending], np.float32),
            "style": np.stack([item.style for item in self._pending]).astype(np.float32),
        }
        temporary = self._folder / f".{name}.part"
        save_file(tensors, temporary)
        temporary.rename(self._folder / name)
        self._shards.append(
            {
                "file": name,
                "num_utterances": len(self._pending),
                "num_frames": sum(lengths),
                "speakers": [item.speaker for item in self._pending],
                "languages": [item.language for item in self._pending],
            }
        )
        self._pending = []
        self._write_index()

    def _write_index(self) -> None:
        frames = sum(shard["num_frames"] for shard in self._shards)
        index = {
            "format": FORMAT,
            "hours": round(frames / MOTION_RATE_HZ / 3600, 4),
            "phones": PHONES,
            "emotions": EMOTIONS,
            "about": self._about,
            "shards": self._shards,
        }
        temporary = self._folder / f".{_INDEX}.part"
        temporary.write_text(json.dumps(index, indent=1))
        temporary.rename(self._folder / _INDEX)


class Corpus:
    """Read access to a corpus folder; files are mapped, not read whole.

    Raises:
        CorpusError: the folder holds no corpus of this format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / _INDEX
        if not path.is_file():
            raise CorpusError(f"{self.folder} holds no {_INDEX}; build one with `python -m loquent.data.corpus`")
        self.index = json.loads(path.read_text())
        if self.index.get("format") != FORMAT:
            raise CorpusError(f"{path} has format {self.index.get('format')!r}; {FORMAT!r} is wanted, build it again")
        self._places: list[tuple[int, int]] = []  # shard, number in it
        self._tables: list[dict[str, NDArray]] = []
        for number, shard in enumerate(self.index["shards"]):
            with safe_open(self.folder / shard["file"], "numpy") as file:
                names = ("starts", "emotion", "intensity", "style")
                self._tables.append({name: file.get_tensor(name) for name in names})
            self._places += [(number, item) for item in range(shard["num_utterances"])]
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._places)

    def num_frames(self, number: int) -> int:
        shard, item = self._places[number]
        starts = self._tables[shard]["starts"]
        return int(starts[item + 1] - starts[item])

    def speaker(self, number: int) -> str:
        shard, item = self._places[number]
        return self.index["shards"][shard]["speakers"][item]

    def read(self, number: int, start: int = 0, stop: int | None = None) -> Utterance:
        """Frames `start` to `stop` of one utterance, all by default."""
        shard, item = self._places[number]
        table, about = self._tables[shard], self.index["shards"][shard]
        first = int(table["starts"][item])
        stop = self.num_frames(number) if stop is None else stop
        if shard not in self._open:
            self._open[shard] = safe_open(self.folder / about["file"], "numpy").__enter__()
        cut = {"audio": _SAMPLES_PER_FRAME, "motion": 1, "phones": _PHONES_PER_FRAME}
        parts = {
            name: self._open[shard].get_slice(name)[(first + start) * per : (first + stop) * per]
            for name, per in cut.items()
        }
        return Utterance(
            audio=parts["audio"],
            motion=parts["motion"].astype(np.float32),
            phones=parts["phones"],
            emotion_id=int(table["emotion"][item]),
            intensity=float(table["intensity"][item]),
            style=table["style"][item],
            speaker=about["speakers"][item],
            language=about["languages"][item],
        )

    def motion(self, number: int) -> Motion:
        return Motion.from_vector(self.read(number).motion)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker process maps the files anew


class CorpusWindows(Dataset[dict[str, Tensor]]):
    """Random windows of a corpus, the same for the same seed and index.

    Utterances are drawn in proportion to their length; one shorter than the window is padded with silence and its last
    frame, and `mask` tells.
    """

    def __init__(self, folder: str | Path, window_frames: int, seed: int = 0, num_windows: int = 1_000_000) -> None:
        self.corpus = Corpus(folder)
        self.window_frames = window_frames
        self.seed = seed
        self.num_windows = num_windows
        lengths = np.array([self.corpus.num_frames(number) for number in range(len(self.corpus))], np.float64)
        self._cumulative = np.cumsum(lengths) / lengths.sum()

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`audio` (T * 640,) float32, `motion` (T, 62), `phones` (T * 4,) int64, `mask` (T,) bool, `emotion` (),
        `intensity` (), `style` (8,)."""
        rng = np.random.default_rng((self.seed, index))
        number = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        number = min(number, len(self.corpus) - 1)
        length = self.corpus.num_frames(number)
        start = int(rng.integers(0, max(1, length - self.window_frames + 1)))
        item = self.corpus.read(number, start, min(length, start + self.window_frames))
        missing = self.window_frames - item.num_frames
        audio = np.pad(item.audio.astype(np.float32) / 32768, (0, missing * _SAMPLES_PER_FRAME))
        motion = np.pad(item.motion, ((0, missing), (0, 0)), mode="edge")
        mask = np.arange(self.window_frames) < item.num_frames
        return {
            "audio": torch.from_numpy(audio),
            "motion": torch.from_numpy(motion),
            "phones": torch.from_numpy(np.pad(item.phones, (0, missing * _PHONES_PER_FRAME)).astype(np.int64)),
            "mask": torch.from_numpy(mask),
            "emotion": torch.tensor(item.emotion_id),
            "intensity": torch.tensor(item.intensity, dtype=torch.float32),
            "style": torch.from_numpy(item.style.copy()),
        }


def _check(utterance: Utterance) -> None:
    frames = utterance.num_frames
    wanted = ((frames, MOTION_DIM), (frames * _SAMPLES_PER_FRAME,), (frames * _PHONES_PER_FRAME,))
    given = (utterance.motion.shape, utterance.audio.shape, utterance.phones.shape)
    if wanted != given:
        raise CorpusError(f"motion, audio and phones of shapes {given} do not cover the same frames; wanted {wanted}")
