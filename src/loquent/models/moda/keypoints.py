"""The 21 implicit keypoints that MoDA's motion moves and the renderer reads.

Shape letters: B batch, T frames, K keypoints. Keypoints are rows (x, y, z); the crop spans about -1..1. Angles are in
degrees here, the unit of the published networks.

Source: Guo et al. 2024, "LivePortrait", section 3; docs/moda.md, "Keypoints".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from loquent.errors import ControlsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

NUM_KEYPOINTS = 21
LIPS = (6, 12, 14, 17, 19, 20)
EYES = (11, 13, 15, 16, 18)
BROWS = (1, 2)

_FREE = (*BROWS, *LIPS, *EYES)  # taken from the driver with all their axes in absolute motion
_PARTLY_FREE = {3: "y", 4: "y", 5: "z", 8: "z", 9: "yz"}  # the rest of these, and all of 0, 7, 10, stay the source's
_BIN_DEG, _FIRST_BIN_DEG = 3.0, -97.5

Region = Literal["all", "expression", "pose", "lips", "eyes"]

# Slider -> (keypoint, axis, change per unit). Signed sliders have one entry for each sign.
_SLIDERS: dict[str, tuple[tuple[int, str, float], ...]] = {
    "smile": (
        (20, "y", -0.01), (14, "y", -0.02), (17, "y", 0.0065), (17, "z", 0.003), (13, "y", -0.00275),
        (16, "y", -0.00275), (3, "y", -0.0035), (7, "y", -0.0035),
    ),
    "wink": ((11, "y", 0.001), (13, "y", -0.0003), (17, "x", 0.0003), (17, "y", 0.0003), (3, "y", -0.0003)),
    "brow+": ((1, "y", 0.001), (2, "y", -0.001)),
    "brow-": ((1, "x", -0.001), (2, "x", 0.001), (1, "y", 0.0003), (2, "y", -0.0003)),
    "gaze_x+": ((11, "x", 0.0007), (15, "x", 0.001)),
    "gaze_x-": ((11, "x", 0.001), (15, "x", 0.0007)),
    "gaze_y": ((11, "y", -0.0005), (15, "y", -0.0005), (13, "y", -0.00015), (16, "y", -0.00015)),
    "lip_0": ((19, "x", 1.0),),
    "lip_1": ((14, "y", 0.001), (3, "y", -0.0005), (7, "y", -0.0005), (17, "z", -0.0005)),
    "lip_2": ((20, "z", -0.001), (20, "y", -0.001), (14, "y", -0.001)),
    "lip_3": ((19, "y", 0.001), (19, "z", 0.0001), (17, "y", -0.0001)),
}  # fmt: skip
_SIGNED = ("brow", "gaze_x")
SLIDERS = tuple(dict.fromkeys(name.rstrip("+-") for name in _SLIDERS))

# The released audio path looks a little down on every frame.
RELEASED_GAZE = {"gaze_y": -5.0}


@dataclass(frozen=True, eq=False)
class KeypointMotion:
    """Motion of T frames in keypoint space."""

    expression: Tensor  # (T, K, 3), added to the turned canonical keypoints, before scaling
    rotation: Tensor  # (T, 3, 3), applied on the right of row vectors
    scale: Tensor  # (T,)
    translation: Tensor  # (T, 3); z is never used

    def __len__(self) -> int:
        return len(self.expression)

    def frame(self, index: int) -> KeypointMotion:
        """One frame, its first axis kept."""
        at = slice(index, index + 1)
        return KeypointMotion(self.expression[at], self.rotation[at], self.scale[at], self.translation[at])


def join_motion(pieces: Sequence[KeypointMotion]) -> KeypointMotion:
    """Pieces of motion, one after the other."""
    parts = ("expression", "rotation", "scale", "translation")
    return KeypointMotion(*(torch.cat([getattr(piece, name) for piece in pieces]) for name in parts))


def pose_degrees(logits: Tensor) -> Tensor:
    """Angle of 66 bins of 3 degrees, (B, 66) to (B,): their mean under the softmax."""
    bins = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return logits.softmax(-1) @ bins * _BIN_DEG + _FIRST_BIN_DEG


def rotation_matrix(pitch_deg: Tensor, yaw_deg: Tensor, roll_deg: Tensor) -> Tensor:
    """(Rz·Ry·Rx)ᵀ of angles (B,), to be applied on the right of row vectors: (B, 3, 3)."""
    (cx, cy, cz), (sx, sy, sz) = (
        (f(pitch_deg.deg2rad()), f(yaw_deg.deg2rad()), f(roll_deg.deg2rad())) for f in (torch.cos, torch.sin)
    )
    one, zero = torch.ones_like(cx), torch.zeros_like(cx)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))

    rx = matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    ry = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    rz = matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return (rz @ ry @ rx).mT


def angles_deg(rotation: Tensor) -> Tensor:
    """Pitch, yaw and roll (T, 3) in degrees of matrices (T, 3, 3); inverse of `rotation_matrix`, yaw within ±90."""
    r = rotation.mT  # Rz·Ry·Rx
    pitch = torch.atan2(r[:, 2, 1], r[:, 2, 2])
    yaw = torch.asin((-r[:, 2, 0]).clamp(-1, 1))
    roll = torch.atan2(r[:, 1, 0], r[:, 0, 0])
    return torch.stack([pitch, yaw, roll], dim=1).rad2deg()


def transform(canonical: Tensor, motion: KeypointMotion) -> Tensor:
    """scale·(canonical·R + expression) + (t_x, t_y, 0): canonical (1 or T, K, 3) to (T, K, 3)."""
    moved = motion.scale[:, None, None] * (canonical @ motion.rotation + motion.expression)
    return moved + flat_translation(motion.translation)[:, None]


def flat_translation(translation: Tensor) -> Tensor:
    """Translation (T, 3) without its depth."""
    return torch.cat([translation[:, :2], torch.zeros_like(translation[:, 2:])], dim=1)


def slider_change(**sliders: float) -> Tensor:
    """Change of the expression (K, 3) by the sliders of the published editor; `SLIDERS` lists them.

    Raises:
        ControlsError: an unknown slider.
    """
    change = torch.zeros(NUM_KEYPOINTS, 3)
    for name, value in sliders.items():
        if name not in SLIDERS:
            raise ControlsError(f"there is no slider {name!r}; choose among {', '.join(SLIDERS)}")
        entry = f"{name}{'+' if value > 0 else '-'}" if name in _SIGNED else name
        for keypoint, axis, amount in _SLIDERS[entry]:
            change[keypoint, "xyz".index(axis)] += amount * value
    return change


def with_sliders(motion: KeypointMotion, **sliders: float) -> KeypointMotion:
    """The motion with the same slider values on every frame."""
    return replace(motion, expression=motion.expression + slider_change(**sliders).to(motion.expression))


def drive(
    canonical: Tensor,
    source: KeypointMotion,
    driver: KeypointMotion,
    *,
    relative: bool = False,
    region: Region = "all",
) -> Tensor:
    """Keypoints of the source face moving like the driver, (T, K, 3), before stitching.

    Args:
        canonical: of the source, (1, K, 3).
        source: what the source does, one frame.
        driver: T frames.
        relative: adds what changes since the driver's first frame to what the source does; absolute motion replaces it,
            but for the keypoints that carry the shape of the face.
        region: what is driven; the rest stays the source's.
    """
    return transform(canonical, driven_motion(source, driver, relative=relative, region=region))


def driven_motion(
    source: KeypointMotion, driver: KeypointMotion, *, relative: bool = False, region: Region = "all"
) -> KeypointMotion:
    """What the source's face does when it moves like the driver; arguments as in `drive`."""
    return _relative_motion(source, driver, region) if relative else _absolute_motion(source, driver, region)


def _absolute_motion(source: KeypointMotion, driver: KeypointMotion, region: Region) -> KeypointMotion:
    posed = region in ("all", "pose")
    num_frames = len(driver)
    mask = _region_mask(region, partly=True).to(driver.expression.device)
    return KeypointMotion(
        expression=torch.where(mask, driver.expression, source.expression),
        rotation=driver.rotation if posed else source.rotation.expand(num_frames, -1, -1),
        scale=source.scale.expand(num_frames),  # the driver's is never used: it is the least steady of all
        translation=driver.translation if posed else source.translation.expand(num_frames, -1),
    )


def _relative_motion(source: KeypointMotion, driver: KeypointMotion, region: Region) -> KeypointMotion:
    posed = region in ("all", "pose")
    num_frames, first = len(driver), driver.frame(0)
    mask = _region_mask(region, partly=False).to(driver.expression.device)
    changed = source.expression + driver.expression - first.expression
    return KeypointMotion(
        expression=torch.where(mask, changed, source.expression),
        rotation=driver.rotation @ first.rotation.mT @ source.rotation
        if posed
        else source.rotation.expand(num_frames, -1, -1),
        scale=source.scale * driver.scale / first.scale if posed else source.scale.expand(num_frames),
        translation=source.translation + driver.translation - first.translation
        if posed
        else source.translation.expand(num_frames, -1),
    )


def _region_mask(region: Region, *, partly: bool) -> Tensor:
    """Which coordinates (K, 3) of the expression follow the driver; `partly` keeps the face's shape the source's."""
    mask = torch.zeros(NUM_KEYPOINTS, 3, dtype=torch.bool)
    rows: Sequence[int] = {"lips": LIPS, "eyes": EYES}.get(region, ())
    if region in ("all", "expression"):
        if not partly:
            return ~mask
        rows = _FREE
        for keypoint, axes in _PARTLY_FREE.items():
            mask[keypoint, ["xyz".index(axis) for axis in axes]] = True
    mask[list(rows)] = True
    return mask


def match_amplitude(source: Tensor, target: Tensor) -> Tensor:
    """Target keypoints (T, K, 3) that start from the source's (1, K, 3) and move in proportion to its face's size.

    It is the published option "expression-friendly" of relative motion.
    """
    return (target - target[:1]) * motion_multiplier(source[0], target[0]) + source


def motion_multiplier(source: Tensor, first: Tensor) -> float:
    """Square root of the ratio of the volumes that two sets of keypoints (K, 3) span."""
    return float(np.sqrt(hull_volume(source.double().cpu().numpy()) / hull_volume(first.double().cpu().numpy())))


def hull_volume(points: np.ndarray) -> float:
    """Volume of the convex hull of a few points (N, 3), by trying every triangle: for N about 20."""
    triangles = np.array(list(combinations(range(len(points)), 3)))
    a, b, c = points[triangles].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    offsets = np.einsum("nx,mnx->nm", normals, points[:, None] - a)  # which side of a triangle each point is on
    offsets[np.abs(offsets) < 1e-12 * np.abs(offsets).max()] = 0
    on_hull = (offsets <= 0).all(1) | (offsets >= 0).all(1)
    heights = np.abs(np.einsum("nx,nx->n", normals[on_hull], points.mean(0) - a[on_hull]))
    return float(heights.sum() / 6)


def scaled_change(source: Tensor, target: Tensor, strength: float) -> Tensor:
    """Target keypoints moved `strength` times as far from the source's; 1 changes nothing."""
    return source + (target - source) * strength
