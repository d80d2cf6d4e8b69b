"""The 70 numbers of a frame that MoDA generates, and the way from and to keypoints.

Order: expression 63 (21 keypoints, x y z), scale, translation x y z, pitch, yaw, roll in degrees.

Source: docs/moda.md, "Motion space".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from loquent.models.moda.keypoints import (
    LIPS,
    NUM_KEYPOINTS,
    KeypointMotion,
    angles_deg,
    flat_translation,
    pose_degrees,
    rotation_matrix,
)

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.models.moda.renderer.motion_extractor import RawMotion

EXPRESSION = slice(0, 63)
SCALE = 63
TRANSLATION = slice(64, 67)
POSE = slice(67, 70)
MOTION_DIM = 70
EPS = 1e-5  # most depths hardly move: their deviation is below this, so it must be the published one
LIP_DIMS = [3 * keypoint + axis for keypoint in LIPS for axis in range(3)]


@dataclass(frozen=True, eq=False)
class SourceFace:
    """The face of the photo in motion space."""

    canonical: Tensor  # (1, K, 3)
    motion: KeypointMotion  # one frame
    pose_deg: Tensor  # (1, 3): pitch, yaw, roll

    @staticmethod
    def from_raw(raw: RawMotion) -> SourceFace:
        """What the motion extractor says of one crop."""
        angles = [pose_degrees(logits) for logits in (raw.pitch, raw.yaw, raw.roll)]
        motion = KeypointMotion(raw.expression, rotation_matrix(*angles), raw.scale[:, 0], raw.translation)
        return SourceFace(raw.keypoints, motion, torch.stack(angles, dim=1))

    def cpu(self) -> SourceFace:
        """The same in main memory, where motion is worked on."""
        motion = self.motion
        parts = (motion.expression, motion.rotation, motion.scale, motion.translation)
        return SourceFace(self.canonical.cpu(), KeypointMotion(*(part.cpu() for part in parts)), self.pose_deg.cpu())


@dataclass(frozen=True, eq=False)
class MotionStatistics:
    """Mean and standard deviation of the training motion, (70,) each."""

    mean: Tensor
    std: Tensor

    def normalise(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / (self.std + EPS)

    def denormalise(self, vectors: Tensor) -> Tensor:
        return vectors * (self.std + EPS) + self.mean

    def size_ratio(self, source: SourceFace) -> Tensor:
        """How much larger the source's face is than the average one, (1,)."""
        return (source.motion.scale + EPS) / (self.mean[SCALE] + EPS)

    def previous_motion(self, source: SourceFace) -> Tensor:
        """The source's own motion, normalised and at average size, (1, 70): what the first window follows."""
        ratio = self.size_ratio(source)
        motion = source.motion
        translation = flat_translation(motion.translation) / ratio[:, None]
        parts = [motion.expression.flatten(1), (motion.scale / ratio)[:, None], translation, source.pose_deg]
        return self.normalise(torch.cat(parts, dim=1))

    def to_vectors(self, generated: Tensor, source: SourceFace) -> Tensor:
        """Generated motion (T, 70), normalised, as numbers of the source's face, (T, 70)."""
        vectors = self.denormalise(generated)
        vectors[:, SCALE : TRANSLATION.stop] *= self.size_ratio(source)
        return vectors

    def to_keypoint_motion(self, generated: Tensor, source: SourceFace) -> KeypointMotion:
        """Generated motion (T, 70), normalised, as motion of the source's face."""
        return keypoint_motion(self.to_vectors(generated, source))


def keypoint_motion(vectors: Tensor) -> KeypointMotion:
    """The motion that numbers (T, 70) stand for."""
    return KeypointMotion(
        expression=vectors[:, EXPRESSION].unflatten(1, (NUM_KEYPOINTS, 3)),
        rotation=rotation_matrix(*vectors[:, POSE].unbind(1)),
        scale=vectors[:, SCALE],
        translation=vectors[:, TRANSLATION],
    )


def motion_vectors(motion: KeypointMotion) -> Tensor:
    """The numbers (T, 70) of a motion; inverse of `keypoint_motion`."""
    parts = [motion.expression.flatten(1), motion.scale[:, None], motion.translation, angles_deg(motion.rotation)]
    return torch.cat(parts, dim=1)


def modulate_lips(motion: Tensor, rest: Tensor) -> Tensor:
    """Exaggerates how the lips differ from a frame of silence, where they differ much; normalised space.

    Args:
        motion: (T, 70). The gain depends on the largest difference in it.
        rest: (70,), a frame of silence.
    """
    change = motion[:, LIP_DIMS] - rest[LIP_DIMS]
    energy = change.square().sum(1)
    gain = (torch.sigmoid(5 * energy) - 0.5) / (0.1 * energy.max() + 0.05)
    out = motion.clone()
    out[:, LIP_DIMS] = rest[LIP_DIMS] + change * (1 + gain[:, None])
    return out
