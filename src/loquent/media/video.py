"""Videos out and in: `VideoWriter` with the original sound, `read_video_frames`, `probe`."""

from __future__ import annotations

import os
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.error import FFmpegError

from loquent.errors import VideoError
from loquent.media import limits
from loquent.media._container import CONTAINER_KINDS, ContainerSink
from loquent.media._gif import GifSink
from loquent.media._png_folder import PngFolderSink
from loquent.media._sink import PRESETS, EncodingOptions, FrameSink
from loquent.media._sound import BUFFER_BYTES, OPEN_OPTIONS

if TYPE_CHECKING:
    from av.container import InputContainer
    from numpy.typing import NDArray

    from loquent.types import Speech

# Tags that every container keeps and reads back.
METADATA_KEYS = ("title", "artist", "comment", "description", "copyright", "date", "genre")


def parse_fps(value: str | float | Fraction) -> Fraction:
    """The exact frame rate that is meant: 23.976, 29.97 and 59.94 are 24000/1001, 30000/1001 and 60000/1001.

    Raises:
        VideoError: not a number, or outside limits.MIN_FPS..MAX_FPS.
    """
    try:
        exact = Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
        raise VideoError(f"frame rate {value!r}; give a number such as 25, 29.97 or 30000/1001") from error
    if not limits.MIN_FPS <= exact <= limits.MAX_FPS:
        raise VideoError(f"frame rate {value}; give one from {limits.MIN_FPS} to {limits.MAX_FPS}")
    ntsc = Fraction(round(exact * 1001 / 1000) * 1000, 1001)
    if exact.denominator != 1 and abs(exact - ntsc) < Fraction(1, 200):
        return ntsc
    return exact.limit_denominator(1001)


class VideoWriter:
    """Writes RGB frames and the original sound; the kind of file follows from the suffix.

    .mp4, .mov and .mkv hold H.264 and AAC, .webm holds VP9 and Opus, .gif an animation, and a path without suffix
    or with .png is a folder of PNG files. The sound of the recording is copied where the file may hold its codec,
    else encoded once from the recording's own rate and channels; GIF and PNG have none.

    Use as a context manager. Frames are encoded by a thread of its own while the caller makes the next ones. The
    file appears under its name, replacing what was there, only when the block ends without an exception; otherwise
    nothing remains. Colours are tagged as docs/conventions.md says.

        with VideoWriter("talk.mp4", (512, 512), 25, speech=speech) as writer:
            for frame in frames:
                writer.write(frame)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size_px: tuple[int, int],
        fps: str | float | Fraction = 25,
        *,
        speech: Speech | None = None,
        quality: int = 80,
        preset: str = "veryfast",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Checks everything that can be checked before rendering; files are opened on entering the context.

        Args:
            size_px: width and height of the frames; even for videos.
            fps: see `parse_fps`.
            speech: where the sound comes from. Write `speech.num_frames(fps)` frames for a video as long as it; of
                a longer sound, the part beyond the video is left out.
            quality: 1 to 100; 80 (x264's CRF 18) shows no loss, 50 makes small files. Of no effect on GIF and PNG.
            preset: one of PRESETS: slower ones make smaller files.
            metadata: tags of the file, keys among METADATA_KEYS.

        Raises:
            VideoError: one of these cannot be met.
        """
        self.path = Path(path)
        self.fps = parse_fps(fps)
        self.size_px = size_px
        self.num_frames = 0
        self._speech = speech
        self._options = EncodingOptions(
            size_px=size_px, fps=self.fps, quality=quality, preset=preset, metadata=dict(metadata or {})
        )
        _check_options(self._options)
        _check_target(self.path)
        if self.path.suffix.lower() in CONTAINER_KINDS and (size_px[0] % 2 or size_px[1] % 2):
            raise VideoError(f"frames of {size_px[0]} x {size_px[1]}; videos need an even width and height")

    def __enter__(self) -> VideoWriter:
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        try:
            self._encoder = _EncoderThread(_open_sink(self.path, partial, self._options, self._speech))
        except (OSError, FFmpegError) as error:
            raise VideoError(f"{self.path}: cannot be written ({error.strerror})") from error
        return self

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Takes the next frame, RGB (H, W, 3). The array may be reused as soon as this returns.

        Raises:
            VideoError: the frame has another size, or an earlier one could not be written.
        """
        width, height = self.size_px
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise VideoError(f"a frame of {frame.shape}, {frame.dtype}; wanted {(height, width, 3)}, uint8")
        self._raise_failure()
        self._encoder.put(frame)
        self.num_frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._encoder.stop(at_once=error is not None)
            if error is None:
                self._finish()
        finally:
            self._encoder.stop(at_once=True)
            self._encoder.sink.discard()  # of no effect once the file has its name

    def _finish(self) -> None:
        self._raise_failure()
        if self.num_frames == 0:
            raise VideoError(f"{self.path}: no frames were given, so there is no video")
        try:
            self._encoder.sink.finish()
            os.replace(self._encoder.sink.path, self.path)
        except (OSError, FFmpegError) as error:
            raise VideoError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _raise_failure(self) -> None:
        failure = self._encoder.failure
        if isinstance(failure, (OSError, FFmpegError)):
            raise VideoError(f"{self.path}: cannot be written ({failure.strerror})") from failure
        if failure is not None:
            raise failure


class _EncoderThread:
    """Feeds a sink from a short queue. After a failure it only empties the queue, so that nobody waits for it."""

    def __init__(self, sink: FrameSink) -> None:
        self.sink = sink
        self.failure: Exception | None = None
        self._abandoned = False
        self._queue: queue.Queue[NDArray[np.uint8] | None] = queue.Queue(limits.QUEUED_FRAMES)
        self._thread = threading.Thread(target=self._run, name="loquent-encoder", daemon=True)
        self._thread.start()

    def put(self, frame: NDArray[np.uint8]) -> None:
        self._queue.put(self.sink.prepare(frame))

    def stop(self, at_once: bool) -> None:
        """Returns when the thread has ended: after the frames that wait, or after the one at work."""
        self._abandoned |= at_once
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (frame := self._queue.get()) is not None:
            if self.failure is not None or self._abandoned:
                continue
            try:
                self.sink.add(frame)
            except Exception as error:  # raised again in the caller's thread
                self.failure = error


def _check_options(options: EncodingOptions) -> None:
    low, high = limits.MIN_VIDEO_SIDE_PX, limits.MAX_VIDEO_SIDE_PX
    width, height = options.size_px
    if not (low <= width <= high and low <= height <= high):
        raise VideoError(f"frames of {width} x {height}; each side must have {low} to {high} pixels")
    if not 1 <= options.quality <= 100:
        raise VideoError(f"quality {options.quality}; give a number from 1 to 100")
    if options.preset not in PRESETS:
        raise VideoError(f"unknown preset {options.preset!r}; choose one of {', '.join(PRESETS)}")
    unknown = sorted(set(options.metadata) - set(METADATA_KEYS))
    if unknown:
        raise VideoError(f"unknown metadata {', '.join(unknown)}; known are {', '.join(METADATA_KEYS)}")


def _check_target(path: Path) -> None:
    suffix = path.suffix.lower()
    if not path.parent.is_dir():
        raise VideoError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise VideoError(f"{path}: nothing can be written in the folder {path.parent}; choose another")
    if suffix in ("", ".png"):
        if path.is_dir() and any(path.iterdir()):
            raise VideoError(f"{path}: this folder is not empty; give a new one for the PNG files")
        if path.exists() and not path.is_dir():
            raise VideoError(f"{path} is a file; give a new folder for the PNG files")
    elif suffix not in CONTAINER_KINDS and suffix != ".gif":
        raise VideoError(f"{path}: unknown suffix; choose {', '.join(CONTAINER_KINDS)}, .gif, or none for PNG files")
    elif path.is_dir():
        raise VideoError(f"{path} is a folder; give the name of a file")


def _open_sink(path: Path, partial: Path, options: EncodingOptions, speech: Speech | None) -> FrameSink:
    suffix = path.suffix.lower()
    if suffix == ".gif":
        return GifSink(partial, options)
    if suffix in CONTAINER_KINDS:
        return ContainerSink(partial, CONTAINER_KINDS[suffix], options, speech)
    return PngFolderSink(partial, options)


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds."""

    size_px: tuple[int, int]  # width, height, as stored
    fps: Fraction
    num_frames: int
    duration_s: float  # of the pictures
    codec: str
    colour: tuple[int, int, int, int]  # primaries, transfer, matrix (ITU-T H.273), range (1 limited, 2 full)
    audio_codec: str | None
    audio_rate_hz: int
    audio_channels: int
    audio_duration_s: float
    metadata: dict[str, str]


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Reads a video's facts; every packet is counted, none decoded.

    Raises:
        VideoError: not a video file.
    """
    with _open_video(path) as container:
        video = container.streams.video[0]
        best = container.streams.best("audio")
        audio = best if isinstance(best, AudioStream) else None
        num_frames, video_end, audio_end = 0, Fraction(0), Fraction(0)
        for packet in container.demux([stream for stream in (video, audio) if stream is not None]):
            if packet.pts is None:
                continue
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            if packet.stream is video:
                num_frames += 1
                video_end = max(video_end, end)
            else:
                audio_end = max(audio_end, end)
        context = video.codec_context
        return VideoInfo(
            size_px=(context.width, context.height),
            fps=video.average_rate or Fraction(0),
            num_frames=num_frames,
            duration_s=float(video_end),
            codec=context.codec.canonical_name,
            colour=(context.color_primaries, context.color_trc, context.colorspace, context.color_range),
            audio_codec=audio.codec_context.codec.canonical_name if audio else None,
            audio_rate_hz=audio.codec_context.sample_rate if audio else 0,
            audio_channels=audio.codec_context.channels if audio else 0,
            audio_duration_s=float(audio_end),
            metadata=dict(container.metadata),
        )


def read_video_frames(path: str | os.PathLike[str]) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Yields the frames of a video as RGB (H, W, 3), upright, each with its time in seconds.

    Raises:
        VideoError: not a video file, or damaged from the beginning.
    """
    with _open_video(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                pixels = cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24"))
                yield np.rot90(pixels, frame.rotation // 90), float(frame.time)
        except FFmpegError as error:
            raise VideoError(f"{path}: the video is damaged ({error.strerror}); give an intact file") from error


@contextmanager
def _open_video(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(path).open("rb"))
            container = stack.enter_context(av.open(file, "r", options=OPEN_OPTIONS, buffer_size=BUFFER_BYTES))
        except FFmpegError as error:
            raise VideoError(f"{path}: not a video file that can be read ({error.strerror})") from error
        except OSError as error:
            raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
        if not container.streams.video:
            raise VideoError(f"{path}: no pictures in this file; give a video")
        yield container
