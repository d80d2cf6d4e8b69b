"""The person of a photo, cut out and moved as one smooth field over the completed background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.motion.face_model import HEAD_PIVOT
from loquent.motion.pose import rotation_matrix
from loquent.render.head import PointField, Pose
from loquent.render.matte import split_layers
from loquent.render.warp import Lattice, Texture, inversion_start, invert, smoothstep, unfold

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from loquent.motion.face_model import FaceShape
    from loquent.render.head import HeadModel


class Person:
    """Draws the person, moved, over the background, which stays still."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        head: HeadModel,
        make_field: Callable[[Lattice], PointField],
        stretches: bool = False,
    ) -> None:
        """
        Args:
            pixels: RGB, (H, W, 3).
            head: the model of the same photo.
            make_field: how the points of a lattice move.
            stretches: the field stretches the photo several times somewhere, as lips that stay closed over an open jaw.
        """
        self._pixels = pixels
        self._head = head
        self._stretches = stretches
        height, width = pixels.shape[:2]
        left, top, right, bottom = head.reach_box()
        box = (max(0, int(left)), max(0, int(top)), min(width, int(right) + 1), min(height, int(bottom) + 1))
        self._box = box
        rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
        inside = head.landmarks - np.float32((box[0], box[1], 0))
        layers = split_layers(np.ascontiguousarray(pixels[rows, columns]), inside)
        self._background = layers.background
        margin = round(0.6 * head.interocular_px)
        person = _pad_person(layers.person, margin, head.interocular_px)
        self._texture = Texture(person, box[0] - margin, box[1] - margin)
        self._lattice = Lattice.over(box, max(1.0, head.interocular_px / 18))
        field = make_field(self._lattice)
        points = field.points[:, :2]
        follow = field.follow * self._fade_at_cuts(points)
        if not layers.reliable:
            follow = follow * head.halo(points)
        self.field = PointField(field.points, follow.astype(np.float32), field.weights, field.active)

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

    def draw(self, shift: NDArray[np.float32], pose: Pose) -> NDArray[np.uint8]:
        """A frame (H, W, 3); `shift` is one frame of `field.spread`."""
        box = self._box
        moved = self._texture.draw(self._source(shift, pose), self._lattice, box)
        behind = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(moved, 3)), cv2.COLOR_GRAY2RGB)
        cv2.multiply(self._background, behind, dst=behind, scale=1 / 255)
        cv2.add(cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB), behind, dst=behind)
        if behind.shape == self._pixels.shape:
            return behind
        picture = self._pixels.copy()
        picture[box[1] : box[3], box[0] : box[2]] = behind
        return picture

    def shown(self, shift: NDArray[np.float32], pose: Pose) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """What a frame shows where: the place of the photo (H, W, 2) that the person at a pixel comes from, in pixels,
        and how much of the pixel is person, (H, W), 255 all. Arguments as in `draw`."""
        left, top, right, bottom = self._box
        source = self._source(shift, pose)
        height, width = self._pixels.shape[:2]
        places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
        places[top:bottom, left:right] = self._lattice.pixel_map(source, self._box)
        share = np.zeros((height, width), np.uint8)
        share[top:bottom, left:right] = self._texture.draw(source, self._lattice, self._box)[..., 3]
        return places, share

    def _source(self, shift: NDArray[np.float32], pose: Pose) -> NDArray[np.float32]:
        """Places of the photo that the lattice's points show."""
        lattice = self._lattice
        displacement = self.field.displacement(shift, pose).reshape(lattice.num_rows, lattice.num_columns, 2)
        field, points = unfold(displacement, lattice.step_px), lattice.points()
        start = inversion_start(field, lattice, points) if self._stretches else None
        return invert(field, lattice, points, start)


def head_poses(shape: FaceShape, rotation: NDArray, translation: NDArray) -> list[Pose]:
    """The head's movement in photo pixels, relative to the photo, of rotations and translations (T, 3) each."""
    rest = rotation_matrix(shape.pose_rad)
    turns = rotation_matrix(shape.pose_rad + rotation) @ rest.T  # (T, 3, 3)
    pivot = rest @ HEAD_PIVOT * shape.scale_px + shape.origin_px
    offsets = pivot - turns @ pivot + translation * shape.scale_px
    return [Pose(t.astype(np.float32), o.astype(np.float32)) for t, o in zip(turns, offsets, strict=True)]


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


def scaled_photo(
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
