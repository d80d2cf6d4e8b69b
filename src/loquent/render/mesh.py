"""The mesh renderer: a photo moved by face parameters.

The photo is the texture and is resampled once. Back to front: the still background, the person moved as one smooth
field, the eyes (eyeball, then lids), the mouth (inside, then two layers of skin).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loquent.motion.face_model import fit_face
from loquent.render.aperture import Spread
from loquent.render.eyes import EYES, Eye
from loquent.render.head import HeadModel, Pose, lattice_field
from loquent.render.lips import INNER_LIPS, Lips
from loquent.render.mouth import MouthInterior
from loquent.render.person import Person, head_poses, scaled_photo
from loquent.types import ARKIT_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.types import Motion, Portrait

_BATCH = 16  # frames whose expression fields are computed together
_EYE_WIDE = [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]
_FREE_TURN_RAD, _MORE_TURN_RAD = math.radians(20), math.radians(8)  # beyond 30 degrees the picture folds
_WIDEST = 0.2  # more than this beyond the photo would show iris that the photo does not hold


class MeshRenderer:
    """Draws a portrait as its face parameters say; see `loquent.types.Renderer`."""

    def __init__(self, portrait: Portrait, *, size: int | None = None) -> None:
        """Prepares one portrait, which takes about a second.

        Args:
            portrait: the photo and its face.
            size: longer side of the frames in pixels; None keeps the photo's own resolution. An odd last row or
                column is cut off, since video needs even sides.
        """
        self._pixels, landmarks = scaled_photo(portrait.photo.pixels, portrait.face.landmarks, size)
        self.shape = fit_face(landmarks)
        self._landmarks = landmarks.astype(np.float32)
        self._head = HeadModel(self._landmarks)
        still = set(self._head.eye_points.tolist()) | INNER_LIPS
        self._person = Person(self._pixels, self._head, lambda lattice: lattice_field(self._head, lattice, still))
        self._lips = Lips(self._pixels, self._head)
        self._mouth = MouthInterior(self._pixels, self.shape, self._lips.rest_contour_px)
        self._eyes = [Eye(self._pixels, self._head, points) for points in EYES]

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of every frame; both even."""
        return self._pixels.shape[1], self._pixels.shape[0]

    def render(self, motion: Motion) -> Iterator[NDArray[np.uint8]]:
        """Yields one RGB frame (H, W, 3) for each row of `motion`. Keeps no state between calls."""
        motion = self._within_reach(motion)
        for start in range(0, len(motion), _BATCH):
            yield from self._render_batch(motion[slice(start, start + _BATCH)])

    def shown(self, motion: Motion) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """For each frame where the person's pixels come from, lips and eyes apart; see `Person.shown`."""
        motion = self._within_reach(motion)
        spread = self._person.field.spread(self._shift(motion))
        for frame, pose in enumerate(head_poses(self.shape, motion.rotation, motion.translation)):
            yield self._person.shown(spread[frame], pose)

    def landmarks(self, motion: Motion) -> NDArray[np.float32]:
        """Where the landmarks are in the frames of `render`, (T, 478, 3) in pixels."""
        motion = self._within_reach(motion)
        return self.shape.landmarks(motion.expression, motion.rotation, motion.translation, motion.gaze)

    def _within_reach(self, motion: Motion) -> Motion:
        """What of the motion is drawn: not more than the photo holds."""
        expression = _limit_wide_eyes(motion.expression, self.shape.rest_expression)
        return replace(motion, rotation=_limit_turns(motion.rotation), expression=expression)

    def _shift(self, motion: Motion) -> NDArray[np.float32]:
        """How expression and gaze move the landmarks of the photo, (T, 478, 3)."""
        return (self.shape.landmarks(motion.expression, gaze=motion.gaze) - self._landmarks).astype(np.float32)

    def _render_batch(self, motion: Motion) -> Iterator[NDArray[np.uint8]]:
        shift = self._shift(motion)
        poses = head_poses(self.shape, motion.rotation, motion.translation)
        spread = self._person.field.spread(shift)
        lips = self._lips.spread(shift)
        eyes = [eye.spread(shift) for eye in self._eyes]
        for frame, pose in enumerate(poses):
            picture = self._person.draw(spread[frame], pose)
            for eye, values in zip(self._eyes, eyes, strict=True):
                eye.draw(picture, values, frame, pose)
            self._draw_mouth(picture, lips, frame, pose, motion)
            yield picture

    def _draw_mouth(self, picture: NDArray[np.uint8], spread: Spread, frame: int, pose: Pose, motion: Motion) -> None:
        if spread.presence[frame] < 0.01:
            return
        lips = self._lips.place(spread, frame, pose, self.size_px)
        left, top, right, bottom = lips.box_px
        if right - left < 4 or bottom - top < 4:
            return
        inside, inside_box = None, self._lips.inside_box(lips)
        if inside_box is not None:
            inside = self._mouth.draw(
                motion.expression[frame],
                motion.rotation[frame],
                motion.translation[frame],
                lips.contour_px,
                inside_box,
            )
        self._lips.compose(picture, lips, inside, inside_box)


def _limit_turns(rotation: NDArray) -> NDArray[np.float32]:
    """(T, 3): nods and turns level off above _FREE_TURN_RAD, since a photo shows one side of a head only."""
    limited = np.array(rotation, np.float32)
    more = np.maximum(np.abs(rotation[:, :2]) - _FREE_TURN_RAD, 0)
    limited[:, :2] -= np.sign(rotation[:, :2]) * (more - _MORE_TURN_RAD * np.tanh(more / _MORE_TURN_RAD))
    return limited


def _limit_wide_eyes(expression: NDArray, rest: NDArray) -> NDArray:
    """(T, 52): eyeWide levels off at _WIDEST above what the photo shows (52,); everything else stays."""
    limited = np.array(expression)
    more = np.maximum(expression[:, _EYE_WIDE] - rest[_EYE_WIDE], 0)
    limited[:, _EYE_WIDE] -= more - _WIDEST * np.tanh(more / _WIDEST)
    return limited
