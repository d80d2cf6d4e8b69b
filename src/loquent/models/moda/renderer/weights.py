"""Published names of the renderer's tensors to ours.

Spectral norm is folded: `weight_orig`, `weight_u` and `weight_v` become one weight.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from loquent.errors import WeightsError
from loquent.nn.weights import load_exactly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

# Published -> ours. {} is a number; the rest of a name (weight, bias, running_mean, ...) follows the last dot.
APPEARANCE = {
    "first.": "stem.",
    "down_blocks.{}.": "down.{}.",
    "second.": "to_volume.",
    "resblocks_3d.3dr{}.": "volume_blocks.{}.",
}
MOTION_EXTRACTOR = {
    "detector.downsample_layers.0.0.": "downsamplers.0.conv.",
    "detector.downsample_layers.0.1.": "downsamplers.0.norm.",
    "detector.downsample_layers.{}.0.": "downsamplers.{}.norm.",
    "detector.downsample_layers.{}.1.": "downsamplers.{}.conv.",
    "detector.stages.{}.{}.dwconv.": "stages.{}.{}.depthwise.",
    "detector.stages.{}.{}.norm.": "stages.{}.{}.norm.",
    "detector.stages.{}.{}.pwconv1.": "stages.{}.{}.expand.",
    "detector.stages.{}.{}.grn.": "stages.{}.{}.response.",
    "detector.stages.{}.{}.pwconv2.": "stages.{}.{}.project.",
    "detector.norm.": "norm.",
    "detector.fc_kp.": "heads.keypoints.",
    "detector.fc_scale.": "heads.scale.",
    "detector.fc_pitch.": "heads.pitch.",
    "detector.fc_yaw.": "heads.yaw.",
    "detector.fc_roll.": "heads.roll.",
    "detector.fc_t.": "heads.translation.",
    "detector.fc_exp.": "heads.expression.",
}
DENSE_MOTION = {
    "compress.": "compress.conv.",
    "norm.": "compress.norm.",
    "hourglass.encoder.down_blocks.{}.": "hourglass.down.{}.",
    "hourglass.decoder.up_blocks.{}.": "hourglass.up.{}.",
    "hourglass.decoder.": "hourglass.out.",
    "mask.": "mask.",
    "occlusion.": "occlusion.",
}
WARPING = {f"dense_motion_network.{published}": f"dense_motion.{ours}" for published, ours in DENSE_MOTION.items()} | {
    "third.": "flatten.",
    "fourth.": "mix.",
}
_SPADE_BLOCK = {
    "conv_0.": "conv0.",
    "conv_1.": "conv1.",
    "conv_s.": "conv_shortcut.",
    "norm_0.mlp_shared.0.": "norm0.shared.",
    "norm_0.mlp_gamma.": "norm0.gamma.",
    "norm_0.mlp_beta.": "norm0.beta.",
    "norm_1.mlp_shared.0.": "norm1.shared.",
    "norm_1.mlp_gamma.": "norm1.gamma.",
    "norm_1.mlp_beta.": "norm1.beta.",
    "norm_s.mlp_shared.0.": "norm_shortcut.shared.",
    "norm_s.mlp_gamma.": "norm_shortcut.gamma.",
    "norm_s.mlp_beta.": "norm_shortcut.beta.",
}
DECODER = {
    "fc.": "stem.",
    **{f"G_middle_{{}}.{published}": f"middle.{{}}.{ours}" for published, ours in _SPADE_BLOCK.items()},
    **{f"up_{{}}.{published}": f"up.{{}}.{ours}" for published, ours in _SPADE_BLOCK.items()},
    "conv_img.0.": "to_picture.",  # with pixel shuffle after it
    "conv_img.": "to_picture.",  # without
}
KEYPOINT_MLP = {"mlp.{}.": "layers.{}."}  # every second number is an activation

_ORIG, _U, _V = "weight_orig", "weight_u", "weight_v"


def rename(state: Mapping[str, Tensor], table: Mapping[str, str], network: str) -> dict[str, Tensor]:
    """A published state dict under our names, spectral norm folded.

    Args:
        state: published names, with or without the prefix `module.` of a parallel wrapper.
        table: one of the tables above.
        network: for the error.

    Raises:
        WeightsError: the table does not know a name.
    """
    patterns = [(re.compile(re.escape(name).replace(r"\{\}", r"(\d+)")), ours) for name, ours in table.items()]
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    renamed = {_rename(name, patterns, network): tensor for name, tensor in fold_spectral_norm(plain).items()}
    if table is KEYPOINT_MLP:
        return {_halve_number(name): tensor for name, tensor in renamed.items()}
    return renamed


def _rename(name: str, patterns: list[tuple[re.Pattern[str], str]], network: str) -> str:
    for pattern, ours in patterns:
        if match := pattern.match(name):
            return ours.format(*match.groups()) + name[match.end() :]
    raise WeightsError(f"tensor {name!r} does not belong to the {network}; check that this is its checkpoint")


def _halve_number(name: str) -> str:
    layers, number, kind = name.split(".")
    return f"{layers}.{int(number) // 2}.{kind}"


def fold_spectral_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replaces each triplet by weight_orig / (uᵀ·W·v), W flattened to (out, rest); other tensors pass.

    Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", equation 8.
    """
    folded = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if kind == _ORIG:
            u, v = state[f"{stem}.{_U}"].float(), state[f"{stem}.{_V}"].float()
            folded[f"{stem}.weight"] = tensor / (u @ (tensor.flatten(1).float() @ v))
        elif kind not in (_U, _V):
            folded[name] = tensor
    return folded


def load_renamed(network: nn.Module, state: Mapping[str, Tensor], table: Mapping[str, str], source: str) -> None:
    """Loads a published state dict; it must fit without a gap.

    Raises:
        WeightsError: it does not.
    """
    load_exactly(network, rename(state, table, type(network).__name__), source)
