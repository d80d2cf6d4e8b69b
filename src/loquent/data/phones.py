"""One phone inventory for every speech engine, and the tables from each engine's names to it.

Diphthongs and affricates are split into their parts, so that one phone has one mouth shape.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PHONE_RATE_HZ = 100  # rate of frame-wise phone labels

SILENCE = "sil"
VOWELS = ("iy", "ih", "ix", "ee", "eh", "ae", "a", "aa", "ah", "ax", "er", "ao", "oo", "uh", "uw", "yy", "oe")
CONSONANTS = (
    "p", "b", "m", "f", "v", "bf", "th", "dh", "t", "d", "n", "s", "z", "sh", "zh", "sy", "r", "dx", "rr", "l",
    "y", "k", "g", "ng", "x", "hy", "hh", "q", "w", "rx",
)  # fmt: skip
PHONES = (SILENCE, *VOWELS, *CONSONANTS)
PHONE_INDEX = {name: index for index, name in enumerate(PHONES)}
BILABIALS = ("p", "b", "m")
LABIODENTALS = ("f", "v")
ROUNDED_VOWELS = ("ao", "oo", "uh", "uw", "yy", "oe")
SPREAD_VOWELS = ("iy", "ih", "ix", "ee", "eh", "ae")

# International phonetic alphabet (espeak-ng's names, any language) to the inventory.
_IPA = {
    "i": "iy", "ɪ": "ih", "ᵻ": "ih", "ɨ": "ix", "ɯ": "ix", "e": "ee", "ɛ": "eh", "æ": "ae", "a": "a", "ɑ": "aa",
    "ʌ": "ah", "ɐ": "ah", "ɤ": "ah", "ə": "ax", "ɘ": "ax", "ɜ": "er", "ɚ": "er", "ɝ": "er", "ɔ": "ao", "ɒ": "ao",
    "o": "oo", "ʊ": "uh", "u": "uw", "ʉ": "yy", "y": "yy", "ʏ": "yy", "ø": "oe", "œ": "oe", "ɵ": "oe", "ɞ": "oe",
    "ɶ": "oe",
    "p": "p", "b": "b", "ɓ": "b", "m": "m", "f": "f", "v": "v", "ʋ": "v", "ɱ": "v", "ɸ": "bf", "β": "bf",
    "θ": "th", "ð": "dh", "t": "t", "ʈ": "t", "d": "d", "ɖ": "d", "ɗ": "d", "n": "n", "ɳ": "n", "ɲ": "n", "s": "s",
    "z": "z", "ʃ": "sh", "ʂ": "sh", "ʒ": "zh", "ʐ": "zh", "ɕ": "sy", "ʑ": "sy", "ɹ": "r", "ɻ": "r", "ɾ": "dx",
    "ɽ": "dx", "r": "rr", "l": "l", "ɫ": "l", "ɭ": "l", "ʎ": "l", "ɬ": "l", "ɮ": "l", "ɺ": "l", "ʟ": "l", "j": "y",
    "ʝ": "y", "k": "k", "c": "k", "q": "k", "ɡ": "g", "g": "g", "ɟ": "g", "ɢ": "g", "ŋ": "ng", "ɴ": "ng", "x": "x",
    "χ": "x", "ɣ": "x", "ç": "hy", "h": "hh", "ɦ": "hh", "ħ": "hh", "ʕ": "hh", "ʔ": "q", "w": "w", "ʍ": "w",
    "ɥ": "w", "ɰ": "x", "ʁ": "rx", "ʀ": "rx", "ɧ": "sh",
}  # fmt: skip

# SAMPA as festival's Italian, Catalan, Czech and Finnish voices use it, without stress digits and length marks.
_SAMPA = {
    "#": ("sil",), "pau": ("sil",), "_": ("q",),
    "a": ("a",), "e": ("eh",), "E": ("eh",), "i": ("iy",), "o": ("oo",), "O": ("ao",), "u": ("uw",), "y": ("yy",),
    "ax": ("ax",), "ae": ("ae",), "oe": ("oe",),
    "p": ("p",), "b": ("b",), "m": ("m",), "B": ("bf",), "f": ("f",), "v": ("v",), "nf": ("v",), "w": ("w",),
    "t": ("t",), "d": ("d",), "n": ("n",), "D": ("dh",), "T": ("th",), "s": ("s",), "z": ("z",), "ts": ("t", "s"),
    "dz": ("d", "z"), "c": ("t", "s"), "tS": ("t", "sh"), "dZ": ("d", "zh"), "S": ("sh",), "Z": ("zh",),
    "c~": ("t", "sh"), "s~": ("sh",), "z~": ("zh",), "r~": ("zh",), "dz~": ("d", "zh"), "t~": ("t",), "d~": ("d",),
    "n~": ("n",), "J": ("n",), "L": ("l",), "l": ("l",), "r": ("rr",), "rr": ("rr",), "j": ("y",), "k": ("k",),
    "g": ("g",), "G": ("x",), "N": ("ng",), "ng": ("ng",), "x": ("x",), "ch": ("x",), "h": ("hh",),
}  # fmt: skip

# CMU's names (pocketsphinx in capitals, flite and festival in small letters, without stress digits).
_ARPABET = {
    "aa": ("aa",), "ae": ("ae",), "ah": ("ah",), "ao": ("ao",), "aw": ("a", "uh"), "ax": ("ax",), "axr": ("er",),
    "ay": ("a", "ih"), "b": ("b",), "ch": ("t", "sh"), "d": ("d",), "dh": ("dh",), "dx": ("dx",), "eh": ("eh",),
    "er": ("er",), "ey": ("ee", "ih"), "f": ("f",), "g": ("g",), "hh": ("hh",), "hv": ("hh",), "ih": ("ih",),
    "iy": ("iy",), "jh": ("d", "zh"), "k": ("k",), "l": ("l",), "el": ("l",), "m": ("m",), "em": ("m",),
    "n": ("n",), "en": ("n",), "nx": ("n",), "ng": ("ng",), "ow": ("oo", "uh"), "oy": ("ao", "ih"), "p": ("p",),
    "r": ("r",), "s": ("s",), "sh": ("sh",), "t": ("t",), "th": ("th",), "uh": ("uh",), "uw": ("uw",), "v": ("v",),
    "w": ("w",), "y": ("y",), "z": ("z",), "zh": ("zh",),
    "pau": ("sil",), "h#": ("sil",), "brth": ("sil",), "sil": ("sil",), "ssil": ("sil",),
    "(null)": ("sil",), "<sil>": ("sil",), "+spn+": ("sil",), "+nsn+": ("sil",), "+breath+": ("sil",),
}  # fmt: skip


def parts_of_ipa(name: str) -> tuple[str, ...]:
    """Phones of one IPA name; stress, length, tone and secondary articulation are ignored; () is nothing known."""
    if name.startswith("("):  # not a phone: "(en)" switches the language
        return ()
    base = unicodedata.normalize("NFD", name)
    return tuple(_IPA[symbol] for symbol in base if symbol in _IPA)


def parts_of_arpabet(name: str) -> tuple[str, ...]:
    """Phones of one CMU name, in either case, with or without a stress digit; () is nothing known."""
    return _ARPABET.get(name.lower().rstrip("012"), ())


def parts_of_sampa(name: str) -> tuple[str, ...]:
    """Phones of one SAMPA name, with or without stress and length marks; () is nothing known."""
    return _SAMPA.get(name.rstrip("012:"), ())


@dataclass(frozen=True, eq=False)
class PhoneTrack:
    """Phones of one recording in time order, without gaps."""

    ids: NDArray[np.int16]  # (N,), indices into PHONES
    bounds_s: NDArray[np.float64]  # (N + 1,), phone i lasts from bounds_s[i] to bounds_s[i + 1]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> list[str]:
        return [PHONES[index] for index in self.ids]

    @property
    def duration_s(self) -> float:
        return float(self.bounds_s[-1])

    def is_any(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """(N,), true where the phone is one of `names`."""
        return np.isin(self.ids, [PHONE_INDEX[name] for name in names])

    def frames(self, num_frames: int, rate_hz: float = PHONE_RATE_HZ) -> NDArray[np.uint8]:
        """(num_frames,), the phone at the time i / rate_hz of every frame."""
        times_s = np.arange(num_frames) / rate_hz
        at = np.searchsorted(self.bounds_s[1:-1], times_s, side="right")
        return self.ids[at].astype(np.uint8)

    def mapped(self, old_s: NDArray[np.float64], new_s: NDArray[np.float64]) -> PhoneTrack:
        """The track on a changed clock: times are interpolated on the map from `old_s` to `new_s`."""
        return PhoneTrack(self.ids, np.interp(self.bounds_s, old_s, new_s))


def track_from_segments(segments: list[tuple[tuple[str, ...], float, float]], duration_s: float) -> PhoneTrack:
    """Builds a gapless track from (phones, start, end) in seconds; gaps become silence, equal silences are joined.

    A segment of several phones (a diphthong, an affricate) is shared between them, the first taking 55 %.
    """
    names: list[str] = []
    bounds = [0.0]

    def append(name: str, end_s: float) -> None:
        end_s = min(end_s, duration_s)
        if end_s <= bounds[-1] + 1e-4:
            return
        if names and name == names[-1] == SILENCE:
            bounds[-1] = end_s
        else:
            names.append(name)
            bounds.append(end_s)

    for parts, start_s, end_s in segments:
        append(SILENCE, start_s)
        for index, name in enumerate(parts):
            share = 1.0 if index == len(parts) - 1 else 0.55 + 0.45 * index / len(parts)
            append(name, start_s + share * (end_s - start_s))
    append(SILENCE, duration_s)
    ids = np.array([PHONE_INDEX[name] for name in names], np.int16)
    return PhoneTrack(ids, np.array(bounds, np.float64))
