"""Speech from text through espeak-ng, with the time of every phone."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loquent.errors import MissingExtraError, SpeechError
from loquent.media.audio import read_audio
from loquent.types import Speech

_SYNCHRONOUS = 2
_OPTIONS = 0x1 | 0x2 | 0x8000  # phoneme events, named in IPA, never exit the process
_RATE, _PITCH, _RANGE = 1, 3, 4  # parameters of espeak_SetParameter
_UTF8 = 1
_PHONEME_EVENT = 7

_SYSTEM_LIBRARIES = ("libespeak-ng.so.1", "libespeak-ng.dylib", "libespeak-ng.dll")
_SYSTEM_DATA = (
    "/usr/lib/x86_64-linux-gnu/espeak-ng-data",
    "/usr/lib/aarch64-linux-gnu/espeak-ng-data",
    "/usr/share/espeak-ng-data",
    "/usr/local/share/espeak-ng-data",
    "/opt/homebrew/share/espeak-ng-data",
)
_HOW_TO_GET = (
    "speaking a text needs the espeak-ng engine, which was not found; install it with `pip install loquent[tts]`, "
    "or your system's espeak-ng package (for example `apt install espeak-ng`)"
)


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_id", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, eq=False)
class Spoken:
    """What the engine said."""

    samples: NDArray[np.int16]  # (N,), at `rate_hz`
    rate_hz: int
    phones: list[tuple[str, float]]  # name in IPA ("" is a pause) and start in seconds, in time order


class Espeak:
    """The espeak-ng library, loaded once in a process (two copies in one process disturb each other)."""

    _instance: Espeak | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._library, data = _load_library()
        rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode() if data else None, _OPTIONS)
        if rate_hz <= 0:
            raise MissingExtraError(f"the espeak-ng library found no voice data at {data}; {_HOW_TO_GET}")
        self.rate_hz = rate_hz
        self._blocks: list[NDArray[np.int16]] = []
        self._phones: list[tuple[str, float]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only a bare pointer
        self._library.espeak_SetSynthCallback(self._callback)

    @classmethod
    def shared(cls) -> Espeak:
        """The process's one engine.

        Raises:
            MissingExtraError: neither the system's library nor the `espeakng-loader` package is there.
        """
        with cls._lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    def say(
        self, text: str, voice: str = "en-us", rate_wpm: int = 165, pitch: int = 50, pitch_range: int = 50
    ) -> Spoken:
        """Synthesises `text`.

        Args:
            text: what to say, in the voice's language.
            voice: espeak-ng's voice name, with an optional variant: "en-us", "de+f3".
            rate_wpm: words a minute, 80 to 450.
            pitch: 0 to 100, 50 is the voice's own.
            pitch_range: 0 (monotone) to 100, 50 is the voice's own.

        Raises:
            SpeechError: the voice is unknown, or nothing was said.
        """
        with self._lock:
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise SpeechError(f"espeak-ng has no voice {voice!r}; `espeak-ng --voices` lists those it has")
            for parameter, value in ((_RATE, rate_wpm), (_PITCH, pitch), (_RANGE, pitch_range)):
                self._library.espeak_SetParameter(parameter, int(value), 0)
            self._blocks, self._phones = [], []
            encoded = text.encode()
            self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
            self._library.espeak_Synchronize()
            if not self._blocks:
                raise SpeechError(f"espeak-ng said nothing for the text {text[:40]!r}; give it words to say")
            return Spoken(np.concatenate(self._blocks), self.rate_hz, self._phones)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            if events[index].type == _PHONEME_EVENT:
                name = events[index].id.string.decode("utf-8", "ignore")
                self._phones.append((name, events[index].audio_position / 1000))
            index += 1
        return 0


def speak(text: str, voice: str = "en-us", rate_wpm: int = 165, pitch: int = 50) -> Speech:
    """Says `text` as speech for `loquent.TalkingHead.animate`: mono, 16 kHz, name "text".

    Args:
        text: what to say, in the voice's language.
        voice: espeak-ng's voice name, with an optional variant: "en-us", "de+f3".
        rate_wpm: words a minute.
        pitch: 0 to 100, 50 is the voice's own.

    Raises:
        MissingExtraError: there is no espeak-ng; the message says how to get it.
        SpeechError: the text is empty or the voice unknown.
    """
    if not text.strip():
        raise SpeechError("the text to speak is empty; give it at least one word")
    spoken = Espeak.shared().say(text, voice, rate_wpm, pitch)
    return replace(read_audio((spoken.samples, spoken.rate_hz)), name="text")


def _load_library() -> tuple[ctypes.CDLL, Path | None]:
    """The library and its data folder: the system's if there is one, else the espeakng-loader package's."""
    for name in _SYSTEM_LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        places = [Path(path) for path in (os.environ.get("ESPEAK_DATA_PATH"), *_SYSTEM_DATA) if path]
        return library, next((path for path in places if path.is_dir()), None)
    if importlib.util.find_spec("espeakng_loader") is None:
        raise MissingExtraError(_HOW_TO_GET)
    import espeakng_loader  # pyright: ignore[reportMissingImports]

    return ctypes.CDLL(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
