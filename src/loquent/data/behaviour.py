"""Everything that moves besides the mouth: head, brows, blinks, gaze, breath, emotion. Tied to the voice, never twice
the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loquent.data.articulation import ArticulationStyle, Mouth, articulate
from loquent.data.phones import VOWELS, PhoneTrack
from loquent.data.prosody import Prosody
from loquent.types import ARKIT_INDEX, ARKIT_NAMES, EMOTIONS, MOTION_RATE_HZ, Motion

STYLE_NAMES = (
    "articulation", "head_amount", "brow_amount", "blink_rate", "smile", "gaze_amount", "asymmetry", "tempo",
)  # fmt: skip
_RATE_HZ = 100.0  # everything here is computed at this rate and then sampled at the motion rate
_STEP = int(_RATE_HZ / MOTION_RATE_HZ)
_MOUTH_RATE_HZ = 200.0

# What an emotion at full intensity adds to the face, in ARKit weights.
_EMOTION_FACES: dict[str, dict[str, float]] = {
    "anger": {"browDown": 0.70, "eyeSquint": 0.30, "noseSneer": 0.28, "mouthFrown": 0.22, "mouthPress": 0.14,
              "eyeWide": 0.12, "mouthUpperUp": 0.05},
    "contempt": {"mouthSmileLeft": 0.34, "mouthDimpleLeft": 0.32, "cheekSquintLeft": 0.22, "eyeSquint": 0.22,
                 "browOuterUpLeft": 0.22, "browDownRight": 0.15, "mouthPressRight": 0.08},
    "disgust": {"noseSneer": 0.60, "mouthUpperUp": 0.20, "browDown": 0.40, "eyeSquint": 0.34, "mouthFrown": 0.22,
                "cheekSquint": 0.20},
    "fear": {"browInnerUp": 0.70, "browOuterUp": 0.30, "eyeWide": 0.55, "mouthStretch": 0.26, "mouthFrown": 0.12},
    "happiness": {"mouthSmile": 0.66, "cheekSquint": 0.50, "eyeSquint": 0.18, "mouthDimple": 0.10,
                  "browOuterUp": 0.10, "mouthUpperUp": 0.05},
    "neutral": {},
    "sadness": {"browInnerUp": 0.62, "mouthFrown": 0.55, "eyeSquint": 0.10, "mouthShrugLower": 0.12,
                "eyeBlink": 0.12, "browDown": 0.06},
    "surprise": {"browInnerUp": 0.50, "browOuterUp": 0.62, "eyeWide": 0.48, "jawOpen": 0.03},
}  # fmt: skip


@dataclass(frozen=True)
class _Temper:
    """How an emotion at full intensity changes the way of moving; factors, 1 is no change."""

    articulation: float = 1.0
    head: float = 1.0
    brows: float = 1.0
    blinks: float = 1.0
    tempo: float = 1.0
    chin_deg: float = 0.0  # added to the pitch of the head


_TEMPERS = {
    "anger": _Temper(articulation=1.18, head=1.35, brows=0.7, blinks=0.8, tempo=1.25, chin_deg=-2.0),
    "contempt": _Temper(articulation=0.92, head=0.8, brows=0.8, blinks=0.9, tempo=0.9, chin_deg=2.5),
    "disgust": _Temper(articulation=1.0, head=0.9, brows=0.6, tempo=0.95, chin_deg=1.0),
    "fear": _Temper(articulation=0.95, head=0.9, brows=0.8, blinks=1.35, tempo=1.3, chin_deg=-0.5),
    "happiness": _Temper(articulation=1.08, head=1.25, brows=1.2, blinks=1.1, tempo=1.1, chin_deg=0.8),
    "neutral": _Temper(),
    "sadness": _Temper(articulation=0.84, head=0.65, brows=0.5, blinks=1.2, tempo=0.75, chin_deg=-3.5),
    "surprise": _Temper(articulation=1.12, head=1.15, brows=1.4, blinks=0.8, tempo=1.15, chin_deg=1.0),
}


@dataclass(frozen=True, eq=False)
class Person:
    """Who speaks, and how they feel."""

    style: NDArray[np.float32]  # (8,), about N(0, 1) each, in the order of STYLE_NAMES
    emotion: str = "neutral"  # one of EMOTIONS
    intensity: float = 1.0  # 0..1.5; means nothing when neutral

    @property
    def emotion_id(self) -> int:
        return EMOTIONS.index(self.emotion)

    def trait(self, name: str) -> float:
        return float(self.style[STYLE_NAMES.index(name)])

    def temper(self, name: str) -> float:
        """The emotion's factor on a way of moving, at this intensity."""
        full = getattr(_TEMPERS[self.emotion], name)
        return 1 + (full - 1) * min(self.intensity, 1.2)


def draw_style(rng: np.random.Generator) -> NDArray[np.float32]:
    """A random person's way of moving, (8,)."""
    return np.clip(rng.standard_normal(len(STYLE_NAMES)), -2.2, 2.2).astype(np.float32)


def act(track: PhoneTrack, prosody: Prosody, person: Person, num_frames: int, rng: np.random.Generator) -> Motion:
    """Full motion of one person saying what `track` holds, `num_frames` at 25 a second."""
    num_steps = (num_frames - 1) * _STEP + 1
    times_s = np.arange(num_steps) / _RATE_HZ
    activity = _speech_activity(prosody, times_s)
    mouth = _mouth(track, prosody, person, num_frames, rng)
    rotation_deg, translation = _head(track, prosody, person, times_s, activity, rng)
    expression = mouth.expression.astype(np.float64)
    rest = np.zeros((num_steps, len(ARKIT_NAMES)))
    _add_brows(rest, track, prosody, person, times_s, rng)
    _add_emotion(rest, person, times_s, activity, rng)
    _add_mouth_life(rest, prosody, person, times_s, activity, rng)
    gaze_deg = _gaze(prosody, person, times_s, rotation_deg, rng)
    blinks = _blinks(prosody, person, times_s, gaze_deg, rng)
    _add_lids_following_gaze(rest, gaze_deg)
    expression = _compose(expression, rest[::_STEP], mouth.contact.astype(np.float64), person)
    _add_blinks(expression, blinks[::_STEP], person)
    gaze = np.radians(gaze_deg[::_STEP])
    return Motion(
        expression=np.clip(expression, 0, 1).astype(np.float32),
        rotation=np.radians(rotation_deg[::_STEP]).astype(np.float32),
        translation=translation[::_STEP].astype(np.float32),
        gaze=np.stack([gaze, gaze], axis=1).astype(np.float32),
    )


def _mouth(track: PhoneTrack, prosody: Prosody, person: Person, num_frames: int, rng: np.random.Generator) -> Mouth:
    trait = person.trait("articulation")
    amount = float(np.exp(0.12 * trait + 0.05 * rng.standard_normal())) * person.temper("articulation")
    vary = np.exp(0.07 * rng.standard_normal(5))
    style = ArticulationStyle(
        amount=amount, jaw=vary[0], rounding=vary[1], spread=vary[2], quickness=vary[3], upper_lip=vary[4] * 1.0
    )
    vowels = track.is_any(VOWELS)
    effort = np.ones(len(track))
    effort[vowels] = np.clip(0.84 + 0.20 * prosody.prominence[vowels], 0.75, 1.22)
    effort *= np.exp(0.07 * rng.standard_normal(len(track)))
    per_frame = int(_MOUTH_RATE_HZ / MOTION_RATE_HZ)
    mouth = articulate(track, effort, style, (num_frames - 1) * per_frame + 1, _MOUTH_RATE_HZ)
    return mouth[::per_frame]


def _speech_activity(prosody: Prosody, times_s: NDArray) -> NDArray:
    """(T,), 1 while speaking, 0 well inside a pause; changes over a third of a second."""
    activity = np.ones(len(times_s))
    for start_s, end_s in prosody.pauses_s:
        activity[(times_s >= start_s + 0.05) & (times_s < end_s - 0.12)] = 0
    return _blur(activity, 0.09)


def _head(
    track: PhoneTrack,
    prosody: Prosody,
    person: Person,
    times_s: NDArray,
    activity: NDArray,
    rng: np.random.Generator,
) -> tuple[NDArray, NDArray]:
    """Rotation in degrees (T, 3) and translation in interocular distances (T, 3)."""
    amount = float(np.exp(0.38 * person.trait("head_amount"))) * person.temper("head")
    tempo = float(np.exp(0.18 * person.trait("tempo"))) * person.temper("tempo")
    clock_s = np.cumsum(0.10 + 0.90 * activity) / _RATE_HZ * tempo  # the head nearly rests in silence
    slow = np.stack([_wander(clock_s, 1.7, rng) for _ in range(3)], axis=1) * (1.5, 2.6, 1.5)
    quick = np.stack([_wander(clock_s, 0.45, rng) for _ in range(3)], axis=1) * (0.55, 0.7, 0.45)
    rotation = slow + quick
    rotation[:, 0] += _blur(np.interp(times_s, np.arange(len(prosody.pitch)) / 100, prosody.pitch), 0.12) * 3.2
    rotation += _nods(track, prosody, times_s, tempo, rng)
    rotation += _phrase_gestures(prosody, times_s, rng)
    rotation *= amount
    rotation[:, 0] += _TEMPERS[person.emotion].chin_deg * min(person.intensity, 1.2)
    if person.emotion == "contempt":
        rotation[:, 2] += 2.0 * person.intensity
    limits = np.array((11.0, 14.0, 9.0))
    rotation = limits * np.tanh(rotation / limits)
    return rotation, _translation(rotation, times_s, clock_s, amount, rng)


def _nods(track: PhoneTrack, prosody: Prosody, times_s: NDArray, tempo: float, rng: np.random.Generator) -> NDArray:
    """Beats on prominent syllables, in degrees (T, 3)."""
    beats = np.zeros((len(times_s), 3))
    last_s = -1.0
    for index in np.flatnonzero(prosody.prominence > 0.7):
        middle_s = track.bounds_s[index : index + 2].mean()
        if middle_s - last_s < 0.32 / tempo or rng.random() < 0.22:
            continue
        last_s = middle_s
        strength = prosody.prominence[index] * rng.uniform(0.7, 1.7)
        down = -1.0 if rng.random() < 0.8 else 0.7
        width_s = rng.uniform(0.085, 0.13) / tempo
        late_s = times_s - (middle_s + rng.normal(0.03, 0.025))
        pulse = np.exp(-0.5 * (late_s / width_s) ** 2) - 0.38 * np.exp(-0.5 * ((late_s + 2.2 * width_s) / width_s) ** 2)
        beats += strength * pulse[:, None] * (down * 1.9, rng.normal(0, 0.7), rng.normal(0, 0.45))
    return beats


def _phrase_gestures(prosody: Prosody, times_s: NDArray, rng: np.random.Generator) -> NDArray:
    """A new posture for every phrase, and the chin that sinks at its end, in degrees (T, 3)."""
    gestures = np.zeros((len(times_s), 3))
    for start_s, end_s in prosody.pauses_s:
        posture = rng.normal(0, (0.9, 1.8, 1.2))
        turn_s = rng.uniform(0.35, 0.7)
        gestures += _minimum_jerk((times_s - (end_s - 0.35 * turn_s)) / turn_s)[:, None] * posture
        sink = np.exp(-0.5 * ((times_s - (start_s - 0.05)) / 0.22) ** 2)
        gestures[:, 0] -= rng.uniform(0.2, 1.5) * sink
    return gestures - _blur_columns(gestures, 2.5)


def _translation(
    rotation_deg: NDArray, times_s: NDArray, clock_s: NDArray, amount: float, rng: np.random.Generator
) -> NDArray:
    """Sway that goes with the turning head, and breath."""
    sway = np.stack([_wander(clock_s, 2.2, rng) for _ in range(3)], axis=1) * (0.020, 0.010, 0.030)
    period_s = rng.uniform(3.2, 4.8)
    phase = 2 * np.pi * (times_s / period_s + 0.08 * _wander(times_s, 3.0, rng)) + rng.uniform(0, 6.28)
    translation = amount * sway
    translation[:, 0] += 0.0035 * rotation_deg[:, 1] + 0.003 * rotation_deg[:, 2]
    translation[:, 1] += -0.0025 * rotation_deg[:, 0] + 0.004 * np.sin(phase)
    return translation


def _add_brows(
    face: NDArray,
    track: PhoneTrack,
    prosody: Prosody,
    person: Person,
    times_s: NDArray,
    rng: np.random.Generator,
) -> None:
    amount = float(np.exp(0.45 * person.trait("brow_amount"))) * person.temper("brows")
    raised = 0.10 * np.maximum(_blur(np.interp(times_s, np.arange(len(prosody.pitch)) / 100, prosody.pitch), 0.15), 0)
    raised = raised + 0.025 * np.maximum(_wander(times_s, 2.0, rng), 0)
    lowered = np.zeros(len(times_s))
    last_s = -1.0
    for index in np.flatnonzero(prosody.prominence > 0.9):
        middle_s = track.bounds_s[index : index + 2].mean()
        if middle_s - last_s < 0.6 or rng.random() < 0.45:
            continue
        last_s = middle_s
        rise_s, fall_s = rng.uniform(0.10, 0.16), rng.uniform(0.16, 0.34)
        late_s = times_s - (middle_s - 0.02)
        pulse = np.exp(-0.5 * (late_s / np.where(late_s < 0, rise_s, fall_s)) ** 2)
        strength = rng.uniform(0.10, 0.30) * min(prosody.prominence[index], 1.5)
        if rng.random() < 0.8:
            raised = raised + strength * pulse
        else:
            lowered = lowered + 0.7 * strength * pulse
    _add(face, "browInnerUp", amount * raised * rng.uniform(0.8, 1.1))
    _add(face, "browOuterUp", amount * raised * rng.uniform(0.6, 1.0))
    _add(face, "browDown", amount * lowered)
    _add(face, "eyeWide", 0.25 * amount * raised)


def _add_emotion(face: NDArray, person: Person, times_s: NDArray, activity: NDArray, rng: np.random.Generator) -> None:
    for name, value in _EMOTION_FACES[person.emotion].items():
        swell = 1 + 0.16 * _wander(times_s, 1.3, rng)
        _add(face, name, value * person.intensity * swell * (0.82 + 0.18 * activity))


def _add_mouth_life(
    face: NDArray,
    prosody: Prosody,
    person: Person,
    times_s: NDArray,
    activity: NDArray,
    rng: np.random.Generator,
) -> None:
    """The person's habitual smile, small drifts, and lips that part for a breath before speaking."""
    smile = max(0.0, 0.035 + 0.055 * person.trait("smile"))
    _add(face, "mouthSmile", smile * (1 + 0.25 * _wander(times_s, 1.5, rng)))
    _add(face, "cheekSquint", 0.5 * smile * (1 + 0.25 * _wander(times_s, 1.5, rng)))
    sideways = 0.025 * _wander(times_s, 1.2, rng) * activity
    _add(face, "mouthLeft", np.maximum(sideways, 0))
    _add(face, "mouthRight", np.maximum(-sideways, 0))
    _add(face, "eyeSquint", np.maximum(0.02 + 0.03 * _wander(times_s, 1.0, rng), 0))
    for start_s, end_s in prosody.pauses_s:
        if end_s - start_s < 0.7 or end_s > times_s[-1] or rng.random() < 0.25:
            continue
        breath_s = min(0.32, 0.5 * (end_s - start_s))
        part = np.exp(-0.5 * ((times_s - (end_s - 0.5 * breath_s)) / (0.32 * breath_s)) ** 2)
        _add(face, "jawOpen", rng.uniform(0.01, 0.03) * part)
        _add(face, "mouthLowerDown", rng.uniform(0.01, 0.05) * part)


def _gaze(
    prosody: Prosody, person: Person, times_s: NDArray, rotation_deg: NDArray, rng: np.random.Generator
) -> NDArray:
    """Direction of both eyes within the head, degrees of pitch and yaw, (T, 2).

    Fixations lie mostly near the viewer; the eyes turn against the head to hold them.
    """
    amount = float(np.exp(0.4 * person.trait("gaze_amount")))
    steady = -0.85 * rotation_deg[:, :2]
    targets = np.zeros((len(times_s), 2))
    at_s, current = 0.0, np.zeros(2)
    phrase_starts = [end_s for _, end_s in prosody.pauses_s]
    while at_s < times_s[-1]:
        near_start = any(abs(at_s - start_s) < 0.35 for start_s in phrase_starts)
        away = rng.random() < (0.22 if near_start else 0.07) * amount
        spread = np.array((3.5, 6.0)) if away else np.array((0.7, 1.1))
        goal = rng.normal(0, spread) * (amount if not away else 1.0)
        hold_s = rng.uniform(0.35, 1.0) if away else min(rng.gamma(2.2, 0.42) + 0.15, 3.0)
        saccade_s = 0.025 + 0.003 * float(np.linalg.norm(goal - current))
        move = _minimum_jerk((times_s - at_s) / saccade_s)[:, None]
        targets += move * (goal - current)
        current, at_s = goal, at_s + hold_s
    return np.clip(steady + targets, -16, 16)


def _add_lids_following_gaze(face: NDArray, gaze_deg: NDArray) -> None:
    """ARKit's look weights, which move the lids; 1 is as far as eyes turn."""
    pitch, yaw = gaze_deg[:, 0], gaze_deg[:, 1]
    _add(face, "eyeLookUp", np.clip(pitch / 28, 0, 1))
    _add(face, "eyeLookDown", np.clip(-pitch / 28, 0, 1))
    for outward, inward in (("Left", "Right"), ("Right", "Left")):
        side = np.clip(yaw / 38 * (1 if outward == "Left" else -1), 0, 1)
        _add(face, f"eyeLookOut{outward}", side)
        _add(face, f"eyeLookIn{inward}", side)


def _blinks(prosody: Prosody, person: Person, times_s: NDArray, gaze_deg: NDArray, rng: np.random.Generator) -> NDArray:
    """(T,), how far the lids are closed by blinking. Rates and lengths are those of people in conversation."""
    rate_hz = 17 / 60 * float(np.exp(0.30 * person.trait("blink_rate"))) * person.temper("blinks")
    rate_hz = float(np.clip(rate_hz, 10 / 60, 27 / 60))
    saccades_s = times_s[1:][np.linalg.norm(np.diff(gaze_deg, axis=0), axis=1) > 1.2]
    places_s = np.array([start_s + 0.08 for start_s, _ in prosody.pauses_s] + list(saccades_s))
    lids = np.zeros(len(times_s))
    at_s = rng.exponential(0.5 / rate_hz)
    while at_s < times_s[-1]:
        near = places_s[np.abs(places_s - at_s) < 0.7] if len(places_s) else places_s
        if len(near) and rng.random() < 0.65:
            at_s = max(0.1, float(rng.choice(near)))
        lids = np.maximum(lids, _one_blink(times_s, at_s, rng))
        gap_s = 0.34 if rng.random() < 0.06 else 0.9 + rng.gamma(2.0, (1 / rate_hz - 0.9) / 2.0)
        at_s += gap_s
    return lids


def _one_blink(times_s: NDArray, at_s: float, rng: np.random.Generator) -> NDArray:
    """Closes fast, opens slowly; the closed moment lies on a frame."""
    closed_s = round(at_s * MOTION_RATE_HZ) / MOTION_RATE_HZ
    close_s, hold_s, open_s = rng.uniform(0.07, 0.10), rng.uniform(0.01, 0.05), rng.uniform(0.12, 0.22)
    late_s = times_s - closed_s
    closing = _minimum_jerk(1 + late_s / close_s)
    opening = 1 - _minimum_jerk((late_s - hold_s) / open_s)
    return np.minimum(closing, opening) * (1.0 if rng.random() < 0.92 else rng.uniform(0.55, 0.85))


def _add_blinks(expression: NDArray, blinks: NDArray, person: Person) -> None:
    skew = 0.02 * person.trait("asymmetry")
    for side, factor in (("Left", 1 + min(skew, 0)), ("Right", 1 - max(skew, 0))):
        lid = ARKIT_INDEX[f"eyeBlink{side}"]
        expression[:, lid] = expression[:, lid] * (1 - blinks) + factor * blinks
        expression[:, ARKIT_INDEX[f"eyeWide{side}"]] *= 1 - blinks
        expression[:, ARKIT_INDEX[f"eyeSquint{side}"]] += 0.08 * blinks
        expression[:, ARKIT_INDEX[f"browDown{side}"]] += 0.03 * blinks


def _compose(speech: NDArray, rest: NDArray, contact: NDArray, person: Person) -> NDArray:
    """Adds the rest of the face to the speaking mouth, so that neither emotion nor smile opens a closure."""
    rounding = speech[:, ARKIT_INDEX["mouthPucker"]] + speech[:, ARKIT_INDEX["mouthFunnel"]]
    yields = 1 - np.clip(1.1 * rounding, 0, 0.75)
    rest = rest.copy()
    for name in ("mouthSmile", "mouthStretch", "mouthDimple"):
        for side in ("Left", "Right"):
            rest[:, ARKIT_INDEX[f"{name}{side}"]] *= yields
    for name in ("jawOpen", "mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight"):
        rest[:, ARKIT_INDEX[name]] *= 1 - contact
    for name in ("mouthPressLeft", "mouthPressRight", "mouthShrugLower"):  # an open mouth is not pressed
        rest[:, ARKIT_INDEX[name]] *= np.clip(1 - 4 * speech[:, ARKIT_INDEX["jawOpen"]], 0, 1)
    whole = speech + rest
    # Mild asymmetry, the same for the whole recording.
    skew = 0.07 * person.trait("asymmetry")
    for name in ("mouthSmile", "mouthStretch", "mouthUpperUp", "mouthLowerDown", "mouthDimple", "browOuterUp"):
        whole[:, ARKIT_INDEX[f"{name}Left"]] *= 1 + skew
        whole[:, ARKIT_INDEX[f"{name}Right"]] *= 1 - skew
    return whole


def _add(face: NDArray, name: str, values: NDArray | float) -> None:
    """Adds to a weight, or to both sides of one that a face has twice."""
    for side in (name,) if name in ARKIT_INDEX else (f"{name}Left", f"{name}Right"):
        face[:, ARKIT_INDEX[side]] += values


def _wander(clock_s: NDArray, knot_s: float, rng: np.random.Generator) -> NDArray:
    """Smooth noise of about unit deviation that returns to zero, a new value about every `knot_s` of the clock."""
    num_knots = int((clock_s[-1] - clock_s[0]) / knot_s) + 5
    knots = np.empty(num_knots)
    knots[0] = rng.standard_normal()
    for index in range(1, num_knots):
        knots[index] = 0.35 * knots[index - 1] + 0.94 * rng.standard_normal()
    position = (clock_s - clock_s[0]) / knot_s + 1 + rng.uniform(0, 1)
    low = position.astype(int)
    part = position - low
    before, left, right, after = (knots[low + shift] for shift in (-1, 0, 1, 2))
    # Uniform cubic B-spline: smooth to the second derivative; 1.35 restores the deviation it takes away.
    value = (
        (1 - part) ** 3 * before
        + (3 * part**3 - 6 * part**2 + 4) * left
        + (-3 * part**3 + 3 * part**2 + 3 * part + 1) * right
        + part**3 * after
    )
    return 1.35 * value / 6


def _minimum_jerk(part: NDArray) -> NDArray:
    """0 to 1 as `part` goes from 0 to 1, the way limbs move."""
    x = np.clip(part, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def _blur(values: NDArray, deviation_s: float) -> NDArray:
    """Gaussian smoothing at the rate of this module; the ends are held."""
    deviation = deviation_s * _RATE_HZ
    radius = min(int(np.ceil(3 * deviation)), 4 * len(values))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    return np.convolve(np.pad(values, radius, mode="edge"), kernel / kernel.sum(), mode="valid")


def _blur_columns(values: NDArray, deviation_s: float) -> NDArray:
    return np.stack([_blur(column, deviation_s) for column in values.T], axis=1)
