"""Video-driven use: what is asked for, and the driving video as it travels to a system."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loquent.errors import ControlsError, VideoError

if TYPE_CHECKING:
    from loquent.face.analyze import FaceBackend

DriveMode = Literal["relative", "absolute"]
DRIVE_MODES: tuple[DriveMode, ...] = ("relative", "absolute")


@dataclass(frozen=True, kw_only=True)
class DriveSettings:
    """How a photo follows the person of a video. Strengths are factors: 1 as in the video, 0 none.

    Raises:
        ControlsError: a value is out of its range.
    """

    mode: DriveMode = "relative"  # what changes is added to the photo's own pose and expression, or takes their place
    expression: float = 1.0  # 0..2, brows, cheeks, nose
    lips: float = 1.0  # 0..2, with the jaw
    eyes: float = 1.0  # 0..2, lids and gaze
    pose: float = 1.0  # 0..2, of the head
    smoothing_s: float = 0.04  # 0..1, standard deviation of a Gaussian window

    def __post_init__(self) -> None:
        if self.mode not in DRIVE_MODES:
            raise ControlsError(f"unknown drive mode {self.mode!r}; choose one of {', '.join(DRIVE_MODES)}")
        bounds = dict.fromkeys(("expression", "lips", "eyes", "pose"), 2.0) | {"smoothing_s": 1.0}
        for name, high in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
                raise ControlsError(f"drive {name} is {value!r}; choose a number from 0 to {high:g}")


@dataclass(frozen=True, eq=False)
class DrivingVideo:
    """A video whose face a photo is to follow."""

    path: Path
    duration_s: float
    has_sound: bool
    settings: DriveSettings = field(default_factory=DriveSettings)
    backend: FaceBackend = "embedded"  # what finds its face
    model: str | Path | None = None  # MediaPipe's model file

    @staticmethod
    def open(path: str | Path, settings: DriveSettings | None = None, **face: Any) -> DrivingVideo:
        """Reads the video's facts; `face` is `backend` and `model`.

        Raises:
            VideoError: not a video, or a longer one than `limits.MAX_DRIVE_S`.
        """
        from loquent.media.limits import MAX_DRIVE_S
        from loquent.media.video import probe

        info = probe(path)
        if info.num_frames < 2 or info.duration_s <= 0:
            raise VideoError(f"{path}: {info.num_frames} frame; a driving video has two or more")
        if info.duration_s > MAX_DRIVE_S:
            raise VideoError(
                f"{path}: {info.duration_s:.0f} s; a driving video may have {MAX_DRIVE_S:g} s, so cut it into parts"
            )
        return DrivingVideo(
            Path(path), info.duration_s, info.audio_codec is not None, settings or DriveSettings(), **face
        )
