"""Our keypoints, motion space, filters and crop on the recorded numbers of the published ones; see `parity_moda`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.models.moda import crop, filters
from loquent.models.moda.keypoints import (
    RELEASED_GAZE,
    KeypointMotion,
    drive,
    match_amplitude,
    motion_multiplier,
    pose_degrees,
    rotation_matrix,
    transform,
    with_sliders,
)
from loquent.models.moda.motion_space import MotionStatistics, SourceFace, modulate_lips
from loquent.models.moda.renderer import weights
from loquent.models.moda.renderer.motion_extractor import RawMotion
from loquent.models.moda.renderer.retargeting import KeypointMlp, stitch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loquent.evaluation.fixtures import Fixture

_UINT8_STEP = 1.0


def _keypoint_transform(fixture: Fixture) -> dict[str, Tensor]:
    inputs = fixture.inputs
    names = ("pitch", "yaw", "roll")
    decoded = [pose_degrees(inputs[f"{name}_logits"]) for name in names]
    out = {f"{name}_deg": angle for name, angle in zip(names, decoded, strict=True)}
    for kind, angles in (("logits", decoded), ("degrees", [inputs[f"{name}_d"][:, 0] for name in names])):
        rotation = rotation_matrix(*angles)
        motion = KeypointMotion(inputs["exp"].view(-1, 21, 3), rotation, inputs["scale"][:, 0], inputs["t"])
        out |= {f"R_from_{kind}": rotation, f"kp_from_{kind}": transform(inputs["kp"].view(-1, 21, 3), motion)}
    return out


def _source(fixture: Fixture) -> SourceFace:
    inputs = fixture.inputs
    return SourceFace.from_raw(
        RawMotion(
            keypoints=inputs["src_kp"].view(1, 21, 3),
            pitch=inputs["src_pitch"],
            yaw=inputs["src_yaw"],
            roll=inputs["src_roll"],
            translation=inputs["src_t"],
            expression=inputs["src_exp"].view(1, 21, 3),
            scale=inputs["src_scale"],
        )
    )


def _motion_parameters(fixture: Fixture) -> dict[str, Tensor]:
    inputs = fixture.inputs
    statistics = MotionStatistics(inputs["mean"][0], inputs["std"][0])
    source = _source(fixture)
    motion = statistics.to_keypoint_motion(inputs["motion"], source)
    pitch, yaw, roll = statistics.denormalise(inputs["motion"])[:, 67:, None].unbind(1)
    return {
        "prev_motion": statistics.previous_motion(source)[None],
        "rescale_ratio": statistics.size_ratio(source)[None],
        "kp_exp": motion.expression.flatten(1),
        "kp_scale": motion.scale[:, None, None],
        "kp_t": motion.translation[:, None],
        "kp_pitch": pitch,
        "kp_yaw": yaw,
        "kp_roll": roll,
        "lip_modulated": modulate_lips(inputs["motion"], inputs["standard"]),
    }


def _driving(fixture: Fixture) -> dict[str, Tensor]:
    inputs, sizes = fixture.inputs, fixture.config
    stitching = KeypointMlp(sizes["input_size"], sizes["hidden_sizes"], sizes["output_size"])
    weights.load_renamed(stitching, fixture.weights, weights.KEYPOINT_MLP, fixture.module)
    face = _source(fixture)
    source = transform(face.canonical, face.motion)
    angles = [inputs[f"drv_{name}"][:, 0] for name in ("pitch", "yaw", "roll")]
    driver = with_sliders(
        KeypointMotion(
            inputs["drv_exp"].view(-1, 21, 3), rotation_matrix(*angles), inputs["drv_scale"][:, 0], inputs["drv_t"]
        ),
        **RELEASED_GAZE,
    )
    absolute = drive(face.canonical, face.motion, driver)
    eyes = drive(face.canonical, face.motion, driver, region="eyes")
    relative = drive(face.canonical, face.motion, driver, relative=True)
    lips = drive(face.canonical, face.motion, driver, relative=True, region="lips")
    return {
        "x_s": source,
        "x_d_absolute_all": stitch(stitching, source, absolute),
        "x_d_absolute_all_nostitch": absolute,
        "x_d_absolute_eyes": eyes,
        "x_d_relative_all": stitch(stitching, source, match_amplitude(source, relative)),
        "x_d_relative_lip": lips,
        "x_d_relative_pose_friendly": stitch(stitching, source, relative),
    }


def _filters(fixture: Fixture) -> dict[str, Tensor]:
    sizes = fixture.config
    x, pose = (fixture.inputs[name].numpy() for name in ("x", "pose"))
    return {
        "kalman": torch.from_numpy(filters.kalman_smooth(x, sizes["observation_variance"], sizes["process_variance"])),
        "ema": torch.from_numpy(filters.exponential_average(pose, sizes["ema_alpha"])),
    }


def _crop_geometry(fixture: Fixture) -> dict[str, Tensor]:
    inputs = {name: value.numpy() for name, value in fixture.inputs.items()}
    mask = inputs["mask"][..., 0] / np.float32(255)
    height, width = inputs["image"].shape[:2]
    out = {
        "eye_ratio": crop.eye_ratios(inputs["pts203"])[None],
        "lip_ratio": np.array([[crop.lip_ratio(inputs["pts203"])]]),
        "motion_multiplier": np.array([motion_multiplier(fixture.inputs["hull_a"][0], fixture.inputs["hull_b"][0])]),
        "mask_ori": np.repeat(cv2.warpAffine(mask, inputs["M_c2o"][:2], (width, height))[..., None], 3, axis=2),
        "pasted": crop.paste_back(inputs["image"], inputs["crop"], inputs["M_c2o"], mask),
    }
    for name in ("pts203", "pts106", "pts68", "pts5"):
        points = inputs[name]
        source = crop.face_square(points, crop.SOURCE)
        ones = np.column_stack([points, np.ones(len(points))])
        out |= {
            f"{name}_source_o2c": source.photo_to_crop,
            f"{name}_c2o": source.crop_to_photo,
            f"{name}_pts_crop": ones @ source.photo_to_crop.T,
            f"{name}_landmark_o2c": crop.face_square(points, crop.LANDMARK_NETWORK).photo_to_crop,
            f"{name}_bbox": crop.face_square(points, crop.DRIVING).corners,
        }
    return {name: torch.from_numpy(np.asarray(value)) for name, value in out.items()}


EVALUATORS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    "keypoint_transform": _keypoint_transform,
    "motion_parameters": _motion_parameters,
    "driving": _driving,
    "filters": _filters,
    "crop_geometry": _crop_geometry,
}
# Another bilinear warp may round to the next of 256 levels.
TOLERANCES = {"crop_geometry": {"pasted": _UINT8_STEP, "mask_ori": _UINT8_STEP / 255}}
