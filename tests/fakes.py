"""Stand-ins for the stages of a system: exact, quick, and without weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loquent.systems import System
from loquent.types import ARKIT_INDEX, Controls, Motion, Portrait, Speech, SpeechFeatures

BLOCK_FRAMES = 40


class LoudnessEncoder:
    """One feature: the loudness of each motion frame."""

    def encode(self, speech: Speech) -> Iterator[SpeechFeatures]:
        num_frames, step = speech.num_frames(), speech.rate_hz // 25
        for start in range(0, num_frames, BLOCK_FRAMES):
            rows = range(start, min(start + BLOCK_FRAMES, num_frames))
            values = [np.abs(speech.samples[row * step : (row + 1) * step]).mean() if row * step < len(speech.samples)
                      else 0.0 for row in rows]  # fmt: skip
            yield SpeechFeatures(np.array(values, np.float32)[:, None, None], start_frame=start)


class JawGenerator:
    """Opens the jaw with the loudness; counts the pieces it has made."""

    def __init__(self) -> None:
        self.pieces_made = 0

    def generate(self, features: Iterator[SpeechFeatures], portrait: Portrait, controls: Controls) -> Iterator[Motion]:
        for block in features:
            vector = np.zeros((len(block.values), 62), np.float32)
            vector[:, ARKIT_INDEX["jawOpen"]] = block.values[:, 0, 0]
            self.pieces_made += 1
            yield Motion.from_vector(vector)


class GreyRenderer:
    """Frames whose grey value is the jaw's opening times 255."""

    def __init__(self, portrait: Portrait, size: int | None) -> None:
        side = size or max(portrait.photo.width_px, portrait.photo.height_px)
        self.size_px = (side // 2 * 2, side // 2 * 2)

    def render(self, motion: Motion) -> Iterator[np.ndarray]:
        width, height = self.size_px
        for opening in motion.expression[:, ARKIT_INDEX["jawOpen"]]:
            yield np.full((height, width, 3), round(float(opening) * 255), np.uint8)


def make_system() -> System:
    return System("starter", LoudnessEncoder(), JawGenerator(), GreyRenderer)
