"""Published motion on its way to the renderer: `MotionCodes` in the space `SPACE`.

A row holds what the photo's own face does: the 70 numbers of `motion_space`, denormalised, then how open eyes and lips
are wanted, as factors of the photo's (1 leaves them to the motion). All rules of driving and all controls are applied
when codes are made; drawing only follows them.

Shape letters: T frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.models.moda.keypoints import BROWS, EYES, LIPS, slider_change
from loquent.models.moda.motion_space import EXPRESSION, MOTION_DIM, POSE, TRANSLATION, motion_vectors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.moda.motion_space import SourceFace
    from loquent.motion.control_track import ControlValues

SPACE = "moda-keypoints"
EYE_OPENING, LIP_OPENING = MOTION_DIM, MOTION_DIM + 1
CODE_DIM = MOTION_DIM + 2

# The published angles turn the other way about x and y than those of docs/conventions.md (docs/moda.md, "Controls").
_POSE_SIGNS = torch.tensor([-1.0, -1.0, 1.0])


def make_codes(vectors: Tensor, eye_opening: float | None = None, lip_opening: float | None = None) -> Tensor:
    """Codes (T, CODE_DIM) of motion (T, 70); None is 1."""
    opened = [1.0 if factor is None else factor for factor in (eye_opening, lip_opening)]
    return torch.cat([vectors, torch.tensor(opened).expand(len(vectors), -1)], dim=1)


def scale_parts(
    vectors: Tensor,
    rest: Tensor,
    *,
    expression: Tensor | float = 1.0,
    lips: Tensor | float = 1.0,
    eyes: Tensor | float = 1.0,
    brows: Tensor | float = 1.0,
    pose: Tensor | float = 1.0,
) -> Tensor:
    """Motion (T, 70) that goes as many times as far from a resting face (70,), part by part.

    Args:
        vectors: the motion.
        rest: what is not moved.
        expression: factor, or one for each frame (T,), of what is not named below.
        lips, eyes, brows: of their keypoints.
        pose: of head angles and translation.
    """
    gains = torch.ones(len(vectors), MOTION_DIM)
    gains[:, EXPRESSION] = _column(expression)
    for keypoints, factor in ((LIPS, lips), (EYES, eyes), (BROWS, brows)):
        gains[:, _dims(keypoints)] = _column(factor)
    gains[:, TRANSLATION.start : POSE.stop] = _column(pose)
    return rest + gains * (vectors - rest)


def apply_controls(codes: Tensor, face: SourceFace, pose_rad: NDArray[np.float32], values: ControlValues) -> Tensor:
    """What the controls ask of codes (T, CODE_DIM): amounts around the photo's own face, head, gaze, closed eyes.

    Args:
        codes: as made.
        face: of the photo.
        pose_rad: of the head in the photo, (3,), in the project's convention.
        values: at the T frames.
    """
    own = motion_vectors(face.motion)[0]
    amount, head, brows, lips, closure = (
        torch.from_numpy(value) for value in (values.amount, values.head, values.brows, values.lips, values.closure)
    )
    vectors = scale_parts(
        codes[:, :MOTION_DIM], own, expression=amount, lips=lips, eyes=amount, brows=brows * amount, pose=head * amount
    )
    turn_rad = values.head_offset_rad(pose_rad)
    vectors[:, POSE] += torch.from_numpy(turn_rad).rad2deg() * _POSE_SIGNS
    look_deg = np.degrees(values.gaze_offset_rad(turn_rad))
    vectors[:, EXPRESSION] += _gaze_change(torch.from_numpy(look_deg)).flatten(1)
    eyes = _dims(EYES)
    vectors[:, eyes] += closure[:, None] * (own[eyes] - vectors[:, eyes])  # the network closes them from there
    opened = codes[:, MOTION_DIM:].clone()
    opened[:, 0] *= 1 - closure
    return torch.cat([vectors, opened], dim=1)


def _gaze_change(look_deg: Tensor) -> Tensor:
    """Change of the expression (T, K, 3) that turns the eyes by pitch and yaw (T, 2), one slider unit a degree."""
    up = slider_change(gaze_y=1.0)
    right, left = slider_change(gaze_x=1.0), slider_change(gaze_x=-1.0)
    pitch, yaw = look_deg[:, 0, None, None], look_deg[:, 1, None, None]
    return pitch * up + yaw.clamp(min=0) * right - yaw.clamp(max=0) * left


def _dims(keypoints: Iterable[int]) -> list[int]:
    return [3 * keypoint + axis for keypoint in keypoints for axis in range(3)]


def _column(factor: Tensor | float) -> Tensor:
    return factor[:, None] if isinstance(factor, torch.Tensor) else torch.tensor([[factor]])
