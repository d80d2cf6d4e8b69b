"""Video files with sound: MP4, QuickTime, Matroska and WebM."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream

from loquent.media._colour import matrix_for, rgb_to_i420
from loquent.media._sink import PRESETS, EncodingOptions
from loquent.media._soundtrack import Soundtrack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.types import Speech

BT709_PRIMARIES = BT709_TRANSFER = 1  # ITU-T H.273, tables 2 and 3: those of sRGB photos, whatever the matrix
LIMITED_RANGE = 1  # FFmpeg's AVCOL_RANGE_MPEG


@dataclass(frozen=True)
class ContainerKind:
    """How one kind of video file is written."""

    format: str
    video_encoder: str
    audio_encoder: str
    copied_audio: frozenset[str]  # codecs of the original sound that go in as they are, and play everywhere
    options: Mapping[str, str]


FASTSTART = {"movflags": "+faststart"}  # the index comes first, so that players start before the download ends
CUES_FIRST = {"cues_to_front": "1"}  # the same for Matroska
MATROSKA_AUDIO = frozenset({"aac", "mp3", "opus", "vorbis", "flac", "ac3", "pcm_s16le", "pcm_s24le"})
CONTAINER_KINDS = {
    ".mp4": ContainerKind("mp4", "libx264", "aac", frozenset({"aac"}), FASTSTART),
    ".mov": ContainerKind("mov", "libx264", "aac", frozenset({"aac"}), FASTSTART),
    ".mkv": ContainerKind("matroska", "libx264", "aac", MATROSKA_AUDIO, CUES_FIRST),
    ".webm": ContainerKind("webm", "libvpx-vp9", "libopus", frozenset({"opus", "vorbis"}), CUES_FIRST),
}


class ContainerSink:
    """H.264 or VP9 with the original sound."""

    def __init__(self, path: Path, kind: ContainerKind, options: EncodingOptions, speech: Speech | None) -> None:
        self.path = path
        self._fps = options.fps
        self._num_frames = 0
        self._matrix = matrix_for(options.size_px[1])
        self._soundtrack: Soundtrack | None = None
        self._container = av.open(f"file:{path}", "w", format=kind.format, options=dict(kind.options))
        try:
            self._container.metadata.update(options.metadata)
            stream = self._container.add_stream(
                kind.video_encoder, rate=options.fps, options=_encoder_options(kind.video_encoder, options)
            )
            assert isinstance(stream, VideoStream)
            self._stream = stream
            self._stream.width, self._stream.height = options.size_px
            self._stream.pix_fmt = "yuv420p"
            context = self._stream.codec_context
            context.time_base = 1 / options.fps
            context.color_range = LIMITED_RANGE
            context.color_primaries = BT709_PRIMARIES
            context.color_trc = BT709_TRANSFER
            context.colorspace = self._matrix.tag
            if speech is not None:
                self._soundtrack = Soundtrack(
                    self._container, speech, kind.audio_encoder, copied_codecs=kind.copied_audio
                )
        except BaseException:
            self.discard()
            raise

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return rgb_to_i420(np.ascontiguousarray(pixels), self._matrix)  # OpenCV takes no reversed views

    def add(self, prepared: NDArray[np.uint8]) -> None:
        # Copied: from_numpy_buffer takes such an array for one of fewer rows where the height is not a multiple of 4.
        frame = av.VideoFrame.from_ndarray(prepared, format="yuv420p")
        frame.pts = self._num_frames
        frame.time_base = 1 / self._fps
        frame.colorspace, frame.color_range = self._matrix.tag, LIMITED_RANGE
        frame.color_primaries, frame.color_trc = BT709_PRIMARIES, BT709_TRANSFER
        self._container.mux(self._stream.encode(frame))
        self._num_frames += 1
        if self._soundtrack is not None:
            self._soundtrack.mux_until(self._num_frames / self._fps)

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        if self._soundtrack is not None:
            self._soundtrack.finish(video_s=self._num_frames / self._fps, frame_s=1 / self._fps)
        self._container.close()
        self._close_sound()

    def discard(self) -> None:
        with contextlib.suppress(FFmpegError):  # a file about to be removed need not be closed well
            self._container.close()
        self._close_sound()
        self.path.unlink(missing_ok=True)

    def _close_sound(self) -> None:
        if self._soundtrack is not None:
            self._soundtrack.close()


def _encoder_options(encoder: str, options: EncodingOptions) -> dict[str, str]:
    """Quality 80 is CRF 18 of x264 (visually without loss), 50 is 30; VP9's scale is wider."""
    x264_preset, cpu_used, _ = PRESETS[options.preset]
    if encoder == "libx264":
        return {"crf": f"{50 - 0.4 * options.quality:.1f}", "preset": x264_preset}
    return {
        "crf": f"{63 - 0.42 * options.quality:.0f}",
        "b": "0",
        "deadline": "realtime" if cpu_used > 4 else "good",
        "cpu-used": str(cpu_used),
        "row-mt": "1",
    }
