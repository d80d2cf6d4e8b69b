"""What travels between stages. The axes, signs and units are stated once in docs/conventions.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from loquent.errors import ControlsError, MotionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.motion.control_track import ControlTrack

MOTION_RATE_HZ = 25.0
SPEECH_RATE_HZ = 16_000

# Order of MoDA's emotion table (specs: labels 0..7; 8 is the null label used by guidance).
EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

# IF-MDM's published settings of motion statistics, by our names; `loquent.models.ifmdm.statistics` explains them.
MOTION_STATISTICS = ("free", "mean_portrait", "mean_last", "std_0.1", "std_0.3")

# The 52 weights of ARKit's face tracking, in the order of their names' published list. This order is the
# order of `Motion.expression` everywhere.
ARKIT_NAMES = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight",
    "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
    "tongueOut",
)  # fmt: skip
ARKIT_INDEX = {name: index for index, name in enumerate(ARKIT_NAMES)}


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded picture, upright."""

    pixels: NDArray[np.uint8]  # RGB, (H, W, 3)
    alpha: NDArray[np.uint8] | None = None  # (H, W), 255 is opaque; None when the file had none
    name: str = "photo"
    sha256: str = ""  # of the file's bytes, or of the pixels when there was no file

    @property
    def height_px(self) -> int:
        return self.pixels.shape[0]

    @property
    def width_px(self) -> int:
        return self.pixels.shape[1]


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a photo: 478 points in MediaPipe's topology."""

    landmarks: NDArray[np.float32]  # (478, 3): x right, y down in photo pixels (pixel centres at integers),
    # z in the same scale, smaller is nearer to the camera, about 0 at the head's centre
    score: float = 1.0  # detector confidence, 0..1
    backend: str = "embedded"

    @property
    def box_px(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the landmarks' bounding box, in photo pixels."""
        low, high = self.landmarks[:, :2].min(0), self.landmarks[:, :2].max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def interocular_px(self) -> float:
        """Distance of the two outer eye corners (points 33 and 263), in photo pixels."""
        return float(np.linalg.norm(self.landmarks[33, :2] - self.landmarks[263, :2]))


@dataclass(frozen=True, eq=False)
class Portrait:
    """A photo, the face to animate, and the expression that the photo already shows."""

    photo: Photo
    face: Face
    rest_expression: NDArray[np.float32]  # (52,), ARKit weights estimated in the photo
    pose_rad: NDArray[np.float32]  # (3,), pitch, yaw, roll of the head in the photo


@dataclass(frozen=True, eq=False)
class Speech:
    """Decoded speech: mono, 16 kHz. Long recordings are memory-mapped, so do not copy `samples` as a whole."""

    samples: NDArray[np.float32]  # (N,), in [-1, 1]; may be a read-only memmap
    rate_hz: int = SPEECH_RATE_HZ
    name: str = "speech"
    sha256: str = ""
    source: Path | bytes | None = None  # where the original sound is, for muxing it without a second resampling
    intact: bool = True  # False where parts of the source did not decode or are missing, so that it is not copied as is

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz

    def num_frames(self, fps: float = MOTION_RATE_HZ) -> int:
        """Video frames that cover the whole recording at `fps`: rounded to nearest, at least one."""
        return max(1, int(np.floor(self.duration_s * fps + 0.5)))


@dataclass(frozen=True, eq=False)
class SpeechFeatures:
    """A block of consecutive speech features, one row a motion frame."""

    values: NDArray[np.float32]  # (T, L, C): frames at `rate_hz`, layers of the encoder, channels
    rate_hz: float = MOTION_RATE_HZ
    start_frame: int = 0  # index of the first row in the whole recording
    silence: NDArray[np.float32] | None = None  # (T, S): probability of silence in S equal parts of each frame


@dataclass(frozen=True, eq=False)
class Motion:
    """Face parameters over time, relative to the photo where noted.

    Raises:
        MotionError: the arrays disagree in length or hold values that are not finite.
    """

    space: ClassVar[str] = "arkit"

    expression: NDArray[np.float32]  # (T, 52), ARKit weights, 0 neutral, 1 full; order of ARKIT_NAMES
    rotation: NDArray[np.float32]  # (T, 3), pitch, yaw, roll in radians, relative to the photo's pose
    translation: NDArray[np.float32]  # (T, 3), x right, y down, z away, in interocular distances, relative to the photo
    gaze: NDArray[np.float32]  # (T, 2, 2), [left eye, right eye] x [pitch, yaw] in radians, relative to the photo
    rate_hz: float = MOTION_RATE_HZ

    def __post_init__(self) -> None:
        shapes = {"expression": (52,), "rotation": (3,), "translation": (3,), "gaze": (2, 2)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != (len(self.expression), *shape):
                raise MotionError(f"motion {name} has shape {value.shape}, wanted {(len(self.expression), *shape)}")
            if not np.isfinite(value).all():
                raise MotionError(f"motion {name} holds values that are not finite numbers")

    def __len__(self) -> int:
        return len(self.expression)

    def __getitem__(self, frames: slice) -> Motion:
        return replace(self, **{name: getattr(self, name)[frames] for name in MOTION_ARRAYS})

    @staticmethod
    def neutral(num_frames: int, rate_hz: float = MOTION_RATE_HZ) -> Motion:
        """Motion that keeps the face at rest: all zeros."""
        return Motion(
            expression=np.zeros((num_frames, 52), np.float32),
            rotation=np.zeros((num_frames, 3), np.float32),
            translation=np.zeros((num_frames, 3), np.float32),
            gaze=np.zeros((num_frames, 2, 2), np.float32),
            rate_hz=rate_hz,
        )

    @staticmethod
    def concatenate(pieces: list[Motion]) -> Motion:
        """Joins pieces of one rate in time order."""
        arrays = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in MOTION_ARRAYS}
        return replace(pieces[0], **arrays)

    def to_vector(self) -> NDArray[np.float32]:
        """(T, 62): expression 52, rotation 3, translation 3, gaze 4 (left pitch, left yaw, right pitch, right yaw)."""
        flat = [getattr(self, name).reshape(len(self), -1) for name in MOTION_ARRAYS]
        return np.concatenate(flat, axis=1).astype(np.float32)

    @staticmethod
    def from_vector(vector: NDArray[np.float32], rate_hz: float = MOTION_RATE_HZ) -> Motion:
        """Inverse of `to_vector`."""
        expression, rotation, translation, gaze = np.split(np.asarray(vector, np.float32), [52, 55, 58], axis=1)
        return Motion(expression, rotation, translation, gaze.reshape(-1, 2, 2), rate_hz)

    def with_vector(self, vector: NDArray[np.float32], rate_hz: float) -> Motion:
        """Motion of the same kind with other numbers (T, 62)."""
        return Motion.from_vector(vector, rate_hz)


MOTION_ARRAYS = ("expression", "rotation", "translation", "gaze")
MOTION_DIM = 62


@dataclass(frozen=True, eq=False)
class MotionCodes:
    """Motion in a system's own space, where face parameters do not apply: keypoints, implicit codes, landmarks.

    Only the renderer of the system that made it can draw it.

    Raises:
        MotionError: the values are not a table, or are not finite.
    """

    values: NDArray[np.float32]  # (T, C), as the space defines them
    space: str  # the space's name; the module of the system's generator says what its columns are
    rate_hz: float = MOTION_RATE_HZ

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise MotionError(f"motion codes have shape {self.values.shape}, wanted (frames, numbers)")
        if not np.isfinite(self.values).all():
            raise MotionError(f"motion in the space {self.space!r} holds values that are not finite numbers")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, frames: slice) -> MotionCodes:
        return replace(self, values=self.values[frames])

    @staticmethod
    def concatenate(pieces: list[MotionCodes]) -> MotionCodes:
        """Joins pieces of one space and rate in time order."""
        return replace(pieces[0], values=np.concatenate([piece.values for piece in pieces]))

    def to_vector(self) -> NDArray[np.float32]:
        """The values, (T, C)."""
        return self.values

    def with_vector(self, vector: NDArray[np.float32], rate_hz: float) -> MotionCodes:
        """Motion of the same space with other numbers (T, C)."""
        return MotionCodes(vector, self.space, rate_hz)


AnyMotion = Motion | MotionCodes
SomeMotion = TypeVar("SomeMotion", Motion, MotionCodes)
MotionMade = TypeVar("MotionMade", Motion, MotionCodes, covariant=True)
MotionDrawn = TypeVar("MotionDrawn", Motion, MotionCodes, contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What a user may ask of the motion. Amounts are factors: 1 as generated, 0 none.

    `loquent.motion.control_track.values_at` says what they are at any moment, with or without a track.

    Raises:
        ControlsError: a value is out of its range.
    """

    emotion: str = "neutral"  # one of EMOTIONS
    emotion_strength: float = 1.0  # 0..2
    amount: float = 1.0  # 0..2, all movement but the lips'
    head: float = 1.0  # 0..2
    brows: float = 1.0  # 0..2
    blinks: float = 1.0  # 0..2; scales how often, not how far: a blink always closes
    lips: float = 1.0  # 0..2
    keep_expression: float = 0.5  # 0..1, how much of the photo's own expression stays while speaking
    seed: int = 42
    steps: int = 10  # 1..1000 sampler steps
    guidance: float | None = None  # 1 is none; None is the system's own
    track: ControlTrack | None = None  # what changes over time; it begins with the values above

    def __post_init__(self) -> None:
        if self.emotion not in EMOTIONS:
            raise ControlsError(f"unknown emotion {self.emotion!r}; choose one of {', '.join(EMOTIONS)}")
        bounds = dict.fromkeys(("emotion_strength", "amount", "head", "brows", "blinks", "lips"), (0.0, 2.0))
        bounds |= {"keep_expression": (0.0, 1.0), "steps": (1, 1000), "guidance": (1.0, 10.0), "seed": (0, 2**63 - 1)}
        for name, (low, high) in bounds.items():
            value, whole = getattr(self, name), name in ("steps", "seed")
            if value is None and name == "guidance":
                continue
            if not _is_within(value, low, high, whole=whole):
                kind = "whole number" if whole else "number"
                raise ControlsError(f"{name} is {value!r}; choose a {kind} from {low} to {high}")

    def as_dict(self) -> dict[str, float | int | str | None]:
        """Plain values, fit for JSON; a track is the text of its CSV file."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "track"}
        return values if self.track is None else values | {"track": self.track.to_csv()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Controls:
        """Inverse of `as_dict`, as a video's settings hold it.

        Raises:
            ControlsError: an unknown control, or a value that cannot be.
        """
        from loquent.motion.control_files import track_from_csv

        known = [item.name for item in fields(Controls)]
        for name in values:
            if name not in known:
                raise ControlsError(f"there is no control {name!r}; known: {', '.join(known)}")
        given = dict(values)
        if (text := given.get("track")) is not None:
            given["track"] = track_from_csv(str(text))
        return Controls(**given)


def _is_within(value: object, low: float, high: float, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real) or (whole and not isinstance(value, Integral)):
        return False
    return low <= float(value) <= high


@dataclass(frozen=True, eq=False)
class Clip:
    """A finished video on disk, or frames in memory, with the motion that made it."""

    path: Path | None
    fps: float
    num_frames: int
    size_px: tuple[int, int]  # width, height
    motion: AnyMotion = field(repr=False)  # face parameters, or codes for a system with a motion space of its own
    settings: dict = field(default_factory=dict)  # what re-creates it: system, controls, hashes, version
    frames: NDArray[np.uint8] | None = field(default=None, repr=False)  # (T, H, W, 3) when no path was given

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


class SpeechEncoder(Protocol):
    """Turns a recording into features, block by block, so that memory does not grow with its length."""

    def encode(self, speech: Speech) -> Iterator[SpeechFeatures]:
        """Yields consecutive blocks; together they hold exactly `speech.num_frames()` rows."""
        ...


class MotionGenerator(Protocol[MotionMade]):
    """Turns features into motion, window by window. Codes (not `Motion`) are made with the controls applied."""

    def generate(
        self, features: Iterator[SpeechFeatures], portrait: Portrait, controls: Controls
    ) -> Iterator[MotionMade]:
        """Yields consecutive pieces of final motion; joined, they are as long as the features."""
        ...


class Renderer(Protocol[MotionDrawn]):
    """Draws frames of one portrait, for one video: pieces of motion come in order, and it may keep what it needs of
    earlier ones. Built by `loquent.systems` from the portrait and the wanted size.
    """

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of every frame; both even."""
        ...

    def render(self, motion: MotionDrawn) -> Iterator[NDArray[np.uint8]]:
        """Yields one RGB frame (H, W, 3) for each row of `motion`."""
        ...
