"""Draws a sheet of rendered frames: one block a portrait, one column a motion frame; whole, mouth and eyes enlarged.

    python benchmarks/contact_sheet.py photo.jpg other.jpg -o sheet.png [--motion motion.npy] [--size 512]

Without --motion the sheet shows a fixed sweep of mouth shapes, blinks, gaze and head turns. A motion file is a NumPy
array (T, 62) as `Motion.to_vector` makes it; --frames says which of its rows to show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from loquent.motion.face_model import fit_face
from loquent.render.mesh import MeshRenderer
from loquent.types import ARKIT_INDEX, Face, Motion, Photo, Portrait

# One column each; `rest` keeps the photo's expression, everything else starts from a neutral face.
MOUTH_SWEEP = (
    {"rest": 1}, {}, {"jawOpen": 0.15}, {"jawOpen": 0.35}, {"jawOpen": 0.7}, {"mouthPucker": 0.8},
    {"mouthFunnel": 0.8, "jawOpen": 0.25}, {"mouthSmile": 0.7, "jawOpen": 0.15},
    {"mouthPress": 0.6, "mouthRollLower": 0.4, "mouthRollUpper": 0.4}, {"mouthLowerDown": 0.5, "mouthUpperUp": 0.4},
    {"mouthRollLower": 0.7, "mouthUpperUp": 0.3, "jawOpen": 0.05},
)  # fmt: skip
HEAD_SWEEP = (
    {"rest": 1, "eyeBlink": 0.5}, {"rest": 1, "eyeBlink": 1}, {"rest": 1, "gaze_yaw": 25}, {"rest": 1, "gaze_yaw": -25},
    {"rest": 1, "gaze_pitch": -20}, {"eyeWide": 1, "browInnerUp": 1}, {"yaw": 20, "jawOpen": 0.2}, {"yaw": -20, "rest": 1},
    {"pitch": 15, "rest": 1}, {"pitch": -15, "jawOpen": 0.2}, {"roll": 10, "rest": 1},
)  # fmt: skip


def sweep_motion(rest_expression: np.ndarray, columns: tuple[dict[str, float], ...]) -> Motion:
    """Motion with one frame a column; names without side set both sides, angles are in degrees."""
    motion = Motion.neutral(len(columns))
    for row, column in enumerate(columns):
        if column.get("rest"):
            motion.expression[row] = rest_expression
        for name, value in column.items():
            if name in ("pitch", "yaw", "roll"):
                motion.rotation[row, ("pitch", "yaw", "roll").index(name)] = np.radians(value)
            elif name.startswith("gaze"):
                motion.gaze[row, :, int(name == "gaze_yaw")] = np.radians(value)
            else:
                for channel in (name, f"{name}Left", f"{name}Right"):
                    if channel in ARKIT_INDEX:
                        motion.expression[row, ARKIT_INDEX[channel]] = value
    return motion


def portrait_block(portrait: Portrait, motion: Motion, size: int | None, tile_px: int = 256) -> np.ndarray:
    """Frames of one portrait: a row of whole pictures, a row of mouths and a row of eyes at about twice the size."""
    renderer = MeshRenderer(portrait, size=size)
    frames = list(renderer.render(motion))
    width, height = renderer.size_px
    points = renderer.landmarks(motion)[..., :2]
    iod = renderer.shape.scale_px
    mouths, eyes = points[:, [61, 291]].mean(1) + np.array([0, 0.08 * iod]), points[:, [33, 263]].mean(1)
    rows = [
        [_tile(frame, (width / 2, height / 2), max(width, height) / 2, 1.0, tile_px) for frame in frames],
        [_tile(frame, mouth, 0.6 * iod, 0.8, tile_px) for frame, mouth in zip(frames, mouths, strict=True)],
        [_tile(frame, eye, 0.7 * iod, 0.4, tile_px) for frame, eye in zip(frames, eyes, strict=True)],
    ]
    return np.vstack([np.hstack(row) for row in rows])


def _tile(frame: np.ndarray, centre: tuple[float, float], half_px: float, aspect: float, tile_px: int) -> np.ndarray:
    """A square of a frame (or a band of it, aspect = height / width), enlarged to the tile's width."""
    zoom = tile_px / (2 * half_px)
    size = (tile_px, round(tile_px * aspect))
    matrix = np.array([[zoom, 0, size[0] / 2 - zoom * centre[0]], [0, zoom, size[1] / 2 - zoom * centre[1]]])
    method = cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA
    if zoom < 1:
        frame = cv2.GaussianBlur(frame, (0, 0), 0.4 / zoom)
    return cv2.warpAffine(frame, matrix, size, flags=method)


def save_sheet(blocks: list[np.ndarray], path: Path) -> None:
    """Writes the blocks one below the other as PNG."""
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(blocks), cv2.COLOR_RGB2BGR))


def load_portrait(path: Path, labels: dict | None) -> Portrait:
    """A portrait from a file, with landmarks from `labels` (ids, landmarks) or found by `loquent.face`."""
    photo = Photo(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), name=path.stem)
    if labels is None:
        from loquent.face import analyze

        return analyze(photo)
    face = Face(labels["landmarks"][list(labels["ids"]).index(path.stem)].astype(np.float32))
    shape = fit_face(face.landmarks)
    return Portrait(photo, face, shape.rest_expression, shape.pose_rad.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--motion", type=Path, help="(T, 62) .npy; default: a fixed sweep")
    parser.add_argument("--frames", type=int, nargs="*", help="rows of the motion to show; default: 11 spread evenly")
    parser.add_argument("--sweep", choices=("mouth", "head"), default="mouth")
    parser.add_argument("--size", type=int, help="longer side of the frames")
    parser.add_argument("--tile", type=int, default=160, help="width of a tile in the sheet")
    parser.add_argument("--labels", type=Path, help="npz with ids and landmarks, instead of finding the faces")
    options = parser.parse_args()
    labels = dict(np.load(options.labels)) if options.labels else None
    blocks = []
    for path in options.photos:
        portrait = load_portrait(path, labels)
        if options.motion:
            motion = Motion.from_vector(np.load(options.motion))
            rows = options.frames or np.linspace(0, len(motion) - 1, 11).astype(int)
            motion = Motion.from_vector(motion.to_vector()[rows])
        else:
            columns = MOUTH_SWEEP if options.sweep == "mouth" else HEAD_SWEEP
            motion = sweep_motion(portrait.rest_expression, columns)
        blocks.append(portrait_block(portrait, motion, options.size, options.tile))
    save_sheet(blocks, options.out)


if __name__ == "__main__":
    main()
