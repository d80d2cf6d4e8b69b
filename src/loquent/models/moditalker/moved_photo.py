"""The photo moved by the 68 landmarks: what MToV's output stage lays its own pixels over. Ours, not published.

Three layers of the same photo move as smooth fields. *Base* goes with the head and the outer lips; *upper* also follows
the upper lip and the upper lids, *lower* the lower lip and the lower lids, so that lips and lids can part and meet.

Shape letters: T frames, S side of the network's crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.crop import Square, square_around
from loquent.face.topology import (
    LEFT_EYE_LOWER,
    LEFT_EYE_UPPER,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    RIGHT_EYE_LOWER,
    RIGHT_EYE_UPPER,
)
from loquent.models.moditalker import landmarks as space
from loquent.motion.face_model import fit_face
from loquent.render.aperture import Opening, dense_edge
from loquent.render.head import HeadModel, PointField
from loquent.render.person import Person, head_poses
from loquent.render.warp import Lattice, SmoothInterpolator, Texture, invert, smoothstep, unfold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loquent.render.head import Pose

GUIDE_CHANNELS = (
    12  # base, upper and lower RGB; share of upper and lower skin; where the network may paint; see `Guide`
)
CROP_MARGIN = 1.2  # side of the network's crop, in units of the face's longer side

_UPPER = {*range(49, 54), 61, 62, 63, 37, 38, 43, 44}  # landmarks of the upper lip and the upper lids, corners left out
_LOWER = {*range(55, 60), 65, 66, 67, 40, 41, 46, 47}
_INNER = {61, 62, 63, 65, 66, 67, 37, 38, 40, 41, 43, 44, 46, 47}  # borders of the openings
_OPENINGS = (
    (LIPS_INNER_UPPER, LIPS_INNER_LOWER),
    (RIGHT_EYE_UPPER, RIGHT_EYE_LOWER),
    (LEFT_EYE_UPPER, LEFT_EYE_LOWER),
)
_MOUTH_REACH = (0.17, 0.30)  # beyond the inner lips, in interocular distances: all of it is painted, none of it is
_EYE_REACH = (0.06, 0.15)
_REACH = 1.4  # of one landmark, in interocular distances


@dataclass(frozen=True, eq=False)
class Layers:
    """The moved photo at one moment, at the photo's resolution."""

    base: NDArray[np.uint8]  # (H, W, 3) the whole picture
    upper: NDArray[np.uint8]  # (h, w, 4) of the face's box: RGB, and 255 where it is skin above an opening
    lower: NDArray[np.uint8]  # (h, w, 4): RGB, and 255 where it is skin below an opening
    near: NDArray[np.uint8]  # (h, w): 255 near the openings, where the network may paint


class MovedPhoto:
    """One portrait, ready to be moved."""

    def __init__(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> None:
        """Args: pixels RGB (H, W, 3); landmarks (478, 3) in its pixels."""
        self.pixels = pixels
        self.shape = fit_face(landmarks)
        self._head = head = HeadModel(landmarks.astype(np.float32))
        self.canonical = space.canonical_of_photo(self.shape)
        self._rest = self.shape.to_photo(self.canonical[None] / space.TO_CANONICAL)[0]
        self._person = Person(pixels, head, lambda lattice: self._field(_active_lattice(head, lattice), _INNER))
        self._prepare_face()

    def _field(self, lattice: tuple[NDArray, NDArray], left_out: set[int]) -> PointField:
        """The field of points (N, 2), of which those numbered (M,) also follow expressions."""
        points, active = lattice
        weights = _landmark_weights(self._rest[:, :2], points[active], left_out, self._head.interocular_px)
        return self._head.field(points, weights, active)

    def _prepare_face(self) -> None:
        head, unit = self._head, self._head.interocular_px
        height, width = self.pixels.shape[:2]
        near = np.zeros((height, width), np.float32)
        skin = np.zeros((height, width, 2), np.float32)
        everywhere = (0, 0, width, height)
        for index, (upper, lower) in enumerate(_OPENINGS):
            edges = [dense_edge(head.landmarks[list(edge), :2]) for edge in (upper, lower)]
            masks = Opening.of(edges[0], edges[1]).masks(everywhere)
            reach = _MOUTH_REACH if index == 0 else _EYE_REACH
            inside = np.zeros((height, width), np.uint8)
            cv2.fillPoly(inside, [np.round(np.vstack([edges[0], edges[1][::-1]])).astype(np.int32)], 1)
            cv2.polylines(inside, [np.round(edge).astype(np.int32) for edge in edges], False, 1)
            away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5) / unit
            own = 1 - smoothstep((away - reach[0]) / (reach[1] - reach[0]))
            skin = np.where((own > near)[..., None], np.stack([masks.upper, masks.lower], -1), skin)
            near = np.maximum(near, own)
        inside = np.argwhere(near > 0)
        low, high = inside.min(0), inside.max(0) + 1
        room = 0.35 * unit  # how far a jaw that drops carries the lower lip
        self._source_box = (low[1], low[0], high[1], high[0])
        self.face_box = (
            max(0, int(low[1] - room)), max(0, int(low[0] - room)),
            min(width, int(high[1] + room)), min(height, int(high[0] + 2 * room)),
        )  # fmt: skip
        left, top, right, bottom = self.face_box
        skin8, near8 = (np.round(255 * values).astype(np.uint8) for values in (skin, near))
        cut = (slice(top, bottom), slice(left, right))
        self._near = Texture(near8[cut], left, top)
        self._skins = [Texture(np.dstack([self.pixels[cut], skin8[cut][..., side]]), left, top) for side in (0, 1)]
        self._lattice = Lattice.over(self.face_box, max(1.0, unit / 30))
        points = self._lattice.points().reshape(-1, 2)
        everything = points, np.arange(len(points))
        self._fields = [self._field(everything, left_out) for left_out in (_INNER, _LOWER, _UPPER)]

    def crop_to_photo(self, size: int) -> NDArray[np.float64]:
        """(2, 3) from pixels of the network's crop of `size` x `size` to photo pixels; the same for every frame."""
        square: Square = square_around(self._head.landmarks, CROP_MARGIN)
        return square.crop_to_photo(size)

    def landmarks_px(self, canonical: NDArray, rotation: NDArray, translation: NDArray) -> NDArray[np.float64]:
        """Landmarks (T, 68, 2) in photo pixels of canonical ones (T, 68, 3); motion as in `landmarks.posed`."""
        return space.posed(self.shape, canonical, rotation, translation)[..., :2]

    def draw(self, canonical: NDArray, rotation: NDArray, translation: NDArray) -> Iterator[Layers]:
        """Moves the photo to canonical landmarks (T, 68, 3); motion (T, 3) each as in `landmarks.posed`."""
        in_place = self.shape.to_photo(canonical / space.TO_CANONICAL)
        shift = (in_place - self._rest).astype(np.float32)
        poses = head_poses(self.shape, rotation, translation)
        whole = self._person.field.spread(shift)
        spreads = [field.spread(shift) for field in self._fields]
        for frame, pose in enumerate(poses):
            sources = [
                self._source(field, values[frame], pose) for field, values in zip(self._fields, spreads, strict=True)
            ]
            box, lattice = self.face_box, self._lattice
            yield Layers(
                base=self._person.draw(whole[frame], pose),
                near=self._near.draw(sources[0], lattice, box),
                upper=self._skins[0].draw(sources[1], lattice, box),
                lower=self._skins[1].draw(sources[2], lattice, box),
            )

    def _source(self, field: PointField, shift: NDArray[np.float32], pose: Pose) -> NDArray[np.float32]:
        """The photo points (rows, columns, 2) that show at the lattice's points."""
        lattice = self._lattice
        displacement = field.displacement(shift, pose).reshape(lattice.num_rows, lattice.num_columns, 2)
        return invert(unfold(displacement, lattice.step_px), lattice, lattice.points())


def _active_lattice(head: HeadModel, lattice: Lattice) -> tuple[NDArray, NDArray]:
    """The lattice's points (N, 2), and the numbers (M,) of those that an expression can reach."""
    points = lattice.points().reshape(-1, 2)
    low = head.landmarks[:, :2].min(0) - 0.9 * head.interocular_px
    high = head.landmarks[:, :2].max(0) + 0.9 * head.interocular_px
    return points, np.flatnonzero(((points > low) & (points < high)).all(1))


def _landmark_weights(centres: NDArray, points: NDArray, left_out: set[int], unit: float) -> NDArray[np.float32]:
    """(N, 68): spreads displacements of the landmarks (68, 2) but those left out to points (N, 2)."""
    used = np.setdiff1d(np.arange(space.NUM_LANDMARKS), sorted(left_out))
    weights = np.zeros((len(points), space.NUM_LANDMARKS), np.float32)
    weights[:, used] = SmoothInterpolator(centres[used], _REACH * unit, smoothing=2e-4).matrix(points)
    return weights


def crop_guide(
    layers: Layers, face_box: tuple[int, int, int, int], crop_to_photo: NDArray, size: int
) -> NDArray[np.uint8]:
    """What the network is shown of the moved photo, (S, S, GUIDE_CHANNELS)."""
    left, top, _, _ = face_box
    in_box = crop_to_photo - np.array([[0, 0, left], [0, 0, top]])
    near = cut_crop(layers.near, in_box, size, cv2.BORDER_CONSTANT)
    parts = [cut_crop(part, in_box, size) for part in (layers.upper, layers.lower)]
    return np.dstack([cut_crop(layers.base, crop_to_photo, size), *parts, near])


def cut_crop(
    picture: NDArray[np.uint8], crop_to_picture: NDArray, size: int, border: int = cv2.BORDER_REPLICATE
) -> NDArray[np.uint8]:
    """The network's crop of a picture, (S, S, C)."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shrink = float(np.sqrt(abs(np.linalg.det(crop_to_picture[:, :2]))))
    if shrink > 1.5:  # averages first, so that no pixel is passed over
        factor = 1 / shrink
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        scale = np.array([small.shape[1] / picture.shape[1], small.shape[0] / picture.shape[0]])
        crop_to_picture = crop_to_picture * scale[:, None]
        crop_to_picture[:, 2] += 0.5 * scale - 0.5  # pixel centres at integers in both
        picture = np.asarray(small, np.uint8)
    return np.asarray(cv2.warpAffine(picture, crop_to_picture, (size, size), flags=flags, borderMode=border), np.uint8)


def to_crop(points: NDArray, crop_to_photo: NDArray) -> NDArray[np.float32]:
    """Points (..., 2) in photo pixels as pixels of the crop."""
    return ((points - crop_to_photo[:, 2]) @ np.linalg.inv(crop_to_photo[:, :2]).T).astype(np.float32)
