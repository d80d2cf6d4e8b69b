"""Speech features to face parameters with a trained MoDA network in the explicit space of `loquent.types.Motion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.errors import WeightsError
from loquent.models.moda.config import ModaConfig
from loquent.models.moda.emotion import emotion_curve
from loquent.models.moda.network import MotionTransformer
from loquent.models.moda.sampling import WindowedSampler
from loquent.motion.blinks import BlinkLayer
from loquent.motion.pauses import FACE_PARAMETERS, PauseLayer
from loquent.nn.weights import load_exactly, read_weights, write_weights
from loquent.types import Motion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from loquent.types import Controls, Portrait, SpeechFeatures

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MEAN, _STD = "motion_mean", "motion_std"

GUIDANCE = 2.5
ARTICULATION = 0  # its place in the style vector, `loquent.data.behaviour.STYLE_NAMES`
STYLE_SPREAD = 0.3  # of the corpus' spread, so that two seeds differ as two takes do


class MotionFlowGenerator:
    """Samples motion with a MoDA network. Implements `loquent.types.MotionGenerator`.

    Args:
        network: in the explicit space (62 motion channels, identity is the corpus' style vector).
        mean: (62,), of the training motion.
        std: (62,), what one normalised unit is worth; 0 for channels that stay at their mean.
    """

    def __init__(self, network: MotionTransformer, mean: Tensor, std: Tensor) -> None:
        self.network = network.eval()
        self.mean = mean
        self.std = std
        self._sampler = WindowedSampler(network, grid="even", smooth_fades=True)

    @staticmethod
    def from_pretrained(folder: Path, device: str = "cpu") -> MotionFlowGenerator:
        """Loads config.json and model.safetensors; the network runs on `device`, the noise is drawn on the CPU.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        config = ModaConfig.load(folder / _CONFIG)
        state = read_weights(folder / _WEIGHTS)
        try:
            mean, std = state.pop(_MEAN), state.pop(_STD)
        except KeyError as error:
            raise WeightsError(f"{folder} holds no motion statistics ({error}); restore the folder") from error
        # Not on the device "meta": torch imports a compiler's worth of modules to initialise there, seconds on a processor.
        network = MotionTransformer(config)
        load_exactly(network, state, str(folder / _WEIGHTS))
        return MotionFlowGenerator(network.to(device), mean, std)

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and model.safetensors, in half precision but for the statistics."""
        folder.mkdir(parents=True, exist_ok=True)
        self.network.config.save(folder / _CONFIG)
        write_weights(self.network, folder / _WEIGHTS, {_MEAN: self.mean, _STD: self.std})

    def generate(self, features: Iterable[SpeechFeatures], portrait: Portrait, controls: Controls) -> Iterator[Motion]:
        """Yields consecutive pieces of motion, together as long as the features; a window is about 3 s.

        The network's motion, calmed in pauses (`loquent.motion.pauses`), with its blinks drawn as events
        (`loquent.motion.blinks`). The same seed, features and controls give the same motion.
        """
        pauses = PauseLayer(FACE_PARAMETERS)
        blinks = BlinkLayer(controls, np.random.default_rng(controls.seed))
        return blinks.apply(pauses.apply(self.sample(pauses.listen(features), controls)))

    def sample(self, features: Iterable[SpeechFeatures], controls: Controls) -> Iterator[Motion]:
        """Yields the network's motion as it is."""
        config = self.network.config
        random = torch.Generator().manual_seed(controls.seed)
        pieces = self._sampler.sample(
            (torch.from_numpy(block.values) for block in features),
            previous=-self.mean / self.std.clamp(min=1e-6) * (self.std > 0),  # at rest before the first frame
            emotion=emotion_curve(controls, config.num_emotions),
            identity=draw_style(config.identity_dim, random),
            draw_noise=lambda: torch.randn(config.num_frames, config.motion_dim, generator=random),
            steps=controls.steps,
            guidance=GUIDANCE if controls.guidance is None else controls.guidance,
        )
        return (self._to_motion(piece) for piece in pieces)

    def _to_motion(self, normalised: Tensor) -> Motion:
        vector = (normalised * self.std + self.mean).numpy()
        vector[:, :52] = np.clip(vector[:, :52], 0, 1)
        return Motion.from_vector(vector)


def draw_style(dim: int, random: torch.Generator) -> Tensor:
    """A clearly articulating person near the average, (dim,), a little different with every seed."""
    style = STYLE_SPREAD * torch.randn(dim, generator=random).clamp(-2, 2)
    style[ARTICULATION] += 1  # one deviation above the corpus' mean: lips that are read at a glance
    return style
