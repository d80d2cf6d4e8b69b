"""Emotion that changes over time, for a network that takes one emotion for a whole window.

A window in which the emotion changes is sampled once for each state it passes through, from the same noise, and the
takes are blended frame by frame. The same noise and speech give nearly the same words on the lips, so that the blend
is a face between two faces, not two motions laid over each other.

Shape letters: N frames of a window, E emotion labels with the null label, K states.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.motion.control_track import values_at
from loquent.types import EMOTIONS, MOTION_RATE_HZ

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.types import Controls

EmotionCurve = Callable[[int, int], "Tensor"]  # first frame, frames N -> weights of the labels (N, E)

_CLOSE = 0.05  # weights nearer than that to a straight way between two states need no state of their own


def emotion_curve(controls: Controls, num_emotions: int) -> EmotionCurve:
    """Weights of the labels over time: neutral moved towards the wanted emotion; none on the null label.

    A strength above 1 goes beyond the emotion as it was learned.
    """

    def weights(first: int, num_frames: int) -> Tensor:
        values = values_at(controls, (first + np.arange(num_frames)) / MOTION_RATE_HZ)
        labels = np.zeros((num_frames, num_emotions + 1), np.float32)
        labels[:, : len(EMOTIONS)] = values.emotion * values.emotion_strength[:, None]
        labels[:, EMOTIONS.index("neutral")] += 1 - values.emotion_strength
        return torch.from_numpy(labels)

    return weights


def split_emotions(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The few states between which weights (N, E) move: states (K, E), and the share of each in a frame, (N, K).

    Source of the choice of states: Ramer 1972, Douglas and Peucker 1973, on the curve of the weights.
    """
    kept = sorted({0, *_corners(weights, 0, len(weights) - 1), len(weights) - 1})
    states, place = torch.unique(weights[kept], dim=0, return_inverse=True)
    shares = torch.zeros(len(weights), len(states))
    shares[:, place[0]] = 1  # a window of one state
    for i, (first, last) in enumerate(pairwise(kept)):
        rows = torch.arange(first, last + 1)
        part, _ = _along(weights[rows], weights[first], weights[last])
        shares[rows] = 0
        shares[rows, place[i]] += 1 - part
        shares[rows, place[i + 1]] += part
    return states, shares


def _corners(weights: Tensor, first: int, last: int) -> list[int]:
    """Rows between `first` and `last` where the curve leaves the straight way between its ends."""
    if last - first < 2:
        return []
    _, away = _along(weights[first : last + 1], weights[first], weights[last])
    at = first + int(away.argmax())
    if away.max() <= _CLOSE:
        return []
    return [*_corners(weights, first, at), at, *_corners(weights, at, last)]


def _along(rows: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """How far along the way from `start` to `end` each row (n, E) is, in [0, 1], and how far away from it."""
    way = end - start
    length2 = way.square().sum()
    part = ((rows - start) @ way / length2).clamp(0, 1) if length2 > 0 else torch.zeros(len(rows))
    return part, torch.linalg.vector_norm(rows - start - part[:, None] * way, dim=1)
