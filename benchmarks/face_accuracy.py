"""How well the embedded detector and landmarker do on portraits that they never saw; the tables of docs/faces.md.

    python benchmarks/face_accuracy.py PORTRAITS LABELS [--teacher face_landmarker.task] [--overlays FOLDER]

PORTRAITS and LABELS (labels.npz) are the folder and the table of loquent.training.face_data; only the test split is
read. Distances are in percent of the interocular distance (points 33 to 263) from the teacher's landmarks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loquent.face import find_faces
from loquent.face import topology as topo
from loquent.training.face_data import FaceMaker, load_portraits, sample_unit
from loquent.training.face_negatives import drawing, texture, wipe_face
from loquent.training.face_photometric import add_noise, blur, compress, cover, paint, put_on_glasses, recolour, relight
from loquent.training.face_warps import Sample, rotate_head
from loquent.types import Face, Photo

SCENE_HEIGHT_PX, SCENE_WIDTH_PX = 720, 960
HEIGHTS = (0.1, 0.15, 0.25, 0.4, 0.6, 0.9)
ROLLS_DEG = (-30, -15, 0, 15, 30)
FINE = sorted({*topo.LIPS, *topo.EYELIDS})
INNER_LIPS = sorted({*topo.LIPS_INNER_UPPER, *topo.LIPS_INNER_LOWER})
GROUPS = {"all": list(range(478)), "lips+lids": FINE, "inner lips": INNER_LIPS, "lids": list(topo.EYELIDS),
          "irises": [*topo.RIGHT_IRIS, *topo.LEFT_IRIS]}  # fmt: skip
MAX_MISS = 0.15  # mean distance beyond which a face does not count as found, interocular distances


def distance(face: Face, sample: Sample, points: list[int]) -> float:
    """Mean distance in the picture plane, interocular distances."""
    away = np.linalg.norm((face.landmarks - sample.landmarks)[points, :2], axis=1)
    return float(away.mean()) / sample_unit(sample)


def nearest(faces: list[Face], sample: Sample) -> tuple[Face | None, int]:
    """The face that fits the sample, and how many others were found."""
    fitting = [face for face in faces if distance(face, sample, GROUPS["all"]) < MAX_MISS]
    best = min(fitting, key=lambda face: distance(face, sample, GROUPS["all"]), default=None)
    return best, len(faces) - (best is not None)


def scene(sample: Sample, part_of_height: float, roll_deg: float, rng: np.random.Generator) -> Sample:
    """The portrait in a larger picture: its face of the given height and turned, at a random place that holds it."""
    face_height = float(np.ptp(sample.landmarks[:, 1]))
    scale = part_of_height * SCENE_HEIGHT_PX / face_height
    turn = cv2.getRotationMatrix2D((0, 0), -roll_deg, scale)
    corners = sample.landmarks[:, :2] @ turn[:, :2].T
    low, high = corners.min(0), corners.max(0)
    room = np.array([SCENE_WIDTH_PX, SCENE_HEIGHT_PX]) - (high - low)
    turn[:, 2] = rng.uniform(0.05, 0.95, 2) * np.maximum(room, 0) + np.minimum(room, 0) / 2 - low
    size = (SCENE_WIDTH_PX, SCENE_HEIGHT_PX)
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    source = sample.pixels
    if scale < 0.6:
        source = cv2.resize(source, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        back = np.diag([sample.pixels.shape[1] / source.shape[1], sample.pixels.shape[0] / source.shape[0]])
        matrix = np.column_stack([turn[:, :2] @ back, turn[:, 2]])
    else:
        matrix = turn
    pixels = cv2.warpAffine(source, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    landmarks = sample.landmarks.copy()
    landmarks[:, :2] = landmarks[:, :2] @ turn[:, :2].T + turn[:, 2]
    landmarks[:, 2] *= scale
    return Sample(np.asarray(pixels, np.uint8), landmarks)


def faceless(sample: Sample, rng: np.random.Generator) -> dict[str, NDArray[np.uint8]]:
    """Pictures without a face, by kind."""
    height = sample.pixels.shape[0]
    clothes = sample.pixels[int(min(height - 40, sample.landmarks[topo.CHIN, 1] + 12)) :]
    return {
        "face wiped away": wipe_face(sample, rng),
        "clothes": np.ascontiguousarray(clothes),
        "texture": texture(256, rng),
        "drawing": drawing(256, rng),
    }


def measure_portraits(samples: list[Sample], backend: str) -> None:
    found: list[tuple[Face, Sample]] = []
    extra, seconds = 0, []
    for sample in samples:
        start = time.perf_counter()
        faces = find_faces(Photo(sample.pixels), backend)
        seconds.append(time.perf_counter() - start)
        face, others = nearest(faces, sample)
        extra += others
        if face:
            found.append((face, sample))
    print(f"portraits as they are: found {len(found)} of {len(samples)}, {extra} false faces,")
    print(f"  {1000 * np.median(seconds):.0f} ms a photo (median)")
    for name, points in GROUPS.items():
        errors = 100 * np.array([distance(face, sample, points) for face, sample in found])
        print(f"  {name:12s} mean {errors.mean():.2f} %, 95th percentile {np.percentile(errors, 95):.2f} %")


def measure_scenes(samples: list[Sample], backend: str) -> None:
    print(f"in scenes of {SCENE_WIDTH_PX}x{SCENE_HEIGHT_PX}: found / all / lips+lids, by height and roll")
    total = hits = extra = 0
    rng = np.random.default_rng(0)
    for height in HEIGHTS:
        cells = []
        for roll in ROLLS_DEG:
            errors = []
            for sample in samples:
                placed = scene(sample, height, roll, rng)
                face, others = nearest(find_faces(Photo(placed.pixels), backend), placed)
                total, hits, extra = total + 1, hits + (face is not None), extra + others
                if face:
                    errors.append([distance(face, placed, GROUPS[name]) for name in ("all", "lips+lids")])
            mean = 100 * np.mean(errors, axis=0) if errors else (np.nan, np.nan)
            cells.append(f"{roll:+d}°: {100 * len(errors) / len(samples):.1f} / {mean[0]:.2f} / {mean[1]:.2f}")
        print(f"  {100 * height:.0f} %  " + "   ".join(cells), flush=True)
    print(f"  together: found {hits} of {total} ({100 * hits / total:.2f} %), {extra} false faces beside them")


def changed(sample: Sample, rng: np.random.Generator) -> dict[str, NDArray[np.uint8]]:
    """The picture under other conditions, landmarks where they were."""
    pixels = sample.pixels
    other = np.asarray(cv2.resize(texture(64, rng), pixels.shape[1::-1]), np.uint8)
    return {
        "light from a side": relight(pixels, rng),
        "other colours or grey": recolour(pixels, rng),
        "blurred": blur(pixels, rng),
        "noise": add_noise(pixels, rng),
        "JPEG of low quality": compress(pixels, rng),
        "painted or drawn": paint(pixels, rng),
        "glasses drawn on": put_on_glasses(pixels, sample.landmarks, rng),
        "partly covered": cover(pixels, other, rng),
    }


def measure_changed(samples: list[Sample], backend: str) -> None:
    rng = np.random.default_rng(2)
    errors: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        for kind, pixels in changed(sample, rng).items():
            face, _ = nearest(find_faces(Photo(pixels), backend), sample)
            row = (distance(face, sample, GROUPS["all"]), distance(face, sample, FINE)) if face else (np.nan, np.nan)
            errors.setdefault(kind, []).append(row)
    print("changed portraits: found / all / lips+lids")
    for kind, rows in errors.items():
        table = 100 * np.array(rows)
        mean = np.nanmean(table, axis=0)
        print(f"  {kind:22s} {100 * np.isfinite(table[:, 0]).mean():.1f} / {mean[0]:.2f} / {mean[1]:.2f}")


def measure_turned(samples: list[Sample], backend: str, teacher: Path) -> None:
    """Against what the teacher says of the same warped picture."""
    maker = FaceMaker(samples)
    print("heads turned by a warp: found by us and by the teacher / all / lips+lids")
    for yaw_deg in (0, 15, 30, 40, 50):
        errors, found = [], [0, 0]
        for index, sample in enumerate(samples):
            yaw_rad = np.radians(yaw_deg) * (1 if index % 2 else -1)
            turned = maker.crop(sample, rotate_head(sample.landmarks, 0.0, yaw_rad), np.random.default_rng(0))
            photo = Photo(turned.pixels)
            faces, taught = find_faces(photo, backend), find_faces(photo, "mediapipe", teacher)
            found = [found[0] + bool(faces), found[1] + bool(taught)]
            if faces and taught:
                reference = Sample(turned.pixels, taught[0].landmarks)
                errors.append([distance(faces[0], reference, GROUPS[name]) for name in ("all", "lips+lids")])
        mean = 100 * np.mean(errors, axis=0)
        print(f"  {yaw_deg}°: {found[0]} and {found[1]} of {len(samples)} / {mean[0]:.2f} / {mean[1]:.2f}")


def measure_faceless(samples: list[Sample], backend: str, repeats: int) -> None:
    rng = np.random.default_rng(1)
    counts: dict[str, list[int]] = {}
    for sample in samples * repeats:
        for kind, pixels in faceless(sample, rng).items():
            counts.setdefault(kind, []).append(len(find_faces(Photo(pixels), backend)))
    print("pictures without a face: with a false face / shown")
    for kind, numbers in counts.items():
        print(f"  {kind:22s} {np.count_nonzero(numbers)} / {len(numbers)}")
    flat = np.concatenate(list(counts.values()))
    print(f"  together {np.count_nonzero(flat)} / {len(flat)} ({100 * np.count_nonzero(flat) / len(flat):.2f} %)")


def draw_overlays(samples: list[Sample], folder: Path, backend: str) -> None:
    """Sheets of lips and eyes, enlarged, with the landmarks drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    tiles = []
    for sample in samples:
        faces = find_faces(Photo(sample.pixels), backend)
        if not faces:
            continue
        views = [_zoom(sample.pixels, faces[0].landmarks, rings, centre) for rings, centre in (
            ((topo.LIPS_INNER_UPPER, topo.LIPS_INNER_LOWER, topo.LIPS_OUTER_UPPER, topo.LIPS_OUTER_LOWER), topo.LIPS),
            ((topo.RIGHT_EYE_UPPER, topo.RIGHT_EYE_LOWER, topo.RIGHT_IRIS[1:]), topo.RIGHT_EYE_UPPER),
            ((topo.LEFT_EYE_UPPER, topo.LEFT_EYE_LOWER, topo.LEFT_IRIS[1:]), topo.LEFT_EYE_UPPER),
        )]  # fmt: skip
        tiles.append(np.concatenate(views, axis=1))
    rows = [np.concatenate(tiles[row : row + 2], axis=1) for row in range(0, len(tiles) - 1, 2)]
    cv2.imwrite(str(folder / "lips_and_eyes.png"), np.concatenate(rows)[..., ::-1])


def _zoom(
    pixels: NDArray[np.uint8],
    landmarks: NDArray[np.float32],
    rings: tuple[tuple[int, ...], ...],
    centre: tuple[int, ...],
) -> NDArray[np.uint8]:
    middle = landmarks[list(centre), :2].mean(0)
    half = 0.75 * float(np.ptp(landmarks[list(centre), 0]))
    scale = 220 / (2 * half)
    matrix = np.array([[scale, 0, 110 - scale * middle[0]], [0, scale, 80 - scale * middle[1]]])
    view = cv2.warpAffine(pixels, matrix, (220, 160), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    points = landmarks[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    for ring in rings:
        line = np.rint(points[list(ring)] * 16).astype(np.int32)
        cv2.polylines(view, [line], len(ring) == 4, (0, 255, 0), 1, cv2.LINE_AA, shift=4)
    return np.asarray(view, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--backend", default="embedded", choices=("embedded", "mediapipe"))
    parser.add_argument("--every", type=int, default=1, help="take each n-th portrait only")
    parser.add_argument("--scenes-every", type=int, default=1, help="of these, put each n-th into scenes")
    parser.add_argument("--repeats", type=int, default=2, help="rounds of pictures without a face")
    parser.add_argument("--teacher", type=Path, help="face_landmarker.task, to measure turned heads too")
    parser.add_argument("--overlays", type=Path, help="write enlarged pictures of 16 portraits here and stop")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    samples = load_portraits(arguments.portraits, arguments.labels, test=True)[:: arguments.every]
    if arguments.overlays:
        draw_overlays(samples[:: max(1, len(samples) // 16)][:16], arguments.overlays, arguments.backend)
        return
    measure_portraits(samples, arguments.backend)
    measure_faceless(samples, arguments.backend, arguments.repeats)
    measure_changed(samples[:: arguments.scenes_every], arguments.backend)
    if arguments.teacher:
        measure_turned(samples[:: 2 * arguments.scenes_every], arguments.backend, arguments.teacher)
    measure_scenes(samples[:: arguments.scenes_every], arguments.backend)


if __name__ == "__main__":
    main()
