"""Landmarks of a video by MediaPipe's tracker: the independent judge of what loquent draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loquent.errors import MissingExtraError
from loquent.face.mediapipe_backend import find_model


def landmarks_of_frames(
    frames: Iterable[tuple[NDArray[np.uint8], float]], model: Path | None = None
) -> Iterator[NDArray[np.float32] | None]:
    """Yields (478, 3) landmarks in pixels of each (RGB frame, time in seconds), or None where no face is seen.

    Raises:
        MissingExtraError: the mediapipe package is not installed.
        FaceError: the model file is missing.
    """
    path = find_model(model)
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise MissingExtraError(
            f"evaluation measures faces with mediapipe ({error}); install it with:"
            " pip install 'loquent[mediapipe]' && pip install --no-deps mediapipe"
        ) from error
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(path)), running_mode=vision.RunningMode.VIDEO
    )
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for frame, time_s in frames:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
            found = landmarker.detect_for_video(image, round(time_s * 1000)).face_landmarks
            if not found:
                yield None
                continue
            size = np.array([frame.shape[1], frame.shape[0], frame.shape[1]], np.float32)
            points = np.array([(point.x, point.y, point.z) for point in found[0]], np.float32)
            yield points * size - np.array([0.5, 0.5, 0], np.float32)
