"""What a user asks of the motion, applied to a stream of it.

| control | acts on | how |
|---|---|---|
| motion | all but the lips and blinks | factor, on top of the others |
| head | rotation, translation | factor |
| brows | brow weights | factor |
| lips | jaw, mouth, cheekPuff, tongueOut weights | factor |
| keep_expression | smile, dimple, cheek, brow, squint and sneer weights | adds that share of the photo's own |

Blinks keep their depth whatever the amount: a half-closed blink looks tired. How often they come, and the emotion, is
the generator's. Of the photo's expression only what leaves the lips together is kept: a smile widens the mouth that
speaks, but the photo's open jaw or raised lip would keep it from closing on m, b and p. Where speech rounds the lips,
the kept smile gives way; so it does to an emotion that does not smile, by that emotion's strength.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loquent.types import ARKIT_INDEX, ARKIT_NAMES, Controls, Motion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def _indices(*prefixes: str) -> list[int]:
    return [index for name, index in ARKIT_INDEX.items() if name.startswith(prefixes)]


LIP_CHANNELS = _indices("jaw", "mouth", "cheekPuff", "tongueOut")
BROW_CHANNELS = _indices("brow")
BLINK_CHANNELS = _indices("eyeBlink")
KEPT_CHANNELS = _indices("mouthSmile", "mouthDimple", "cheekSquint", "brow", "eyeSquint", "noseSneer")
KEPT_MOUTH_CHANNELS = _indices("mouthSmile", "mouthDimple")
_ROUND_CHANNELS = _indices("mouthPucker", "mouthFunnel")


def apply_controls(
    pieces: Iterable[Motion], controls: Controls, rest_expression: ArrayLike | None = None
) -> Iterator[Motion]:
    """Applies the amounts of `controls` to each piece of motion; see the table above.

    Args:
        pieces: consecutive motion as generated.
        controls: the amounts; its blinks, seed, steps and guidance are not used here.
        rest_expression: (52,) the photo's own weights, `Portrait.rest_expression`; None keeps nothing of it.
    """
    factors = _factors(controls)
    kept = np.zeros(len(ARKIT_NAMES), np.float32)
    if rest_expression is not None:
        kept[KEPT_CHANNELS] = controls.keep_expression * np.asarray(rest_expression, np.float32)[KEPT_CHANNELS]
        if controls.emotion not in ("neutral", "happiness"):
            kept[KEPT_MOUTH_CHANNELS] *= 1 - min(controls.emotion_strength, 1)
    head, gaze = np.float32(controls.head * controls.amount), np.float32(controls.amount)
    for piece in pieces:
        expression = piece.expression * factors
        expression += _kept_beside(expression, kept)
        yield replace(
            piece,
            expression=np.clip(expression, 0, 1),
            rotation=piece.rotation * head,
            translation=piece.translation * head,
            gaze=piece.gaze * gaze,
        )


def _factors(controls: Controls) -> NDArray[np.float32]:
    """Factor (52,) of each expression weight."""
    factors = np.full(len(ARKIT_NAMES), controls.amount, np.float32)
    factors[BROW_CHANNELS] = controls.brows * controls.amount
    factors[LIP_CHANNELS] = controls.lips
    factors[BLINK_CHANNELS] = 1
    return factors


def _kept_beside(expression: NDArray, kept: NDArray) -> NDArray:
    """The kept expression (T, 52) beside what is spoken: its smile gives way to rounded lips."""
    rounded = np.clip(expression[:, _ROUND_CHANNELS].max(1, keepdims=True), 0, 1)
    beside = np.repeat(kept[None], len(expression), 0)
    beside[:, KEPT_MOUTH_CHANNELS] *= 1 - rounded
    return beside
