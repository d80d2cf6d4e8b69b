"""Voices of the corpus: speech engines that tell the time of every phone."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from loquent.data.phones import (
    PhoneTrack,
    parts_of_arpabet,
    parts_of_ipa,
    parts_of_sampa,
    track_from_segments,
)
from loquent.errors import SpeechError
from loquent.speech.text_to_speech import Espeak
from loquent.types import SPEECH_RATE_HZ

ESPEAK_VARIANTS = (
    "", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5", "+croak", "+klatt2",
    "+klatt4", "+adam", "+anika", "+belinda", "+david", "+linda", "+paul", "+steph", "+whisper", "+grandma",
    "+Alicia", "+Michael", "+Hugo", "+Andrea", "+Denis",
)  # fmt: skip
FLITE_VOICES = ("slt", "rms", "awb", "kal16")
# Festival's voice -> the language it reads. Each is a package of its own (festvox-...); those missing are left out.
FESTIVAL_VOICES = {
    "cmu_us_slt_arctic_hts": "en", "kal_diphone": "en", "ked_diphone": "en", "lp_diphone": "it", "pc_diphone": "it",
    "upc_ca_ona_hts": "ca", "czech_dita": "cs", "czech_krb": "cs", "czech_machac": "cs", "czech_ph": "cs",
    "suo_fi_lj_diphone": "fi-ascii", "hy_fi_mv_diphone": "fi-ascii",
}  # fmt: skip
_ESPEAK_LEAD_S, _ESPEAK_CLOSURE_S = 0.012, 0.045
_FESTIVAL_FOLDER = Path("/usr/share/festival/voices")


@dataclass(frozen=True, eq=False)
class Recording:
    """Speech at 16 kHz with the time of every phone."""

    samples: NDArray[np.float32]  # (N,), in [-1, 1]
    track: PhoneTrack
    speaker: str


def say_with_espeak(text: str, voice: str, rate_wpm: int, pitch: int, pitch_range: int) -> Recording:
    """One utterance of espeak-ng; see `Espeak.say` for the arguments."""
    spoken = Espeak.shared().say(text, voice, rate_wpm, pitch, pitch_range)
    duration_s = len(spoken.samples) / spoken.rate_hz
    names = [name for name, _ in spoken.phones]
    starts_s = _heard_starts(names, [start_s for _, start_s in spoken.phones])
    segments = [
        (parts_of_ipa(name), start_s, end_s)
        for name, start_s, end_s in zip(names, starts_s, [*starts_s[1:], duration_s], strict=True)
    ]
    return Recording(_to_speech_rate(spoken.samples, spoken.rate_hz), track_from_segments(segments, duration_s), voice)


def _heard_starts(names: list[str], starts_s: list[float]) -> list[float]:
    """Starts of phones as they sound, from the times of espeak-ng's events.

    Measured on the level of 100 sentences: sounds begin 12 ms before their event, and the event of a voiceless stop
    is its burst, so that its closure lies in what is labelled as the phone before.
    """
    heard = [max(0.0, start_s - _ESPEAK_LEAD_S) for start_s in starts_s]
    for index in range(1, len(heard)):
        parts = parts_of_ipa(names[index])
        if parts and parts[0] in ("p", "t", "k"):
            room_s = 0.5 * (heard[index] - heard[index - 1])
            heard[index] -= min(_ESPEAK_CLOSURE_S, room_s)
    return heard


def say_with_flite(text: str, voice: str, stretch: float = 1.0, mean_pitch_hz: float | None = None) -> Recording:
    """One utterance of flite. `stretch` above 1 is slower.

    Raises:
        SpeechError: the flite program is missing or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "-psdur", "--setf", f"duration_stretch={stretch:.3f}"]
        if mean_pitch_hz is not None:
            command += ["--setf", f"int_f0_target_mean={mean_pitch_hz:.1f}"]
        printed = _run([*command, "-t", text, "-o", str(out)])
        samples, rate_hz = _read_int16(out)
    ends = [(name, float(end)) for name, end in re.findall(r"(\S+?):([\d.]+)", printed)]
    return _from_ends(samples, rate_hz, ends, f"flite-{voice}", parts_of_arpabet)


def say_with_festival(texts: list[str], voice: str, stretch: float = 1.0) -> list[Recording]:
    """One recording for each text; the program is started once, since its start takes longer than a sentence.

    Raises:
        SpeechError: the festival program is missing or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = [f"(voice_{voice})", f"(Parameter.set 'Duration_Stretch {stretch:.3f})"]
        for index, text in enumerate(texts):
            quoted = _plain_letters(text).replace("\\", "").replace('"', "")
            script += [
                f'(set! u (Utterance Text "{quoted}"))',
                "(utt.synth u)",
                f'(utt.save.wave u "{folder}/{index}.wav" \'riff)',
                f'(utt.save.segs u "{folder}/{index}.lab")',
            ]
        path = Path(folder) / "say.scm"
        path.write_text("\n".join(script))
        _run(["festival", "-b", str(path)])
        parts = parts_of_arpabet if FESTIVAL_VOICES[voice] == "en" else parts_of_sampa
        recordings = []
        for index in range(len(texts)):
            samples, rate_hz = _read_int16(Path(folder) / f"{index}.wav")
            rows = [line.split() for line in (Path(folder) / f"{index}.lab").read_text().splitlines()]
            ends = [(row[2], float(row[0])) for row in rows if len(row) == 3]
            recordings.append(_from_ends(samples, rate_hz, ends, f"festival-{voice}", parts))
    return recordings


def available_engines() -> list[str]:
    """Which of the programs the corpus speaks with are installed, besides espeak-ng."""
    return [name for name in ("flite", "festival") if shutil.which(name)]


def installed_festival_voices() -> list[str]:
    """Those of FESTIVAL_VOICES that this machine has."""
    here = {path.name for path in _FESTIVAL_FOLDER.glob("*/*")}
    return [voice for voice in FESTIVAL_VOICES if voice in here]


def _from_ends(
    samples: NDArray[np.int16],
    rate_hz: int,
    ends: list[tuple[str, float]],
    speaker: str,
    parts: Callable[[str], tuple[str, ...]],
) -> Recording:
    starts_s = [0.0, *(end_s for _, end_s in ends)]
    segments = [(parts(name), start_s, end_s) for (name, end_s), start_s in zip(ends, starts_s, strict=False)]
    track = track_from_segments(segments, len(samples) / rate_hz)
    return Recording(_to_speech_rate(samples, rate_hz), track, speaker)


def _plain_letters(text: str) -> str:
    """Without accents: festival reads bytes, not UTF-8."""
    return unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode()


def _read_int16(path: Path) -> tuple[NDArray[np.int16], int]:
    samples, rate_hz = soundfile.read(path, dtype="int16")
    return np.asarray(samples, np.int16), rate_hz


def _to_speech_rate(samples: NDArray[np.int16], rate_hz: int) -> NDArray[np.float32]:
    return soxr.resample(samples.astype(np.float32) / 32768, rate_hz, SPEECH_RATE_HZ).astype(np.float32)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except FileNotFoundError as error:
        raise SpeechError(
            f"the program {command[0]!r} is not installed; `apt install {command[0]}` brings it"
        ) from error
    except subprocess.CalledProcessError as error:
        raise SpeechError(f"{command[0]} failed: {error.stderr.strip()[:200]}") from error
    return done.stdout
