"""The mesh renderer: a photo moved by face parameters.

The photo is the texture and is resampled once. Back to front: the still background, the person moved as one smooth
field, the eyes (eyeball, then lids), the mouth (inside, then two layers of skin).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.motion.face_model import HEAD_PIVOT, fit_face
from loquent.motion.pose import rotation_matrix
from loquent.render.aperture import Spread
from loquent.render.eyes import EYES, Eye
from loquent.render.head import HeadModel, PointField, Pose, lattice_field
from loquent.render.lips import INNER_LIPS, Lips
from loquent.render.matte import split_layers
from loquent.render.mouth import MouthInterior
from loquent.render.warp import Lattice, Texture, invert, smoothstep, unfold
from loquent.types import ARKIT_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.types import Motion, Portrait

_BATCH = 16  # frames whose expression fields are computed together
_EYE_WIDE = [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]
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
        self._pixels, landmarks = _scaled(portrait.photo.pixels, portrait.face.landmarks, size)
        self.shape = fit_face(landmarks)
        self._landmarks = landmarks.astype(np.float32)
        self._head = HeadModel(self._landmarks)
        self._prepare_person()
        self._lips = Lips(self._pixels, self._head)
        self._mouth = MouthInterior(self._pixels, self.shape, self._lips.rest_contour_px)
        self._eyes = [Eye(self._pixels, self._head, points) for points in EYES]

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of every frame; both even."""
        return self._pixels.shape[1], self._pixels.shape[0]

    def render(self, motion: Motion) -> Iterator[NDArray[np.uint8]]:
        """Yields one RGB frame (H, W, 3) for each row of `motion`. Keeps no state between calls."""
        for start in range(0, len(motion), _BATCH):
            yield from self._render_batch(motion[slice(start, start + _BATCH)])

    def _prepare_person(self) -> None:
        height, width = self._pixels.shape[:2]
        left, top, right, bottom = self._head.reach_box()
        box = (max(0, int(left)), max(0, int(top)), min(width, int(right) + 1), min(height, int(bottom) + 1))
        self._box = box
        rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
        inside = self._landmarks - np.float32((box[0], box[1], 0))
        layers = split_layers(np.ascontiguousarray(self._pixels[rows, columns]), inside)
        self._background = layers.background
        margin = round(0.6 * self._head.interocular_px)
        person = _pad_person(layers.person, margin, self._head.interocular_px)
        self._person = Texture(person, box[0] - margin, box[1] - margin)
        step = max(1.0, self._head.interocular_px / 18)
        self._lattice = Lattice.over(box, step)
        field = lattice_field(self._head, self._lattice, set(self._head.eye_points.tolist()) | INNER_LIPS)
        points = field.points[:, :2]
        follow = field.follow * self._fade_at_cuts(points)
        if not layers.reliable:
            follow = follow * self._head.halo(points)
        self._field = PointField(field.points, follow.astype(np.float32), field.weights, field.active)

    def _fade_at_cuts(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,): 0 at sides of the moving box that are not sides of the photo, 1 away from them."""
        height, width = self._pixels.shape[:2]
        left, top, right, bottom = self._box
        fade = np.ones(len(points), np.float32)
        reach = self._head.interocular_px
        distances = ((left > 0, points[:, 0] - left), (top > 0, points[:, 1] - top),
                     (right < width, right - 1 - points[:, 0]), (bottom < height, bottom - 1 - points[:, 1]))  # fmt: skip
        for cut, distance in distances:
            if cut:
                fade *= smoothstep(distance / reach)
        return fade

    def _render_batch(self, motion: Motion) -> Iterator[NDArray[np.uint8]]:
        shape = self.shape
        expression = _limit_wide_eyes(motion.expression, shape.rest_expression)
        shift = (shape.landmarks(expression, gaze=motion.gaze) - self._landmarks).astype(np.float32)
        poses = self._poses(motion)
        spread = self._field.spread(shift)
        lips = self._lips.spread(shift)
        eyes = [eye.spread(shift) for eye in self._eyes]
        for frame, pose in enumerate(poses):
            picture = self._draw_person(spread[frame], pose)
            for eye, values in zip(self._eyes, eyes, strict=True):
                eye.draw(picture, values, frame, pose)
            self._draw_mouth(picture, lips, frame, pose, motion)
            yield picture

    def _poses(self, motion: Motion) -> list[Pose]:
        """The head's movement in photo pixels, relative to the photo."""
        shape = self.shape
        rest = rotation_matrix(shape.pose_rad)
        turns = rotation_matrix(shape.pose_rad + motion.rotation) @ rest.T  # (T, 3, 3)
        pivot = rest @ HEAD_PIVOT * shape.scale_px + shape.origin_px
        offsets = pivot - turns @ pivot + motion.translation * shape.scale_px
        return [Pose(t.astype(np.float32), o.astype(np.float32)) for t, o in zip(turns, offsets, strict=True)]

    def _draw_person(self, shift: NDArray[np.float32], pose: Pose) -> NDArray[np.uint8]:
        lattice, box = self._lattice, self._box
        displacement = self._field.displacement(shift, pose).reshape(lattice.num_rows, lattice.num_columns, 2)
        source = invert(unfold(displacement, lattice.step_px), lattice, lattice.points())
        moved = self._person.draw(source, lattice, box)
        behind = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(moved, 3)), cv2.COLOR_GRAY2RGB)
        cv2.multiply(self._background, behind, dst=behind, scale=1 / 255)
        cv2.add(cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB), behind, dst=behind)
        if behind.shape == self._pixels.shape:
            return behind
        picture = self._pixels.copy()
        picture[box[1] : box[3], box[0] : box[2]] = behind
        return picture

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


def _pad_person(person: NDArray[np.uint8], margin: int, interocular_px: float) -> NDArray[np.uint8]:
    """The person continued beyond the picture's sides where its border cuts them: by their mirror image, above the
    head by a short fringe."""
    padded = cv2.copyMakeBorder(person, 0, margin, margin, margin, cv2.BORDER_REFLECT_101).astype(np.float32)
    padded[:, :margin] *= padded[:, margin, 3][:, None, None] / 255
    padded[:, -margin:] *= padded[:, -margin - 1, 3][:, None, None] / 255
    padded[-margin:] *= padded[-margin - 1, :, 3][None, :, None] / 255
    padded = cv2.copyMakeBorder(padded, margin, 0, 0, 0, cv2.BORDER_REPLICATE)
    height = np.arange(margin, 0, -1, dtype=np.float32) / (0.12 * interocular_px)
    padded[:margin] *= (1 - smoothstep(height))[:, None, None]
    return np.round(padded).astype(np.uint8)


def _limit_wide_eyes(expression: NDArray, rest: NDArray) -> NDArray:
    """(T, 52): eyeWide levels off at _WIDEST above what the photo shows (52,); everything else stays."""
    limited = np.array(expression)
    more = np.maximum(expression[:, _EYE_WIDE] - rest[_EYE_WIDE], 0)
    limited[:, _EYE_WIDE] -= more - _WIDEST * np.tanh(more / _WIDEST)
    return limited


def _scaled(
    pixels: NDArray[np.uint8], landmarks: NDArray[np.float32], size: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Photo and landmarks (478, 3) at the wanted size, sides cut to even lengths."""
    height, width = pixels.shape[:2]
    if size is not None and size != max(height, width):
        zoom = size / max(height, width)
        new = (max(2, round(width * zoom)), max(2, round(height * zoom)))
        method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LANCZOS4
        pixels = cv2.resize(pixels, new, interpolation=method)
        scale = np.array([new[0] / width, new[1] / height, zoom])
        half = np.array([0.5, 0.5, 0])  # pixel centres are at integers
        landmarks = (landmarks + half) * scale - half
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(pixels[: height // 2 * 2, : width // 2 * 2]), landmarks.astype(np.float32)
