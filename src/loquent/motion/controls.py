"""What a user asks of the motion, applied to a stream of face parameters.

| control | acts on | how |
|---|---|---|
| amount | all but the lips and blinks | factor, on top of the others |
| head | rotation, translation | factor |
| brows | brow weights | factor |
| lips | jaw, mouth, cheekPuff, tongueOut weights | factor |
| keep_expression | smile, dimple, cheek, brow, squint and sneer weights | adds that share of the photo's own |
| head and gaze angles of a track | rotation, translation, gaze, look weights | added; the generated motion stays on top |
| blink, eyes_closed of a track | lids | closed at least that far |

All of them may change from frame to frame (`loquent.motion.control_track`). Blinks keep their depth whatever the amount:
a half-closed blink looks tired. How often they come, and the emotion, is the generator's. Of the photo's expression only
what leaves the lips together is kept: a smile widens the mouth that speaks, but the photo's open jaw or raised lip would
keep it from closing on m, b and p. Where speech rounds the lips, the kept smile gives way; so it does to an emotion that
does not smile, by that emotion's strength.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loquent.motion.control_track import ControlValues, values_at
from loquent.types import ARKIT_INDEX, ARKIT_NAMES, EMOTIONS, Controls, Motion

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
_SMILING = [EMOTIONS.index(name) for name in ("neutral", "happiness")]
SQUINT_CHANNELS = _indices("eyeSquint")
OPEN_CHANNELS = _indices("eyeWide", "eyeLook")  # move lids that are not closed

_SQUINT_OF_BLINK = 0.08
# A turning head sways: translation x, y in interocular distances for each radian of pitch, yaw, roll.
_SWAY = np.array([[0.0, -0.14], [0.20, 0.0], [0.17, 0.0]], np.float32)
_FARTHEST_UP_RAD, _FARTHEST_ASIDE_RAD = np.radians(28), np.radians(38)  # gaze at which a look weight is 1


def apply_controls(
    pieces: Iterable[Motion],
    controls: Controls,
    rest_expression: ArrayLike | None = None,
    pose_rad: ArrayLike = (0.0, 0.0, 0.0),
) -> Iterator[Motion]:
    """Applies `controls` to each piece of motion; see the table above.

    Args:
        pieces: consecutive motion as generated, from time 0 on.
        controls: what is asked for; its blinks, seed, steps and guidance are not used here.
        rest_expression: (52,) the photo's own weights, `Portrait.rest_expression`; None keeps nothing of it.
        pose_rad: (3,) the head's pose in the photo, `Portrait.pose_rad`; absolute head angles count from the camera.
    """
    rest = np.zeros(len(ARKIT_NAMES), np.float32)
    if rest_expression is not None:
        rest[KEPT_CHANNELS] = np.asarray(rest_expression, np.float32)[KEPT_CHANNELS]
    done = 0
    for piece in pieces:
        if not len(piece):
            continue
        values = values_at(controls, (done + np.arange(len(piece))) / piece.rate_hz)
        done += len(piece)
        turn = values.head_offset_rad(pose_rad)
        look = values.gaze_offset_rad(turn)
        head = (values.head * values.amount)[:, None]
        expression = piece.expression * _factors(values)
        expression += _kept_beside(expression, rest, values)
        expression += look_weights(look)
        yield replace(
            piece,
            expression=_with_closed_eyes(np.clip(expression, 0, 1), values.closure[:, None]),
            rotation=piece.rotation * head + turn,
            translation=piece.translation * head + np.pad(turn @ _SWAY, ((0, 0), (0, 1))),
            gaze=piece.gaze * values.amount[:, None, None] + look[:, None],
        )


def _factors(values: ControlValues) -> NDArray[np.float32]:
    """Factor of each expression weight, (T, 52)."""
    factors = np.repeat(values.amount[:, None], len(ARKIT_NAMES), 1)
    factors[:, BROW_CHANNELS] *= values.brows[:, None]
    factors[:, LIP_CHANNELS] = values.lips[:, None]
    factors[:, BLINK_CHANNELS] = 1
    return factors


def _kept_beside(expression: NDArray, rest: NDArray, values: ControlValues) -> NDArray[np.float32]:
    """The kept expression (T, 52) beside what is spoken: its smile gives way to rounded lips and to other emotions."""
    rounded = np.clip(expression[:, _ROUND_CHANNELS].max(1), 0, 1)
    smiling = values.emotion[:, _SMILING].sum(1)
    kept = values.keep_expression[:, None] * rest
    kept[:, KEPT_MOUTH_CHANNELS] *= ((1 - rounded) * (1 - (1 - smiling) * np.minimum(values.emotion_strength, 1)))[
        :, None
    ]
    return kept


def look_weights(gaze_rad: NDArray) -> NDArray[np.float32]:
    """ARKit's look weights (T, 52) of a gaze (T, 2): the lids follow the eyes."""
    weights = np.zeros((len(gaze_rad), len(ARKIT_NAMES)), np.float32)
    up, right = gaze_rad[:, 0] / _FARTHEST_UP_RAD, gaze_rad[:, 1] / _FARTHEST_ASIDE_RAD  # right in the picture
    for direction, amount in (
        ("eyeLookUpLeft", up), ("eyeLookUpRight", up), ("eyeLookDownLeft", -up), ("eyeLookDownRight", -up),
        ("eyeLookOutLeft", right), ("eyeLookInRight", right), ("eyeLookInLeft", -right), ("eyeLookOutRight", -right),
    ):  # fmt: skip
        weights[:, ARKIT_INDEX[direction]] = np.clip(amount, 0, 1)
    return weights


def _with_closed_eyes(expression: NDArray, closure: NDArray) -> NDArray[np.float32]:
    """The expression (T, 52) with lids closed at least as far as `closure` (T, 1) says."""
    expression[:, BLINK_CHANNELS] = np.maximum(expression[:, BLINK_CHANNELS], closure)
    expression[:, OPEN_CHANNELS] *= 1 - closure
    squint = expression[:, SQUINT_CHANNELS] + _SQUINT_OF_BLINK * closure
    expression[:, SQUINT_CHANNELS] = np.minimum(squint, 1)
    return expression
