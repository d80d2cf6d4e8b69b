"""The published system in one piece: photo and speech to frames, with the converted official weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loquent.errors import ControlsError, WeightsError
from loquent.models.moda.generate import MotionFlowGenerator
from loquent.models.moda.motion_space import MOTION_DIM, MotionStatistics
from loquent.models.moda.released import GENERATOR_FOLDER, RENDERER_FOLDER, SPEECH_FOLDER
from loquent.models.moda.renderer.draw import DrivingOptions, WarpingRenderer
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.models.moda.sampling import WindowedSampler
from loquent.speech.hubert import Hubert, speech_features
from loquent.types import EMOTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.moda.keypoints import KeypointMotion
    from loquent.models.moda.network import MotionTransformer
    from loquent.models.moda.renderer.draw import SourcePhoto


class PublishedModa:
    """Speech encoder, motion generator and renderer of the release.

    Raises:
        WeightsError: the parts do not fit together.
    """

    def __init__(
        self, speech: Hubert, generator: MotionTransformer, statistics: MotionStatistics, renderer: WarpingRenderer
    ) -> None:
        given, wanted = (
            (speech.config.num_layers, speech.config.dim),
            (
                generator.config.audio_layers,
                generator.config.audio_dim,
            ),
        )
        if given != wanted or generator.config.motion_dim != MOTION_DIM:
            raise WeightsError(
                f"the speech encoder gives {given[0]} layers of {given[1]} channels, the generator wants {wanted[0]} of "
                f"{wanted[1]} and makes {generator.config.motion_dim} numbers of {MOTION_DIM}; convert one release"
            )
        self.speech = speech.eval()
        self.generator = generator.eval()
        self.statistics = statistics
        self.renderer = renderer

    @staticmethod
    def from_pretrained(folder: Path, batch: int = 1) -> PublishedModa:
        """Loads what `released.convert_released` wrote.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        motion = MotionFlowGenerator.from_pretrained(folder / GENERATOR_FOLDER)
        networks = RendererNetworks.from_pretrained(folder / RENDERER_FOLDER)
        return PublishedModa(
            Hubert.from_pretrained(folder / SPEECH_FOLDER),
            motion.network,
            MotionStatistics(motion.mean, motion.std),
            WarpingRenderer(networks, batch),
        )

    def generate(
        self,
        waveform: Tensor,
        source: SourcePhoto,
        *,
        emotion: str | None = None,
        emotion_strength: float = 1.0,
        seed: int = 42,
        steps: int = 10,
        guidance: float = 1.2,
    ) -> KeypointMotion:
        """Motion of the photo's face for speech (S,) at 16 kHz, one frame for every whole 40 ms.

        Args:
            waveform: mono, in [-1, 1].
            source: from `renderer.prepare`.
            emotion: one of `EMOTIONS`; None, the released default, states none.
            emotion_strength: 0 is no stated emotion, 1 the emotion.
            seed: of the noise.
            steps: of the sampler.
            guidance: 1 is none.

        Raises:
            SpeechError: less than 40 ms.
            ControlsError: unknown emotion.
        """
        config = self.generator.config
        random = torch.Generator().manual_seed(seed)
        pieces = WindowedSampler(self.generator).sample(
            [speech_features(self.speech, waveform)],
            previous=self.statistics.previous_motion(source.face)[0],
            emotion=_emotion_weights(emotion, emotion_strength, config.num_emotions),
            identity=source.face.canonical.flatten(),
            draw_noise=lambda: torch.randn(config.num_frames, config.motion_dim, generator=random),
            steps=steps,
            guidance=guidance,
        )
        return self.statistics.to_keypoint_motion(torch.cat(list(pieces)), source.face)

    def animate(
        self, source: SourcePhoto, motion: KeypointMotion, options: DrivingOptions | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3) of the photo, moved; by default with the settings of the release."""
        return self.renderer.draw(source, self.renderer.targets(source, motion, options or DrivingOptions()))


def _emotion_weights(emotion: str | None, strength: float, num_emotions: int) -> Tensor:
    """Weights of the labels and the null label, (num_emotions + 1,)."""
    weights = torch.zeros(num_emotions + 1)
    if emotion is None:
        weights[num_emotions] = 1
        return weights
    if emotion not in EMOTIONS:
        raise ControlsError(f"unknown emotion {emotion!r}; choose one of {', '.join(EMOTIONS)}")
    weights[num_emotions] = 1 - strength
    weights[EMOTIONS.index(emotion)] += strength
    return weights
