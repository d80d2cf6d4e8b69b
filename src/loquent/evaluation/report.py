"""Figures of finished videos, and the table that shows them beside what is wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loquent.evaluation.lips import LipFigures, measure, track_video


@dataclass(frozen=True)
class Goal:
    """A figure's name in the table, and the bound it should keep."""

    label: str
    low: float = -math.inf
    high: float = math.inf

    def met(self, value: float) -> bool:
        return self.low <= value <= self.high

    def wanted(self) -> str:
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


GOALS: Mapping[str, Goal] = {
    "closures_reached": Goal("lips close on m, b, p (share)", low=0.85),
    "opening_correlation": Goal("lip opening against the phones (correlation)", low=0.55),
    "opening_lag_s": Goal("lag of the lips (s)", low=-0.04, high=0.04),
    "silence_movement": Goal("lip movement in silence over speech", high=0.25),
    "silence_movement_inside": Goal("the same, 0.1 s away from the pauses' ends", high=0.25),
    "rounded_over_spread_width": Goal("mouth width, rounded over spread vowels", high=0.95),
}


def evaluate_video(video: Path, text: str, model: Path | None = None) -> LipFigures:
    """Measures how well the lips in a video follow its own sound track.

    Args:
        video: file with one face and its speech.
        text: the English words that are said.
        model: MediaPipe's `face_landmarker.task`; None takes the environment variable.

    Raises:
        MissingExtraError: mediapipe or pocketsphinx is not installed.
        LoquentError: the video shows no face, or the words do not fit its sound.
    """
    from loquent.data.recordings import align
    from loquent.media.audio import read_audio

    phones = align(read_audio(video).samples, text)
    return measure(track_video(video, model), phones)


def table(figures: Mapping[str, LipFigures]) -> str:
    """A Markdown table: a row for each figure, a column for each named set of videos, and what is wanted."""
    lines = [
        "| figure | wanted | " + " | ".join(figures) + " |",
        "|---|---|" + "---|" * len(figures),
        "| m, b, p counted | | " + " | ".join(str(item.num_closures) for item in figures.values()) + " |",
    ]
    for name, goal in GOALS.items():
        cells = []
        for item in figures.values():
            value = getattr(item, name)
            cells.append("–" if math.isnan(value) else f"{value:.3f}{'' if goal.met(value) else ' (missed)'}")
        lines.append(f"| {goal.label} | {goal.wanted()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
