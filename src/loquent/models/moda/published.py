"""The published system in one piece: photo and speech to frames, with the converted official weights."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from loquent.errors import WeightsError
from loquent.face.following import follow_face, frames_to_look_at
from loquent.models.moda.codes import EYE_OPENING, LIP_OPENING, SPACE, apply_controls, make_codes, scale_parts
from loquent.models.moda.crop import CropGeometry, face_crop, mean_square
from loquent.models.moda.emotion import emotion_curve
from loquent.models.moda.fast import FastMotionTransformer
from loquent.models.moda.generate import MotionFlowGenerator
from loquent.models.moda.keypoints import driven_motion, join_motion, with_sliders
from loquent.models.moda.motion_space import (
    MOTION_DIM,
    MotionStatistics,
    keypoint_motion,
    modulate_lips,
    motion_vectors,
)
from loquent.models.moda.options import ModaOptions
from loquent.models.moda.released import GENERATOR_FOLDER, RENDERER_FOLDER, SPEECH_FOLDER
from loquent.models.moda.renderer.draw import SourcePhoto, WarpingRenderer
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.models.moda.sampling import WindowedSampler
from loquent.motion.control_track import values_at
from loquent.motion.smoothing import smooth
from loquent.options import parse_options
from loquent.speech.hubert import SAMPLES_PER_FRAME, Hubert, speech_feature_spans
from loquent.systems import System
from loquent.types import EMOTIONS, MOTION_RATE_HZ, MotionCodes, SpeechFeatures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.driving import DrivingVideo
    from loquent.models.moda.emotion import EmotionCurve
    from loquent.models.moda.keypoints import KeypointMotion
    from loquent.types import Controls, Portrait, Speech

GUIDANCE = 1.2
TAIL_FRAMES = 50  # of silence after the speech
_REST_FRAME = -37  # inside it
_PRE_EMPHASIS = 0.97
_CROPS_AT_ONCE = 64
_NARROW = 0.002  # the released grid's last step is 0.001 wide


class PublishedModa:
    """Speech encoder, motion generator and renderer of the release; implements both protocols of `loquent.types`.

    Raises:
        WeightsError: the parts do not fit together.
    """

    def __init__(
        self,
        speech: Hubert,
        generator: FastMotionTransformer,
        statistics: MotionStatistics,
        renderer: WarpingRenderer,
        options: ModaOptions | None = None,
    ) -> None:
        given = (speech.config.num_layers, speech.config.dim)
        wanted = (generator.config.audio_layers, generator.config.audio_dim)
        if given != wanted or generator.config.motion_dim != MOTION_DIM:
            raise WeightsError(
                f"the speech encoder gives {given[0]} layers of {given[1]} channels, the generator wants {wanted[0]} of "
                f"{wanted[1]} and makes {generator.config.motion_dim} numbers of {MOTION_DIM}; convert one release"
            )
        self.speech = speech.eval()
        self.generator = generator.eval()
        self.statistics = statistics
        self.renderer = renderer
        self.options = options or ModaOptions()
        reuse_below = _NARROW if self.options.skip_narrow_step else 0.0
        self._sampler = WindowedSampler(self.generator, reuse_below=reuse_below)
        self._lock = Lock()
        self._latest: tuple[Portrait, SourcePhoto] | None = None

    @staticmethod
    def from_pretrained(folder: Path, device: str = "cpu") -> PublishedModa:
        """Loads what `released.convert` wrote.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        motion = MotionFlowGenerator.from_pretrained(folder / GENERATOR_FOLDER, device)
        networks = RendererNetworks.from_pretrained(folder / RENDERER_FOLDER)
        return PublishedModa(
            Hubert.from_pretrained(folder / SPEECH_FOLDER).to(device),
            FastMotionTransformer(motion.network),
            MotionStatistics(motion.mean, motion.std),
            WarpingRenderer(networks.to(device)),
        )

    def with_options(self, options: ModaOptions) -> PublishedModa:
        """The same networks, used otherwise."""
        return PublishedModa(self.speech, self.generator, self.statistics, self.renderer, options)

    def source(self, portrait: Portrait) -> SourcePhoto:
        """What the networks say of a photo; kept for the last one, which generator and renderer both ask for."""
        with self._lock:
            if self._latest is None or self._latest[0] is not portrait:
                self._latest = portrait, self.renderer.prepare(portrait.photo.pixels, portrait.face.landmarks)
            return self._latest[1]

    def encode(self, speech: Speech) -> Iterator[SpeechFeatures]:
        """A row for every frame that covers the recording; with a silence tail, `TAIL_FRAMES` more."""
        waveform = torch.zeros(speech.num_frames() * SAMPLES_PER_FRAME)
        samples = np.array(speech.samples[: len(waveform)], np.float32)
        waveform[: len(samples)] = torch.from_numpy(samples)
        if self.options.silence_tail:
            waveform[1:] -= _PRE_EMPHASIS * waveform[:-1].clone()
            waveform = torch.cat([waveform, waveform.new_zeros(TAIL_FRAMES * SAMPLES_PER_FRAME)])
        device = next(self.speech.parameters()).device
        start = 0
        for rows in speech_feature_spans(self.speech, waveform.to(device)):
            yield SpeechFeatures(rows.cpu().numpy(), start_frame=start)
            start += len(rows)

    def generate(
        self, features: Iterable[SpeechFeatures], portrait: Portrait, controls: Controls
    ) -> Iterator[MotionCodes]:
        """Motion of the photo's face, in consecutive pieces, with the controls applied."""
        pieces = self._codes(features, portrait, controls)
        return smooth(pieces, self.options.smoothing_s) if self.options.smoothing_s else pieces

    def _codes(
        self, features: Iterable[SpeechFeatures], portrait: Portrait, controls: Controls
    ) -> Iterator[MotionCodes]:
        face, options, config = self.source(portrait).face, self.options, self.generator.config
        random = torch.Generator().manual_seed(controls.seed)
        pieces = self._sampler.sample(
            (torch.from_numpy(block.values) for block in features),
            previous=self.statistics.previous_motion(face)[0],
            emotion=_stated_emotion(controls, config.num_emotions, neutral_is_stated=options.state_neutral),
            identity=face.canonical.flatten(),
            draw_noise=lambda: torch.randn(config.num_frames, config.motion_dim, generator=random),
            steps=controls.steps,
            guidance=GUIDANCE if controls.guidance is None else controls.guidance,
        )
        if options.silence_tail:
            pieces = iter([_without_tail(torch.cat(list(pieces)), modulate=options.lip_modulation)])
        start = 0
        first: KeypointMotion | None = None
        for piece in pieces:
            driver = keypoint_motion(self.statistics.to_vectors(piece, face))
            first = first or driver.frame(0)
            joined = join_motion([first, driver])
            motion = driven_motion(face.motion, joined, relative=options.relative, region=options.region)
            vectors = motion_vectors(with_sliders(motion, **options.sliders))[1:]
            codes = make_codes(vectors, options.eye_opening, options.lip_opening)
            times_s = np.arange(start, start + len(piece)) / MOTION_RATE_HZ
            codes = apply_controls(codes, face, portrait.pose_rad, values_at(controls, times_s))
            start += len(piece)
            yield MotionCodes(codes.numpy(), SPACE)

    def follow(self, portrait: Portrait, video: DrivingVideo, controls: Controls) -> MotionCodes:
        """Motion of the photo's face that follows the person of a video, as the motion extractor sees it.

        Relative motion counts from the video's first frame, as published.

        Raises:
            VideoError: the video cannot be read.
            FaceError: it shows no face, or hides it most of the time.
        """
        face, settings = self.source(portrait).face, video.settings
        followed = follow_face(video.path, video.backend, video.model)
        driver = self._read_driver(video, mean_square(followed.landmarks))
        motion = driven_motion(face.motion, driver, relative=settings.mode == "relative", region=self.options.region)
        vectors = scale_parts(
            motion_vectors(motion),
            motion_vectors(face.motion)[0],
            expression=settings.expression,
            brows=settings.expression,
            lips=settings.lips,
            eyes=settings.eyes,
            pose=settings.pose,
        )
        codes = make_codes(vectors, self.options.eye_opening, self.options.lip_opening)
        values = values_at(controls, np.arange(len(codes)) / followed.rate_hz)
        codes = apply_controls(codes, face, portrait.pose_rad, values)
        made = MotionCodes(codes.numpy(), SPACE, followed.rate_hz)
        return MotionCodes.concatenate(list(smooth([made], settings.smoothing_s)))

    def _read_driver(self, video: DrivingVideo, square: CropGeometry) -> KeypointMotion:
        """What the person of a video does, seen through one square."""
        pieces: list[KeypointMotion] = []
        crops: list[NDArray[np.uint8]] = []
        for pixels, _ in frames_to_look_at(video.path):
            crops.append(face_crop(pixels, square))
            if len(crops) == _CROPS_AT_ONCE:
                pieces.append(self.renderer.read_faces(np.stack(crops)))
                crops.clear()
        if crops:
            pieces.append(self.renderer.read_faces(np.stack(crops)))
        return join_motion(pieces)

    def make_renderer(self, portrait: Portrait, size: int | None) -> FrameRenderer:
        """For one video."""
        return FrameRenderer(self, portrait, size)

    def draw(self, source: SourcePhoto, codes: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3) of a photo for codes (T, CODE_DIM)."""
        options, batch = self.options, self.renderer.batch
        for part in codes.split(batch):
            targets = self.renderer.targets(
                source,
                keypoint_motion(part[:, :MOTION_DIM]),
                eye_opening=part[:, EYE_OPENING],
                lip_opening=part[:, LIP_OPENING],
                stitching=options.stitching,
                strength=options.strength,
            )
            yield from self.renderer.draw(source, targets)


class FrameRenderer:
    """Draws one video of a portrait. Implements `loquent.types.Renderer`.

    Args:
        moda: networks and options.
        portrait: the photo and its face.
        size: longest side of the frames; None keeps the photo's. An odd last row or column is cut off.
    """

    def __init__(self, moda: PublishedModa, portrait: Portrait, size: int | None) -> None:
        self._moda = moda
        self._source = resized(moda.source(portrait), size)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of every frame; both even."""
        height, width = self._source.pixels.shape[:2]
        return width, height

    def render(self, motion: MotionCodes) -> Iterator[NDArray[np.uint8]]:
        """Yields one RGB frame (H, W, 3) for each row of codes."""
        return self._moda.draw(self._source, torch.from_numpy(motion.values))


def resized(source: SourcePhoto, size: int | None) -> SourcePhoto:
    """The same face in the photo at another size, its longest side in pixels, with even sides."""
    height, width = source.pixels.shape[:2]
    pixels, to_new = source.pixels, np.eye(3)
    if size is not None and size != max(height, width):
        zoom = size / max(height, width)
        new = (max(2, round(width * zoom)), max(2, round(height * zoom)))
        pixels = np.asarray(cv2.resize(pixels, new, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC))
        x, y = new[0] / width, new[1] / height
        to_new = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])  # pixel centres are at integers
    height, width = pixels.shape[:2]
    even = np.ascontiguousarray(pixels[: height // 2 * 2, : width // 2 * 2])
    return replace(source, pixels=even, crop_to_photo=(to_new @ source.crop_to_photo).astype(np.float32))


def _stated_emotion(controls: Controls, num_emotions: int, *, neutral_is_stated: bool) -> EmotionCurve:
    """Weights of the labels over time. The release states no emotion where nobody asks for one."""
    curve = emotion_curve(controls, num_emotions)
    neutral = EMOTIONS.index("neutral")

    def weights(first: int, num_frames: int) -> Tensor:
        labels = curve(first, num_frames)
        if not neutral_is_stated:
            labels[:, num_emotions] += labels[:, neutral]
            labels[:, neutral] = 0
        return labels

    return weights


def _without_tail(motion: Tensor, *, modulate: bool) -> Tensor:
    """Normalised motion (T, 70) of speech and the silence after it, without that silence."""
    if modulate:
        motion = modulate_lips(motion, motion[_REST_FRAME])
    return motion[:-TAIL_FRAMES]


def as_system(moda: PublishedModa, name: str, device: str) -> System:
    """The system as `loquent.systems` hands it out."""

    def configure(values: Mapping[str, Any]) -> System:
        return as_system(moda.with_options(parse_options(ModaOptions, values, name)), name, device)

    return System(
        name=name,
        encoder=moda,
        generator=moda,
        make_renderer=moda.make_renderer,
        device=device,
        space=SPACE,
        follow=moda.follow,
        configure=configure,
    )
