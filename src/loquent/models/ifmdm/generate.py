"""Speech features to motion codes of one portrait: the motion transformer with trained weights.

The codes' space is "ifmdm": column m is the coefficient of the renderer's direction m, in (−1, 1). They mean something to
the renderer that they were learnt from, and to no other. What is sampled are moves: how far codes are from those of the
portrait's face at rest.

Shape letters: N frames of a window, V speech vectors of a frame, A speech channels, M motion numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from loquent.errors import WeightsError
from loquent.models.ifmdm.behaviour import apply_amounts, apply_blinks, pause_layer, press_lips
from loquent.models.ifmdm.code_space import CodeSpace, MoveParts, before_tanh, lip_factor
from loquent.models.ifmdm.config import MotionConfig
from loquent.models.ifmdm.fast import FastMotionDiffusionTransformer
from loquent.models.ifmdm.sampling import SamplerSettings, WindowedSampler
from loquent.models.ifmdm.statistics import STARTER_SETTINGS, Statistics, WindowStart, free, of_controls
from loquent.models.ifmdm.transformer import MotionDiffusionTransformer
from loquent.nn.weights import load_exactly, read_weights
from loquent.types import MOTION_RATE_HZ, Controls, MotionCodes, Portrait

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm.behaviour import FaceMoves
    from loquent.models.ifmdm.statistics import StatisticsRule
    from loquent.types import SpeechFeatures

logger = logging.getLogger(__name__)

SPACE = "ifmdm"
GUIDANCE = 1.5
OVERLAP = 8  # frames that windows share
# Spread of published codes in everyday speech, from published clips: a std of 0.1 moves 1.7 times as far as no control
# (2.14 and 1.26 grey levels from frame to frame), 0.3 moves 4.9 times as far.
USUAL_SPREAD = 0.06
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MEAN, _BASIS = "code_mean", "code_basis"
_LIPS, _HEAD, _USUAL = "code_lips", "code_head", "code_usual"
_NEARLY_ZERO = 1e-6  # a wanted mean of exactly 0 would be none
_UNUSED = ("emotion", "emotion_strength", "brows")
_UNUSED_COLUMNS = (  # of a control track
    "keep_expression", "head_pitch_deg", "head_yaw_deg", "head_roll_deg", "gaze_pitch_deg", "gaze_yaw_deg",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class PortraitMoves:
    """Codes of a portrait before tanh, (M,) each."""

    photo: Tensor  # draws the photo as it is
    rest: Tensor  # the face at rest, with what is kept of the photo's expression
    face: FaceMoves | None  # None: not known of this renderer


ReadPortrait = Callable[[Portrait, float], PortraitMoves]


class ImplicitMotionGenerator:
    """Samples codes with a motion transformer. Implements `loquent.types.MotionGenerator`.

    Args:
        network: the transformer, arranged for sampling.
        space: how it sees moves.
        parts: what of a move is the lips' and the head's.
        read_portrait: what the renderer says of a portrait, given the share of its expression that is kept.
        statistics: the motion statistics where no control track says them.
    """

    def __init__(
        self,
        network: FastMotionDiffusionTransformer,
        space: CodeSpace,
        parts: MoveParts,
        read_portrait: ReadPortrait,
        statistics: StatisticsRule = free,
    ) -> None:
        self.network = network
        self.space = space
        self.parts = parts
        self.read_portrait = read_portrait
        self.statistics = statistics

    @staticmethod
    def from_pretrained(folder: Path, read_portrait: ReadPortrait, device: str = "cpu") -> ImplicitMotionGenerator:
        """Loads config.json and model.safetensors; the network runs on `device`, the noise is drawn on the CPU.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        network, space, parts = load_transformer(folder)
        fast = FastMotionDiffusionTransformer(network.to(device))
        return ImplicitMotionGenerator(fast, space, parts, read_portrait)

    def with_statistics(self, statistics: StatisticsRule) -> ImplicitMotionGenerator:
        """The same with other statistics where no control track says them."""
        return ImplicitMotionGenerator(self.network, self.space, self.parts, self.read_portrait, statistics)

    def generate(
        self, features: Iterable[SpeechFeatures], portrait: Portrait, controls: Controls
    ) -> Iterator[MotionCodes]:
        """Yields consecutive pieces of codes, together as long as the features; a window is 64 frames, of which
        it shares 8 with the one before.

        Calmed in pauses, with blinks drawn as events, both as for face parameters. Emotion and brows have no effect. The
        same seed, features and controls give the same codes.

        Raises:
            ControlsError: statistics of another length than the codes, or a number of steps that does not divide 1000.
        """
        _warn_of_unused(controls)
        read = self.read_portrait(portrait, controls.keep_expression)
        pauses = pause_layer(self.parts)
        moves = pauses.apply(self.sample(pauses.listen(features), read, controls))
        moves = apply_amounts(moves, controls, self.parts)
        if read.face is not None:
            moves = apply_blinks(press_lips(moves, read.face), controls, self.parts, read.face.closing)
        for piece in moves:
            yield MotionCodes(np.tanh(piece + read.rest.numpy()), SPACE)

    def sample(
        self, features: Iterable[SpeechFeatures], portrait: PortraitMoves, controls: Controls
    ) -> Iterator[NDArray[np.float32]]:
        """Yields the network's moves (t, M) as they are."""
        config = self.network.config
        device = self.network.positions.device
        random = torch.Generator().manual_seed(controls.seed)
        settings = SamplerSettings(
            steps=controls.steps,
            guidance=GUIDANCE if controls.guidance is None else controls.guidance,
            clip=False,
            overlap=min(OVERLAP, config.num_frames // 4),
        )
        window_s = (config.num_frames - settings.overlap) / MOTION_RATE_HZ
        statistics = of_controls(controls, window_s, self.statistics, STARTER_SETTINGS)
        pieces = WindowedSampler(self.network, settings).sample(
            (self._speech(block).to(device) for block in features),
            portrait=self.space.of_moves(portrait.photo - portrait.rest).to(device),
            draw_noise=lambda: torch.randn(config.num_frames, config.motion_dim, generator=random),
            statistics=in_normal_units(statistics, self.space, self.parts, portrait.rest),
        )
        for piece in pieces:
            yield self.space.moves(piece.cpu()).numpy()

    def _speech(self, block: SpeechFeatures) -> Tensor:
        """Features (t, L, C) as (t, V, A): layers side by side where the transformer takes fewer and wider ones."""
        return torch.from_numpy(block.values).flatten(1).unflatten(1, (self.network.config.vectors_per_frame, -1))


def in_normal_units(rule: StatisticsRule, space: CodeSpace, parts: MoveParts, rest: Tensor) -> StatisticsRule:
    """A rule about codes, for a transformer that sees normal moves of a portrait whose face at rest is `rest` (M,).

    Means are codes. Deviations count as published ones do: in multiples of what is usual, `USUAL_SPREAD`.
    """

    def code(normal: Tensor) -> Tensor:
        codes = torch.tanh(space.moves(normal.cpu()) + rest)
        return torch.where(codes == 0, _NEARLY_ZERO, codes)

    def converted(start: WindowStart) -> Statistics:
        asked = rule(WindowStart(start.window, code(start.portrait), code(start.last)))
        mean, std = torch.zeros_like(rest), torch.zeros_like(rest)
        if asked.mean.any():
            mean = space.of_moves(before_tanh(asked.mean) - rest)
        if asked.std.any():
            times = torch.where(asked.std > 0, asked.std / USUAL_SPREAD, 1.0)
            std = parts.scaled_deviation(space, lip_factor(times), times)
        return Statistics(mean.to(start.last), std.to(start.last))

    return converted


def load_transformer(folder: Path) -> tuple[MotionDiffusionTransformer, CodeSpace, MoveParts]:
    """The network, the space in which it sees codes and the parts of its moves, from config.json and model.safetensors.

    Raises:
        WeightsError: a file is missing or does not fit.
    """
    config = MotionConfig.load(folder / _CONFIG)
    state = read_weights(folder / _WEIGHTS)
    try:
        space = CodeSpace(state.pop(_MEAN), state.pop(_BASIS))
        parts = MoveParts(state.pop(_LIPS), state.pop(_HEAD), state.pop(_USUAL))
    except KeyError as error:
        raise WeightsError(
            f"{folder} does not hold motion transformer weights ({error}); restore the folder"
        ) from error
    network = MotionDiffusionTransformer(config)
    load_exactly(network, state, str(folder / _WEIGHTS))
    return network, space, parts


def save_generator(network: MotionDiffusionTransformer, space: CodeSpace, parts: MoveParts, folder: Path) -> None:
    """Writes config.json and model.safetensors, in half precision but for the space and its parts."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save(folder / _CONFIG)
    state = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    of_space = {_MEAN: space.mean, _BASIS: space.basis, _LIPS: parts.lips, _HEAD: parts.head, _USUAL: parts.usual}
    save_file(state | {name: value.contiguous() for name, value in of_space.items()}, folder / _WEIGHTS)


def _warn_of_unused(controls: Controls) -> None:
    plain = Controls()
    unused = [name for name in _UNUSED if getattr(controls, name) != getattr(plain, name)]
    if controls.track is not None:
        stated = {name for row in controls.track.rows for name in row.cells()}
        unused += [name for name in (*_UNUSED, *_UNUSED_COLUMNS) if name in stated and name not in unused]
    if unused:
        logger.warning(
            "implicit codes hold the whole face at once, so this system leaves out: %s; head, lips, blinks and motion "
            "statistics work",
            ", ".join(unused),
        )
