"""MoDiTalker as a system: AToM's motion, drawn by MToV or by the mesh renderer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from loquent.errors import ControlsError
from loquent.models.moditalker.config import AtomConfig
from loquent.models.moditalker.landmarks import VECTOR_DIM, canonical_of_expression, canonical_of_photo
from loquent.models.moditalker.rendering import FAST, MOTION_SPACE, VideoNetworks, VideoRenderer
from loquent.motion.face_model import fit_face
from loquent.options import parse_options
from loquent.speech.encoder import SUBFRAMES, LogMelEncoder
from loquent.systems import WEIGHTS_DIR, System
from loquent.types import MotionCodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from loquent.models.moditalker.generate import AtomGenerator
    from loquent.types import Motion, Portrait, Renderer, SpeechEncoder

PUBLISHED_ENCODER = "facebook/hubert-large-ls960-ft"
_VIDEO = WEIGHTS_DIR / "moditalker-video"


@dataclass(frozen=True, kw_only=True)
class MoDiTalkerOptions:
    """What a user may ask of the system beyond `Controls`.

    Raises:
        ControlsError: a value is out of its range.
    """

    renderer: Literal["video", "mesh"] = "video"  # video is MToV; the mesh renderer is sharper and faster
    video_steps: int = FAST.steps  # of MToV's sampler

    def __post_init__(self) -> None:
        if not 1 <= self.video_steps <= 1000:
            raise ControlsError(f"video_steps is {self.video_steps}; choose a number from 1 to 1000")


def load_moditalker(name: str, weights: Path, device: str = "cpu") -> System:
    """The system with AToM's weights of a folder, as shipped or as converted by `released`; MToV is the shipped one.
    A folder that holds the folders `atom` and `video`, such as the weights of one's own runs, takes both from there.

    Weights that were trained on our own speech encoder's features are given those; others are given the published
    encoder's, which is fetched from the Hugging Face Hub (extra `hub`), and the head then stands still.

    Raises:
        WeightsError: a file is missing or does not fit.
        MissingExtraError: the published encoder is needed, and the extra is not installed.
    """
    from loquent.models.moda.generate import MotionFlowGenerator
    from loquent.models.moditalker.generate import AtomGenerator

    whole = (weights / "atom").is_dir()
    weights, video = (weights / "atom", weights / "video") if whole else (weights, _VIDEO)
    config = AtomConfig.load(weights / "config.json")
    own = LogMelEncoder.from_pretrained(WEIGHTS_DIR / "speech-encoder")
    if config.vectors_per_frame * config.audio_dim == SUBFRAMES * own.network.config.feature_dim:
        head = MotionFlowGenerator.from_pretrained(WEIGHTS_DIR / "moda-starter", device)
        generator = AtomGenerator.from_pretrained(weights, head, device)
        return as_system(name, own, generator, MoDiTalkerOptions(), device, video)
    from loquent.speech.pretrained import PretrainedEncoder

    encoder = PretrainedEncoder.from_pretrained(
        PUBLISHED_ENCODER, [-1], vectors_per_row=config.vectors_per_frame, device=device
    )
    generator = AtomGenerator.from_pretrained(weights, None, device)
    return as_system(name, encoder, generator, MoDiTalkerOptions(), device, video)


def as_system(
    name: str,
    encoder: SpeechEncoder,
    generator: AtomGenerator,
    options: MoDiTalkerOptions,
    device: str = "cpu",
    video: Path = _VIDEO,
) -> System:
    """The system with these options; MToV's weights, of the folder `video`, are loaded when it first draws."""

    def configure(values: Mapping[str, Any]) -> System:
        return as_system(name, encoder, generator, parse_options(MoDiTalkerOptions, values, name), device, video)

    def make_renderer(portrait: Portrait, size: int | None) -> Renderer[Motion]:
        if options.renderer == "mesh":
            from loquent.render.mesh import MeshRenderer

            return MeshRenderer(portrait, size=size)
        settings = replace(FAST, steps=options.video_steps)
        return LandmarkRenderer(
            VideoRenderer(load_video(video, device), portrait, size=size, settings=settings), portrait
        )

    return System(
        name=name,
        encoder=encoder,
        generator=generator,
        make_renderer=make_renderer,
        device=device,
        configure=configure,
    )


@cache
def load_video(folder: Path, device: str) -> VideoNetworks:
    """MToV's networks.

    Raises:
        WeightsError: a file is missing or does not fit.
    """
    return VideoNetworks.from_pretrained(folder, device)


class LandmarkRenderer:
    """Lets a renderer of landmark motion draw face parameters. Implements `loquent.types.Renderer`.

    `rendering.MOTION_SPACE` is the space it turns them into.
    """

    def __init__(self, renderer: Renderer[MotionCodes], portrait: Portrait) -> None:
        self._renderer = renderer
        self._shape = fit_face(portrait.face.landmarks)
        self._photo = canonical_of_photo(self._shape)

    @property
    def size_px(self) -> tuple[int, int]:
        return self._renderer.size_px

    def render(self, motion: Motion) -> Iterator[NDArray[np.uint8]]:
        moved = (canonical_of_expression(self._shape, motion.expression) - self._photo).reshape(-1, VECTOR_DIM)
        gaze = motion.gaze.reshape(-1, 4)
        codes = np.concatenate([moved, motion.rotation, motion.translation, gaze], axis=1).astype(np.float32)
        yield from self._renderer.render(MotionCodes(codes, MOTION_SPACE, motion.rate_hz))
