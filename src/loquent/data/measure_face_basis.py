"""Measures the expression and identity tables of `loquent.motion.face_model` on a 3-D face model.

The face model (ICT FaceKit light, MIT licence) and MediaPipe's landmarker (Apache-2.0) are read here only; what is
written is our own table at 478 points. Where each of the 478 points lies on the model's surface is found by drawing
heads of many made-up identities from several sides, asking the landmarker where its points are, and looking up the
surface under each. Points on the lips' and lids' borders are then put exactly on the model's borders.

Run: python -m loquent.data.measure_face_basis --model ict_facekit_light.npz --out src/loquent/motion/face_basis.safetensors
     --portraits teacher_portraits.npz
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from safetensors.numpy import save_file

from loquent.errors import MissingExtraError
from loquent.face import topology
from loquent.motion.face_model import (
    JAW_NAMES,
    JAW_PIVOT,
    LIP_PAIRS,
    LIP_RING2_LOWER,
    LIP_RING2_UPPER,
    LIP_RING3_LOWER,
    LIP_RING3_UPPER,
    LOWER_RINGS,
    UPPER_RINGS,
    ring_places,
    seal_lips,
    similarity,
    spread_lips,
    stretch_evenly,
)
from loquent.types import ARKIT_INDEX, ARKIT_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# First vertex of each part of the model: face, head and neck, mouth socket, eye sockets, gums and tongue, teeth,
# eyeballs, eye shells, lashes.
PART_STARTS = (0, 9409, 11248, 13294, 14062, 17039, 21451, 24591, 25351)
FACE, HEAD, SOCKET, EYES, EYEBALLS = 0, 1, 2, 3, 6
NUM_IDENTITY = 40  # principal directions of head shape that are kept
SIZE_PX = 640
CAMERA_CM = 110.0
IRIS_CM = 0.6

LOWER_TEETH = slice(19247, 21451)  # vertices
LIP_RINGS = {
    "UPPER2": LIP_RING2_UPPER, "UPPER3": LIP_RING3_UPPER, "LOWER2": LIP_RING2_LOWER, "LOWER3": LIP_RING3_LOWER,
}  # fmt: skip
# Channels whose lips stay together in life: which lip gives way so that the inner borders keep together.
SEALED = {
    **dict.fromkeys(("mouthRollLower", "mouthShrugUpper"), (0.0, 1.0)),
    "mouthRollUpper": (1.0, 0.0),
    **dict.fromkeys(
        ("cheekPuff", "cheekSquintLeft", "cheekSquintRight", "jawForward", "jawLeft", "jawRight", "mouthDimpleLeft",
         "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthLeft", "mouthRight", "mouthPressLeft",
         "mouthPressRight", "mouthPucker", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft",
         "mouthStretchRight", "noseSneerLeft", "noseSneerRight"),
        (0.5, 0.5),
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class HeadModel:
    """The 3-D face model, x right in the picture, y up, z to the viewer, centimetres."""

    neutral: NDArray[np.float64]  # (V, 3)
    expressions: NDArray[np.float32]  # (E, V, 3)
    names: tuple[str, ...]  # E
    identities: NDArray[np.float32]  # (I, V, 3), scaled by their standard deviation
    triangles: NDArray[np.int64]  # (F, 3)
    parts: NDArray[np.int64]  # (F,), part of each triangle
    landmarks68: NDArray[np.int64]  # (68,) vertex numbers

    @staticmethod
    def load(path: Path) -> HeadModel:
        with np.load(path) as data:
            quads = data["faces"].astype(np.int64)
            second = quads[quads[:, 3] >= 0][:, [0, 2, 3]]
            triangles = np.concatenate([quads[:, :3], second])
            return HeadModel(
                neutral=data["neutral"].astype(np.float64),
                expressions=data["expressions"].astype(np.float32),
                names=tuple(str(name) for name in data["expression_names"]),
                identities=data["identities"].astype(np.float32),
                triangles=triangles,
                parts=np.searchsorted(PART_STARTS, triangles[:, 0], side="right") - 1,
                landmarks68=data["landmarks68"].astype(np.int64),
            )

    def expression(self, name: str) -> NDArray[np.float64]:
        """Delta (V, 3) of an ARKit name; the model splits some of them into two sides; tongueOut is not in it."""
        sides = {"Left": "_L", "Right": "_R"}
        parts = [name]
        for ending, side in sides.items():
            if name.endswith(ending) and name.removesuffix(ending) + side in self.names:
                parts = [name.removesuffix(ending) + side]
        if parts == [name] and name + "_L" in self.names:
            parts = [name + "_L", name + "_R"]
        rows = [self.names.index(part) for part in parts if part in self.names]
        return np.asarray(self.expressions[rows].sum(0), np.float64)


def project(vertices: NDArray, yaw_rad: float) -> tuple[NDArray, NDArray]:
    """Turns vertices about the head's axis and projects them: (V, 3) in camera centimetres, (V, 2) in pixels."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    turned = (vertices - [0, 0, 3.0]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    scale = SIZE_PX / 32 * CAMERA_CM / (CAMERA_CM - turned[:, 2])
    return turned, np.stack([SIZE_PX / 2 + scale * turned[:, 0], SIZE_PX / 2 - scale * turned[:, 1]], 1)


def draw_head(head: HeadModel, vertices: NDArray, yaw_rad: float, lip_faces: NDArray) -> tuple[NDArray, NDArray]:
    """Draws a shaded head: RGB picture and, per pixel, the triangle seen there (-1 is none)."""
    turned, pixels = project(vertices, yaw_rad)
    corners = turned[head.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    shown = np.flatnonzero((normals[:, 2] > 0) & np.isin(head.parts, (FACE, HEAD, SOCKET, EYES, EYEBALLS)))
    shown = shown[np.argsort(corners[shown, :, 2].mean(1))]

    colours = np.tile([205.0, 160.0, 135.0], (len(head.triangles), 1))
    colours[lip_faces] = (180, 95, 95)
    colours[head.parts == SOCKET] = (60, 20, 20)
    colours[head.parts == EYEBALLS] = 235
    centres = vertices[head.triangles].mean(1)
    for iris in iris_centres(vertices):
        reach = np.where(head.parts == EYEBALLS, np.linalg.norm(centres - iris, axis=1), np.inf)
        colours[reach < IRIS_CM] = (80, 60, 40)
        colours[reach < 0.25] = 15
    light = np.array([0.3, 0.5, 0.8]) / np.linalg.norm([0.3, 0.5, 0.8])
    colours = np.clip(colours * (0.45 + 0.6 * np.clip(normals @ light, 0, 1))[:, None], 0, 255)

    picture = np.full((SIZE_PX, SIZE_PX, 3), (150, 110, 80), np.uint8)
    seen = np.full((SIZE_PX, SIZE_PX), -1, np.int32)
    outlines = np.round(pixels[head.triangles] * 16).astype(np.int32)
    for triangle in shown:
        cv2.fillConvexPoly(picture, outlines[triangle], colours[triangle].tolist(), shift=4)
        cv2.fillConvexPoly(seen, outlines[triangle], int(triangle), shift=4)
    for brow in (head.landmarks68[17:22], head.landmarks68[22:27]):
        line = np.round(pixels[brow]).astype(np.int32)
        cv2.polylines(picture, [line], False, (70, 50, 40), SIZE_PX // 70, cv2.LINE_AA)
    return cv2.GaussianBlur(picture, (0, 0), 0.8), seen


def iris_centres(vertices: NDArray) -> NDArray:
    """Foremost points of both eyeballs (2, 3), the one on the picture's left first."""
    balls = vertices[PART_STARTS[EYEBALLS] : PART_STARTS[EYEBALLS + 1]]
    front = []
    for side in (balls[balls[:, 0] < 0], balls[balls[:, 0] >= 0]):
        front.append(side[side[:, 2] > side[:, 2].max() - 0.01].mean(0))
    return np.array(front)


def lip_faces_of(head: HeadModel) -> NDArray:
    """Mask (F,) of the triangles within the outer lip border."""
    border = head.neutral[head.landmarks68[48:60], :2].astype(np.float32).reshape(-1, 1, 2)
    centres = head.neutral[head.triangles].mean(1)
    inside = [cv2.pointPolygonTest(border, (float(c[0]), float(c[1])), False) > 0 for c in centres]
    return np.array(inside) & (head.parts == FACE) & (centres[:, 2] > 9.5)


def barycentric(points: NDArray, corners: NDArray) -> NDArray:
    """Barycentric weights (N, 3) of points (N, D) in triangles (N, 3, D), clipped into the triangle."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = points - corners[:, 0]
    aa, ab, bb = (a * a).sum(1), (a * b).sum(1), (b * b).sum(1)
    pa, pb = (p * a).sum(1), (p * b).sum(1)
    det = aa * bb - ab * ab + 1e-12
    weights = np.stack([1 - (bb * pa - ab * pb + aa * pb - ab * pa) / det, (bb * pa - ab * pb) / det,
                        (aa * pb - ab * pa) / det], 1)  # fmt: skip
    weights = np.clip(weights, 0, 1)
    return weights / weights.sum(1, keepdims=True)


def nearest_seen(seen: NDArray, parts: NDArray, points_px: NDArray) -> NDArray:
    """The triangle (N,) of skin that is seen nearest to each point."""
    skin = np.isin(np.where(seen >= 0, parts[np.maximum(seen, 0)], -1), (FACE, HEAD))
    _, labels = cv2.distanceTransformWithLabels((~skin).astype(np.uint8), cv2.DIST_L2, 5,
                                                labelType=cv2.DIST_LABEL_PIXEL)  # fmt: skip
    labels = labels.astype(np.int64)
    triangle_of_label = np.zeros(labels.max() + 1, np.int64)
    triangle_of_label[labels[skin]] = seen[skin]
    x, y = np.clip(np.round(points_px).astype(int), 0, SIZE_PX - 1).T
    return triangle_of_label[labels[y, x]]


def detected_points(head: HeadModel, landmarker_path: Path, num_identities: int) -> tuple[NDArray, NDArray]:
    """Mean positions on the neutral head, and the landmarker's own mean frontal shape about its middle, each (478, 3)."""
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise MissingExtraError(
            "measuring the face basis needs the mediapipe package: pip install mediapipe"
        ) from error
    rng = np.random.default_rng(0)
    lip_faces = lip_faces_of(head)
    total, weight_sum = np.zeros((topology.NUM_LANDMARKS, 3)), np.zeros((topology.NUM_LANDMARKS, 1))
    frontal = []
    options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=str(landmarker_path)), num_faces=1)
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for index in range(num_identities):
            coefficients = rng.normal(size=len(head.identities)) * 0.6
            vertices = head.neutral + np.tensordot(coefficients, head.identities, 1)
            for yaw_rad in (-0.45, -0.2, 0.0, 0.2, 0.45):
                picture, seen = draw_head(head, vertices, yaw_rad, lip_faces)
                image: Any = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
                found = landmarker.detect(image).face_landmarks
                if not found:
                    logger.warning("no face in made-up head %d at %.2f rad", index, yaw_rad)
                    continue
                points_px = np.array([[p.x, p.y] for p in found[0]]) * SIZE_PX - 0.5
                if yaw_rad == 0:
                    frontal.append([[p.x - found[0][1].x, p.y, p.z] for p in found[0]])
                turned, pixels = project(vertices, yaw_rad)
                hit = head.triangles[nearest_seen(seen, head.parts, points_px)]
                weights = barycentric(points_px, pixels[hit])
                on_neutral = (head.neutral[hit] * weights[..., None]).sum(1)
                normals = np.cross(turned[hit[:, 1]] - turned[hit[:, 0]], turned[hit[:, 2]] - turned[hit[:, 0]])
                facing = np.clip(normals[:, 2] / (np.linalg.norm(normals, axis=1) + 1e-9), 0.05, 1)[:, None] ** 2
                total += on_neutral * facing
                weight_sum += facing
    return total / weight_sum, np.mean(frontal, 0)


def mirror_map(points: NDArray) -> NDArray:
    """For each point the number (478,) of its mirror image: rings by their order, the others by nearness."""
    mirror = np.full(len(points), -1)
    rings = (topology.LIPS_INNER_UPPER, topology.LIPS_INNER_LOWER, topology.LIPS_OUTER_UPPER, topology.LIPS_OUTER_LOWER,
             LIP_RING2_UPPER, LIP_RING2_LOWER, LIP_RING3_UPPER, LIP_RING3_LOWER)  # fmt: skip
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = [(ring, ring[::-1]) for ring in rings]
    pairs.append((topology.RIGHT_EYE_UPPER, topology.LEFT_EYE_UPPER[::-1]))
    pairs.append((topology.RIGHT_EYE_LOWER, topology.LEFT_EYE_LOWER[::-1]))
    pairs.append((topology.RIGHT_IRIS, tuple(topology.LEFT_IRIS[i] for i in (0, 3, 2, 1, 4))))
    for these, those in pairs:
        mirror[list(these)], mirror[list(those)] = those, these
    distance = np.linalg.norm(points[:, None] - (points * [-1, 1, 1])[None], axis=2)
    for index in np.argsort(distance + distance.T, axis=None):
        a, b = divmod(int(index), len(points))
        if mirror[a] < 0 and mirror[b] < 0:
            mirror[a], mirror[b] = b, a
    return mirror


def surface_path(head: HeadModel, stops: list[int]) -> NDArray:
    """Vertices (P,) of the shortest way along the face's edges through the given vertices."""
    face = head.triangles[head.parts == FACE]
    links: dict[int, set[int]] = {}
    for a, b, c in face.tolist():
        links.setdefault(a, set()).update((b, c))
        links.setdefault(b, set()).update((a, c))
        links.setdefault(c, set()).update((a, b))
    path = [stops[0]]
    for start, goal in itertools.pairwise(stops):
        best, before, queue = {start: 0.0}, {}, [(0.0, start)]
        while queue:
            cost, vertex = heapq.heappop(queue)
            if vertex == goal:
                break
            for other in links[vertex]:
                step = cost + float(np.linalg.norm(head.neutral[vertex] - head.neutral[other]))
                if step < best.get(other, np.inf):
                    best[other], before[other] = step, vertex
                    heapq.heappush(queue, (step, other))
        leg = [goal]
        while leg[-1] != start:
            leg.append(before[leg[-1]])
        path += leg[::-1][1:]
    return np.array(path)


def place_on_path(line: NDArray, wanted: NDArray) -> NDArray:
    """Points (N, 3) on a polyline (P, 3) at the relative horizontal places of `wanted` (N, 3) from corner to corner."""
    share = (wanted[:, 0] - wanted[0, 0]) / (wanted[-1, 0] - wanted[0, 0])
    along = (line[:, 0] - line[0, 0]) / (line[-1, 0] - line[0, 0])
    along = np.maximum.accumulate(along)
    return np.stack([np.interp(share, along, line[:, axis]) for axis in range(3)], 1)


def snap_borders(head: HeadModel, points: NDArray) -> dict[int, NDArray]:
    """Exact places of the lips' and lids' border points on the neutral head: point number -> (3,)."""
    marks = head.landmarks68.tolist()
    borders = {
        topology.LIPS_OUTER_UPPER: marks[48:55],
        topology.LIPS_OUTER_LOWER: [marks[48], *marks[59:53:-1]],
        topology.LIPS_INNER_UPPER: marks[60:65],
        topology.LIPS_INNER_LOWER: [marks[60], *marks[67:63:-1]],
        topology.RIGHT_EYE_UPPER: marks[36:40],
        topology.RIGHT_EYE_LOWER: [marks[36], marks[41], marks[40], marks[39]],
        topology.LEFT_EYE_UPPER: marks[42:46],
        topology.LEFT_EYE_LOWER: [marks[42], marks[47], marks[46], marks[45]],
    }
    placed: dict[int, NDArray] = {}
    for numbers, stops in borders.items():
        line = head.neutral[surface_path(head, stops)]
        placed.update(zip(numbers, place_on_path(line, points[list(numbers)]), strict=True))
    for half in ("UPPER", "LOWER"):
        outer, inner = getattr(topology, f"LIPS_OUTER_{half}"), getattr(topology, f"LIPS_INNER_{half}")
        for ring, share in (("2", 1 / 3), ("3", 2 / 3)):
            numbers = LIP_RINGS[half + ring]
            for number, out, inn in zip(numbers, outer, inner, strict=True):
                placed[number] = (1 - share) * placed[out] + share * placed[inn]
    return placed


def attach(head: HeadModel, points: NDArray, offset: NDArray) -> tuple[NDArray, NDArray]:
    """Nearest surface place of every point: vertices (N, 3) and weights (N, 3).

    Searching happens on the head with `offset` (V, 3) added, so that an opened mouth keeps the lips apart.
    """
    skin = head.triangles[head.parts <= HEAD]
    skin = skin[head.neutral[skin].mean(1)[:, 2] > -2]
    corners = (head.neutral + offset)[skin]
    centres = corners.mean(1)
    vertices, weights = np.zeros((len(points), 3), np.int64), np.zeros((len(points), 3))
    for index, point in enumerate(points):
        near = np.argsort(((centres - point) ** 2).sum(1))[:40]
        trial = barycentric(np.tile(point, (len(near), 1)), corners[near])
        error = (((corners[near] * trial[..., None]).sum(1) - point) ** 2).sum(1)
        best = int(error.argmin())
        vertices[index], weights[index] = skin[near[best]], trial[best]
    return vertices, weights


def at_points(field: NDArray, vertices: NDArray, weights: NDArray) -> NDArray:
    """A field on the vertices (..., V, 3) read at surface places: (..., N, 3)."""
    return (field[..., vertices, :] * weights[..., None]).sum(-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="ict_facekit_light.npz")
    parser.add_argument("--landmarker", type=Path, help="face_landmarker.task; by default beside the model")
    parser.add_argument("--portraits", type=Path, help="landmarks of portraits (ids, landmarks, blendshapes, "
                        "blendshape_names; .npz): those at rest correct the neutral face")  # fmt: skip
    parser.add_argument("--identities", type=int, default=24, help="made-up heads to draw")
    parser.add_argument("--out", type=Path, required=True, help="table to write, .safetensors")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    head = HeadModel.load(arguments.model)
    landmarker = arguments.landmarker or arguments.model.with_name("face_landmarker.task")
    tables = measure(head, *detected_points(head, landmarker, arguments.identities))
    if arguments.portraits:
        tables["neutral"] = resting_face(arguments.portraits, tables["neutral"], tables["mirror"]).astype(np.float32)
    save_file(tables, arguments.out, metadata={"names": ",".join(ARKIT_NAMES)})


def measure(head: HeadModel, detected: NDArray, frontal: NDArray) -> dict[str, NDArray]:
    """All tables, in interocular distances, x right, y down, z away from the viewer, about the eyes' middle."""
    mirror = mirror_map(frontal)
    points = 0.5 * (detected + detected[mirror] * [-1, 1, 1])
    placed = snap_borders(head, points)
    numbers = np.array(list(placed))
    shift = np.array(list(placed.values())) - points[numbers]
    points = follow_anchors(points, numbers, shift)
    points = 0.5 * (points + points[mirror] * [-1, 1, 1])

    vertices, weights = attach_lips_apart(head, points)
    neutral = at_points(head.neutral, vertices, weights)
    expressions = np.stack([at_points(head.expression(name), vertices, weights) for name in ARKIT_NAMES])
    identities = at_points(head.identities.astype(np.float64), vertices, weights)
    neutral[topology.NUM_MESH_LANDMARKS :] = iris_points(head)
    expressions[:, topology.NUM_MESH_LANDMARKS :] = 0
    for ring, lids in (
        (topology.RIGHT_IRIS, topology.RIGHT_EYE_UPPER + topology.RIGHT_EYE_LOWER),
        (topology.LEFT_IRIS, topology.LEFT_EYE_UPPER + topology.LEFT_EYE_LOWER),
    ):
        identities[:, list(ring)] = identities[:, list(lids)].mean(1, keepdims=True)

    unit = np.linalg.norm(neutral[topology.LEFT_EYE_OUTER] - neutral[topology.RIGHT_EYE_OUTER])
    origin = 0.5 * (neutral[topology.LEFT_EYE_OUTER] + neutral[topology.RIGHT_EYE_OUTER])
    flip = np.array([1, -1, -1]) / unit
    _, spread, directions = np.linalg.svd(identities.reshape(len(identities), -1) / unit, full_matrices=False)
    kept = (directions * spread[:, None])[:NUM_IDENTITY].reshape(NUM_IDENTITY, -1, 3) * [1, -1, -1]
    neutral, expressions = (neutral - origin) * flip, expressions * flip
    keep_lips_together(neutral, expressions)
    return {
        "neutral": neutral.astype(np.float32),
        "expressions": expressions.astype(np.float16),
        "identities": kept.astype(np.float16),
        "mirror": mirror.astype(np.int16),
        "jaw": np.stack([jaw_movement(head, name, origin, flip) for name in JAW_NAMES]).astype(np.float32),
    }


def keep_lips_together(neutral: NDArray, expressions: NDArray) -> None:
    """Takes the lips' parting out of SEALED channels, and lets mouthClose undo jawOpen's parting exactly; in place."""
    upper, lower = list(LIP_PAIRS[0]), list(LIP_PAIRS[1])
    spread_upper, spread_lower = spread_lips(neutral)
    wanted = {ARKIT_INDEX[name]: (np.zeros((len(upper), 3)), sides) for name, sides in SEALED.items()}
    jaw = expressions[ARKIT_INDEX["jawOpen"]]
    wanted[ARKIT_INDEX["mouthClose"]] = (jaw[upper] - jaw[lower], (0.5, 0.5))
    for index, (parting, sides) in wanted.items():
        excess = expressions[index][lower] - expressions[index][upper] - parting  # (P, 3)
        expressions[index] += sides[0] * spread_upper.T @ excess - sides[1] * spread_lower.T @ excess
    for rings in (UPPER_RINGS, LOWER_RINGS):
        stretch_evenly(expressions, rings, ring_places(neutral, rings))


def jaw_movement(head: HeadModel, name: str, origin: NDArray, flip: NDArray) -> NDArray:
    """Rotation vector and translation at JAW_PIVOT (6,) of the lower teeth, in head coordinates."""
    rest = (head.neutral[LOWER_TEETH] - origin) * flip - JAW_PIVOT
    moved = rest + head.expression(name)[LOWER_TEETH] * flip
    u, _, vt = np.linalg.svd((moved - moved.mean(0)).T @ (rest - rest.mean(0)))
    rotation = (u * [1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    vector, _ = cv2.Rodrigues(rotation)
    return np.concatenate([vector[:, 0], moved.mean(0) - rotation @ rest.mean(0)])


def resting_face(portraits: Path, neutral: NDArray, mirror: NDArray) -> NDArray:
    """Mean face (478, 3) of the training portraits at rest, symmetric, lips sealed, in the place of `neutral`.

    The landmarker sees lips, lids and brows of photographs a little elsewhere than the model's borders are, and people
    differ from the model's mean; weights of 0 shall mean what people at rest look like.
    """
    with np.load(portraits) as data:
        names = [str(name) for name in data["blendshape_names"]]
        scores = {name: data["blendshapes"][:, names.index(name)] for name in names}
        landmarks = data["landmarks"].astype(np.float64)
        training = np.array([hashlib.sha1(str(i).encode()).hexdigest()[-1] not in "01" for i in data["ids"]])
    span = np.linalg.norm(landmarks[:, topology.LEFT_EYE_OUTER] - landmarks[:, topology.RIGHT_EYE_OUTER], axis=1)
    gap = (landmarks[:, list(LIP_PAIRS[1]), 1] - landmarks[:, list(LIP_PAIRS[0]), 1]).mean(1) / span
    smile = 0.5 * (scores["mouthSmileLeft"] + scores["mouthSmileRight"])
    at_rest = training & (smile < 0.15) & (scores["jawOpen"] < 0.03) & (gap < 0.015) & (scores["eyeBlinkLeft"] < 0.35)
    weights = np.ones(topology.NUM_LANDMARKS)
    weights[list(topology.FACE_OVAL)] = 0.1
    weights[topology.NUM_MESH_LANDMARKS :] = 0
    mean = neutral.astype(np.float64)
    for _ in range(3):
        placed = []
        for points in landmarks[at_rest]:
            rotation, scale, offset = similarity(mean, points, weights)
            placed.append((points - offset) @ rotation / scale)
        mean = np.mean(placed, 0)
        mean = 0.5 * (mean + mean[mirror] * [-1, 1, 1])
        mean = mean @ similarity(mean, neutral, weights)[0].T
        mean -= 0.5 * (mean[topology.LEFT_EYE_OUTER] + mean[topology.RIGHT_EYE_OUTER])
        mean /= np.linalg.norm(mean[topology.LEFT_EYE_OUTER] - mean[topology.RIGHT_EYE_OUTER])
    logger.info("%d portraits at rest correct the neutral face by %.3f", at_rest.sum(), np.abs(mean - neutral).mean())
    return seal_lips(mean, spread_lips(mean))


def follow_anchors(points: NDArray, anchors: NDArray, shift: NDArray, reach_cm: float = 0.6) -> NDArray:
    """Moves anchors by `shift` and their neighbours along, fading with distance."""
    gap = np.linalg.norm(points[:, None] - points[None, anchors], axis=2)  # (N, A)
    weight = np.exp(-((gap / reach_cm) ** 2))
    pull = weight @ shift / (weight.sum(1, keepdims=True) + 1e-6) * weight.max(1, keepdims=True)
    pull[anchors] = shift
    return points + pull


def attach_lips_apart(head: HeadModel, points: NDArray) -> tuple[NDArray, NDArray]:
    """As `attach`, but upper lip points keep to skin that the jaw leaves, lower ones to skin that it takes along."""
    jaw = head.expression("jawOpen")
    lower = {*topology.LIPS_INNER_LOWER, *topology.LIPS_OUTER_LOWER, *LIP_RING2_LOWER, *LIP_RING3_LOWER}
    upper = {*topology.LIPS_INNER_UPPER, *topology.LIPS_OUTER_UPPER, *LIP_RING2_UPPER, *LIP_RING3_UPPER}
    vertices, weights = attach(head, points, np.zeros_like(jaw))
    lips = head.triangles[lip_faces_of(head)]
    drop = -jaw[lips].mean(1)[:, 1]
    for numbers, candidates in ((upper - lower, lips[drop < 1.0]), (lower - upper, lips[drop > 1.0])):
        chosen = np.array(sorted(numbers))
        corners = head.neutral[candidates]
        for number in chosen:
            trial = barycentric(np.tile(points[number], (len(corners), 1)), corners)
            best = int((((corners * trial[..., None]).sum(1) - points[number]) ** 2).sum(1).argmin())
            vertices[number], weights[number] = candidates[best], trial[best]
    return vertices, weights


def iris_points(head: HeadModel) -> NDArray:
    """The ten iris points (10, 3) on the neutral head, centimetres."""
    spokes = np.array([[0, 0, 0], [1, 0, -0.1], [0, 1, -0.1], [-1, 0, -0.1], [0, -1, -0.1]]) * IRIS_CM
    right, left = iris_centres(head.neutral)
    return np.concatenate([right + spokes, left + spokes])


if __name__ == "__main__":
    main()
