"""What a user asks of the motion, done to moves: pauses, amounts of head and lips, blinks as events.

A *move* is how far a code is from that of the face at rest, both before the tanh that ends the motion head. Moves add up,
and parts of them belong to lips, head and lids (`code_space.MoveParts`), so what works on face parameters works here.

Shape letters: T frames, M motion numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loquent.motion.blinks import LIDS, BlinkLayer
from loquent.motion.control_track import values_at
from loquent.motion.pauses import LipsAndHead, PauseLayer
from loquent.types import MOTION_RATE_HZ, Motion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from loquent.models.ifmdm.code_space import MoveParts
    from loquent.types import Controls

    Moves = NDArray[np.float32]


_PRESSED = 0.05  # interocular distances: how near to each other lips come together


@dataclass(frozen=True, eq=False)
class FaceMoves:
    """What moves mean on one face, (M,) each."""

    closing: Moves  # the move that closes the eyes
    gap: Moves  # move @ gap: distance of the lips beyond that at rest, in interocular distances
    opening: Moves  # the move of the jaw that parts the lips by one


def pause_layer(parts: MoveParts) -> PauseLayer[Moves]:
    """Calms moves in the pauses of the speech."""
    of_lips, of_head = parts.lips.numpy(), parts.head.numpy()

    def split(moves: Moves) -> tuple[Moves, Moves]:
        return moves @ of_lips, moves @ of_head

    def join(moves: Moves, lips: NDArray[np.floating], head: NDArray[np.floating]) -> Moves:
        return (moves + (lips - moves @ of_lips) + (head - moves @ of_head)).astype(np.float32)

    return PauseLayer(LipsAndHead(split, join, np.concatenate))


def apply_amounts(pieces: Iterable[Moves], controls: Controls, parts: MoveParts) -> Iterator[Moves]:
    """Moves (T, M) with the controls' amounts: `head` and `lips` of their parts, `amount` of all but the lips."""
    of_lips, of_head = parts.lips.numpy(), parts.head.numpy()
    done = 0
    for piece in pieces:
        values = values_at(controls, (done + np.arange(len(piece))) / MOTION_RATE_HZ)
        done += len(piece)
        lips, head = piece @ of_lips, piece @ of_head
        amount = values.amount[:, None]
        others = piece - lips - head
        yield (values.lips[:, None] * lips + amount * (values.head[:, None] * head + others)).astype(np.float32)


def press_lips(pieces: Iterable[Moves], face: FaceMoves) -> Iterator[Moves]:
    """Moves (T, M) whose lips meet where they nearly do. A transformer trained for minutes stops a little short."""
    for piece in pieces:
        gap = np.maximum(piece @ face.gap, 0)
        too_wide = gap * np.exp(-((gap / _PRESSED) ** 2))
        yield (piece - too_wide[:, None] * face.opening).astype(np.float32)


def apply_blinks(pieces: Iterable[Moves], controls: Controls, parts: MoveParts, closing: Moves) -> Iterator[Moves]:
    """Moves (T, M) whose blinks are drawn as events (`loquent.motion.blinks`).

    Args:
        pieces: moves that may hold blinks of their own; these say where blinks are likely.
        controls: how often; blinks and closed eyes of a track are drawn as well.
        parts: of the moves.
        closing: the move that closes the eyes, (M,).
    """
    away = parts.lips.numpy() + parts.head.numpy()
    reading = (np.eye(len(closing)) - away) @ closing / (closing @ closing)
    waiting: list[Moves] = []
    done = 0

    def with_lids() -> Iterator[Motion]:
        for piece in pieces:
            waiting.append(piece)
            yield _as_lids(piece @ reading)

    for blinked in BlinkLayer(controls, np.random.default_rng(controls.seed)).apply(with_lids()):
        held = np.concatenate(waiting)
        piece, waiting[:] = held[: len(blinked)], [held[len(blinked) :]]
        asked = values_at(controls, (done + np.arange(len(piece))) / MOTION_RATE_HZ).closure
        done += len(piece)
        lids = np.maximum(blinked.expression[:, LIDS].mean(1), asked)
        change = lids - _as_lids(piece @ reading).expression[:, LIDS].mean(1)
        yield (piece + change[:, None] * closing).astype(np.float32)


def _as_lids(closure: NDArray[np.floating]) -> Motion:
    """Face parameters of lids that are closed that far, (T,)."""
    motion = Motion.neutral(len(closure))
    motion.expression[:, LIDS] = np.clip(closure, 0, 1)[:, None]
    return motion
