"""Speech features to face parameters with AToM: landmark motion, fitted to the portrait's face.

AToM moves 68 landmarks of a head that stands still. Its motion is fitted to ARKit weights (`face_fit`), so controls,
export and both renderers work on it; head, gaze and the moments of blinks, of which landmarks say nothing, come from
the starter system's generator, which hears the same speech.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.models.moditalker.atom import AtomDenoiser
from loquent.models.moditalker.atom_sampling import AtomSampler, AtomSettings
from loquent.models.moditalker.config import AtomConfig
from loquent.models.moditalker.face_fit import ExpressionPrior, FaceFit
from loquent.models.moditalker.landmarks import canonical_of_expression, to_vector
from loquent.motion.blinks import BlinkLayer
from loquent.motion.face_model import fit_face, without_expression
from loquent.motion.pauses import FACE_PARAMETERS, LipClock, PauseLayer
from loquent.nn.weights import load_exactly, read_weights, write_weights
from loquent.types import ARKIT_NAMES, Motion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from loquent.models.moda.generate import MotionFlowGenerator
    from loquent.types import Controls, Portrait, SpeechFeatures

logger = logging.getLogger(__name__)

GUIDANCE = 2.0  # published
PAUSES = LipClock(before_end=0.12, still=0.0, settled=0.20, early=0.14)  # AToM's lips begin earlier and settle later
HEAD_STEPS = 5  # of the generator that moves the head; more cannot be told apart
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MEAN, _PRECISION = "expression_mean", "expression_precision"


class AtomGenerator:
    """Samples face motion with AToM. Implements `loquent.types.MotionGenerator`.

    Args:
        network: trained on the features that `generate` is given.
        prior: of the weights that its training landmarks were made of.
        head: makes rotation, translation and gaze from the same features; None: the head stands still.
    """

    def __init__(self, network: AtomDenoiser, prior: ExpressionPrior, head: MotionFlowGenerator | None) -> None:
        self.network = network.eval()
        self.prior = prior
        self.head = head

    @staticmethod
    def from_pretrained(folder: Path, head: MotionFlowGenerator | None, device: str = "cpu") -> AtomGenerator:
        """Loads config.json and model.safetensors; the network runs on `device`, the noise is drawn on the CPU.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        network, prior = load_atom(folder)
        return AtomGenerator(network.to(device), prior, head)

    def generate(self, features: Iterable[SpeechFeatures], portrait: Portrait, controls: Controls) -> Iterator[Motion]:
        """Yields consecutive pieces of motion, together as long as the features; a window is about 3 s.

        The same seed, features and controls give the same motion. AToM is told no emotion: it reaches the head alone.
        """
        if controls.emotion != "neutral":
            logger.warning("AToM knows no emotions: %r changes only how the head moves", controls.emotion)
        pauses = PauseLayer(FACE_PARAMETERS, PAUSES)
        for_face, for_head = itertools.tee(pauses.listen(features))
        if self.head is None:
            heads = (Motion.neutral(len(block.values)) for block in for_head)
        else:
            heads = self.head.sample(for_head, replace(controls, steps=min(controls.steps, HEAD_STEPS), guidance=1.0))
        faces = self._faces(for_face, portrait, controls)
        blinks = BlinkLayer(controls, np.random.default_rng(controls.seed))
        return blinks.apply(pauses.apply(_on_heads(faces, heads)))

    def _faces(
        self, features: Iterable[SpeechFeatures], portrait: Portrait, controls: Controls
    ) -> Iterator[np.ndarray]:
        """ARKit weights (t, 52)."""
        config = self.network.config
        shape = without_expression(fit_face(portrait.face.landmarks))
        fit = FaceFit(shape, self.prior)
        neutral = canonical_of_expression(shape, np.zeros((1, len(ARKIT_NAMES))))[0]
        reference = torch.from_numpy(to_vector(neutral, config.vector_scale))
        random = torch.Generator().manual_seed(controls.seed)
        sampler = AtomSampler(
            self.network,
            AtomSettings(
                steps=controls.steps,
                guidance=GUIDANCE if controls.guidance is None else controls.guidance,
                spacing="fine",
            ),
        )
        pieces = sampler.sample(
            (
                torch.from_numpy(block.values).reshape(len(block.values), config.vectors_per_frame, -1)
                for block in features
            ),
            landmark=reference.to(next(self.network.parameters()).device),
            draw_noise=lambda: torch.randn(config.num_frames, len(reference), generator=random),
        )
        for piece in pieces:
            displacement = (piece.cpu() - reference).double().numpy() / config.vector_scale
            yield fit.fit(displacement)


def _on_heads(faces: Iterable[np.ndarray], heads: Iterable[Motion]) -> Iterator[Motion]:
    """Motion whose weights are `faces` (t, 52) and whose head and gaze are those of `heads`, as long as both."""
    heads = iter(heads)
    held: Motion | None = None
    for face in faces:
        while held is None or len(held) < len(face):
            more = next(heads)
            held = more if held is None else Motion.concatenate([held, more])
        yield replace(held[: len(face)], expression=face)
        held = held[slice(len(face), None)]


def load_atom(folder: Path) -> tuple[AtomDenoiser, ExpressionPrior]:
    """The network and the prior of its weights, from config.json and model.safetensors.

    Raises:
        WeightsError: a file is missing or does not fit.
    """
    config = AtomConfig.load(folder / _CONFIG)
    state = read_weights(folder / _WEIGHTS)
    prior = ExpressionPrior.broad()
    if _MEAN in state and _PRECISION in state:
        prior = ExpressionPrior(state.pop(_MEAN).double().numpy(), state.pop(_PRECISION).double().numpy())
    network = AtomDenoiser(config)
    load_exactly(network, state, str(folder / _WEIGHTS))
    return network, prior


def save_atom(network: AtomDenoiser, prior: ExpressionPrior, folder: Path) -> None:
    """Writes config.json and model.safetensors, in half precision but for the prior."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save(folder / _CONFIG)
    of_prior = {_MEAN: prior.mean, _PRECISION: prior.precision}
    others = {name: torch.from_numpy(value).float() for name, value in of_prior.items()}
    write_weights(network, folder / _WEIGHTS, others)
