"""The face parameters of a photo that follows the person of a driving video.

| | relative | absolute |
|---|---|---|
| expression | the video's above its resting face, beside what `Controls.keep_expression` keeps of the photo's | the video's |
| head | turns and moves as in the video, around the photo's pose | faces the camera as in the video; moves as in it |
| gaze | around the photo's | the same |

The resting face is what the person shows least of over the video, weight by weight, and the video's usual pose is the
median, so that it does not matter how the video begins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loquent.face.following import follow_face
from loquent.motion.controls import BLINK_CHANNELS, LIP_CHANNELS, OPEN_CHANNELS, SQUINT_CHANNELS, look_weights
from loquent.motion.face_tracking import track_expression
from loquent.motion.smoothing import smooth
from loquent.types import Motion

if TYPE_CHECKING:
    from loquent.driving import DriveSettings, DrivingVideo
    from loquent.motion.face_tracking import TrackedFace
    from loquent.types import Portrait

_REST_QUANTILE = 0.1
_POSE_SMOOTHING = 2.0  # a head moves more slowly than lips, and its tremor shows more
_EYE_CHANNELS = [*BLINK_CHANNELS, *OPEN_CHANNELS, *SQUINT_CHANNELS]


def follow_video(portrait: Portrait, video: DrivingVideo) -> Motion:
    """Motion of the portrait's face, as long as the video.

    Raises:
        VideoError: the video cannot be read.
        FaceError: it shows no face, or hides it most of the time.
    """
    followed = follow_face(video.path, video.backend, video.model)
    tracked = track_expression(followed.landmarks, followed.closure, followed.rate_hz)
    return motion_of(tracked, portrait, video.settings)


def motion_of(tracked: TrackedFace, portrait: Portrait, settings: DriveSettings) -> Motion:
    """What the portrait's face does when it follows a tracked one; see the table above."""
    expression, usual_pose = tracked.expression.copy(), np.median(tracked.pose_rad, axis=0)
    if settings.mode == "relative":
        rest = np.quantile(expression, _REST_QUANTILE, axis=0)
        rest[BLINK_CHANNELS] = 0
        expression = np.maximum(expression - rest, 0)
    expression += look_weights(tracked.gaze.mean(1))
    origin = usual_pose if settings.mode == "relative" else np.asarray(portrait.pose_rad)
    moved = tracked.position - np.median(tracked.position, axis=0)
    motion = Motion(
        expression=expression.astype(np.float32),
        rotation=(tracked.pose_rad - origin).astype(np.float32),
        translation=moved.astype(np.float32),
        gaze=tracked.gaze,
        rate_hz=tracked.rate_hz,
    )
    calm, calmer = (
        Motion.concatenate(list(smooth([motion], sigma_s)))
        for sigma_s in (settings.smoothing_s, _POSE_SMOOTHING * settings.smoothing_s)
    )
    steady = replace(calm, rotation=calmer.rotation, translation=calmer.translation, gaze=calmer.gaze)
    return _with_strengths(steady, settings)


def _with_strengths(motion: Motion, settings: DriveSettings) -> Motion:
    factors = np.full(motion.expression.shape[1], settings.expression, np.float32)
    factors[LIP_CHANNELS] = settings.lips
    factors[_EYE_CHANNELS] = settings.eyes
    pose = np.float32(settings.pose)
    return replace(
        motion,
        expression=np.clip(motion.expression * factors, 0, 1),
        rotation=motion.rotation * pose,
        translation=motion.translation * pose,
        gaze=motion.gaze * np.float32(settings.eyes),
    )
