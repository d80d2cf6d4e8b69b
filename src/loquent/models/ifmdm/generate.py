"""Speech features to motion codes of one portrait: the motion transformer with trained weights.

The codes' space is "ifmdm": column m is the coefficient of the renderer's direction m, in (−1, 1), absolute. They mean
something to the renderer that they were learnt from, and to no other.

Shape letters: N frames of a window, V speech vectors of a frame, A speech channels, M motion numbers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from loquent.errors import WeightsError
from loquent.models.ifmdm.code_space import CodeSpace
from loquent.models.ifmdm.config import MotionConfig
from loquent.models.ifmdm.sampling import SamplerSettings, WindowedSampler
from loquent.models.ifmdm.statistics import Statistics, WindowStart, free, of_controls
from loquent.models.ifmdm.transformer import MotionDiffusionTransformer
from loquent.nn.weights import load_exactly
from loquent.types import MOTION_RATE_HZ, Controls, MotionCodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from loquent.models.ifmdm.statistics import StatisticsRule
    from loquent.types import Portrait, SpeechFeatures

logger = logging.getLogger(__name__)

SPACE = "ifmdm"
GUIDANCE = 1.5
OVERLAP = 8  # frames that windows share
# Spread of published codes in everyday speech, from published clips: a std of 0.1 moves 1.7 times as far as no control
# (2.14 and 1.26 grey levels from frame to frame), 0.3 moves 4.9 times as far.
USUAL_SPREAD = 0.06
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MEAN, _BASIS = "code_mean", "code_basis"
_UNUSED = ("emotion", "emotion_strength", "amount", "head", "brows", "blinks", "lips", "keep_expression")


class ImplicitMotionGenerator:
    """Samples codes with a motion transformer. Implements `loquent.types.MotionGenerator`.

    Args:
        network: the transformer.
        space: how it sees codes.
        read_portrait: the code of a portrait, (M,).
        statistics: the motion statistics where no control track says them.
    """

    def __init__(
        self,
        network: MotionDiffusionTransformer,
        space: CodeSpace,
        read_portrait: Callable[[Portrait], Tensor],
        statistics: StatisticsRule = free,
    ) -> None:
        self.network = network.eval()
        self.space = space
        self.read_portrait = read_portrait
        self.statistics = statistics

    @staticmethod
    def from_pretrained(
        folder: Path, read_portrait: Callable[[Portrait], Tensor], device: str = "cpu"
    ) -> ImplicitMotionGenerator:
        """Loads config.json and model.safetensors; the network runs on `device`, the noise is drawn on the CPU.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        config = MotionConfig.load(folder / _CONFIG)
        try:
            state = {name: value.float() for name, value in load_file(folder / _WEIGHTS).items()}
            space = CodeSpace(state.pop(_MEAN), state.pop(_BASIS))
        except (OSError, KeyError) as error:
            raise WeightsError(
                f"{folder} does not hold motion transformer weights ({error}); restore the folder"
            ) from error
        network = MotionDiffusionTransformer(config)
        load_exactly(network, state, str(folder / _WEIGHTS))
        return ImplicitMotionGenerator(network.to(device), space, read_portrait)

    def with_statistics(self, statistics: StatisticsRule) -> ImplicitMotionGenerator:
        """The same with other statistics where no control track says them."""
        return ImplicitMotionGenerator(self.network, self.space, self.read_portrait, statistics)

    def generate(
        self, features: Iterable[SpeechFeatures], portrait: Portrait, controls: Controls
    ) -> Iterator[MotionCodes]:
        """Yields consecutive pieces of codes, together as long as the features; a window is 64 frames, of which
        it shares 8 with the one before.

        Of the controls, seed, steps, guidance and the track's motion statistics have an effect. The same seed, features
        and controls give the same codes.

        Raises:
            ControlsError: statistics of another length than the codes, or a number of steps that does not divide 1000.
        """
        _warn_of_unused(controls)
        config = self.network.config
        device = next(self.network.parameters()).device
        random = torch.Generator().manual_seed(controls.seed)
        settings = SamplerSettings(
            steps=controls.steps,
            guidance=GUIDANCE if controls.guidance is None else controls.guidance,
            clip=False,
            overlap=min(OVERLAP, config.num_frames // 4),
        )
        by_track = of_controls(controls, (config.num_frames - settings.overlap) / MOTION_RATE_HZ)
        statistics = self.statistics if controls.track is None else by_track
        portrait_code = self.read_portrait(portrait)
        pieces = WindowedSampler(self.network, settings).sample(
            (self._speech(block).to(device) for block in features),
            portrait=self.space.normal(portrait_code, portrait_code).to(device),
            draw_noise=lambda: torch.randn(config.num_frames, config.motion_dim, generator=random),
            statistics=in_normal_units(statistics),
        )
        for piece in pieces:
            yield MotionCodes(self.space.codes(piece.cpu(), portrait_code).numpy(), SPACE)

    def _speech(self, block: SpeechFeatures) -> Tensor:
        """Features (t, L, C) as (t, V, A): layers side by side where the transformer takes fewer and wider ones."""
        return torch.from_numpy(block.values).flatten(1).unflatten(1, (self.network.config.vectors_per_frame, -1))


def in_normal_units(rule: StatisticsRule) -> StatisticsRule:
    """A rule that counts as published codes do, for a transformer that sees normal ones."""

    def scaled(start: WindowStart) -> Statistics:
        published = rule(WindowStart(start.window, start.portrait * USUAL_SPREAD, start.last * USUAL_SPREAD))
        return Statistics(published.mean / USUAL_SPREAD, published.std / USUAL_SPREAD)

    return scaled


def save_generator(network: MotionDiffusionTransformer, space: CodeSpace, folder: Path) -> None:
    """Writes config.json and model.safetensors, in half precision but for the space."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save(folder / _CONFIG)
    state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(state | {_MEAN: space.mean, _BASIS: space.basis.contiguous()}, folder / _WEIGHTS)


def _warn_of_unused(controls: Controls) -> None:
    plain = Controls()
    changed = [name for name in _UNUSED if getattr(controls, name) != getattr(plain, name)]
    if changed:
        logger.warning(
            "implicit codes hold the whole face at once, so %s has no effect here; motion statistics do",
            ", ".join(changed),
        )
