"""MediaPipe's own face landmarker, for users who have its package and model file (extra `mediapipe`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loquent.errors import FaceError, MissingExtraError
from loquent.types import Face

if TYPE_CHECKING:
    from mediapipe.tasks.python.vision.face_landmarker import FaceLandmarker
    from numpy.typing import NDArray

MODEL_VARIABLE = "LOQUENT_FACE_LANDMARKER"
MAX_FACES = 16


def find_model(model_path: str | os.PathLike[str] | None = None) -> Path:
    """The `face_landmarker.task` file: the given path, or what the environment variable names.

    Raises:
        FaceError: no path is known, or it is no file.
    """
    given = model_path or os.environ.get(MODEL_VARIABLE)
    if not given:
        raise FaceError(
            "the mediapipe face backend needs its model file face_landmarker.task;"
            f" give its path with --face-model or in the environment variable {MODEL_VARIABLE}"
        )
    path = Path(given).expanduser()
    if not path.is_file():
        raise FaceError(f"{path}: no such MediaPipe model file; give the path of a face_landmarker.task")
    return path


def find_landmarks(
    pixels: NDArray[np.uint8], model_path: str | os.PathLike[str] | None = None, min_score: float = 0.5
) -> list[Face]:
    """Every face that MediaPipe finds, in its own order.

    Args:
        pixels: RGB, (H, W, 3).
        model_path: `face_landmarker.task`; None takes the environment variable.
        min_score: detection and presence confidence that a face needs, 0..1.

    Raises:
        MissingExtraError: the mediapipe package is not installed.
        FaceError: the model file is missing or unusable.
    """
    with open_landmarker(find_model(model_path), MAX_FACES, min_score) as landmarker:
        return detect(landmarker, pixels)


def open_landmarker(model: Path, max_faces: int = MAX_FACES, min_score: float = 0.5) -> FaceLandmarker:
    """MediaPipe's landmarker, to be used in a `with` block, which frees it.

    Raises:
        MissingExtraError: the mediapipe package is not installed.
        FaceError: the model file is unusable.
    """
    try:
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise MissingExtraError(
            f"the mediapipe face backend needs the extra mediapipe ({error}); install it with:"
            " pip install 'loquent[mediapipe]' && pip install --no-deps mediapipe"
        ) from error
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(model)),
        num_faces=max_faces,
        min_face_detection_confidence=min_score,
        min_face_presence_confidence=min_score,
    )
    try:
        return vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        raise FaceError(f"MediaPipe could not load the model {model}: {error}") from error


def detect(landmarker: FaceLandmarker, pixels: NDArray[np.uint8]) -> list[Face]:
    """Runs an open landmarker on one RGB picture (H, W, 3)."""
    import mediapipe

    image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
    found = landmarker.detect(image).face_landmarks
    return [Face(_to_pixels(points, pixels), backend="mediapipe") for points in found]


def _to_pixels(points: list, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """MediaPipe's normalised points (0..1 between the outer edges, z on the scale of x) -> photo pixels, (478, 3)."""
    height, width = pixels.shape[:2]
    normalised = np.array([(point.x, point.y, point.z) for point in points], np.float32)
    return normalised * np.array([width, height, width], np.float32) - np.array([0.5, 0.5, 0.0], np.float32)
