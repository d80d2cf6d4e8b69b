"""Speech in: any sound that FFmpeg decodes becomes mono 16 kHz samples, with memory flat in its length."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import soundfile
import soxr

from loquent.errors import SpeechError
from loquent.media import limits
from loquent.media._sound import SoundReader
from loquent.types import SPEECH_RATE_HZ, Speech

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

SpeechSource = str | os.PathLike[str] | bytes | BinaryIO | tuple["ArrayLike", int]

# Weight of each channel in the mono mix, before scaling to a sum of 1: surround recordings carry speech in the centre.
# ITU-R BS.775-4, table 2; the low-frequency channel is left out.
MIX_WEIGHTS = {"FC": 1.0, "FL": 0.7071, "FR": 0.7071, "LFE": 0.0, "LFE2": 0.0}
OTHER_CHANNELS_WEIGHT = 0.5


def read_audio(source: SpeechSource) -> Speech:
    """Decodes speech: mono mix, 16 kHz. The sound track of a video will do.

    Up to `limits.SPEECH_IN_MEMORY_S` the samples are in memory; longer ones lie in a temporary file without a
    name, mapped read-only, that vanishes with the last reference to them. Damaged parts become silence of the
    same length; silent and clipped recordings are accepted; each of these is logged as a warning.

    Args:
        source: a path (best for long recordings, since it is read as a stream), the bytes of a file, an open binary
            file, or a pair of samples and their rate in Hz. Samples are (N,), (N, C) or (C, N), the longer axis is
            time; integers are scaled by their type's range, floats are in [-1, 1].

    Raises:
        SpeechError: no such file, empty, no sound in it, shorter than 0.2 s, or beyond the limits.
    """
    original, name, digest = _as_path_or_bytes(source)
    with SoundReader(original, name) as reader:
        samples = _collect(_to_speech_rate(reader), name)
        intact = reader.intact
    if len(samples) < limits.MIN_SPEECH_S * SPEECH_RATE_HZ:
        raise SpeechError(
            f"{name}: {len(samples) / SPEECH_RATE_HZ:.3f} s of sound; at least {limits.MIN_SPEECH_S} s of speech is "
            "needed"
        )
    return Speech(samples, SPEECH_RATE_HZ, name, digest, original, intact)


def _as_path_or_bytes(source: SpeechSource) -> tuple[Path | bytes, str, str]:
    """The source as a regular file's path, or its bytes; a name for messages; and the hash of its content."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            raise SpeechError(f"{path} is a folder; give one sound or video file")
        try:
            with path.open("rb") as file:
                if not path.is_file():  # a pipe can be read only once
                    return _from_bytes(_read_limited(file, path.name), path.name)
                if path.stat().st_size == 0:
                    raise SpeechError(f"{path}: the file is empty")
                return path.resolve(), path.name, hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise SpeechError(f"{path}: no such file") from error
        except OSError as error:
            raise SpeechError(f"{path}: cannot be read ({error.strerror})") from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), "speech")
    if isinstance(source, tuple) and len(source) == 2:
        return _from_samples(*source)
    if not isinstance(source, tuple) and hasattr(source, "read"):
        name = Path(str(getattr(source, "name", "speech"))).name
        return _from_bytes(_read_limited(source, name), name)
    raise SpeechError(
        f"speech cannot be read from a {type(source).__name__}; give a path, bytes, file or (samples, rate_hz)"
    )


def _read_limited(file: BinaryIO, name: str) -> bytes:
    data = file.read(limits.MAX_SPEECH_BYTES_IN_MEMORY + 1)
    if len(data) > limits.MAX_SPEECH_BYTES_IN_MEMORY:
        raise SpeechError(f"{name}: more than {limits.MAX_SPEECH_BYTES_IN_MEMORY >> 20} MiB; give the path of a file")
    return data


def _from_bytes(data: bytes, name: str) -> tuple[bytes, str, str]:
    if not data:
        raise SpeechError(f"{name}: the file is empty")
    return data, name, hashlib.sha256(data).hexdigest()


def _from_samples(samples: ArrayLike, rate_hz: int) -> tuple[bytes, str, str]:
    """Checks an array and wraps it as a wav file, so that one path serves all. The hash is that of the samples."""
    array = np.asarray(samples)
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf" or rate_hz <= 0:
        raise SpeechError(
            f"speech samples of shape {array.shape}, type {array.dtype}, at {rate_hz} Hz; wanted (N,) or (N, channels) "
            "of floats in [-1, 1] and a positive rate"
        )
    if array.size == 0:
        raise SpeechError("the array of speech samples is empty")
    values = _to_floats(array)
    if not np.isfinite(values).all():
        raise SpeechError("the speech samples hold values that are not finite numbers; remove them")
    if np.abs(values).max() > 4.0:
        raise SpeechError(f"the speech samples reach {np.abs(values).max():.0f}; scale them to [-1, 1]")
    file = io.BytesIO()
    soundfile.write(file, values, int(rate_hz), format="WAV", subtype="FLOAT")
    return file.getvalue(), "speech", hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _to_floats(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    info = np.iinfo(array.dtype)
    half_range = (float(info.max) - float(info.min) + 1) / 2
    centre = half_range if array.dtype.kind == "u" else 0.0
    return ((array - centre) / half_range).astype(np.float32)


def _to_speech_rate(reader: SoundReader) -> Iterator[NDArray[np.float32]]:
    """Mixes to mono and resamples, block by block; logs what is odd about the level at the end."""
    resampler = soxr.ResampleStream(reader.rate_hz, SPEECH_RATE_HZ, 1, dtype="float32", quality="HQ")
    weights = _mix_weights(reader.channels)
    level = _LevelMeter()
    for block in reader.blocks():
        if not np.isfinite(block).all():
            raise SpeechError(f"{reader.name}: holds samples that are not finite numbers; save it again as 16-bit wav")
        level.add(block)
        yield resampler.resample_chunk(weights @ block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    if level.num_samples / len(weights) >= limits.MIN_SPEECH_S * reader.rate_hz:  # shorter sound is refused
        level.report(reader.name)


def _mix_weights(channels: tuple[str, ...]) -> NDArray[np.float32]:
    """(C,), summing to 1, so that the mix cannot clip where the channels do not."""
    if len(channels) <= 2:
        return np.full(len(channels), 1 / len(channels), np.float32)
    weights = np.array([MIX_WEIGHTS.get(name, OTHER_CHANNELS_WEIGHT) for name in channels], np.float32)
    return weights / weights.sum()


class _LevelMeter:
    """Finds silence and clipping in blocks as they pass."""

    def __init__(self) -> None:
        self._peak = 0.0
        self.num_samples = 0
        self._num_clipped = 0

    def add(self, block: NDArray[np.float32]) -> None:
        """Takes (C, N) samples."""
        full = np.abs(block) >= limits.CLIPPED_LEVEL
        self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
        self._num_clipped += int((full[:, :-2] & full[:, 1:-1] & full[:, 2:]).sum())
        self.num_samples += block.size

    def report(self, name: str) -> None:
        if self._peak < limits.SILENT_PEAK:
            logger.warning("%s is silent: the face will rest", name)
        if self._num_clipped > limits.CLIPPED_SHARE * self.num_samples:
            logger.warning("%s is clipped: it was recorded too loud, and lips may follow it less well", name)


def _collect(blocks: Iterator[NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    """Joins blocks (N,) in memory, or in a temporary file beyond SPEECH_IN_MEMORY_S; values clipped to [-1, 1]."""
    pieces: list[NDArray[np.float32]] = []
    file = None
    num_samples = 0
    try:
        for block in blocks:
            pieces.append(np.clip(block, -1.0, 1.0))
            num_samples += len(block)
            if num_samples > limits.MAX_SPEECH_S * SPEECH_RATE_HZ:
                raise SpeechError(f"{name}: longer than {limits.MAX_SPEECH_S / 3600:.0f} hours; cut it into parts")
            if file is None and num_samples > limits.SPEECH_IN_MEMORY_S * SPEECH_RATE_HZ:
                file = tempfile.TemporaryFile(prefix="loquent-")  # noqa: SIM115 (closed below)
            if file is not None and sum(map(len, pieces)) >= SPEECH_RATE_HZ:
                np.concatenate(pieces).tofile(file)
                pieces.clear()
        if file is None:
            return np.concatenate(pieces)
        np.concatenate(pieces).tofile(file)
        return np.memmap(file, np.float32, mode="r")  # keeps the nameless file alive without the file object
    finally:
        if file is not None:
            file.close()
