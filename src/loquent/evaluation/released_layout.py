"""Random weights in the released layout of MoDA: what the loading path is tested and timed with.

The official files may not be passed on. These have their names, nesting, prefixes and suffixes, at any size, and only
the numbers in them are random.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from loquent.models.moda.released import PREFIX, RETARGETING
from loquent.models.moda.renderer import weights
from loquent.models.moda.weights import PUBLISHED_PREFIX, rename_published
from loquent.speech.hubert import HubertConfig, rename_hubert

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from loquent.models.moda.network import MotionTransformer
    from loquent.models.moda.renderer.networks import RendererNetworks
    from loquent.speech.hubert import Hubert

# Our part -> list of released names, table of names, file.
_RENDERER = {
    "appearance": ("appearance_feature_extractor", weights.APPEARANCE, "appearance_feature_extractor.pth"),
    "motion": ("motion_extractor", weights.MOTION_EXTRACTOR, "motion_extractor.pth"),
    "warping": ("warping_network", weights.WARPING, "warping_module.pth"),
    "decoder": ("spade_decoder", weights.DECODER, "spade_generator.pth"),
}
_SMALL = {"stitching": "stitching_mlp", "lips": "retarget_lip", "eyes": "retarget_eye"}


def write_release(
    folder: Path,
    key_lists: Path,
    generator: MotionTransformer,
    renderer: RendererNetworks,
    speech: Hubert,
    statistics: Mapping[str, Tensor],
) -> None:
    """Writes networks as the release does.

    Args:
        folder: of "downloads", to write into.
        key_lists: folder of the lists of released names, `*.keys.json`.
        generator, renderer, speech: any sizes.
        statistics: "mean" and "std", (1, M).
    """

    def save(content: object, place: str) -> None:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)

    save(published_generator(generator, key_lists), "moda/net-200.pth")
    save(dict(statistics), "mean.pt")
    for part, (keys, table, file) in _RENDERER.items():
        state = published_renderer_part(renderer, part, key_lists / f"{keys}.keys.json", table)
        save(state, f"{PREFIX}base_models/{file}")
    small = {}
    for released, part in RETARGETING.items():
        keys = key_lists / f"{_SMALL[part]}.keys.json"
        state = published_renderer_part(renderer, part, keys, weights.KEYPOINT_MLP)
        small[released] = {f"module.{name}": value for name, value in state.items()}
    save(small, f"{PREFIX}retargeting_models/stitching_retargeting_module.pth")
    save(published_speech(speech, key_lists), "audio/chinese-hubert-base/pytorch_model.bin")
    config = folder / "audio/chinese-hubert-base/config.json"
    config.write_text(json.dumps(published_speech_config(speech.config)))


def _names(key_list: Path) -> list[str]:
    return list(json.loads(key_list.read_text())["keys"])


def published_generator(network: MotionTransformer, key_lists: Path) -> dict[str, Tensor]:
    """The wrapper's state dict: prefixed, with the schedule and without the null vector, as released."""
    own = network.state_dict()
    published = {rename_published(name): name for name in _names(key_lists / "talking_head_dit.keys.json")}
    state = {f"{PUBLISHED_PREFIX}{published[name]}": own[name] for name in own if name in published}
    return state | {"scheduler.sigmas": torch.linspace(1, 0.001, 1000)}


def published_renderer_part(
    networks: RendererNetworks, part: str, key_list: Path, table: Mapping[str, str]
) -> dict[str, Tensor]:
    """A part's state dict under published names, with spectral norm where the release has it."""
    published = {}
    for name in _names(key_list):
        if not name.endswith(("weight_u", "weight_v")):
            plain = {name.removesuffix("_orig"): torch.empty(0)}
            published[next(iter(weights.rename(plain, table, part)))] = name
    state = {}
    for ours, tensor in networks.get_submodule(part).state_dict().items():
        name = published[ours]
        state[name] = tensor
        if name.endswith("weight_orig"):
            flat = tensor.flatten(1)
            u = torch.ones(len(flat))
            v = flat.T @ u / (flat.T @ u).square().sum()
            state[name] = 3 * tensor  # u·W·v is then 3, so that a forgotten division shows
            state |= {f"{name.removesuffix('orig')}u": u, f"{name.removesuffix('orig')}v": v}
    return state


def published_speech(network: Hubert, key_lists: Path) -> dict[str, Tensor]:
    """The encoder's state dict, with weight norm under the names of the released file."""
    own = network.state_dict()
    stem = "encoder.pos_conv_embed.conv."
    apart = (stem, "masked_spec_embed")  # the second is of no use, yet released
    names = [name for name in _names(key_lists / "hubert_base.keys.json") if not name.startswith(apart)]
    published = {rename_hubert(name): name for name in names}
    state = {published[name]: value for name, value in own.items() if name in published}
    weight = own["position.weight"]
    norm = torch.linalg.vector_norm(weight, dim=(0, 1), keepdim=True)
    state["masked_spec_embed"] = torch.zeros(network.config.dim)
    return state | {f"{stem}weight_g": norm, f"{stem}weight_v": 2 * weight, f"{stem}bias": own["position.bias"]}


def published_speech_config(config: HubertConfig) -> dict[str, Any]:
    """config.json of the encoder's folder."""
    return {ours: getattr(config, name) for ours, name in HubertConfig.PUBLISHED_NAMES.items()}
