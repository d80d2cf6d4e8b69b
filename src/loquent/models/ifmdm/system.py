"""IF-MDM in one piece: its renderer and its motion transformer, as `loquent.systems` hands them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from loquent.errors import ControlsError, WeightsError
from loquent.models.ifmdm.config import AutoencoderConfig, MotionConfig
from loquent.models.ifmdm.drawing import DETAIL, PortraitDrawer
from loquent.models.ifmdm.generate import SPACE, ImplicitMotionGenerator
from loquent.models.ifmdm.portrait import ImplicitRenderer, PortraitReader
from loquent.models.ifmdm.statistics import STARTER_SETTINGS, Statistics, get_setting
from loquent.models.ifmdm.weights import load_autoencoder, load_steering
from loquent.options import parse_options
from loquent.speech.encoder import SUBFRAMES, LogMelEncoder
from loquent.systems import WEIGHTS_DIR, System

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loquent.models.ifmdm.autoencoder import Autoencoder
    from loquent.models.ifmdm.statistics import StatisticsRule, WindowStart
    from loquent.types import Portrait, SpeechEncoder

PUBLISHED_ENCODER = "facebook/wav2vec2-base-960h"


@dataclass(frozen=True, kw_only=True)
class IfmdmOptions:
    """Motion statistics for the whole video; a control track says them for each window instead.

    Raises:
        ControlsError: an unknown setting, or a deviation below 0.
    """

    statistics: str = "free"  # a name of `statistics.SETTINGS`
    motion_mean: float | None = None  # in every dimension, instead of what the setting says
    motion_std: float | None = None  # 0.06 is that of everyday speech

    def __post_init__(self) -> None:
        get_setting(self.statistics, STARTER_SETTINGS)
        if self.motion_std is not None and not 0 < self.motion_std <= 10:
            raise ControlsError(f"motion_std is {self.motion_std}; choose a number above 0 and up to 10")

    def rule(self) -> StatisticsRule:
        setting = get_setting(self.statistics, STARTER_SETTINGS)

        def statistics(start: WindowStart) -> Statistics:
            asked = setting(start)
            mean = asked.mean if self.motion_mean is None else torch.full_like(asked.mean, self.motion_mean)
            std = asked.std if self.motion_std is None else torch.full_like(asked.std, self.motion_std)
            return Statistics(mean, std)

        return statistics


@dataclass(frozen=True, eq=False)
class ImplicitSystem:
    """The loaded networks.

    Args:
        renderer: stage 1.
        generator: stage 2, reading portraits with that renderer.
        encoder: what the transformer hears.
        crop_px: side at which the head square is drawn; a renderer with an output stage draws any multiple of its own.
    """

    renderer: Autoencoder
    generator: ImplicitMotionGenerator
    encoder: SpeechEncoder
    crop_px: int

    @staticmethod
    def from_pretrained(
        renderer: Path, motion: Path, encoder: SpeechEncoder, crop_px: int | None = None, device: str = "cpu"
    ) -> ImplicitSystem:
        """Loads both folders; a `crop_px` of None is the renderer's own size.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        network = load_autoencoder(renderer, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        reader = PortraitReader(network, load_steering(renderer))
        generator = ImplicitMotionGenerator.from_pretrained(motion, reader, device)
        return ImplicitSystem(network, generator, encoder, crop_px or network.config.output_px)

    def as_system(self, name: str, device: str, options: IfmdmOptions | None = None) -> System:
        """The system under a name, with options of its own."""
        drawer = PortraitDrawer(self.renderer, DETAIL)

        def make_renderer(portrait: Portrait, size: int | None) -> ImplicitRenderer:
            return ImplicitRenderer(drawer, self.crop_px, portrait, size, device)

        def configure(values: Mapping[str, Any]) -> System:
            return self.as_system(name, device, parse_options(IfmdmOptions, values, name))

        return System(
            name=name,
            encoder=self.encoder,
            generator=self.generator if options is None else self.generator.with_statistics(options.rule()),
            make_renderer=make_renderer,
            device=device,
            space=SPACE,
            configure=configure,
        )


def load_ifmdm(name: str, weights: Path, device: str = "cpu", crop_px: int | None = None) -> System:
    """The system with a transformer's weights, which the shipped renderer draws, or with both networks' weights.

    Args:
        weights: folder of the transformer, whose codes must be of the shipped renderer; or one that holds the folders
            `renderer` and `motion`, such as the weights of one's own two runs.
        crop_px: as for `ImplicitSystem.from_pretrained`.

    Raises:
        WeightsError: a file is missing or does not fit.
        MissingExtraError: another speech encoder is needed; see `open_encoder`.
    """
    whole = (weights / "motion").is_dir()
    renderer, motion = (
        (weights / "renderer", weights / "motion") if whole else (WEIGHTS_DIR / "ifmdm-renderer", weights)
    )
    config, drawn = MotionConfig.load(motion / "config.json"), AutoencoderConfig.load(renderer / "config.json")
    if config.motion_dim != drawn.motion_dim:
        raise WeightsError(
            f"{motion} writes codes of {config.motion_dim} numbers, {renderer} reads {drawn.motion_dim}; "
            f"use the renderer that the codes were read with"
        )
    encoder = open_encoder(config, device)
    return ImplicitSystem.from_pretrained(renderer, motion, encoder, crop_px, device).as_system(name, device)


def open_encoder(config: MotionConfig, device: str = "cpu") -> SpeechEncoder:
    """What a transformer hears: our own encoder where its features are as many, or else the last layer of wav2vec 2.0.

    The published encoder is not named; 768 numbers, 50 times a second, are those of wav2vec 2.0 base.

    Raises:
        MissingExtraError: it is to be fetched from the Hugging Face Hub, and the extra is not installed.
    """
    own = LogMelEncoder.from_pretrained(WEIGHTS_DIR / "speech-encoder")
    if config.vectors_per_frame * config.audio_dim == SUBFRAMES * own.network.config.feature_dim:
        return own
    from loquent.speech.pretrained import PretrainedEncoder

    return PretrainedEncoder.from_pretrained(
        PUBLISHED_ENCODER, [-1], vectors_per_row=config.vectors_per_frame, device=device
    )
