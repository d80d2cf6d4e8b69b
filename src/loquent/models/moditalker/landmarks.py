"""The 68 landmarks that carry motion from speech to video, in three spaces.

- *canonical*: head upright, facing the viewer; x to the picture's right, **y up, z towards the camera**, decimetres.
  The published networks know no other frame.
- *vector*: 204 numbers, the canonical offset from the mean face times a scale; motion is a difference of vectors, which
  the sampler limits to [−1, 1]. The published scale of 10 lets a landmark move a centimetre: a jaw that opens further
  is cut off. `AtomConfig.vector_scale` says what weights were trained with.
- *posed*: photo pixels, x right, y down.

Shape letters: T frames.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from loquent.errors import MotionError
from loquent.face import topology
from loquent.motion.face_model import face_tables, similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.motion.face_model import FaceShape

NUM_LANDMARKS = 68
VECTOR_DIM = 3 * NUM_LANDMARKS

# Our 478 points that stand for the usual 68. All but the jaw line lie on the features the 68 name; the jaw line is the
# face oval's at even distances, whose ends are at eye height.
FROM_478 = (
    *(127, 234, 132, 58, 172, 136, 149, 176, 152, 400, 378, 365, 397, 288, 361, 454, 356),  # 0-16 jaw line
    *(70, 63, 105, 66, 107),  # 17-21 brow on the picture's left, inwards
    *(336, 296, 334, 293, 300),  # 22-26 brow on the picture's right, outwards
    *(168, 197, 5, 1),  # 27-30 bridge of the nose, down to the tip
    *(98, 97, 2, 326, 327),  # 31-35 base of the nose
    *(33, 160, 158, 133, 153, 144),  # 36-41 eye on the picture's left
    *(362, 385, 387, 263, 373, 380),  # 42-47 eye on the picture's right
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),  # 48-59 outer border of the lips
    *(78, 81, 13, 311, 308, 402, 14, 178),  # 60-67 inner border of the lips
)
JAW, MOUTH, OTHERS = range(17), range(48, 68), range(17, 48)
NOSE_BASE = 33
MOUTH_GAPS = ((61, 67), (62, 66), (63, 65))  # points of the inner lip borders, upper and lower
MOUTH_GAPS = ((61, 67), (62, 66), (63, 65))  # points of the inner lip borders, upper and lower
# The person's landmark that each becomes when the picture is mirrored.
MIRRORED = tuple(FROM_478.index(topology.MIRRORED[point]) for point in FROM_478)


def _channels(landmarks: list[int]) -> list[int]:
    return [3 * landmark + axis for landmark in landmarks for axis in range(3)]


LIP_CHANNELS = _channels([*JAW, *MOUTH])  # what speech moves
OTHER_CHANNELS = _channels([*OTHERS])

_INTEROCULAR_DM = 0.89  # between the outer corners of the eyes of the mean face
TO_CANONICAL = _INTEROCULAR_DM * np.array([1.0, -1.0, -1.0])  # of head coordinates, see `motion.face_model`


def pick_68(points: NDArray) -> NDArray:
    """The 68 landmarks (..., 68, C) among the 478 points (..., 478, C).

    Raises:
        MotionError: the points are not 478.
    """
    if points.ndim < 2 or points.shape[-2] != topology.NUM_LANDMARKS:
        raise MotionError(f"points have shape {points.shape}; wanted (..., {topology.NUM_LANDMARKS}, C)")
    return points[..., list(FROM_478), :]


@lru_cache(maxsize=1)
def mean_face() -> NDArray[np.float64]:
    """Canonical landmarks (68, 3) of the mean face at rest."""
    return _canonical_of_head(face_tables().neutral)


def _canonical_of_head(points: NDArray) -> NDArray[np.float64]:
    return pick_68(np.asarray(points, np.float64)) * TO_CANONICAL


def canonical_displacement(displacement: NDArray) -> NDArray[np.float64]:
    """Landmarks (..., 204) in decimetres that move as the 478 points (..., 478, 3) move in head coordinates."""
    moved = _canonical_of_head(displacement)
    return moved.reshape(*moved.shape[:-2], VECTOR_DIM)


def canonical_of_photo(shape: FaceShape) -> NDArray[np.float64]:
    """Canonical landmarks (68, 3) of the face as the photo shows it, its expression kept."""
    return canonical_of_expression(shape, shape.rest_expression[None])[0]


def canonical_of_expression(shape: FaceShape, expression: NDArray) -> NDArray[np.float64]:
    """Canonical landmarks (T, 68, 3) of a person with ARKit weights (T, 52), by the fitted 3-D face."""
    return _canonical_of_head(shape.head_points(expression))


def canonical_of_frames(shape: FaceShape, landmarks_px: NDArray) -> NDArray[np.float64]:
    """Canonical landmarks (T, 68, 3) of a person in a video, as the landmarker saw them.

    Pose is taken off by the points that expressions hardly move.

    Args:
        shape: fitted to any picture of the person.
        landmarks_px: (T, 478, 3) in pixels.
    """
    steady = _steadiness()
    frames = []
    for points in np.asarray(landmarks_px, np.float64):
        rotation, scale, origin = similarity(shape.neutral, points, steady)
        frames.append((points - origin) @ rotation / scale)
    return _canonical_of_head(np.stack(frames))


@lru_cache(maxsize=1)
def _steadiness() -> NDArray[np.float64]:
    """Weights (478,) that fall with how far expressions move a point; irises count nothing."""
    reach = np.linalg.norm(face_tables().expressions, axis=2).max(0)
    weights = 1 / (1 + (reach / 0.02) ** 2)
    weights[topology.NUM_MESH_LANDMARKS :] = 0
    return weights


def posed(shape: FaceShape, canonical: NDArray, rotation: NDArray, translation: NDArray) -> NDArray[np.float64]:
    """Landmarks (T, 68, 3) in photo pixels of canonical ones (T, 68, 3) in the portrait's place.

    Args:
        shape: of the portrait.
        canonical: see `from_vector`.
        rotation: head motion, (T, 3), relative to the photo, as `types.Motion`.
        translation: (T, 3), in interocular distances.
    """
    return shape.to_photo(canonical / TO_CANONICAL, rotation, translation)


def to_vector(canonical: NDArray, scale: float) -> NDArray[np.float32]:
    """Landmark vectors (..., 204), x y z of landmark 0 first, of canonical landmarks (..., 68, 3)."""
    offset = scale * (canonical - mean_face())
    return offset.reshape(*offset.shape[:-2], VECTOR_DIM).astype(np.float32)


def from_vector(vector: NDArray, scale: float) -> NDArray[np.float64]:
    """Canonical landmarks (..., 68, 3) of landmark vectors (..., 204): vector / scale + mean face."""
    vector = np.asarray(vector, np.float64)
    return vector.reshape(*vector.shape[:-1], NUM_LANDMARKS, 3) / scale + mean_face()
