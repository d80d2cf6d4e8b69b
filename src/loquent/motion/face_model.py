"""The person's face as a function of face parameters: 478 points from rotation, translation, ARKit weights and gaze.

Head coordinates: x right in the picture, y down, z away from the viewer for a head that faces the camera; the unit is
the distance of the outer eye corners, the origin their middle. The expression and identity tables beside this file
are measured by `loquent.data.measure_face_basis`.

Shape letters: T frames, N points (478), C expression weights (52), P pairs of opposite border points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import numpy as np
from safetensors.numpy import load

from loquent.errors import FaceError
from loquent.face import topology
from loquent.motion.pose import angles_of, rotation_matrix
from loquent.types import ARKIT_INDEX, ARKIT_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Where the head turns on the neck, in head coordinates: behind the palate, between the ears' lower ends.
HEAD_PIVOT = np.array([0.0, 0.55, 0.95])
# Hinge of the jaw: the middle of the line through both jaw joints, just before the ears.
JAW_PIVOT = np.array([0.0, 0.25, 0.75])

LIP_PAIRS = (topology.LIPS_INNER_UPPER[1:-1], topology.LIPS_INNER_LOWER[1:-1])
# The landmarker's rings between the outer and the inner lip border, same order as topology.LIPS_*.
LIP_RING2_UPPER = (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306)
LIP_RING3_UPPER = (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292)
LIP_RING2_LOWER = (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306)
LIP_RING3_LOWER = (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292)
UPPER_RINGS = (topology.LIPS_INNER_UPPER, LIP_RING3_UPPER, LIP_RING2_UPPER, topology.LIPS_OUTER_UPPER)
LOWER_RINGS = (topology.LIPS_INNER_LOWER, LIP_RING3_LOWER, LIP_RING2_LOWER, topology.LIPS_OUTER_LOWER)
INNER_SHARES = (1.0, 0.8, 0.6, 0.4)  # of a movement of the inner border that each ring follows
_MIN_THICKNESS = 0.25  # of the lips' own: what rolling and pressing leave in sight
_SKIN_REACH = 0.12  # how far beyond the lips the skin follows, interocular distances

EYES = (
    # upper lid, lower lid, iris, blink weight; the eye on the picture's left first in points, the person's own in names
    (topology.LEFT_EYE_UPPER, topology.LEFT_EYE_LOWER, topology.LEFT_IRIS, "eyeBlinkLeft"),
    (topology.RIGHT_EYE_UPPER, topology.RIGHT_EYE_LOWER, topology.RIGHT_IRIS, "eyeBlinkRight"),
)
_LID_REACH = 0.06
EYEBALL_RADIUS = 0.135  # 12 mm in interocular distances of 89 mm

# Prior standard deviation of each weight in a photo. Channels not named are not estimated: a single photo shows them
# too ambiguously, and a wrong value would be taken off the person's neutral face.
_PRIOR = {
    "mouthSmileLeft": 0.6, "mouthSmileRight": 0.6, "jawOpen": 0.07, "mouthUpperUpLeft": 0.5, "mouthUpperUpRight": 0.5,
    "mouthLowerDownLeft": 0.5, "mouthLowerDownRight": 0.5, "eyeBlinkLeft": 0.25, "eyeBlinkRight": 0.25,
    "eyeSquintLeft": 0.4, "eyeSquintRight": 0.4, "eyeWideLeft": 0.12, "eyeWideRight": 0.12,
    "browDownLeft": 0.2, "browDownRight": 0.2, "browInnerUp": 0.2, "browOuterUpLeft": 0.2, "browOuterUpRight": 0.2,
    "cheekSquintLeft": 0.1, "cheekSquintRight": 0.1, "mouthFrownLeft": 0.08, "mouthFrownRight": 0.08,
    "mouthPucker": 0.1, "mouthStretchLeft": 0.1, "mouthStretchRight": 0.1, "mouthFunnel": 0.05,
    "mouthPressLeft": 0.2, "mouthPressRight": 0.2, "mouthRollLower": 0.2, "mouthRollUpper": 0.2,
    "noseSneerLeft": 0.15, "noseSneerRight": 0.15,
}  # fmt: skip
_ESTIMATED = [ARKIT_INDEX[name] for name in _PRIOR]
_GAP_SIGMA = 0.006  # standard deviation of the lips' distance in landmarks, interocular distances
_SMILE_GAP = 0.1  # what upper and lower lip open without the jaw
_OPENERS = ("jawOpen", "mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight")
_MAX_BLINK = 0.75  # a rest blink above this says too little about the open eye


@dataclass(frozen=True, eq=False)
class FaceTables:
    """What was measured on the 3-D face model, in head coordinates."""

    neutral: NDArray[np.float64]  # (N, 3)
    expressions: NDArray[np.float64]  # (C, N, 3)
    identities: NDArray[np.float64]  # (I, N, 3), scaled by their standard deviation
    mirror: NDArray[np.int64]  # (N,) number of each point's mirror image
    jaw: NDArray[np.float64]  # (4, 6): rotation vector and translation at JAW_PIVOT of JAW_NAMES at weight 1


JAW_NAMES = ("jawForward", "jawLeft", "jawOpen", "jawRight")


@lru_cache(maxsize=1)
def face_tables() -> FaceTables:
    """The tables shipped beside this module."""
    raw = load(files("loquent.motion").joinpath("face_basis.safetensors").read_bytes())
    tables = {name: raw[name].astype(np.float64) for name in ("neutral", "expressions", "identities", "jaw")}
    return FaceTables(mirror=raw["mirror"].astype(np.int64), **tables)


def spread_lips(neutral: NDArray, border: Literal["inner", "outer"] = "inner") -> tuple[NDArray, NDArray]:
    """How far each point follows when a point of a lip's border is moved: upper and lower lip, each (P, N).

    Args:
        neutral: (N, 3) points in head coordinates.
        border: which border moves. The red follows the outer border in proportion to the height above the inner one;
            the skin around follows the outer border, fading.
    """
    shares = []
    outline = np.array([*topology.LIPS_OUTER_UPPER, *topology.LIPS_OUTER_LOWER[1:-1]])
    lips = {number for rings in (UPPER_RINGS, LOWER_RINGS) for ring in rings for number in ring}
    skin = np.array([number for number in range(topology.NUM_MESH_LANDMARKS) if number not in lips])
    gap = np.linalg.norm(neutral[skin][:, None] - neutral[outline][None], axis=2).min(1)
    fade = (INNER_SHARES[-1] if border == "inner" else 1.0) * np.exp(-((gap / _SKIN_REACH) ** 2))
    mouth_y = np.interp(neutral[skin, 0], neutral[list(topology.LIPS_INNER_UPPER), 0],
                        neutral[list(topology.LIPS_INNER_UPPER), 1])  # fmt: skip
    for rings, is_upper in ((UPPER_RINGS, True), (LOWER_RINGS, False)):
        share = np.zeros((len(LIP_PAIRS[0]), topology.NUM_LANDMARKS))
        amounts = np.array(INNER_SHARES)[:, None] if border == "inner" else ring_places(neutral, rings)
        for ring, amount in zip(rings, amounts, strict=True):
            share[np.arange(share.shape[0]), ring[1:-1]] = amount
        side = (neutral[skin, 1] < mouth_y) == is_upper
        column = np.exp(-(((neutral[rings[-1], 0][1:-1, None] - neutral[skin, 0]) / 0.06) ** 2)) + 1e-9
        corner_fade = np.clip(column.max(0), 0, 1)
        share[:, skin] = column / column.sum(0) * corner_fade * fade * side
        shares.append(share)
    return shares[0], shares[1]


def ring_places(neutral: NDArray, rings: tuple) -> NDArray[np.float64]:
    """Height of each lip ring between the inner border, 0, and the outer, 1: (4, P), never falling."""
    heights = np.stack([neutral[list(ring[1:-1]), 1] for ring in rings])
    places = (heights - heights[0]) / np.where(heights[-1] == heights[0], 1, heights[-1] - heights[0])
    return np.maximum.accumulate(np.clip(places, [[0], [0.15], [0.3], [1]], [[0], [0.7], [0.85], [1]]), axis=0)


def stretch_evenly(expressions: NDArray, rings: tuple, places: NDArray) -> None:
    """Lets the red between the borders stretch evenly in every expression (C, N, 3), in place; it never folds then."""
    inner, outer = expressions[:, list(rings[0][1:-1])], expressions[:, list(rings[-1][1:-1])]
    for ring, place in zip(rings, places, strict=True):
        expressions[:, list(ring[1:-1])] = inner + place[:, None] * (outer - inner)


def spread_lids(neutral: NDArray, eye: int) -> tuple[NDArray, NDArray]:
    """As `spread_lips` for the lid borders of one eye of EYES."""
    upper, lower = EYES[eye][:2]
    border = {*upper, *lower}
    middle = neutral[[upper[0], upper[-1]]].mean(0)
    width = np.linalg.norm(neutral[upper[0]] - neutral[upper[-1]])
    skin = np.array([n for n in range(topology.NUM_MESH_LANDMARKS) if n not in border])
    skin = skin[np.linalg.norm(neutral[skin] - middle, axis=1) < width]
    shares = []
    for lid, is_upper in ((upper[1:-1], True), (lower[1:-1], False)):
        share = np.zeros((len(lid), topology.NUM_LANDMARKS))
        share[np.arange(len(lid)), lid] = 1
        gap = np.linalg.norm(neutral[skin][:, None] - neutral[list(lid)][None], axis=2)  # (S, P)
        closest = gap.min(1, keepdims=True)
        line = np.interp(
            neutral[skin, 0], neutral[list(upper), 0], neutral[[*upper], 1] * 0.5 + neutral[[*lower], 1] * 0.5
        )
        side = ((neutral[skin, 1] < line) == is_upper)[:, None]
        column = np.exp(-((gap / (closest + 0.02)) ** 2))
        share[:, skin] = (column / column.sum(1, keepdims=True) * np.exp(-((closest / _LID_REACH) ** 2)) * side).T
        shares.append(share)
    return shares[0], shares[1]


@dataclass(frozen=True, eq=False)
class FaceShape:
    """One person's face, its pose and expression in the photo, and how it moves."""

    neutral: NDArray[np.float64]  # (N, 3) head coordinates, lips sealed, eyes open
    expressions: NDArray[np.float64]  # (C, N, 3) displacement at weight 1
    rest_residual: NDArray[np.float64]  # (N, 3) what weights do not explain of the photo's mouth opening
    rest_expression: NDArray[np.float32]  # (C,) the photo's own weights
    pose_rad: NDArray[np.float64]  # (3,) pitch, yaw, roll in the photo
    scale_px: float  # photo pixels per interocular distance
    origin_px: NDArray[np.float64]  # (3,) the head's origin in photo pixels
    jaw_scale: float  # this person's jaw movement relative to the tables'
    lip_spread: tuple[NDArray, NDArray]  # each (P, N), see spread_lips
    outline_spread: tuple[NDArray, NDArray]  # the same for the outer lip borders
    lid_spread: tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]  # per eye of EYES

    def head_points(self, expression: NDArray, gaze: NDArray | None = None) -> NDArray[np.float64]:
        """Points in head coordinates (T, N, 3) of ARKit weights (T, 52) and gaze (T, 2, 2) relative to the photo."""
        weights = np.array(expression, np.float64).reshape(-1, len(ARKIT_NAMES))
        close, jaw = ARKIT_INDEX["mouthClose"], ARKIT_INDEX["jawOpen"]
        weights[:, close] = np.minimum(weights[:, close], weights[:, jaw])  # it can only undo what the jaw opened
        points = (weights @ self.expressions.reshape(len(ARKIT_NAMES), -1)).reshape(-1, topology.NUM_LANDMARKS, 3)
        points += self.neutral
        points += self._rest_share(weights)[:, None, None] * self.rest_residual
        at_rest = np.abs(weights - self.rest_expression).max(1) < 1e-6
        _part(points, LIP_PAIRS, self.lip_spread, at_rest)
        self._keep_thickness(points, at_rest)
        for (upper, lower, _, _), spread in zip(EYES, self.lid_spread, strict=True):
            _part(points, (upper[1:-1], lower[1:-1]), spread, at_rest)
        if gaze is not None:
            _turn_irises(points, np.asarray(gaze, np.float64))
        return points

    def landmarks(
        self,
        expression: NDArray,
        rotation: NDArray | None = None,
        translation: NDArray | None = None,
        gaze: NDArray | None = None,
    ) -> NDArray[np.float32]:
        """Points (T, 478, 3) in photo pixels.

        Args:
            expression: (T, 52) absolute ARKit weights.
            rotation: (T, 3) pitch, yaw, roll in radians, added to the photo's; None is 0.
            translation: (T, 3) in interocular distances; None is 0.
            gaze: (T, 2, 2) left and right eye, pitch and yaw in radians, relative to the photo; None is 0.
        """
        points = self.head_points(expression, gaze)
        return self.to_photo(points, rotation, translation).astype(np.float32)

    def to_photo(
        self, points: NDArray, rotation: NDArray | None = None, translation: NDArray | None = None
    ) -> NDArray[np.float64]:
        """Head coordinates (T, K, 3) to photo pixels (T, K, 3); see `landmarks`."""
        num_frames = len(points)
        angles = self.pose_rad + (np.zeros((num_frames, 3)) if rotation is None else np.asarray(rotation, np.float64))
        matrix = rotation_matrix(angles) * self.scale_px  # (T, 3, 3)
        pivot = rotation_matrix(self.pose_rad) @ HEAD_PIVOT * self.scale_px + self.origin_px
        if translation is not None:
            pivot = pivot + np.asarray(translation, np.float64) * self.scale_px
        return (points - HEAD_PIVOT) @ matrix.transpose(0, 2, 1) + np.atleast_2d(pivot)[:, None, :]

    def to_head(self, points_px: NDArray) -> NDArray[np.float64]:
        """Photo pixels (..., 3) to head coordinates, in the photo's own pose."""
        return (np.asarray(points_px, np.float64) - self.origin_px) @ rotation_matrix(self.pose_rad) / self.scale_px

    def jaw_transform(self, expression: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rigid movement of the lower teeth in head coordinates: p' = R p + t.

        Args:
            expression: (T, 52) absolute ARKit weights.

        Returns:
            R (T, 3, 3) and t (T, 3); the identity and 0 for a shut jaw.
        """
        weights = np.asarray(expression, np.float64).reshape(-1, len(ARKIT_NAMES))
        weights = weights[:, [ARKIT_INDEX[name] for name in JAW_NAMES]] * self.jaw_scale
        movement = weights @ face_tables().jaw  # (T, 6)
        rotation = rotation_of_vector(movement[:, :3])
        return rotation, JAW_PIVOT - rotation @ JAW_PIVOT + movement[:, 3:]

    def _keep_thickness(self, points: NDArray, skip: NDArray) -> None:
        """Moves the outer border where weights together would take more of a lip out of sight than there is."""
        least = _MIN_THICKNESS * _lip_thickness(self.neutral)  # (2, P)
        lack = np.maximum(least - _lip_thickness(points), 0)  # (T, 2, P)
        lack[skip] = 0
        rows = np.flatnonzero(lack.max((1, 2)) > 0)
        if len(rows):
            points[rows, :, 1] += lack[rows, 1] @ self.outline_spread[1] - lack[rows, 0] @ self.outline_spread[0]

    def _rest_share(self, weights: NDArray) -> NDArray:
        """How much (T,) of the photo's unexplained mouth shape is shown: all at the photo's opening, none when shut."""
        lower, upper = list(LIP_PAIRS[1]), list(LIP_PAIRS[0])
        gap_y = self.expressions[:, lower, 1].mean(1) - self.expressions[:, upper, 1].mean(1)  # (C,)
        rest = float(self.rest_expression @ gap_y)
        share = np.clip(weights @ gap_y / rest, 0, 1) if rest > 0.01 else np.zeros(len(weights))
        distance = np.abs(weights - self.rest_expression).max(1)
        return np.maximum(share, np.exp(-((distance / 0.05) ** 2)))


def _part(points: NDArray, pairs: tuple, spread: tuple[NDArray, NDArray], skip: NDArray) -> None:
    """Where an upper border point is below its lower partner, brings both to their middle, in place; skin follows."""
    cross = np.maximum(points[:, list(pairs[0]), 1] - points[:, list(pairs[1]), 1], 0)  # (T, P)
    cross[skip] = 0
    rows = np.flatnonzero(cross.max(1) > 0)
    if len(rows):
        points[rows, :, 1] += 0.5 * cross[rows] @ (spread[1] - spread[0])


def _lip_thickness(points: NDArray) -> NDArray:
    """Height of the red of the upper and lower lip (..., 2, P) at each pair of LIP_PAIRS; negative where folded."""
    upper = points[..., UPPER_RINGS[0][1:-1], 1] - points[..., UPPER_RINGS[-1][1:-1], 1]
    lower = points[..., LOWER_RINGS[-1][1:-1], 1] - points[..., LOWER_RINGS[0][1:-1], 1]
    return np.stack([upper, lower], -2)


def _turn_irises(points: NDArray, gaze: NDArray) -> None:
    """Turns the iris points about their eyeballs' centres, in place; gaze (T, 2, 2) is pitch and yaw, left first."""
    for eye, (_, _, iris, _) in enumerate(EYES):
        angles = np.concatenate([gaze[:, eye], np.zeros((len(gaze), 1))], 1)
        ring = points[:, list(iris)]
        centre = ring[:, :1] + [0, 0, EYEBALL_RADIUS]
        points[:, list(iris)] = (ring - centre) @ rotation_matrix(angles).transpose(0, 2, 1) + centre


def rotation_of_vector(vectors: NDArray) -> NDArray:
    """Rotation matrices (T, 3, 3) of rotation vectors (T, 3), by Rodrigues' formula."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    safe = np.maximum(angle, 1e-9)
    return np.eye(3) + np.sin(angle) / safe * cross + (1 - np.cos(angle)) / safe**2 * cross @ cross


def fit_face(landmarks: NDArray) -> FaceShape:
    """Fits pose, the person's neutral shape and movements, and the photo's own expression.

    Args:
        landmarks: (478, 3) in photo pixels, as `types.Face.landmarks`.

    Raises:
        FaceError: the landmarks have another shape, are not finite, or span no area.
    """
    points_px = np.asarray(landmarks, np.float64)
    if points_px.shape != (topology.NUM_LANDMARKS, 3):
        raise FaceError(f"landmarks have shape {points_px.shape}, wanted ({topology.NUM_LANDMARKS}, 3)")
    if not np.isfinite(points_px).all() or np.ptp(points_px[:, :2], axis=0).min() < 1:
        raise FaceError("landmarks hold values that are not finite, or a face smaller than a pixel")
    tables = face_tables()
    weights, rotation, scale, origin = _estimate(points_px)
    in_head = (points_px - origin) @ rotation / scale
    unit = np.linalg.norm(in_head[topology.LEFT_EYE_OUTER] - in_head[topology.RIGHT_EYE_OUTER])
    middle = 0.5 * (in_head[topology.LEFT_EYE_OUTER] + in_head[topology.RIGHT_EYE_OUTER])
    origin = origin + scale * rotation @ middle
    scale *= float(unit)
    in_head = (in_head - middle) / unit

    expressions, jaw_scale = _personal_expressions(in_head - _apply(tables.expressions, weights), tables)
    weights = _explain_opening(in_head, weights, expressions)
    neutral = in_head - _apply(expressions, weights)
    lip_spread = spread_lips(neutral)
    lid_spread = (spread_lids(neutral, 0), spread_lids(neutral, 1))
    neutral, expressions = _fit_blinks(neutral, expressions, weights, lid_spread)
    sealed = seal_lips(neutral, lip_spread)
    return FaceShape(
        neutral=sealed,
        expressions=expressions,
        rest_residual=in_head - _apply(expressions, weights) - sealed,
        rest_expression=weights.astype(np.float32),
        pose_rad=angles_of(rotation),
        scale_px=scale,
        origin_px=origin,
        jaw_scale=jaw_scale,
        lip_spread=lip_spread,
        outline_spread=spread_lips(sealed, "outer"),
        lid_spread=lid_spread,
    )


def without_expression(shape: FaceShape) -> FaceShape:
    """The same person in a photo that shows no expression."""
    rest = np.zeros_like(shape.rest_expression)
    return replace(shape, rest_expression=rest, rest_residual=np.zeros_like(shape.rest_residual))


def _apply(basis: NDArray, weights: NDArray) -> NDArray:
    """Sum of weighted displacements: (K, N, 3) and (K,) to (N, 3)."""
    return np.tensordot(weights, basis, 1)


@lru_cache(maxsize=1)
def _point_precision() -> NDArray[np.float64]:
    """Inverse standard deviations (N, 3) of the fit at each point, 1 / interocular distances."""
    sigma = np.full((topology.NUM_LANDMARKS, 3), 0.02)
    sigma[list(topology.LIPS)] = 0.012
    sigma[list(topology.EYELIDS)] = 0.008
    sigma[list(topology.FACE_OVAL)] = 0.05
    sigma[:, 2] = np.maximum(3 * sigma[:, 2], 0.05)
    precision = 1 / sigma
    precision[topology.NUM_MESH_LANDMARKS :] = 0  # irises follow the gaze
    return precision


@lru_cache(maxsize=1)
def pose_precision() -> NDArray[np.float64]:
    """How much each point (N,) says about the head's pose."""
    precision = _point_precision()
    weights = (precision[:, 0] / precision.max()) ** 2
    with_jaw = np.linalg.norm(face_tables().expressions[ARKIT_INDEX["jawOpen"]], axis=1)
    return weights / (1 + (with_jaw / 0.05) ** 2)  # a jaw that drops must not pass for a head that nods


@dataclass(frozen=True, eq=False)
class _FitSystem:
    """The linear part of the fit; K unknowns: identity directions first, then the weights of _PRIOR."""

    basis: NDArray[np.float64]  # (K, N, 3)
    design: NDArray[np.float64]  # (3 N + P, K), each row divided by its standard deviation
    normal: NDArray[np.float64]  # (K, K), design' design
    prior: NDArray[np.float64]  # (K,) standard deviations
    low: NDArray[np.float64]  # (K,)
    high: NDArray[np.float64]  # (K,)


@lru_cache(maxsize=1)
def _fit_system() -> _FitSystem:
    tables = face_tables()
    num_identities = len(tables.identities)
    basis = np.concatenate([tables.identities, tables.expressions[_ESTIMATED]])
    design = np.concatenate([(basis * _point_precision()).reshape(len(basis), -1), lip_gap(basis) / _GAP_SIGMA], 1).T
    return _FitSystem(
        basis=basis,
        design=design,
        normal=design.T @ design,
        prior=np.array([1.0] * num_identities + list(_PRIOR.values())),
        low=np.array([-4.0] * num_identities + [0.0] * len(_PRIOR)),
        high=np.array([4.0] * num_identities + [1.0] * len(_PRIOR)),
    )


def lip_gap(points: NDArray) -> NDArray:
    """Height of the mouth's opening (..., P) at each pair of LIP_PAIRS, of points or displacements (..., N, 3)."""
    return points[..., LIP_PAIRS[1], 1] - points[..., LIP_PAIRS[0], 1]


def _estimate(points_px: NDArray) -> tuple[NDArray, NDArray, float, NDArray]:
    """Alternates between pose and shape: weights (C,), rotation, scale and origin."""
    tables, system, precision = face_tables(), _fit_system(), _point_precision()
    num_identities = len(tables.identities)
    jaw = num_identities + list(_PRIOR).index("jawOpen")
    pose_weights = pose_precision()
    solution = np.zeros(len(system.basis))
    rotation, scale, origin = similarity(tables.neutral, points_px, pose_weights)
    for _ in range(5):
        in_head = (points_px - origin) @ rotation / scale
        opening = lip_gap(in_head)
        prior = system.prior.copy()
        prior[jaw] += max(float(opening.mean()) - _SMILE_GAP, 0)  # more than the lips' own muscles can open
        target = np.concatenate([((in_head - tables.neutral) * precision).reshape(-1), opening / _GAP_SIGMA])
        normal = system.normal + np.diag(prior**-2.0)
        solution = bounded_least_squares(normal, system.design.T @ target, system.low, system.high, solution)
        shape = tables.neutral + _apply(system.basis, solution)
        rotation, scale, origin = similarity(shape, points_px, pose_weights)
    weights = np.zeros(len(ARKIT_NAMES))
    weights[_ESTIMATED] = solution[num_identities:]
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        weights[ARKIT_INDEX[name]] = min(weights[ARKIT_INDEX[name]], _MAX_BLINK)
    return weights, rotation, scale, origin


def bounded_least_squares(
    normal: NDArray, target: NDArray, low: NDArray, high: NDArray, start: NDArray, sweeps: int = 60
) -> NDArray[np.float64]:
    """Minimises x' A x / 2 - b' x within bounds by coordinate descent.

    Args:
        normal: A, (K, K), symmetric with a positive diagonal.
        target: b, (K,).
        low: lower bounds, (K,).
        high: upper bounds, (K,).
        start: first guess, (K,).
        sweeps: passes over all coordinates at most.
    """
    x = np.clip(start, low, high).astype(np.float64)
    slope = normal @ x - target
    for _ in range(sweeps):
        largest = 0.0
        for index in range(len(x)):
            new = min(max(x[index] - slope[index] / normal[index, index], low[index]), high[index])
            step = new - x[index]
            if step:
                slope += normal[index] * step
                x[index] = new
                largest = max(largest, abs(step))
        if largest < 1e-4:
            break
    return x


def similarity(source: NDArray, target: NDArray, weights: NDArray) -> tuple[NDArray, float, NDArray]:
    """Rotation, scale and translation with target ~ scale * rotation @ source + translation (Umeyama 1991)."""
    share = weights / weights.sum()
    from_mean, to_mean = share @ source, share @ target
    a, b = source - from_mean, target - to_mean
    u, spread, vt = np.linalg.svd((b * share[:, None]).T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((spread * sign).sum() / (share @ (a * a).sum(1)))
    return rotation, scale, to_mean - scale * rotation @ from_mean


def _personal_expressions(neutral: NDArray, tables: FaceTables) -> tuple[NDArray, float]:
    """Displacements (C, N, 3) scaled to the person's proportions, and the scale of the jaw."""

    def ratio(a: int, b: int, axis: int) -> float:
        own, mean = abs(neutral[a, axis] - neutral[b, axis]), abs(tables.neutral[a, axis] - tables.neutral[b, axis])
        return float(np.clip(own / mean, 0.75, 1.3))

    width = ratio(61, 291, 0)
    jaw = ratio(topology.CHIN, topology.NOSE_TIP, 1)
    expressions = tables.expressions.copy()
    for name, index in ARKIT_INDEX.items():
        if name.startswith("jaw") or name == "mouthClose":
            expressions[index] *= jaw
        elif name.startswith("mouth"):
            expressions[index, :, 0] *= width
    own, mean = _lip_thickness(neutral), _lip_thickness(tables.neutral)  # (2, P)
    change = _lip_thickness(expressions)  # (C, 2, P)
    fuller = np.clip(own.mean(1, keepdims=True) / mean.mean(1, keepdims=True), 0.4, 1.5)
    wanted = np.maximum(change * fuller, (_MIN_THICKNESS - 1) * np.maximum(own, 0))
    upper, lower = spread_lips(neutral, "outer")
    expressions[:, :, 1] += (wanted - change)[:, 1] @ lower - (wanted - change)[:, 0] @ upper
    for rings in (UPPER_RINGS, LOWER_RINGS):
        stretch_evenly(expressions, rings, ring_places(neutral, rings))
    return expressions, jaw


def _explain_opening(in_head: NDArray, weights: NDArray, expressions: NDArray) -> NDArray:
    """Scales the opening weights so that they explain the photo's mean lip distance."""
    upper, lower = list(LIP_PAIRS[0]), list(LIP_PAIRS[1])
    shown = float(np.maximum(in_head[lower, 1] - in_head[upper, 1], 0).mean())
    openers = [ARKIT_INDEX[name] for name in _OPENERS]
    gap_y = (expressions[:, lower, 1] - expressions[:, upper, 1]).mean(1)
    others = weights.copy()
    others[openers] = 0
    wanted = shown - float(others @ gap_y)
    result = weights.copy()
    if shown < 0.008 or wanted <= 0:
        result[openers] = 0
        return result
    explained = float(weights[openers] @ gap_y[openers])
    if explained > 0.3 * wanted:
        result[openers] = np.clip(weights[openers] * wanted / explained, 0, 1)
    else:
        result[openers] = np.clip(wanted / gap_y[openers].sum(), 0, 1)
    return result


def _fit_blinks(neutral: NDArray, expressions: NDArray, weights: NDArray, lid_spread: tuple) -> tuple[NDArray, NDArray]:
    """Makes weight 1 of each blink bring the upper lid's border exactly onto the lower's."""
    neutral, expressions = neutral.copy(), expressions.copy()
    for (upper, lower, _, name), spread in zip(EYES, lid_spread, strict=True):
        index = ARKIT_INDEX[name]
        closed = neutral + expressions[index]
        line = closed[list(lower)]
        target = np.stack([np.interp(closed[list(upper), 0], line[:, 0], line[:, k]) for k in (1, 2)], 1)
        miss = (target - closed[list(upper)][:, 1:])[1:-1]  # (P, 2) y and z that the upper lid still lacks
        change = spread[0].T @ miss  # (N, 2)
        expressions[index, :, 1:] += change
        neutral[:, 1:] -= weights[index] * change
    return neutral, expressions


def seal_lips(neutral: NDArray, lip_spread: tuple[NDArray, NDArray]) -> NDArray:
    """The neutral face with the inner lip borders brought together at their middle."""
    upper, lower = neutral[list(LIP_PAIRS[0])], neutral[list(LIP_PAIRS[1])]
    half = 0.5 * (lower - upper)  # (P, 3)
    sealed = neutral + lip_spread[0].T @ half - lip_spread[1].T @ half
    middle = 0.5 * (sealed[list(LIP_PAIRS[0])] + sealed[list(LIP_PAIRS[1])])
    sealed[list(LIP_PAIRS[0])] = sealed[list(LIP_PAIRS[1])] = middle
    return sealed
