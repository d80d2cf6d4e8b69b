"""Builds a corpus of speech with face motion: `python -m loquent.data.corpus --out DIR --hours 8 --seed 0`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loquent.data.behaviour import STYLE_NAMES, Person, act, draw_style
from loquent.data.phones import PHONE_INDEX, PHONE_RATE_HZ, SILENCE, PhoneTrack
from loquent.data.prosody import analyse_prosody
from loquent.data.recordings import read_ljspeech
from loquent.data.shards import ShardWriter, Utterance
from loquent.data.sound import change_voice, record_somewhere
from loquent.data.texts import LANGUAGES, sentence
from loquent.data.voices import (
    ESPEAK_VARIANTS,
    FESTIVAL_VOICES,
    FLITE_VOICES,
    Recording,
    available_engines,
    installed_festival_voices,
    say_with_espeak,
    say_with_festival,
    say_with_flite,
)
from loquent.errors import SpeechError
from loquent.types import EMOTIONS, MOTION_RATE_HZ, SPEECH_RATE_HZ

logger = logging.getLogger(__name__)

_ENGLISH_VOICES = ("en-us", "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029")
_SHARES = {"real": 0.26, "espeak-en": 0.15, "espeak": 0.21, "flite": 0.18, "festival": 0.20}
_FESTIVAL_BATCH = 12
_LONGEST_S = 14.0

# How a voice changes with an emotion: factors on pace, pitch and pitch range.
_VOICE_BY_EMOTION = {
    "anger": (1.12, 1.06, 1.5), "contempt": (0.93, 0.96, 0.8), "disgust": (0.92, 0.95, 0.9), "fear": (1.15, 1.18, 1.3),
    "happiness": (1.06, 1.12, 1.5), "neutral": (1.0, 1.0, 1.0), "sadness": (0.84, 0.93, 0.55),
    "surprise": (1.05, 1.18, 1.6),
}  # fmt: skip


@dataclass(frozen=True)
class Spoken:
    """A recording before its voice is changed, and what is known about it."""

    recording: Recording
    language: str


@dataclass
class Sources:
    """The voices at hand. `speak` draws from one of them."""

    real: list[Recording]
    engines: list[str]
    _festival: list[Spoken] = field(default_factory=list)

    def shares(self) -> dict[str, float]:
        """Kind of voice -> share of the corpus; what is not installed leaves its share to the others."""
        here = {"real": bool(self.real), "flite": "flite" in self.engines, "festival": "festival" in self.engines}
        kept = {name: share for name, share in _SHARES.items() if here.get(name, True)}
        total = sum(kept.values())
        return {name: share / total for name, share in kept.items()}

    def speak(self, kind: str, emotion: str, rng: np.random.Generator) -> Spoken:
        pace, pitch, pitch_range = _VOICE_BY_EMOTION[emotion]
        if kind == "real":
            return Spoken(self.real[int(rng.integers(len(self.real)))], "en")
        if kind == "flite":
            voice = FLITE_VOICES[int(rng.integers(len(FLITE_VOICES)))]
            stretch = float(np.clip(np.exp(rng.normal(0.05, 0.14)) / pace, 0.7, 1.6))
            return Spoken(say_with_flite(sentence("en", rng), voice, stretch), "en")
        if kind == "festival":
            if not self._festival:
                self._festival = _festival_batch(rng)
            return self._festival.pop()
        language = _pick(_ENGLISH_VOICES if kind == "espeak-en" else LANGUAGES, rng)
        rate_wpm = int(np.clip(rng.normal(160, 28) * pace, 95, 260))
        recording = say_with_espeak(
            sentence(language, rng),
            language + _pick(ESPEAK_VARIANTS, rng),
            rate_wpm,
            int(np.clip(rng.normal(50, 16) * pitch, 5, 95)),
            int(np.clip(rng.normal(55, 15) * pitch_range, 10, 100)),
        )
        return Spoken(recording, language)


def _festival_batch(rng: np.random.Generator) -> list[Spoken]:
    """Several sentences of one voice: English in every second batch."""
    voices = [
        voice for voice in installed_festival_voices() if (FESTIVAL_VOICES[voice] == "en") == (rng.random() < 0.5)
    ]
    voice = _pick(voices or installed_festival_voices(), rng)
    language = FESTIVAL_VOICES[voice]
    texts = [sentence(language, rng) for _ in range(_FESTIVAL_BATCH)]
    recordings = say_with_festival(texts, voice, float(rng.uniform(0.85, 1.25)))
    return [Spoken(recording, language) for recording in recordings]


def make_utterance(sources: Sources, kind: str, rng: np.random.Generator) -> Utterance:
    """One utterance: words, another throat, motion, then room and microphone."""
    emotion = "neutral" if rng.random() < 0.45 else _pick(EMOTIONS, rng)
    person = Person(draw_style(rng), emotion, 0.0 if emotion == "neutral" else float(rng.uniform(0.35, 1.2)))
    pieces = [sources.speak(kind, emotion, rng)]
    while rng.random() < 0.45 and sum(piece.recording.track.duration_s for piece in pieces) < 6:
        pieces.append(sources.speak(kind, emotion, rng))
    spoken = join([piece.recording for piece in pieces], rng)
    spoken = _another_throat(spoken, kind, emotion, rng)
    num_frames = int(min(len(spoken.samples) / SPEECH_RATE_HZ, _LONGEST_S) * MOTION_RATE_HZ)
    prosody = analyse_prosody(spoken.samples, spoken.track)
    motion = act(spoken.track, prosody, person, num_frames, rng)
    per_frame = SPEECH_RATE_HZ // int(MOTION_RATE_HZ)
    audio = record_somewhere(spoken.samples[: num_frames * per_frame], rng)
    return Utterance(
        audio=np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16),
        motion=motion.to_vector(),
        phones=spoken.track.frames(num_frames * PHONE_RATE_HZ // int(MOTION_RATE_HZ)),
        emotion_id=person.emotion_id,
        intensity=person.intensity,
        style=person.style,
        speaker=spoken.speaker,
        language=pieces[0].language,
    )


def join(recordings: Sequence[Recording], rng: np.random.Generator) -> Recording:
    """Recordings one after another, with silence before, between and after: mostly short, sometimes seconds."""
    sounds: list[NDArray[np.float32]] = []
    ids: list[NDArray] = []
    bounds: list[NDArray] = [np.zeros(1)]
    at_s = 0.0

    def add_silence(longest_s: float) -> None:
        nonlocal at_s
        length = int((rng.uniform(0.08, longest_s) if rng.random() < 0.85 else rng.uniform(1.0, 2.6)) * SPEECH_RATE_HZ)
        at_s += length / SPEECH_RATE_HZ
        sounds.append(np.zeros(length, np.float32))
        ids.append(np.array([PHONE_INDEX[SILENCE]], np.int16))
        bounds.append(np.array([at_s]))

    add_silence(0.5)
    for recording in recordings:
        level = np.sqrt(np.mean(recording.samples**2)) + 1e-6
        sounds.append(recording.samples * (0.06 / level))
        ids.append(recording.track.ids)
        bounds.append(at_s + recording.track.bounds_s[1:])
        at_s += len(recording.samples) / SPEECH_RATE_HZ
        bounds[-1][-1] = at_s
        add_silence(0.7)
    track = _merge_silences(PhoneTrack(np.concatenate(ids), np.concatenate(bounds)))
    return Recording(np.concatenate(sounds), track, recordings[0].speaker)


def _merge_silences(track: PhoneTrack) -> PhoneTrack:
    silent = track.ids == PHONE_INDEX[SILENCE]
    keep = np.ones(len(track), bool)
    keep[1:] = ~(silent[1:] & silent[:-1])
    return PhoneTrack(track.ids[keep], np.append(track.bounds_s[:-1][keep], track.bounds_s[-1]))


def _another_throat(spoken: Recording, kind: str, emotion: str, rng: np.random.Generator) -> Recording:
    """Changes most real voices, which are few, and a third of the synthetic ones, which are many."""
    if rng.random() > (0.85 if kind == "real" else 0.35):
        return spoken
    wide = kind == "real"
    throat = float(np.exp(rng.uniform(-0.26, 0.12) if wide else rng.normal(0, 0.07)))
    pitch = throat * float(np.exp(rng.uniform(-0.45, 0.20) if wide else rng.normal(0, 0.10)))
    pace = float(np.exp(rng.normal(0, 0.10)))
    if wide:  # synthetic voices have the emotion's prosody from their engine
        factors = _VOICE_BY_EMOTION[emotion]
        pace, pitch = pace * factors[0], pitch * factors[1]
    wobble = np.exp(rng.normal(0, 0.06, max(3, int(spoken.track.duration_s))))
    return change_voice(spoken, throat, pitch, pace, wobble)


def build(
    out: Path,
    hours: float,
    seed: int = 0,
    speech: Path | None = None,
    transcripts: Path | None = None,
    report: Callable[[float], None] | None = None,
) -> None:
    """Writes a corpus.

    Args:
        out: folder for shards and index; made if needed.
        hours: wanted length of speech with its pauses.
        seed: the same seed, engines and recordings give the same corpus in a fresh process (espeak-ng keeps state).
        speech: folder of real speech (see `read_ljspeech`); None for synthetic voices only.
        transcripts: further transcripts for it.
        report: called with the hours made so far, after every utterance.
    """
    sources = Sources(read_ljspeech(speech, transcripts) if speech else [], available_engines())
    shares = sources.shares()
    kinds, weights = list(shares), np.array(list(shares.values()))
    about = {"seed": seed, "shares": shares, "styles": STYLE_NAMES}
    made_s = dict.fromkeys(kinds, 0.0)
    with ShardWriter(out, about=about) as writer:
        number = 0
        while sum(made_s.values()) < hours * 3600:
            rng = np.random.default_rng((seed, number))
            number += 1
            # The kind that is most behind its share, so that every shard holds every kind.
            kind = kinds[int(np.argmin(np.array(list(made_s.values())) / weights))]
            try:
                utterance = make_utterance(sources, kind, rng)
            except SpeechError as error:
                logger.warning("utterance %d is left out: %s", number, error)
                continue
            writer.add(utterance)
            made_s[kind] += utterance.num_frames / MOTION_RATE_HZ
            if report:
                report(sum(made_s.values()) / 3600)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a corpus of speech with face motion.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speech", type=Path, help="folder with ljspeech/, for real voices")
    parser.add_argument("--transcripts", type=Path, help="further id|text|normalised text lines for ljspeech")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    marks = iter(np.arange(0, arguments.hours + 0.25, 0.25))
    next_mark = next(marks)

    def report(hours: float) -> None:
        nonlocal next_mark
        if hours >= next_mark:
            logger.info("%.2f hours of %.2f", hours, arguments.hours)
            next_mark = next(marks, np.inf)

    build(arguments.out, arguments.hours, arguments.seed, arguments.speech, arguments.transcripts, report)


if __name__ == "__main__":
    main()
