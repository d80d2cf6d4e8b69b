"""One portrait photo and a speech recording become a video of that person speaking.

>>> from loquent import Controls, TalkingHead
>>> head = TalkingHead.from_pretrained("starter")
>>> clip = head.animate("photo.jpg", "speech.wav", Controls(emotion="happiness"), output="talk.mp4")

Importing this package is cheap: torch and the other large packages are imported when a system is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loquent.errors import (
        ControlsError,
        FaceError,
        LoquentError,
        MissingExtraError,
        MotionError,
        PhotoError,
        SpeechError,
        VideoError,
        WeightsError,
    )
    from loquent.motion.control_track import ControlRow, ControlTrack
    from loquent.pipeline import TalkingHead
    from loquent.types import ARKIT_NAMES, EMOTIONS, Clip, Controls, Motion, Photo, Portrait, Speech

__version__ = "0.1.0"

__all__ = [
    "ARKIT_NAMES",
    "EMOTIONS",
    "Clip",
    "ControlRow",
    "ControlTrack",
    "Controls",
    "ControlsError",
    "FaceError",
    "LoquentError",
    "MissingExtraError",
    "Motion",
    "MotionError",
    "Photo",
    "PhotoError",
    "Portrait",
    "Speech",
    "SpeechError",
    "TalkingHead",
    "VideoError",
    "WeightsError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'loquent' has no attribute {name!r}")
    elsewhere = dict.fromkeys(("ControlRow", "ControlTrack"), "motion.control_track") | {"TalkingHead": "pipeline"}
    module = "errors" if name.endswith("Error") else elsewhere.get(name, "types")
    return getattr(importlib.import_module(f"loquent.{module}"), name)


def __dir__() -> list[str]:
    return __all__
