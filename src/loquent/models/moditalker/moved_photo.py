"""The photo moved by the 68 landmarks: what MToV's output stage lays its own pixels over. Ours, not published.

Layers of the same photo move as smooth fields. *Base* goes with the head and the outer lips, and its eyes blink and
turn; *upper* also follows the upper lip, *lower* the lower lip, so that lips can part and meet; *teeth* that the photo
shows stay with the skull. Where teeth are, seen or not, follows from the landmarks too: every pixel round the mouth
knows its place on both rows.

Shape letters: T frames, S side of the network's crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.face.crop import Square, square_around
from loquent.face.lip_line import lip_ring
from loquent.face.topology import LIPS_INNER_LOWER, LIPS_INNER_UPPER
from loquent.models.moditalker import landmarks as space
from loquent.models.moditalker.config import GRID, GUIDE_CHANNELS
from loquent.motion.face_model import fit_face
from loquent.render.aperture import Opening, dense_edge
from loquent.render.eyes import EYES, Eye
from loquent.render.head import HeadModel, PointField
from loquent.render.mouth import MouthPlace
from loquent.render.person import Person, head_poses
from loquent.render.warp import Lattice, SmoothInterpolator, Texture, inversion_start, invert, smoothstep, unfold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loquent.motion.face_model import FaceShape
    from loquent.render.head import Pose
    from loquent.render.mouth_layers import View

MOUTH_CHANNELS = GUIDE_CHANNELS - 3  # of the guide but for the base
CROP_MARGIN = 1.2  # side of the network's crop, in units of the face's longer side
BOX_CELLS = (7, 8)  # height and width of the box round the mouth, in cells of the grid

_UPPER = {*range(49, 54), 61, 62, 63}  # landmarks of the upper lip, corners left out
_LOWER = {*range(55, 60), 65, 66, 67}
_INNER = {61, 62, 63, 65, 66, 67}  # border of the opening
_LIDS = {37, 38, 40, 41, 43, 44, 46, 47}  # corners left out
_REACH_OF_PAINT = (0.12, 0.22)  # beyond the inner lips, in interocular distances: all of it is painted, none of it is
_REACH = 1.4  # of one landmark, in interocular distances
_LANDMARK_ERROR = 0.01  # deviation of landmarks (decimetres) over that of weights, in reading weights from landmarks

# Place on a row of teeth: −1 to 1 along it, and −1 to 1 across it from the gum downwards.
_ALONG_MM = 32.0
_ACROSS_MM = {"upper": (-18.0, 6.0), "lower": (-8.0, 16.0)}  # heights in the frame of `render.mouth_geometry`
_COARSE_PX = 8  # places are worked out at every eighth pixel


@dataclass(frozen=True, eq=False)
class Layers:
    """The moved photo at one moment, at the photo's resolution; boxes are the face's."""

    base: NDArray[np.uint8]  # (H, W, 3) the whole picture
    upper: NDArray[np.uint8]  # (h, w, 4) of the box: RGB, and 255 where it is skin above the mouth's opening
    lower: NDArray[np.uint8]  # (h, w, 4): RGB, and 255 where it is skin below the opening
    near: NDArray[np.uint8]  # (h, w): 255 near the opening, where the network may paint
    teeth: NDArray[np.uint8]  # (h, w, 4): RGB, and 255 where the photo shows an upper tooth
    jaws: tuple[View, View]  # upper and lower, photo pixels


class WeightReader:
    """ARKit weights of canonical landmarks, to place what the 68 do not name: lids between them, irises, teeth."""

    def __init__(self, shape: FaceShape) -> None:
        design = space.canonical_displacement(shape.expressions)  # (52, 204)
        normal = design @ design.T + _LANDMARK_ERROR**2 * np.eye(len(design))
        self._matrix = np.linalg.solve(normal, design).T
        self._rest, self._canonical = shape.rest_expression, space.canonical_of_photo(shape)

    def __call__(self, canonical: NDArray) -> NDArray[np.float32]:
        """(T, 52) of (T, 68, 3)."""
        moved = (canonical - self._canonical).reshape(len(canonical), space.VECTOR_DIM)
        return np.clip(self._rest + moved @ self._matrix, 0, 1).astype(np.float32)


class MovedPhoto:
    """One portrait, ready to be moved."""

    def __init__(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> None:
        """Args: pixels RGB (H, W, 3); landmarks (478, 3) in its pixels."""
        self.pixels = pixels
        self.shape = fit_face(landmarks)
        self._head = head = HeadModel(landmarks.astype(np.float32))
        self.canonical = space.canonical_of_photo(self.shape)
        self._rest = self.shape.to_photo(self.canonical[None] / space.TO_CANONICAL)[0]
        self._weights_of = WeightReader(self.shape)
        left_out = _INNER | _LIDS
        self._person = Person(
            pixels, head, lambda lattice: self._field(_active_lattice(head, lattice), left_out), stretches=True
        )
        self._eyes = [Eye(pixels, head, points) for points in EYES]
        self._place = MouthPlace.of(pixels, self.shape, lip_ring(landmarks, LIPS_INNER_UPPER, LIPS_INNER_LOWER))
        self._rows = [_ToothRow.of(self._place, "upper"), _ToothRow.of(self._place, "lower")]
        self._prepare_face()

    def _field(self, lattice: tuple[NDArray, NDArray], left_out: set[int]) -> PointField:
        """The field of points (N, 2), of which those numbered (M,) also follow expressions."""
        points, active = lattice
        weights = _landmark_weights(self._rest[:, :2], points[active], left_out, self._head.interocular_px)
        return self._head.field(points, weights, active)

    def _prepare_face(self) -> None:
        head, unit = self._head, self._head.interocular_px
        height, width = self.pixels.shape[:2]
        edges = [dense_edge(head.landmarks[list(edge), :2]) for edge in (LIPS_INNER_UPPER, LIPS_INNER_LOWER)]
        masks = Opening.of(edges[0], edges[1]).masks((0, 0, width, height))
        inside = np.zeros((height, width), np.uint8)
        cv2.fillPoly(inside, [np.round(np.vstack([edges[0], edges[1][::-1]])).astype(np.int32)], 1)
        cv2.polylines(inside, [np.round(edge).astype(np.int32) for edge in edges], False, 1)
        away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5) / unit
        full, none = _REACH_OF_PAINT
        near = 1 - smoothstep((away - full) / (none - full))
        painted = np.argwhere(near > 0)
        low, high = painted.min(0), painted.max(0) + 1
        room = 0.35 * unit  # how far a jaw that drops carries the lower lip
        self.face_box = (
            max(0, int(low[1] - room)), max(0, int(low[0] - room)),
            min(width, int(high[1] + room)), min(height, int(high[0] + 2 * room)),
        )  # fmt: skip
        left, top, right, bottom = self.face_box
        cut = (slice(top, bottom), slice(left, right))

        def texture(alpha: NDArray) -> Texture:
            alpha8 = np.round(255 * alpha[cut]).astype(np.uint8)
            return Texture(np.dstack([self.pixels[cut], alpha8]), left, top)

        self._near = Texture(np.round(255 * near[cut]).astype(np.uint8), left, top)
        self._skins = [texture(masks.upper), texture(masks.lower)]
        self._teeth = texture(self._place.shown_in_photo((width, height)))
        self._lattice = Lattice.over(self.face_box, max(1.0, unit / 30))
        points = self._lattice.points().reshape(-1, 2)
        everything = points, np.arange(len(points))
        self._fields = [self._field(everything, left_out) for left_out in (_INNER, _LOWER, _UPPER)]
        self._skull = head.field(points, np.zeros((len(points), 0), np.float32))

    @property
    def tone(self) -> NDArray[np.float64] | None:
        """Colour (3,) of luma 1 of which all of a grey or sepia photo is, else None."""
        return self._place.look.tone

    def crop_to_photo(self, size: int) -> NDArray[np.float64]:
        """(2, 3) from pixels of the network's crop of `size` x `size` to photo pixels; the same for every frame."""
        square: Square = square_around(self._head.landmarks, CROP_MARGIN)
        return square.crop_to_photo(size)

    def landmarks_px(self, canonical: NDArray, rotation: NDArray, translation: NDArray) -> NDArray[np.float64]:
        """Landmarks (T, 68, 2) in photo pixels of canonical ones (T, 68, 3); motion as in `landmarks.posed`."""
        return space.posed(self.shape, canonical, rotation, translation)[..., :2]

    def draw(
        self, canonical: NDArray, rotation: NDArray, translation: NDArray, gaze: NDArray | None = None
    ) -> Iterator[Layers]:
        """Moves the photo to canonical landmarks (T, 68, 3).

        Args:
            canonical: see `landmarks`.
            rotation: (T, 3), as in `landmarks.posed`.
            translation: (T, 3), the same.
            gaze: (T, 2, 2), as in `types.Motion`; None: as in the photo.
        """
        in_place = self.shape.to_photo(canonical / space.TO_CANONICAL)
        shift = (in_place - self._rest).astype(np.float32)
        poses = head_poses(self.shape, rotation, translation)
        whole = self._person.field.spread(shift)
        spreads = [field.spread(shift) for field in self._fields]
        expression = self._weights_of(canonical)
        points = self.shape.landmarks(expression, gaze=gaze)
        eyes = [eye.spread((points - self._head.landmarks).astype(np.float32)) for eye in self._eyes]
        still = np.zeros((len(self._skull.points), 3), np.float32)
        for frame, pose in enumerate(poses):
            base = self._person.draw(whole[frame], pose)
            for eye, values in zip(self._eyes, eyes, strict=True):
                eye.draw(base, values, frame, pose)
            sources = [
                self._source(field, values[frame], pose) for field, values in zip(self._fields, spreads, strict=True)
            ]
            box, lattice = self.face_box, self._lattice
            yield Layers(
                base=base,
                near=self._near.draw(sources[0], lattice, box),
                upper=self._skins[0].draw(sources[1], lattice, box),
                lower=self._skins[1].draw(sources[2], lattice, box),
                teeth=self._teeth.draw(self._source(self._skull, still, pose), lattice, box),
                jaws=self._place.views(expression[frame], rotation[frame], translation[frame]),
            )

    def _source(self, field: PointField, shift: NDArray[np.float32], pose: Pose) -> NDArray[np.float32]:
        """The photo points (rows, columns, 2) that show at the lattice's points."""
        lattice = self._lattice
        displacement = field.displacement(shift, pose).reshape(lattice.num_rows, lattice.num_columns, 2)
        steady, points = unfold(displacement, lattice.step_px), lattice.points()
        return invert(steady, lattice, points, inversion_start(steady, lattice, points))

    def mouth(self, layers: Layers, corner: tuple[int, int], size: int) -> NDArray[np.uint8]:
        """What the network is shown round the mouth, (h, w, MOUTH_CHANNELS): a box of the crop of `size` x `size`.

        Args:
            layers: of one frame.
            corner: row and column of the box, in cells of the grid; see `mouth_corners`.
            size: a multiple of GRID.
        """
        cell = size // GRID
        height, width = (cells * cell for cells in BOX_CELLS)
        to_photo = self.crop_to_photo(size)
        to_photo[:, 2] += to_photo[:, :2] @ (np.array(corner[::-1]) * cell)
        left, top, _, _ = self.face_box
        in_box = to_photo - np.array([[0, 0, left], [0, 0, top]])
        near = cut_crop(layers.near, in_box, (width, height), cv2.BORDER_CONSTANT)
        skins = [cut_crop(part, in_box, (width, height)) for part in (layers.upper, layers.lower)]
        teeth = cut_crop(layers.teeth, in_box, (width, height))
        places = [
            row.places(view, to_photo, (width, height)) for row, view in zip(self._rows, layers.jaws, strict=True)
        ]
        return np.dstack([*skins, near, teeth, *places])


@dataclass(frozen=True, eq=False)
class _ToothRow:
    """The surface on which the teeth of one jaw stand, and a measure on it."""

    place: MouthPlace
    jaw: str
    along: NDArray[np.float64]  # (K,), −1 to 1, of the points of the wall's curve

    @staticmethod
    def of(place: MouthPlace, jaw: str) -> _ToothRow:
        steps = np.hypot(*np.diff(place.wall(jaw).curve_mm, axis=0).T)  # type: ignore[arg-type]
        length = np.concatenate([[0.0], np.cumsum(steps)])
        return _ToothRow(place, jaw, (length - length[-1] / 2) / _ALONG_MM)

    def places(self, view: View, to_photo: NDArray, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Place on the row of every pixel of a crop of `size` (width, height): (h, w, 2), 0 to 255 for −1 to 1."""
        width, height = size
        x, y = np.meshgrid(np.arange(0, width + _COARSE_PX, _COARSE_PX), np.arange(0, height + _COARSE_PX, _COARSE_PX))
        photo = np.stack([x, y, np.ones_like(x)], -1) @ to_photo.T
        index, height_mm = self.place.wall(self.jaw).seen(view).to_wall(photo)  # type: ignore[arg-type]
        low, high = _ACROSS_MM[self.jaw]
        along = np.interp(index, np.arange(len(self.along)), self.along)
        across = 2 * (height_mm - low) / (high - low) - 1
        coarse = np.stack([along, across], -1).clip(-1, 1).astype(np.float32)
        to_coarse = np.array([[1 / _COARSE_PX, 0, 0], [0, 1 / _COARSE_PX, 0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        fine = cv2.warpAffine(coarse, to_coarse, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.round(127.5 * (fine + 1)).astype(np.uint8)


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


def mouth_corners(points: NDArray) -> NDArray[np.int64]:
    """Corner (T, 2), row and column in cells of the grid, of the box round the mouth.

    Args:
        points: landmarks (T, 68, 2) in a crop of side 1.
    """
    centre = points[:, list(space.MOUTH)].mean(1)[:, ::-1] * GRID
    cells = np.array(BOX_CELLS)
    return np.clip(np.rint(centre - cells / 2).astype(np.int64), 0, GRID - cells)


def with_base(mouth: NDArray[np.uint8], base: NDArray[np.uint8], corner: NDArray) -> NDArray[np.uint8]:
    """The whole guide (h, w, GUIDE_CHANNELS): what `MovedPhoto.mouth` gives, after its box of the crop (S, S, 3)."""
    top, left = (int(cells) * base.shape[0] // GRID for cells in corner)
    height, width = mouth.shape[:2]
    return np.dstack([base[top : top + height, left : left + width], mouth])


def cut_crop(
    picture: NDArray[np.uint8],
    crop_to_picture: NDArray,
    size: tuple[int, int],
    border: int = cv2.BORDER_REPLICATE,
) -> NDArray[np.uint8]:
    """A crop of a picture, (h, w, C); `size` is its width and height."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shrink = float(np.sqrt(abs(np.linalg.det(crop_to_picture[:, :2]))))
    if shrink > 1.5:  # averages first, so that no pixel is passed over
        factor = 1 / shrink
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        scale = np.array([small.shape[1] / picture.shape[1], small.shape[0] / picture.shape[0]])
        crop_to_picture = crop_to_picture * scale[:, None]
        crop_to_picture[:, 2] += 0.5 * scale - 0.5  # pixel centres at integers in both
        picture = np.asarray(small, np.uint8)
    return np.asarray(cv2.warpAffine(picture, crop_to_picture, size, flags=flags, borderMode=border), np.uint8)


def to_crop(points: NDArray, crop_to_photo: NDArray) -> NDArray[np.float32]:
    """Points (..., 2) in photo pixels as pixels of the crop."""
    return ((points - crop_to_photo[:, 2]) @ np.linalg.inv(crop_to_photo[:, :2]).T).astype(np.float32)
