"""All networks of the warping renderer as one unit, with its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn

from loquent.models.moda.renderer import weights
from loquent.models.moda.renderer.appearance import AppearanceExtractor
from loquent.models.moda.renderer.config import RendererConfig
from loquent.models.moda.renderer.decoder import SpadeDecoder
from loquent.models.moda.renderer.motion_extractor import MotionExtractor
from loquent.models.moda.renderer.retargeting import eye_network, lip_network, stitching_network
from loquent.models.moda.renderer.warping import WarpingNetwork
from loquent.nn.weights import load_exactly, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class RendererNetworks(nn.Module):
    """The four large networks and the three small ones that correct keypoints."""

    def __init__(self, config: RendererConfig) -> None:
        super().__init__()
        self.config = config
        num_keypoints = config.motion.num_keypoints
        self.appearance = AppearanceExtractor(config.appearance)
        self.motion = MotionExtractor(config.motion)
        self.warping = WarpingNetwork(config.warping)
        self.decoder = SpadeDecoder(config.decoder)
        self.stitching = stitching_network(num_keypoints)
        self.lips = lip_network(num_keypoints)
        self.eyes = eye_network(num_keypoints)

    @staticmethod
    def from_pretrained(folder: Path) -> RendererNetworks:
        """Loads config.json and model.safetensors, ready for inference.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        config = RendererConfig.load(folder / _CONFIG)
        state = read_weights(folder / _WEIGHTS)
        with torch.device("meta"):  # takes the tensors over, without drawing weights first
            networks = RendererNetworks(config)
        load_exactly(networks, state, str(folder / _WEIGHTS))
        return networks.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save(folder / _CONFIG)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)

    def load_published(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Loads published state dicts, one for each part.

        Args:
            states: "appearance", "motion", "warping", "decoder", "stitching", "lips", "eyes" -> published state dict.

        Raises:
            WeightsError: one does not fit.
        """
        tables = {
            "appearance": weights.APPEARANCE,
            "motion": weights.MOTION_EXTRACTOR,
            "warping": weights.WARPING,
            "decoder": weights.DECODER,
            "stitching": weights.KEYPOINT_MLP,
            "lips": weights.KEYPOINT_MLP,
            "eyes": weights.KEYPOINT_MLP,
        }
        for part, table in tables.items():
            weights.load_renamed(self.get_submodule(part), states[part], table, f"the published {part} file")
