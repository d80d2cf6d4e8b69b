"""Released HuBERT and wav2vec 2.0 networks as speech encoders: the outputs of any of their layers, aligned by time.

The forward pass is our own (`loquent.speech.hubert`), held in tests against the transformers library, which is not needed.

Shape letters: T rows at 25 Hz, V vectors of a row, L layers, C channels.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from loquent.errors import MissingExtraError, SpeechError, WeightsError
from loquent.speech.hubert import RATE_HZ, Hubert, HubertConfig, load_hubert_state
from loquent.types import MOTION_RATE_HZ, SpeechFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.speech.hubert import NormStatistics
    from loquent.types import Speech

SPAN_S, CONTEXT_S = 60.0, 15.0  # computed at once, and heard on either side of it
_FADE_ROWS = 12  # on either side of the place where two spans meet
_BLOCK_VECTORS = 1000  # convolved at once: 20 s, about 0.13 GB in the first layer of the base networks
_READ_SAMPLES = 60 * RATE_HZ
_NORMALISED_EPS = 1e-7
_FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin")


class PretrainedEncoder:
    """Outputs of the layers of a HuBERT or wav2vec 2.0. Implements `loquent.types.SpeechEncoder`.

    Speech of up to `span_s` and twice `context_s` is computed in one pass. Of longer speech each span hears its context,
    and neighbours are faded into each other; the waveform's level and the first norm of base networks are measured over
    all of it first. Memory does not grow with the length.

    Args:
        network: of the layers.
        layers: their numbers, from 1; 0 is what goes into the first one, -1 is the last one. None is all, from 1.
        vectors_per_row: 1 gives a vector for each row of 40 ms; 2 gives two, 20 ms apart.
        normalise: brings the whole recording to zero mean and unit variance first, as most networks were trained.
        span_s, context_s: see above.

    Raises:
        SpeechError: the network has no such layer.
    """

    def __init__(
        self,
        network: Hubert,
        layers: Sequence[int] | None = None,
        *,
        vectors_per_row: int = 1,
        normalise: bool = True,
        span_s: float = SPAN_S,
        context_s: float = CONTEXT_S,
    ) -> None:
        count = network.config.num_layers
        self.network = network.eval()
        self.layers = list(range(1, count + 1)) if layers is None else [_layer(number, count) for number in layers]
        self.vectors_per_row = vectors_per_row
        self.normalise = normalise
        self._span_rows = max(2 * _FADE_ROWS, round(span_s * MOTION_RATE_HZ))
        self._context_rows = max(_FADE_ROWS, round(context_s * MOTION_RATE_HZ))

    @staticmethod
    def from_pretrained(
        name_or_folder: str | Path,
        layers: Sequence[int] | None = None,
        *,
        vectors_per_row: int = 1,
        device: str = "cpu",
    ) -> PretrainedEncoder:
        """Loads a network as the transformers library stores it.

        Args:
            name_or_folder: a folder with config.json and model.safetensors or pytorch_model.bin; or a name on the
                Hugging Face Hub, such as "facebook/hubert-large-ls960-ft" (extra `hub`).
            layers, vectors_per_row: see the class.
            device: where the network runs.

        Raises:
            WeightsError: files are missing, or hold another kind of network.
            MissingExtraError: a name of the Hub was given, and the extra is not installed.
        """
        folder = Path(name_or_folder).expanduser()
        if not folder.is_dir():
            folder = _from_hub(str(name_or_folder))
        network = load_network(folder).to(device)
        return PretrainedEncoder(
            network, layers, vectors_per_row=vectors_per_row, normalise=_wants_normalised_speech(folder)
        )

    def encode(self, speech: Speech) -> Iterator[SpeechFeatures]:
        """Yields blocks of at most a span and its fade; values are (t, V·L, C), the vectors of a row one after another.

        Row i belongs to time i / 25 s, and its vector v to i / 25 s + v / (25·V) s.
        """
        num_rows = speech.num_frames(MOTION_RATE_HZ)
        samples = _Samples(speech.samples, self.network.reach_and_hop[0], normalise=self.normalise)
        statistics = self._norm_statistics(samples)
        tail: NDArray[np.float32] | None = None
        for start, stop in self._spans(num_rows):
            first = start - _FADE_ROWS if start else 0
            last = stop + _FADE_ROWS if stop < num_rows else num_rows
            rows = self._rows(samples, statistics, first, last)
            if tail is not None:
                rows[: len(tail)] = _faded(tail, rows[: len(tail)])
            keep = 2 * _FADE_ROWS if last < num_rows else 0
            tail = rows[len(rows) - keep :]
            yield SpeechFeatures(rows[: len(rows) - keep], start_frame=first)

    def _spans(self, num_rows: int) -> list[tuple[int, int]]:
        """First row and end of each span, of about the same length."""
        if num_rows <= self._span_rows + 2 * self._context_rows:
            return [(0, num_rows)]
        bounds = np.linspace(0, num_rows, -(-num_rows // self._span_rows) + 1).round().astype(int).tolist()
        return list(pairwise(bounds))

    @torch.inference_mode()
    def _norm_statistics(self, samples: _Samples) -> NormStatistics | None:
        if self.network.config.conv_norm == "layer":
            return None
        spans = self.network.norm_spans(len(samples), _READ_SAMPLES)
        return self.network.norm_statistics(self._tensor(samples, start, stop) for start, stop in spans)

    @torch.inference_mode()
    def _rows(self, samples: _Samples, statistics: NormStatistics | None, first: int, last: int) -> NDArray[np.float32]:
        """Rows `first` to `last`, (last − first, V·L, C)."""
        reach, hop = self.network.reach_and_hop
        num_vectors = (len(samples) - reach) // hop + 1
        to_vector = RATE_HZ / MOTION_RATE_HZ / hop
        low = min(max(0, int((first - self._context_rows) * to_vector)), num_vectors - 1)
        high = min(num_vectors, int((last + self._context_rows) * to_vector) + 1)
        heard = self._tensor(samples, low * hop, (high - 1) * hop + reach)
        vectors = self.network.convolve(heard, _BLOCK_VECTORS, statistics)
        chosen = self.network.encode(vectors, self.layers)[0]  # (T', L, C)
        times = np.arange(first * self.vectors_per_row, last * self.vectors_per_row) / self.vectors_per_row
        # Vector k is of the samples from k·hop to k·hop + reach; it belongs to their middle.
        place = torch.from_numpy(times * to_vector - reach / (2 * hop) - low).clamp(0, len(chosen) - 1)
        left = place.floor().long().clamp(max=max(len(chosen) - 2, 0))
        part = (place - left).to(chosen)[:, None, None]
        right = (left + 1).clamp(max=len(chosen) - 1)
        rows = torch.lerp(chosen[left], chosen[right], part)
        return rows.unflatten(0, (last - first, -1)).flatten(1, 2).cpu().numpy()

    def _tensor(self, samples: _Samples, start: int, stop: int) -> Tensor:
        weight = self.network.project.weight
        return torch.from_numpy(samples.between(start, stop))[None].to(weight)


class _Samples:
    """Samples of a recording, normalised where they are read; at least as many as one vector needs."""

    def __init__(self, samples: NDArray[np.float32], least: int, *, normalise: bool) -> None:
        self._samples = samples
        self._missing = max(0, least - len(samples))
        self._mean, self._gain = 0.0, 1.0
        if normalise:
            self._measure()

    def __len__(self) -> int:
        return len(self._samples) + self._missing

    def between(self, start: int, stop: int) -> NDArray[np.float32]:
        read = (np.asarray(self._samples[start:stop], np.float32) - np.float32(self._mean)) * np.float32(self._gain)
        return np.pad(read, (0, self._missing))

    def _measure(self) -> None:
        total = square = 0.0
        for start in range(0, len(self._samples), _READ_SAMPLES):
            block = np.asarray(self._samples[start : start + _READ_SAMPLES], np.float64)
            total, square = total + float(block.sum()), square + float((block**2).sum())
        count = max(len(self._samples), 1)
        self._mean = total / count
        variance = max(square / count - self._mean**2, 0.0)
        self._gain = 1 / float(np.sqrt(variance + _NORMALISED_EPS))


def load_network(folder: Path) -> Hubert:
    """A HuBERT or wav2vec 2.0 from a folder as the transformers library writes it.

    Raises:
        WeightsError: files are missing, or hold another kind of network.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} holds no speech encoder ({error}); wanted config.json and weights") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ("hubert", "wav2vec2"):
        raise WeightsError(f"{folder} holds a network of type {kind!r}; wanted hubert or wav2vec2")
    network = Hubert(HubertConfig.from_published(config))
    load_hubert_state(network, _read_state(folder), str(folder))
    return network.eval()


def _read_state(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        state = load_file(safe) if safe.is_file() else torch.load(pickled, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{folder}: its weights cannot be read ({error}); fetch them again") from error
    return {name: value.float() for name, value in state.items()}


def _wants_normalised_speech(folder: Path) -> bool:
    """What the network's own preprocessor says; yes where it says nothing."""
    try:
        return bool(json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))["do_normalize"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _from_hub(name: str) -> Path:
    """Folder of a network's files in the cache of the Hugging Face Hub."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is no folder, and fetching a speech encoder needs the extra 'hub': pip install 'loquent[hub]'"
        ) from error
    try:
        files = set(HfApi().list_repo_files(name)) & set(_FILES)
        if "model.safetensors" in files:
            files.discard("pytorch_model.bin")
        return Path(snapshot_download(name, allow_patterns=sorted(files)))
    except (HFValidationError, RepositoryNotFoundError, HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"{name} is no folder, and could not be fetched from the Hugging Face Hub ({type(error).__name__}); give a "
            "folder with config.json and model.safetensors"
        ) from error


def _layer(number: int, count: int) -> int:
    """The layer's number, counted from the input of the first one."""
    if not -count - 1 <= number <= count:
        raise SpeechError(f"layer {number} of the speech encoder was asked for; it has {count}, 0 is what goes into 1")
    return number % (count + 1)


def _faded(old: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
    """Goes over from one take of n rows to another."""
    part = ((np.arange(len(old), dtype=np.float32) + 0.5) / len(old))[:, None, None]
    return (old + part * (new - old)).astype(np.float32)
