"""Mouth movement from phones: viseme targets in ARKit weights, blended by dominance functions.

Source of the blending: Cohen and Massaro 1993, "Modeling coarticulation in synthetic visual speech". Every phone pulls
each articulator towards its target with a strength that falls off exponentially before and after it; the articulator
goes to the weighted mean. Contacts that must happen (lips on m, b, p; lower lip to teeth on f, v) are added on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loquent.data.phones import BILABIALS, LABIODENTALS, PHONES, SILENCE, VOWELS, PhoneTrack
from loquent.types import ARKIT_INDEX, ARKIT_NAMES

# Articulators; those that a face has twice move both sides alike.
CHANNELS = (
    "jawOpen", "mouthFunnel", "mouthPucker", "mouthStretch", "mouthSmile", "mouthUpperUp", "mouthLowerDown",
    "mouthShrugUpper", "mouthShrugLower", "mouthRollLower", "mouthRollUpper", "mouthPress", "mouthClose", "tongueOut",
)  # fmt: skip
_CHANNEL = {name: index for index, name in enumerate(CHANNELS)}

# Targets by phone: only what differs from zero. Jaw 1 would be a yawn of 3.3 cm between the lips; speech uses a third.
_TARGETS: dict[str, dict[str, float]] = {
    "sil": {},
    "iy": {"jawOpen": 0.09, "mouthStretch": 0.26, "mouthSmile": 0.26, "mouthUpperUp": 0.15, "mouthLowerDown": 0.26},
    "ih": {"jawOpen": 0.15, "mouthStretch": 0.15, "mouthSmile": 0.13, "mouthUpperUp": 0.13, "mouthLowerDown": 0.22},
    "ix": {"jawOpen": 0.11, "mouthStretch": 0.17, "mouthSmile": 0.06, "mouthUpperUp": 0.10, "mouthLowerDown": 0.22},
    "ee": {"jawOpen": 0.19, "mouthStretch": 0.22, "mouthSmile": 0.19, "mouthUpperUp": 0.16, "mouthLowerDown": 0.26},
    "eh": {"jawOpen": 0.26, "mouthStretch": 0.16, "mouthSmile": 0.10, "mouthUpperUp": 0.16, "mouthLowerDown": 0.25},
    "ae": {"jawOpen": 0.34, "mouthStretch": 0.20, "mouthSmile": 0.12, "mouthUpperUp": 0.18, "mouthLowerDown": 0.26},
    "a": {"jawOpen": 0.36, "mouthStretch": 0.08, "mouthUpperUp": 0.13, "mouthLowerDown": 0.22},
    "aa": {"jawOpen": 0.37, "mouthFunnel": 0.04, "mouthUpperUp": 0.11, "mouthLowerDown": 0.19},
    "ah": {"jawOpen": 0.25, "mouthStretch": 0.05, "mouthUpperUp": 0.11, "mouthLowerDown": 0.19},
    "ax": {"jawOpen": 0.17, "mouthUpperUp": 0.09, "mouthLowerDown": 0.16},
    "er": {"jawOpen": 0.15, "mouthFunnel": 0.26, "mouthPucker": 0.22, "mouthLowerDown": 0.10},
    "ao": {"jawOpen": 0.28, "mouthFunnel": 0.36, "mouthPucker": 0.24, "mouthLowerDown": 0.04},
    "oo": {"jawOpen": 0.23, "mouthFunnel": 0.36, "mouthPucker": 0.46},
    "uh": {"jawOpen": 0.13, "mouthFunnel": 0.26, "mouthPucker": 0.42, "mouthLowerDown": 0.04},
    "uw": {"jawOpen": 0.08, "mouthFunnel": 0.24, "mouthPucker": 0.78, "mouthClose": 0.05},
    "yy": {"jawOpen": 0.07, "mouthFunnel": 0.30, "mouthPucker": 0.70, "mouthClose": 0.05},
    "oe": {"jawOpen": 0.17, "mouthFunnel": 0.36, "mouthPucker": 0.50},
    "p": {"jawOpen": 0.04}, "b": {"jawOpen": 0.04}, "m": {"jawOpen": 0.04},
    "f": {"jawOpen": 0.06}, "v": {"jawOpen": 0.06},
    "bf": {"jawOpen": 0.05, "mouthPucker": 0.10},
    "th": {"jawOpen": 0.10, "mouthUpperUp": 0.11, "mouthLowerDown": 0.20, "tongueOut": 0.16},
    "dh": {"jawOpen": 0.10, "mouthUpperUp": 0.10, "mouthLowerDown": 0.20, "tongueOut": 0.13},
    "t": {"jawOpen": 0.07, "mouthUpperUp": 0.11, "mouthLowerDown": 0.21},
    "d": {"jawOpen": 0.08, "mouthUpperUp": 0.11, "mouthLowerDown": 0.21},
    "n": {"jawOpen": 0.09, "mouthUpperUp": 0.09, "mouthLowerDown": 0.20},
    "s": {"jawOpen": 0.03, "mouthStretch": 0.14, "mouthSmile": 0.08, "mouthUpperUp": 0.15, "mouthLowerDown": 0.31},
    "z": {"jawOpen": 0.03, "mouthStretch": 0.12, "mouthSmile": 0.08, "mouthUpperUp": 0.14, "mouthLowerDown": 0.29},
    "sh": {"jawOpen": 0.05, "mouthFunnel": 0.50, "mouthPucker": 0.28, "mouthUpperUp": 0.12, "mouthLowerDown": 0.14},
    "zh": {"jawOpen": 0.05, "mouthFunnel": 0.48, "mouthPucker": 0.28, "mouthUpperUp": 0.11, "mouthLowerDown": 0.14},
    "sy": {"jawOpen": 0.04, "mouthFunnel": 0.18, "mouthPucker": 0.05, "mouthUpperUp": 0.14, "mouthLowerDown": 0.28},
    "r": {"jawOpen": 0.08, "mouthFunnel": 0.30, "mouthPucker": 0.32, "mouthLowerDown": 0.08},
    "dx": {"jawOpen": 0.11, "mouthUpperUp": 0.10, "mouthLowerDown": 0.22},
    "rr": {"jawOpen": 0.12, "mouthUpperUp": 0.11, "mouthLowerDown": 0.23},
    "l": {"jawOpen": 0.13, "mouthUpperUp": 0.10, "mouthLowerDown": 0.20},
    "y": {"jawOpen": 0.07, "mouthStretch": 0.18, "mouthSmile": 0.15, "mouthUpperUp": 0.12, "mouthLowerDown": 0.24},
    "k": {"jawOpen": 0.12, "mouthUpperUp": 0.08, "mouthLowerDown": 0.18},
    "g": {"jawOpen": 0.12, "mouthUpperUp": 0.08, "mouthLowerDown": 0.18},
    "ng": {"jawOpen": 0.12, "mouthUpperUp": 0.08, "mouthLowerDown": 0.18},
    "x": {"jawOpen": 0.13, "mouthUpperUp": 0.10, "mouthLowerDown": 0.20},
    "hy": {"jawOpen": 0.08, "mouthStretch": 0.16, "mouthSmile": 0.10, "mouthUpperUp": 0.13, "mouthLowerDown": 0.26},
    "hh": {"jawOpen": 0.15, "mouthUpperUp": 0.09, "mouthLowerDown": 0.18},
    "q": {"jawOpen": 0.10, "mouthUpperUp": 0.07, "mouthLowerDown": 0.14},
    "w": {"jawOpen": 0.07, "mouthFunnel": 0.20, "mouthPucker": 0.85, "mouthClose": 0.06},
    "rx": {"jawOpen": 0.14, "mouthUpperUp": 0.09, "mouthLowerDown": 0.18},
}  # fmt: skip

# How strongly a phone insists on its jaw and on its lips, 0 to 1.
_JAW_STRENGTH = {
    "sil": 0.55, "s": 1.0, "z": 1.0, "sh": 0.95, "zh": 0.95, "sy": 0.95, "t": 0.6, "d": 0.55, "n": 0.4, "f": 0.65,
    "v": 0.6, "p": 0.5, "b": 0.5, "m": 0.5, "bf": 0.5, "th": 0.55, "dh": 0.45, "w": 0.6, "r": 0.45, "l": 0.3,
    "k": 0.2, "g": 0.2, "ng": 0.2, "x": 0.2, "hh": 0.06, "q": 0.04, "y": 0.55, "hy": 0.5, "dx": 0.3, "rr": 0.4,
    "rx": 0.2,
}  # fmt: skip
_LIP_STRENGTH = {
    "sil": 0.45, "s": 0.45, "z": 0.45, "sh": 0.95, "zh": 0.95, "sy": 0.6, "t": 0.16, "d": 0.16, "n": 0.14, "f": 0.5,
    "v": 0.5, "p": 0.25, "b": 0.25, "m": 0.25, "bf": 0.6, "th": 0.3, "dh": 0.25, "w": 1.0, "r": 0.6, "l": 0.14,
    "k": 0.1, "g": 0.1, "ng": 0.1, "x": 0.1, "hh": 0.04, "q": 0.04, "y": 0.4, "hy": 0.4, "dx": 0.12, "rr": 0.14,
    "rx": 0.1,
}  # fmt: skip
_VOWEL_JAW_STRENGTH, _VOWEL_LIP_STRENGTH = 1.0, 0.8
_REDUCED = {"ax": 0.4, "ix": 0.5, "ih": 0.6, "uh": 0.6}  # weak vowels give way to their neighbours

# Time constants of the pull in seconds, before and after the phone.
_JAW_TIMES_S = (0.048, 0.052)
_SPREAD_TIMES_S = (0.050, 0.050)
_ROUND_TIMES_S = (0.090, 0.055)  # rounding is anticipated
_ROUND_CHANNELS = ("mouthFunnel", "mouthPucker")

_STILL_SILENCE_S = 0.14  # shorter gaps are passed through
_PARTED_IN_SILENCE = (
    (0.25, 0.8, 1.2, 2.2),
    (0.8, 0.55, 0.4, 0.0),
)  # length of a silence in s -> how much opening stays
_EDGE_S, _ONSET_S = 0.105, 0.115  # how far into the sound beside a silence, and how long, the mouth starts to move
_LEAD_S = 0.010  # mouths are a little ahead of what is heard
_JAW_LIMIT = 0.55  # approached softly by the loudest vowels
_CLOSURE_RAMP_S = 0.058
_CLOSURE_HOLD_S = 0.075  # shortest full closure: at 25 frames a second one frame always falls into it
_JAW_TO_CLOSE = 0.87  # mouthClose that seals lips parted by jawOpen 1 (measured on ICT Face Model Light)


@dataclass(frozen=True, eq=False)
class Mouth:
    """Movement of mouth and jaw, before emotion and the rest of the face are added."""

    expression: NDArray[np.float32]  # (T, 52), ARKit weights; only the mouth's and jaw's are not zero
    contact: NDArray[np.float32]  # (T,), 0..1, lips or lower lip and teeth touch because a phone wants it

    def __getitem__(self, steps: slice) -> Mouth:
        return Mouth(self.expression[steps], self.contact[steps])


@dataclass(frozen=True)
class ArticulationStyle:
    """How a person moves the mouth; factors, 1 is the average speaker."""

    amount: float = 1.0  # over- or under-articulation
    jaw: float = 1.0
    rounding: float = 1.0
    spread: float = 1.0
    quickness: float = 1.0  # above 1 shortens the pull of every phone on its neighbours
    upper_lip: float = 1.0
    smile: float = 0.0  # added to the corners while speaking


def _table() -> NDArray[np.float64]:
    table = np.zeros((len(PHONES), len(CHANNELS)))
    for row, phone in enumerate(PHONES):
        for channel, value in _TARGETS[phone].items():
            table[row, _CHANNEL[channel]] = value
    return table


def _strengths() -> NDArray[np.float64]:
    table = np.zeros((len(PHONES), len(CHANNELS)))
    for row, phone in enumerate(PHONES):
        weak = _REDUCED.get(phone, 1.0)
        jaw = weak * _VOWEL_JAW_STRENGTH if phone in VOWELS else _JAW_STRENGTH[phone]
        lips = weak * _VOWEL_LIP_STRENGTH if phone in VOWELS else _LIP_STRENGTH[phone]
        table[row] = lips
        table[row, _CHANNEL["jawOpen"]] = jaw
        if phone in ("th", "dh"):
            table[row, _CHANNEL["tongueOut"]] = 1.0
    return table


TARGETS = _table()  # (phones, channels)
STRENGTHS = _strengths()  # (phones, channels)


def articulate(
    track: PhoneTrack,
    effort: NDArray[np.float64],
    style: ArticulationStyle,
    num_steps: int,
    step_rate_hz: float = 200.0,
) -> Mouth:
    """Mouth and jaw over time.

    Args:
        track: phones with their times.
        effort: (N,), one factor a phone, about 1: stressed and loud phones open wider.
        style: the person's way of moving.
        num_steps: T, steps at `step_rate_hz`, the first at time 0.
    """
    times_s = np.arange(num_steps) / step_rate_hz + _LEAD_S
    targets = _styled_targets(track, effort, style)
    curves = _blend(track, targets, times_s, style)
    curves = _smooth(curves, 0.011 * step_rate_hz)
    curves = _settle_in_silences(curves, track, times_s)
    jaw = curves[:, _CHANNEL["jawOpen"]]
    curves[:, _CHANNEL["jawOpen"]] = _JAW_LIMIT * np.tanh(jaw / _JAW_LIMIT)
    closure = _contact(track, BILABIALS, times_s)
    labiodental = _contact(track, LABIODENTALS, times_s) * (1 - closure)
    return Mouth(_apply_contacts(curves, closure, labiodental), np.maximum(closure, labiodental).astype(np.float32))


def _styled_targets(track: PhoneTrack, effort: NDArray, style: ArticulationStyle) -> NDArray:
    targets = TARGETS[track.ids] * style.amount
    factors = dict.fromkeys(CHANNELS, 1.0)
    factors |= {"jawOpen": style.jaw, "mouthFunnel": style.rounding, "mouthPucker": style.rounding}
    factors |= {"mouthStretch": style.spread, "mouthSmile": style.spread, "mouthUpperUp": style.upper_lip}
    targets = targets * np.array([factors[name] for name in CHANNELS])
    open_channels = [_CHANNEL[name] for name in ("jawOpen", "mouthUpperUp", "mouthLowerDown")]
    targets[:, open_channels] *= effort[:, None]
    speaking = ~track.is_any((SILENCE,))
    targets[speaking, _CHANNEL["mouthSmile"]] += style.smile
    return targets


def _blend(track: PhoneTrack, targets: NDArray, times_s: NDArray, style: ArticulationStyle) -> NDArray:
    """Dominance-weighted mean of the targets, (T, channels)."""
    start, end = track.bounds_s[:-1], track.bounds_s[1:]
    length = end - start
    before = start + 0.30 * length - times_s[:, None]  # (T, N), positive before the phone's core
    after = times_s[:, None] - (end - 0.30 * length)
    strengths = STRENGTHS[track.ids]
    curves = np.empty((len(times_s), len(CHANNELS)))
    groups = {
        _JAW_TIMES_S: ["jawOpen"],
        _ROUND_TIMES_S: list(_ROUND_CHANNELS),
        _SPREAD_TIMES_S: [name for name in CHANNELS if name not in (*_ROUND_CHANNELS, "jawOpen")],
    }
    for (lead_s, lag_s), names in groups.items():
        lead_s, lag_s = lead_s / style.quickness, lag_s / style.quickness
        distance = np.maximum(np.maximum(before / lead_s, after / lag_s), 0)
        dominance = np.exp(-distance)  # (T, N)
        at = [_CHANNEL[name] for name in names]
        weighted = dominance @ (strengths[:, at] * targets[:, at])
        curves[:, at] = weighted / (dominance @ strengths[:, at] + 1e-9)
    return curves


def _settle_in_silences(curves: NDArray, track: PhoneTrack, times_s: NDArray) -> NDArray:
    """Rests the mouth in silences: half open and still in short ones, closed in long ones.

    It comes to rest at leisure where there is time for it, and starts to move again just as the sound does.
    """
    settled = curves.copy()
    length_s = np.diff(track.bounds_s)
    rate_hz = 1 / (times_s[1] - times_s[0])
    last = len(times_s) - 1
    for index in np.flatnonzero(track.is_any((SILENCE,)) & (length_s > _STILL_SILENCE_S)):
        start_s, end_s = track.bounds_s[index], track.bounds_s[index + 1]
        lead_s = min(_EDGE_S, 0.6 * length_s[index - 1]) if index > 0 else 0.0
        lag_s = min(_EDGE_S, 0.6 * length_s[index + 1]) if index + 1 < len(track) else 0.0
        edges_s = np.array([start_s - lead_s, end_s + lag_s]) - times_s[0]
        first, final = np.clip(np.round(edges_s * rate_hz).astype(int), 0, last)
        before, after = curves[first], curves[final]
        rest = np.interp(length_s[index], *_PARTED_IN_SILENCE) * np.minimum(before, after)
        inside_s = times_s[first : final + 1]
        close_s = float(np.interp(length_s[index], (0.25, 0.7), (0.12, 0.32)))
        left = 1 - _minimum_jerk((inside_s - inside_s[0]) / close_s)
        arrived = 1 - _minimum_jerk((inside_s[-1] - inside_s) / _ONSET_S)
        if index == 0:
            left = np.zeros_like(left)
        if index + 1 == len(track):
            arrived = np.zeros_like(arrived)
        settled[first : final + 1] = rest + left[:, None] * (before - rest) + arrived[:, None] * (after - rest)
    return settled


def _minimum_jerk(part: NDArray) -> NDArray:
    x = np.clip(part, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _contact(track: PhoneTrack, names: tuple[str, ...], times_s: NDArray) -> NDArray:
    """(T,), 0 to 1: how far the contact of these phones is made; 1 for at least the shortest hold."""
    contact = np.zeros(len(times_s))
    for index in np.flatnonzero(track.is_any(names)):
        start_s, end_s = track.bounds_s[index], track.bounds_s[index + 1]
        if PHONES[track.ids[index]] in ("p", "b"):
            end_s = start_s + 0.75 * (end_s - start_s)  # what follows is the burst, with the lips apart
        middle_s = (start_s + end_s) / 2
        half_s = max((end_s - start_s) / 2 - 0.012, _CLOSURE_HOLD_S / 2)
        outside_s = np.abs(times_s - middle_s) - half_s
        contact = np.maximum(contact, 0.5 + 0.5 * np.cos(np.pi * np.clip(outside_s / _CLOSURE_RAMP_S, 0, 1)))
    return contact


def _apply_contacts(curves: NDArray, closure: NDArray, labiodental: NDArray) -> NDArray[np.float32]:
    value = {name: curves[:, index].copy() for name, index in _CHANNEL.items()}
    either = np.maximum(closure, labiodental)
    value["jawOpen"] *= 1 - 0.35 * closure - 0.25 * labiodental
    for name in ("mouthLowerDown", "mouthStretch"):
        value[name] *= 1 - either
    value["mouthUpperUp"] = value["mouthUpperUp"] * (1 - either) + 0.20 * labiodental
    value["mouthFunnel"] *= 1 - 0.92 * either
    value["mouthShrugUpper"] *= 1 - either
    shut = _JAW_TO_CLOSE * value["jawOpen"]
    value["mouthClose"] = np.maximum(np.minimum(value["mouthClose"], 0.7 * shut), shut * (closure + 0.75 * labiodental))
    value["mouthPress"] += 0.18 * closure
    value["mouthRollLower"] += 0.10 * closure + 0.34 * labiodental
    value["mouthRollUpper"] += 0.08 * closure
    expression = np.zeros((len(closure), len(ARKIT_NAMES)), np.float32)
    for name, curve in value.items():
        sides = (name,) if name in ARKIT_INDEX else (f"{name}Left", f"{name}Right")
        for side in sides:
            expression[:, ARKIT_INDEX[side]] = curve
    return expression


def _smooth(curves: NDArray, deviation_steps: float) -> NDArray:
    """Gaussian smoothing along time; the ends are held."""
    radius = max(1, int(np.ceil(3 * deviation_steps)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation_steps) ** 2)
    padded = np.pad(curves, ((radius, radius), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=0)
    return windows @ (kernel / kernel.sum())


# Gap between the inner lips and width between the mouth's corners in interocular distances (outer eye corners) at
# weight 1, measured on ICT Face Model Light (landmarks 62, 66 and 48, 54; its eyes are 8.92 cm apart).
_GAP_BY_WEIGHT = {
    "jawOpen": 0.368, "mouthClose": -0.436, "mouthFunnel": 0.154, "mouthLowerDown": 0.076, "mouthUpperUp": 0.078,
    "mouthPress": -0.028, "mouthRollLower": -0.041, "mouthShrugLower": -0.077, "mouthShrugUpper": 0.059,
}  # fmt: skip
_WIDTH_BY_WEIGHT = {
    "jawOpen": -0.064, "mouthClose": 0.031, "mouthFunnel": -0.076, "mouthPucker": -0.104, "mouthStretch": 0.148,
    "mouthSmile": 0.159, "mouthDimple": 0.018, "mouthFrown": 0.043,
}  # fmt: skip
_REST_WIDTH = 0.568


def _project(expression: NDArray, by_weight: dict[str, float]) -> NDArray[np.float32]:
    row = np.zeros(len(ARKIT_NAMES), np.float32)
    for name, value in by_weight.items():
        if name in ARKIT_INDEX:
            row[ARKIT_INDEX[name]] = value
        else:  # the figure is for both sides together
            row[ARKIT_INDEX[f"{name}Left"]] = row[ARKIT_INDEX[f"{name}Right"]] = value / 2
    return np.asarray(expression, np.float32) @ row


def lip_opening(expression: NDArray) -> NDArray[np.float32]:
    """Gap between the inner lips that ARKit weights (T, 52) ask for: (T,), interocular distances, not below 0."""
    return np.maximum(_project(expression, _GAP_BY_WEIGHT), 0)


def lip_width(expression: NDArray) -> NDArray[np.float32]:
    """Distance of the mouth's corners that ARKit weights (T, 52) ask for: (T,), interocular distances."""
    return _REST_WIDTH + _project(expression, _WIDTH_BY_WEIGHT)
