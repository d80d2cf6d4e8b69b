"""The one path from photo and speech to video. The command line, the Python API and the benchmarks all go through it.

Everything from the generator on is a stream: motion is made window by window in a background thread, frames are drawn
as soon as their motion exists, and the writer encodes them while the next ones are drawn.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from loquent import __version__, provenance
from loquent.errors import LoquentError, VideoError
from loquent.systems import DEFAULT_SYSTEM, System, load_system
from loquent.types import MOTION_RATE_HZ, AnyMotion, Clip, Controls, Face, Motion, Photo, Portrait, SomeMotion, Speech

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.driving import DriveSettings, DrivingVideo
    from loquent.face.analyze import FaceBackend
    from loquent.media.audio import SpeechSource
    from loquent.media.image import PictureSource
    from loquent.media.video import VideoWriter
    from loquent.types import Renderer

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Progress = Callable[[int, int], None]  # frames finished, frames in all

_PIECE_FRAMES = 250  # a motion that is known as a whole is drawn in pieces of this length


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """What a user may ask of the video; `loquent.media.video.VideoWriter` explains quality and preset.

    Raises:
        VideoError: `fps` is not a frame rate, or `size` not a number of pixels.
    """

    fps: float = MOTION_RATE_HZ  # 29.97 is kept as the 30000/1001 that is meant
    size: int | None = None  # longest side in px; None keeps the photo's
    quality: int = 80
    preset: str = "veryfast"

    def __post_init__(self) -> None:
        from loquent.media.limits import MAX_VIDEO_SIDE_PX, MIN_VIDEO_SIDE_PX
        from loquent.media.video import parse_fps

        object.__setattr__(self, "fps", float(parse_fps(self.fps)))
        if self.size is not None and not MIN_VIDEO_SIDE_PX <= self.size <= MAX_VIDEO_SIDE_PX:
            raise VideoError(
                f"size {self.size}; the video's longest side must have {MIN_VIDEO_SIDE_PX} to {MAX_VIDEO_SIDE_PX} pixels"
            )


@dataclass(frozen=True, kw_only=True)
class FaceSettings:
    """Which face is animated and what finds it; `loquent.face.analyze` explains them."""

    face: int | None = None  # 0 is the leftmost; None takes the largest
    backend: FaceBackend = "embedded"
    model: str | Path | None = None  # MediaPipe's model file


@dataclass(frozen=True)
class Work:
    """One video to make: everything is read and checked, nothing is generated yet."""

    portrait: Portrait
    speech: Speech | None  # None only together with `motion`: a silent video
    motion: Motion | None  # made elsewhere; None generates it from the speech
    controls: Controls
    video: VideoSettings
    settings: dict[str, Any]  # what re-creates the video
    drive: DrivingVideo | None = None  # whose face is followed, instead of generating motion

    @property
    def num_frames(self) -> int:
        """Frames of the video: those that cover the speech, or the motion when there is no speech.

        With a driving video, those that cover it, or the speech if that is shorter.
        """
        if self.drive is not None:
            covered = max(1, round(self.drive.duration_s * self.video.fps))
            return covered if self.speech is None else min(covered, self.speech.num_frames(self.video.fps))
        if self.speech is not None:
            return self.speech.num_frames(self.video.fps)
        assert self.motion is not None
        return max(1, round(len(self.motion) / self.motion.rate_hz * self.video.fps))


class TalkingHead:
    """A loaded system that makes photos speak.

    >>> head = TalkingHead.from_pretrained("starter")
    >>> clip = head.animate("photo.jpg", "speech.wav", output="talk.mp4")
    """

    def __init__(self, system: System, options: Mapping[str, Any] | None = None) -> None:
        self.system = system
        self.options = dict(options or {})  # with which the system was configured, for the record

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = DEFAULT_SYSTEM,
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> TalkingHead:
        """Loads a system.

        Args:
            name_or_folder: "starter" for the system shipped in the package, another name of `loquent.systems.SYSTEMS`,
                or a folder with weights. "moda" fetches the officially released files on first use.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".
            options: of this system alone, such as {"stitching": False} for "moda".

        Raises:
            LoquentError: unknown name or device.
            ControlsError: the system has no such options.
            WeightsError: the weights are missing or do not fit.
        """
        return cls(load_system(str(name_or_folder), device, options), options)

    def portrait(
        self,
        photo: PictureSource | Photo | Portrait,
        *,
        face: int | None = None,
        face_backend: FaceBackend = "embedded",
        face_model: str | Path | None = None,
    ) -> Portrait:
        """Reads a photo and finds the face to animate. Pass the result to the other methods to do this only once.

        Args:
            photo: a path, an open binary file, the file's bytes, an RGB uint8 array (H, W, 3) or a Pillow image.
            face: index of the face from the picture's left, from 0; None takes the largest.
            face_backend: "embedded", or "mediapipe" (extra) for MediaPipe's own networks.
            face_model: MediaPipe's model file, read by that backend only.

        Raises:
            PhotoError: the photo cannot be read.
            FaceError: no face, or not the wanted one.
        """
        from loquent.face.analyze import analyze
        from loquent.media.image import read_image

        if isinstance(photo, Portrait):
            return photo
        return analyze(photo if isinstance(photo, Photo) else read_image(photo), face, face_backend, face_model)

    def prepare(
        self,
        photo: PictureSource | Photo | Portrait,
        speech: SpeechSource | Speech | None = None,
        controls: Controls | None = None,
        *,
        motion: Motion | str | Path | None = None,
        drive: str | Path | None = None,
        drive_settings: DriveSettings | None = None,
        video: VideoSettings | None = None,
        face: FaceSettings | None = None,
    ) -> Work:
        """Reads and checks everything that a video needs. Arguments as in `animate`."""
        from loquent.media.audio import read_audio

        if speech is None and motion is None and drive is None:
            raise LoquentError("neither speech nor motion was given; pass a recording, or a motion to draw")
        if motion is not None and drive is not None:
            raise LoquentError("a motion and a driving video were both given; leave one out")
        face = face or FaceSettings()
        controls, video = controls or Controls(), video or VideoSettings()
        if motion is not None and controls.track is not None:
            raise LoquentError("a motion is drawn as it is, so a control track has no effect on it; leave one out")
        portrait = self.portrait(photo, face=face.face, face_backend=face.backend, face_model=face.model)
        driving = None
        if drive is not None:
            driving = self._driving_video(drive, drive_settings, face)
            speech = drive if speech is None and driving.has_sound else speech
        speech = speech if speech is None or isinstance(speech, Speech) else read_audio(speech)
        inputs = {"photo": {"name": portrait.photo.name, "sha256": portrait.photo.sha256}}
        if speech is not None:
            inputs["speech"] = {"name": speech.name, "sha256": speech.sha256}
            if controls.track is not None and controls.track.end_s > speech.duration_s:
                logger.warning(
                    "the control track goes on to %.1f s; the speech ends at %.1f s",
                    controls.track.end_s, speech.duration_s,
                )  # fmt: skip
        if motion is not None:
            self._check_speaks_arkit("draw a motion file of face parameters")
            motion, inputs["motion"] = _read_motion(motion)
        if driving is not None:
            inputs["drive"] = {"name": driving.path.name, "sha256": provenance.file_sha256(driving.path)}
        settings = describe_settings(
            inputs, self.system.name, controls, video, face, self.options, driving.settings if driving else None
        )
        return Work(portrait, speech, motion, controls, video, settings, driving)

    def _driving_video(self, path: str | Path, settings: DriveSettings | None, face: FaceSettings) -> DrivingVideo:
        from loquent.driving import DrivingVideo

        if self.system.follow is None:
            raise LoquentError(
                f"the system {self.system.name!r} cannot follow a driving video; choose the system {DEFAULT_SYSTEM!r}"
            )
        return DrivingVideo.open(path, settings, backend=face.backend, model=face.model)

    def animate(
        self,
        photo: PictureSource | Photo | Portrait,
        speech: SpeechSource | Speech | None = None,
        controls: Controls | None = None,
        output: str | Path | None = None,
        *,
        motion: Motion | str | Path | None = None,
        drive: str | Path | None = None,
        drive_settings: DriveSettings | None = None,
        fps: float = MOTION_RATE_HZ,
        size: int | None = None,
        quality: int = 80,
        preset: str = "veryfast",
        face: int | None = None,
        face_backend: FaceBackend = "embedded",
        sidecar: bool = False,
        progress: Progress | None = None,
    ) -> Clip:
        """Makes a video of the person in `photo` speaking.

        Args:
            photo: a path, an open binary file, the file's bytes, an RGB uint8 array (H, W, 3), a Pillow image, or what
                `portrait` returned.
            speech: a path, an open binary file, the file's bytes, or (samples, rate in Hz) with float samples (N,) or
                (N, channels) in [-1, 1]. May be left out when `motion` is given; the video is silent then.
            controls: seed, emotion and amounts of motion.
            output: the file to write; the suffix chooses the format: .mp4, .mov, .mkv, .webm, .gif, or none for a
                folder of PNG files. An existing file is replaced. None keeps the frames in memory, in `Clip.frames`.
            motion: draws this motion, or the one in this file (ARKit CSV or JSON), as it is, instead of generating one;
                `controls` are of no effect then.
            drive: a video whose face is followed, instead of generating motion; its sound is used where `speech` is not
                given.
            drive_settings: how it is followed.
            fps: frames a second of the video.
            size: longest side of the video in pixels; None keeps the photo's.
            quality: 1 to 100; 80 shows no loss, 50 makes small files.
            preset: the encoder's, from "ultrafast" to "slow"; slower ones make smaller files.
            face, face_backend: see `portrait`.
            sidecar: also writes what made the video as OUTPUT.json.
            progress: called after every frame with (frames finished, frames in all).

        Returns:
            The finished clip; as many frames as cover the speech at `fps`.

        Raises:
            LoquentError: one of its subclasses says which input cannot be used, and what to do.
        """
        work = self.prepare(
            photo,
            speech,
            controls,
            motion=motion,
            drive=drive,
            drive_settings=drive_settings,
            video=VideoSettings(fps=fps, size=size, quality=quality, preset=preset),
            face=FaceSettings(face=face, backend=face_backend),
        )
        return self.run(work, output, sidecar=sidecar, progress=progress)

    def stream(
        self,
        photo: PictureSource | Photo | Portrait,
        speech: SpeechSource | Speech,
        controls: Controls | None = None,
        *,
        fps: float = MOTION_RATE_HZ,
        size: int | None = None,
    ) -> Generator[NDArray[np.uint8]]:
        """The frames of `animate` as they are made: RGB uint8, (H, W, 3). Arguments and errors as there."""
        return self._frames(self.prepare(photo, speech, controls, video=VideoSettings(fps=fps, size=size)))

    def _frames(self, work: Work) -> Generator[NDArray[np.uint8]]:
        with closing(self.motion_pieces(work)) as pieces:
            renderer = self.system.make_renderer(work.portrait, work.video.size)
            for piece in pieces:
                yield from renderer.render(piece)

    def run(
        self, work: Work, output: str | Path | None, *, sidecar: bool = False, progress: Progress | None = None
    ) -> Clip:
        """Makes the video that `prepare` described. Arguments as in `animate`."""
        frames: list[NDArray[np.uint8]] = []
        with closing(self.motion_pieces(work)) as pieces:  # made from here on, while the renderer prepares the portrait
            renderer = self.system.make_renderer(work.portrait, work.video.size)
            if output is None:
                motion = _draw(pieces, renderer, frames.append, work.num_frames, progress)
            else:
                with open_writer(work, output, renderer.size_px) as writer:
                    motion = _draw(pieces, renderer, writer.write, work.num_frames, progress)
        if sidecar and output is not None:
            provenance.write_sidecar(Path(output), work.settings)
        return Clip(
            path=None if output is None else Path(output),
            fps=work.video.fps,
            num_frames=len(motion),
            size_px=renderer.size_px,
            motion=motion,
            settings=work.settings,
            frames=np.stack(frames) if frames else None,
        )

    def motion(
        self,
        speech: SpeechSource | Speech,
        photo: PictureSource | Photo | Portrait | None = None,
        controls: Controls | None = None,
        *,
        fps: float = MOTION_RATE_HZ,
        face: FaceSettings | None = None,
    ) -> Motion:
        """The face parameters that `animate` would draw, without drawing them. Arguments as there.

        Without a photo, the motion is that of an average face at rest.
        """
        self._check_speaks_arkit("give face parameters")
        portrait = average_portrait() if photo is None else photo
        work = self.prepare(portrait, speech, controls, video=VideoSettings(fps=fps), face=face)
        with closing(self.motion_pieces(work)) as pieces:
            return Motion.concatenate(list(pieces))

    def _check_speaks_arkit(self, task: str) -> None:
        if self.system.space != Motion.space:
            raise LoquentError(
                f"the system {self.system.name!r} cannot {task}: its motion is in a space of its own "
                f"({self.system.space}); choose the system {DEFAULT_SYSTEM!r}"
            )

    def motion_pieces(self, work: Work) -> Ahead[Any]:
        """Consecutive pieces of the video's motion at its own frame rate, made in a background thread. Close it."""
        from loquent.motion.controls import apply_controls
        from loquent.motion.resample import resample

        if work.motion is not None:
            return Ahead(resample(_in_pieces(work.motion), work.video.fps, work.num_frames))
        portrait, keeps = work.portrait, True
        if work.drive is not None:
            pieces, keeps = self._followed(work, work.drive), work.drive.settings.mode == "relative"
        else:
            assert work.speech is not None
            features = self.system.encoder.encode(work.speech)
            pieces = self.system.generator.generate(features, portrait, work.controls)
        if self.system.space == Motion.space:
            kept = portrait.rest_expression if keeps else None
            pieces = apply_controls(pieces, work.controls, kept, portrait.pose_rad)
        return Ahead(resample(pieces, work.video.fps, work.num_frames))

    def _followed(self, work: Work, drive: DrivingVideo) -> Iterator[Any]:
        assert self.system.follow is not None
        yield from _in_pieces(self.system.follow(work.portrait, drive, work.controls))


def _in_pieces(motion: AnyMotion) -> Iterator[Any]:
    for start in range(0, len(motion), _PIECE_FRAMES):
        yield motion[start : start + _PIECE_FRAMES]


def _draw(
    pieces: Iterable[SomeMotion],
    renderer: Renderer[SomeMotion],
    take: Callable[[NDArray[np.uint8]], None],
    num_frames: int,
    progress: Progress | None,
) -> SomeMotion:
    """Draws every frame, hands each to `take`, and returns the motion that was drawn."""
    drawn: list[SomeMotion] = []
    done = 0
    for piece in pieces:
        drawn.append(piece)
        for frame in renderer.render(piece):
            take(frame)
            done += 1
            if progress is not None:
                progress(done, num_frames)
    return drawn[0].with_vector(np.concatenate([piece.to_vector() for piece in drawn]), drawn[0].rate_hz)


def open_writer(work: Work, output: str | Path, size_px: tuple[int, int]) -> VideoWriter:
    """The writer for a video; nothing is written before it is entered.

    Raises:
        VideoError: the video cannot be written there, or not as asked.
    """
    from loquent.media.video import VideoWriter

    return VideoWriter(
        output,
        size_px,
        fps=work.video.fps,
        speech=work.speech,
        quality=work.video.quality,
        preset=work.video.preset,
        metadata=provenance.metadata(work.settings),
    )


def describe_settings(
    inputs: dict[str, dict[str, str]],
    system: str,
    controls: Controls,
    video: VideoSettings,
    face: FaceSettings,
    options: Mapping[str, Any] | None = None,
    drive: DriveSettings | None = None,
) -> dict[str, Any]:
    """Everything that re-creates a video; plain values, fit for JSON.

    Args:
        inputs: name and sha256 of each of photo, speech, motion and driving video that is used.
        system: name of the system.
        controls, video, face: as used.
        options: of this system alone.
        drive: how a driving video is followed.
    """
    stated = {"options": {name: str(value) for name, value in options.items()}} if options else {}
    if drive is not None:
        stated["drive"] = asdict(drive)
    return {
        "loquent": __version__,
        "system": system,
        "inputs": inputs,
        "controls": controls.as_dict(),
        "video": asdict(video),
        "face": {"face": face.face, "backend": face.backend},
        **stated,
    }


class Ahead(Generic[Item]):
    """Iterates over items that a background thread makes, at most `depth` items ahead of what is taken.

    The thread starts at once. An error in it is raised where the item would be taken. `close` ends it after the item
    that it is making.
    """

    def __init__(self, items: Iterator[Item], depth: int = 1) -> None:
        self._items = items
        self._made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._make, name="loquent-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Ahead[Item]:
        return self

    def __next__(self) -> Item:
        if self._stopped.is_set():
            raise StopIteration
        item, error = self._made.get()
        if error is not None:
            self.close()
            raise error
        assert item is not None
        return item

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _make(self) -> None:
        try:
            for item in self._items:
                self._put(item, None)
                if self._stopped.is_set():
                    return
            self._put(None, StopIteration())
        except BaseException as error:
            self._put(None, error)

    def _put(self, item: Item | None, error: BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._made.put((item, error), timeout=0.1)
            except queue.Full:
                continue


def _read_motion(motion: Motion | str | Path) -> tuple[Motion, dict[str, str]]:
    """The motion, and its name and hash."""
    from loquent.motion.export import read_motion

    if isinstance(motion, Motion):
        return motion, {"name": "motion", "sha256": hashlib.sha256(motion.to_vector().tobytes()).hexdigest()}
    path = Path(motion)
    return read_motion(path), {"name": path.name, "sha256": provenance.file_sha256(path)}


def average_portrait(size_px: int = 512) -> Portrait:
    """A blank picture with the average face in its middle, neutral and from the front: for motion without a photo."""
    from loquent.motion.face_model import face_tables

    centre = np.array([size_px / 2, size_px * 0.45, 0.0])
    landmarks = face_tables().neutral * (size_px * 0.3) + centre
    photo = Photo(np.full((size_px, size_px, 3), 128, np.uint8), name="none", sha256="none")
    return Portrait(photo, Face(landmarks.astype(np.float32)), np.zeros(52, np.float32), np.zeros(3, np.float32))
