"""Our warping renderer on the recorded numbers of the published one; see `parity_moda`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from loquent.models.moda.renderer import weights
from loquent.models.moda.renderer.appearance import AppearanceExtractor
from loquent.models.moda.renderer.config import (
    PUBLISHED,
    AppearanceConfig,
    DecoderConfig,
    DenseMotionConfig,
    MotionExtractorConfig,
    WarpingConfig,
)
from loquent.models.moda.renderer.decoder import SpadeDecoder
from loquent.models.moda.renderer.dense_motion import DenseMotionNetwork
from loquent.models.moda.renderer.motion_extractor import MotionExtractor
from loquent.models.moda.renderer.retargeting import KeypointMlp, eye_network, lip_network, stitching_network
from loquent.models.moda.renderer.warping import WarpingNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from loquent.evaluation.fixtures import Fixture

N = TypeVar("N", bound=torch.nn.Module)


def _loaded(network: N, fixture: Fixture, table: Mapping[str, str]) -> N:
    weights.load_renamed(network, fixture.weights, table, fixture.module)
    return network.eval()


def _appearance(fixture: Fixture) -> dict[str, Tensor]:
    sizes = fixture.config
    config = AppearanceConfig(
        width=sizes["block_expansion"],
        max_width=sizes["max_features"],
        num_halvings=sizes["num_down_blocks"],
        volume_channels=sizes["reshape_channel"],
        volume_depth=sizes["reshape_depth"],
        num_volume_blocks=sizes["num_resblocks"],
    )
    network = _loaded(AppearanceExtractor(config), fixture, weights.APPEARANCE)
    return {"feature": network(fixture.inputs["image"])}


def _motion_extractor(fixture: Fixture) -> dict[str, Tensor]:
    sizes = fixture.config
    config = MotionExtractorConfig(
        depths=tuple(sizes["depths"]),
        widths=tuple(sizes["dims"]),
        num_keypoints=sizes["num_kp"],
        num_bins=sizes["num_bins"],
    )
    motion = _loaded(MotionExtractor(config), fixture, weights.MOTION_EXTRACTOR)(fixture.inputs["image"])
    return {
        "kp": motion.keypoints.flatten(1),
        "exp": motion.expression.flatten(1),
        "pitch": motion.pitch,
        "yaw": motion.yaw,
        "roll": motion.roll,
        "t": motion.translation,
        "scale": motion.scale,
    }


def _dense_motion_config(sizes: Mapping[str, int], num_keypoints: int, volume_channels: int) -> DenseMotionConfig:
    return DenseMotionConfig(
        num_keypoints=num_keypoints,
        volume_channels=volume_channels,
        volume_depth=sizes["reshape_depth"],
        compressed_channels=sizes["compress"],
        width=sizes["block_expansion"],
        max_width=sizes["max_features"],
        num_halvings=sizes["num_blocks"],
    )


def _dense_motion(fixture: Fixture) -> dict[str, Tensor]:
    config = _dense_motion_config(fixture.config, fixture.config["num_kp"], fixture.config["feature_channel"])
    network = _loaded(DenseMotionNetwork(config), fixture, weights.DENSE_MOTION)
    motion = network(*(fixture.inputs[name] for name in ("feature", "kp_driving", "kp_source")))
    return {"mask": motion.mask, "deformation": motion.flow, "occlusion_map": motion.occlusion}


def _warping(fixture: Fixture) -> dict[str, Tensor]:
    sizes = fixture.config
    dense = _dense_motion_config(sizes["dense_motion_params"], sizes["num_kp"], sizes["reshape_channel"])
    config = WarpingConfig(
        dense_motion=dense,
        map_channels=sizes["block_expansion"] * 2 ** sizes["num_down_blocks"],
    )
    network = _loaded(WarpingNetwork(config), fixture, weights.WARPING)
    out = network(*(fixture.inputs[name] for name in ("feature", "kp_driving", "kp_source")))
    return {"out": out.features, "deformation": out.motion.flow, "occlusion_map": out.motion.occlusion}


def _decoder(fixture: Fixture) -> dict[str, Tensor]:
    sizes = fixture.config
    config = DecoderConfig(
        map_channels=min(sizes["max_features"], sizes["block_expansion"] * 2 ** sizes["num_down_blocks"]),
        last_channels=sizes["out_channels"],
        upscale=sizes["upscale"],
    )
    return {"image": _loaded(SpadeDecoder(config), fixture, weights.DECODER)(fixture.inputs["feature"])}


def _keypoint_mlp(fixture: Fixture) -> dict[str, Tensor]:
    sizes = fixture.config
    network = KeypointMlp(sizes["input_size"], sizes["hidden_sizes"], sizes["output_size"])
    return {"y": _loaded(network, fixture, weights.KEYPOINT_MLP)(fixture.inputs["x"])}


def _key_loader(build: Callable[[], nn.Module], table: Mapping[str, str]) -> Callable[[dict[str, Tensor]], None]:
    def load(state: dict[str, Tensor]) -> None:
        with torch.device("meta"):
            weights.load_renamed(build(), state, table, "released key list")

    return load


EVALUATORS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    "appearance_feature_extractor": _appearance,
    "motion_extractor": _motion_extractor,
    "dense_motion": _dense_motion,
    "warping_network": _warping,
    "spade_decoder": _decoder,
    "stitching_mlp": _keypoint_mlp,
    "retarget_lip": _keypoint_mlp,
    "retarget_eye": _keypoint_mlp,
}
KEY_LOADERS: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "appearance_feature_extractor": _key_loader(lambda: AppearanceExtractor(PUBLISHED.appearance), weights.APPEARANCE),
    "motion_extractor": _key_loader(lambda: MotionExtractor(PUBLISHED.motion), weights.MOTION_EXTRACTOR),
    "warping_network": _key_loader(lambda: WarpingNetwork(PUBLISHED.warping), weights.WARPING),
    "spade_decoder": _key_loader(lambda: SpadeDecoder(PUBLISHED.decoder), weights.DECODER),
    "stitching_mlp": _key_loader(stitching_network, weights.KEYPOINT_MLP),
    "retarget_lip": _key_loader(lip_network, weights.KEYPOINT_MLP),
    "retarget_eye": _key_loader(eye_network, weights.KEYPOINT_MLP),
}
