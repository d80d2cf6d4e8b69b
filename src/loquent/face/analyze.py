"""From a photo to the portrait that is animated: find the faces, choose one, read its expression and pose."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Literal

import numpy as np

from loquent.errors import FaceError
from loquent.face import mediapipe_backend
from loquent.face.lip_line import refine_inner_lips
from loquent.types import Face, Photo, Portrait

logger = logging.getLogger(__name__)

FaceBackend = Literal["embedded", "mediapipe"]
BACKENDS: tuple[FaceBackend, ...] = ("embedded", "mediapipe")
PROFILE_YAW_DEG = 45.0


def find_faces(
    photo: Photo, backend: FaceBackend = "embedded", model_path: str | os.PathLike[str] | None = None
) -> list[Face]:
    """Every face in the photo, from the picture's left to its right; an empty list when there is none.

    Args:
        photo: the picture, upright.
        backend: "embedded" for the networks shipped with loquent, "mediapipe" for MediaPipe's own.
        model_path: MediaPipe's model file; read by that backend only.

    Raises:
        FaceError: unknown backend, or the mediapipe model file is missing.
        MissingExtraError: the mediapipe package is not installed.
    """
    if backend == "mediapipe":
        faces = mediapipe_backend.find_landmarks(photo.pixels, model_path)
    elif backend == "embedded":
        from loquent.face import embedded  # imports torch

        faces = embedded.find_landmarks(photo.pixels)
    else:
        raise FaceError(f"unknown face backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    return sorted(faces, key=lambda face: face.box_px[0] + face.box_px[2])


def choose_face(faces: list[Face], index: int | None = None) -> Face:
    """One face of the list that `find_faces` gave.

    Args:
        faces: from the picture's left to its right.
        index: 0 is the leftmost; None takes the largest.

    Raises:
        FaceError: the list is empty, or holds no face of that index.
    """
    if not faces:
        raise FaceError(
            "no face was found in the photo; use a picture in which one face looks towards the camera, is upright,"
            " at least a tenth of the picture's height, and not covered by hands, mask or strong shadow"
        )
    if index is None:
        return max(faces, key=_box_area)
    if not 0 <= index < len(faces):
        raise FaceError(
            f"there is no face {index}; found {len(faces)}, counted from 0 at the picture's left: {describe(faces)}"
        )
    return faces[index]


def analyze(
    photo: Photo,
    face_index: int | None = None,
    backend: FaceBackend = "embedded",
    model_path: str | os.PathLike[str] | None = None,
) -> Portrait:
    """The portrait that generator and renderer work on. Arguments as in `find_faces` and `choose_face`.

    A face turned away by more than 45 degrees is logged as a warning: half of it is not in the photo.

    Raises:
        FaceError: no face, or not the wanted one.
    """
    from loquent.motion.face_model import fit_face  # which itself reads this package's topology

    face = choose_face(find_faces(photo, backend, model_path), face_index)
    face = replace(face, landmarks=refine_inner_lips(photo.pixels, face.landmarks))
    shape = fit_face(face.landmarks)
    yaw_deg = float(np.degrees(shape.pose_rad[1]))
    if abs(yaw_deg) > PROFILE_YAW_DEG:
        logger.warning(
            "%s: the face is turned by %.0f degrees; beyond %.0f the hidden side cannot be shown well,"
            " a photo from the front gives a better video",
            photo.name, abs(yaw_deg), PROFILE_YAW_DEG,
        )  # fmt: skip
    return Portrait(
        photo=photo, face=face, rest_expression=shape.rest_expression, pose_rad=np.asarray(shape.pose_rad, np.float32)
    )


def describe(faces: list[Face]) -> str:
    """What was found, for messages: "0: 210x260 px at (90, 40); 1: ..."."""
    texts = []
    for index, face in enumerate(faces):
        left, top, right, bottom = face.box_px
        texts.append(f"{index}: {right - left:.0f}x{bottom - top:.0f} px at ({left:.0f}, {top:.0f})")
    return "; ".join(texts)


def _box_area(face: Face) -> float:
    left, top, right, bottom = face.box_px
    return (right - left) * (bottom - top)
