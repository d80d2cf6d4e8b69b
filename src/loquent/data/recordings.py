"""Real speech with known words: reading it and finding the time of every phone with pocketsphinx (extra `align`)."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from loquent.data.phones import PhoneTrack, parts_of_arpabet, track_from_segments
from loquent.data.voices import Recording
from loquent.errors import MissingExtraError, SpeechError
from loquent.types import SPEECH_RATE_HZ

logger = logging.getLogger(__name__)

_SPHINX_FRAME_S = 0.01
_BEAMS = {"beam": 1e-100, "pbeam": 1e-100, "wbeam": 1e-80}

# LJ Speech numbers its 13,100 sentences; these 32 are the beginning of "Printing" (1893, public domain). The last
# eight are kept out of every corpus, for measuring.
LJ_HELD_OUT = tuple(f"LJ001-{number:04d}" for number in range(25, 33))

# Words that pocketsphinx's dictionary does not hold, and how they are said.
_MORE_WORDS = {
    "woodcutters": "W UH D K AH T ER Z",
    "letterpress": "L EH T ER P R EH S",
    "shapeliness": "SH EY P L IY N AH S",
    "calligraphy": "K AH L IH G R AH F IY",
    "aforesaid": "AH F AO R S EH D",
    "missal": "M IH S AH L",
    "missals": "M IH S AH L Z",
    "psalters": "S AO L T ER Z",
    "maintz": "M AY N T S",
    "schoeffer": "SH EY F ER",
    "ecclesiastical": "IH K L IY Z IY AE S T IH K AH L",
    "pleasanter": "P L EH Z AH N T ER",
    "subiaco": "S UW B IY AA K OW",
    "sweynheim": "S W EY N HH AY M",
    "pannartz": "P AE N AA R T S",
    "strasburg": "S T R AE S B ER G",
    "basle": "B AA L",
    "lubeck": "L UW B EH K",
    "plus-ultra": "P L UH S UH L T R AH",
}


def read_recording(path: Path) -> NDArray[np.float32]:
    """Samples of a sound file as 16 kHz mono."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate_hz, SPEECH_RATE_HZ).astype(np.float32)


def words_of(text: str) -> list[str]:
    """Lower-case words of a normalised text (numbers already spelt out)."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def align(samples: NDArray[np.float32], text: str) -> PhoneTrack:
    """Phones of 16 kHz speech whose English words are known.

    Args:
        samples: (N,), in [-1, 1].
        text: what is said, numbers and abbreviations spelt out.

    Raises:
        MissingExtraError: pocketsphinx is not installed.
        SpeechError: a word is unknown, or the words do not fit the sound.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise MissingExtraError(
            "aligning words with speech needs pocketsphinx: `pip install loquent[align]`"
        ) from error
    decoder = Decoder(lm=None, bestpath=False, loglevel="FATAL", **_BEAMS)
    for word, sounds in _MORE_WORDS.items():
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, sounds, True)
    words = words_of(text)
    unknown = [word for word in words if decoder.lookup_word(word) is None]
    if unknown:
        raise SpeechError(f"the pronouncing dictionary lacks {', '.join(unknown)}; add them to _MORE_WORDS")
    sound = (np.clip(samples / (np.abs(samples).max() + 1e-9), -1, 1) * 30000).astype(np.int16).tobytes()
    try:
        decoder.set_align_text(" ".join(words))
        _decode(decoder, sound)
        decoder.set_alignment()
        _decode(decoder, sound)
        alignment = decoder.get_alignment()
    except RuntimeError as error:
        raise SpeechError(f"the words {text[:40]!r} do not fit the recording: {error}") from error
    if alignment is None:
        raise SpeechError(f"the words {text[:40]!r} do not fit the recording")
    segments = [
        (parts_of_arpabet(phone.name), phone.start * _SPHINX_FRAME_S, (phone.start + phone.duration) * _SPHINX_FRAME_S)
        for word in alignment
        for phone in word
    ]
    return track_from_segments(segments, len(samples) / SPEECH_RATE_HZ)


def read_ljspeech(speech: Path, transcripts: Path | None = None) -> list[Recording]:
    """Aligned sentences of `speech`/ljspeech, without those held out.

    Args:
        speech: folder that holds `ljspeech/*.flac` and `ljspeech/metadata.csv`.
        transcripts: a further table of id|text|normalised text, for sentences that metadata.csv does not list.
    """
    folder = speech / "ljspeech"
    texts: dict[str, str] = {}
    for table in (transcripts, folder / "metadata.csv"):
        if table is not None:
            with table.open(encoding="utf-8", newline="") as lines:
                texts |= {row[0]: row[-1] for row in csv.reader(lines, delimiter="|", quoting=csv.QUOTE_NONE)}
    recordings = []
    for path in sorted(folder.glob("*.flac")):
        if path.stem in LJ_HELD_OUT or path.stem not in texts:
            continue
        samples = read_recording(path)
        try:
            recordings.append(Recording(samples, align(samples, texts[path.stem]), "lj"))
        except SpeechError as error:
            logger.warning("%s is left out: %s", path.name, error)
    return recordings


def _decode(decoder, sound: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()
