"""Decoding of any sound to float blocks at its own rate and channels, with time kept where the file is damaged."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.error import FFmpegError

from loquent.errors import SpeechError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.packet import Packet
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

GAP_S = Fraction(1, 10)  # timestamps that run ahead of the samples by more than this leave a gap, filled with silence
LONGEST_GAP_S = 60  # more is a broken clock, not a gap
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # by number of channels
# Files are read through Python only: a playlist inside an uploaded file cannot make FFmpeg open another file or URL.
OPEN_OPTIONS = {"protocol_whitelist": "none"}
BUFFER_BYTES = 256 * 1024


class SoundReader:
    """The sound of one file as float blocks; time 0 is the first sample that decodes.

    Damaged parts are left out, and silence of the same length takes their place.

    Attributes:
        rate_hz: samples a second, as recorded.
        channels: FFmpeg's names of the channels, such as ("FL", "FR").
        layout: FFmpeg's name of the channel layout, such as "stereo".
        codec: FFmpeg's name of the codec, such as "aac".
        start_s: time stamp of the first sample, by the file's own clock.
        intact: False once `blocks` has met damage, a gap or a jump of the clock.
    """

    def __init__(self, source: Path | bytes, name: str) -> None:
        """Opens the file and decodes the first frame of its sound.

        Raises:
            SpeechError: not a sound or video file, or no sound in it.
        """
        self.name = name
        try:
            self._file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        except OSError as error:
            raise SpeechError(f"{source}: cannot be read ({error.strerror})") from error
        self._container = None
        self._num_damaged = 0
        try:
            self._container = av.open(self._file, "r", options=OPEN_OPTIONS, buffer_size=BUFFER_BYTES)
            stream = self._container.streams.best("audio")
            if not isinstance(stream, AudioStream):
                raise SpeechError(f"{name}: no sound in this file; give a recording of speech")
            self.stream = stream
            self._frames = self._decode()
            first = next(self._frames, None)
            if first is None:
                raise SpeechError(f"{name}: no sound could be decoded; the file is damaged or holds no samples")
        except FFmpegError as error:
            self.close()
            raise SpeechError(f"{name}: not a sound or video file that can be read ({error.strerror})") from error
        except BaseException:
            self.close()
            raise
        self._first = first
        self.intact = True
        self.rate_hz = first.sample_rate
        self.layout = _layout_name(first.layout)
        self.codec = self.stream.codec_context.codec.canonical_name
        self.channels = tuple(channel.name for channel in av.AudioLayout(self.layout).channels)
        self.start_s = _time_s(first) or Fraction(0)

    def __enter__(self) -> SoundReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._file.close()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yields (C, N) float32 blocks at `rate_hz`, nominally in [-1, 1]. Runs once."""
        position, last = 0, None
        for block in self._all_blocks():
            if last is not None:
                position += last.shape[1]
                yield last
            last = block
        assert last is not None  # the first frame has decoded
        yield last[:, : self._trimmed_length(position, last.shape[1])]
        if self._num_damaged:
            self.intact = False
            logger.warning("%s is damaged: %d of its packets do not decode", self.name, self._num_damaged)

    def _trimmed_length(self, position: int, num_samples: int) -> int:
        """Samples of the last block without the padding that AAC adds; the container's duration leaves it out."""
        if self.stream.duration is None or self.stream.time_base is None:
            return num_samples
        left = round(self.stream.duration * self.stream.time_base * self.rate_hz) - position
        return left if 0 < left < num_samples else num_samples

    def _all_blocks(self) -> Iterator[NDArray[np.float32]]:
        """Blocks with silence where the time stamps leave gaps."""
        position = 0  # samples yielded
        start_s = self.start_s
        for time_s, samples in self._timed_samples():
            if time_s is not None:
                gap_s = time_s - start_s - Fraction(position, self.rate_hz)
                if gap_s < -GAP_S or gap_s > LONGEST_GAP_S:
                    self.intact = False
                    start_s += gap_s
                elif gap_s > GAP_S:
                    self.intact = False
                    logger.warning("%s: %.2f s of sound are missing; silence takes their place", self.name, gap_s)
                    silence = np.zeros((len(samples), round(gap_s * self.rate_hz)), np.float32)
                    position += silence.shape[1]
                    yield silence
            position += samples.shape[1]
            yield samples

    def packets(self) -> Iterator[Packet]:
        """Yields all packets as they are in the file, also those that do not decode. Instead of `blocks`."""
        assert self._container is not None
        index = self.stream.index
        self._container.close()  # opened anew, since seeking to 0 would pass over what lies before it, as AAC needs
        self._file.seek(0)
        self._container = av.open(self._file, "r", options=OPEN_OPTIONS, buffer_size=BUFFER_BYTES)
        for packet in self._container.demux(self._container.streams[index]):
            if packet.dts is not None:
                yield packet

    def _timed_samples(self) -> Iterator[tuple[Fraction | None, NDArray[np.float32]]]:
        """Time stamp and samples (C, N) of each frame, in the rate and layout of the first."""
        resampler, form = None, None
        for frame in _chain(self._first, self._frames):
            if (frame.format.name, frame.layout.name, frame.sample_rate) != form:
                form = (frame.format.name, frame.layout.name, frame.sample_rate)
                # Interleaved, since PyAV 18 crashes on planar frames of more than eight channels.
                resampler = av.AudioResampler(format="flt", layout=self.layout, rate=self.rate_hz)
            assert resampler is not None
            time_s = _time_s(frame)
            for converted in resampler.resample(frame):
                interleaved = cast("NDArray[np.float32]", converted.to_ndarray())  # (1, N * C)
                yield time_s, interleaved.reshape(-1, len(self.channels)).T
                time_s = None

    def _decode(self) -> Iterator[AudioFrame]:
        """Decoded frames; packets that do not decode are counted and passed over."""
        assert self._container is not None
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:  # the container itself is damaged here: nothing can follow
                logger.warning("%s is damaged and ends early (%s)", self.name, error.strerror)
                self._num_damaged += 1
                packet = None
            if packet is None:
                return
            try:
                yield from self.stream.decode(packet)
            except FFmpegError:
                self._num_damaged += 1


def _chain(first: AudioFrame, rest: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    yield first
    yield from rest


def _layout_name(layout: av.AudioLayout) -> str:
    """The name of a layout; where the file gives only a number of channels, the usual one, if there is one."""
    if not layout.name.endswith("channels"):
        return layout.name
    return USUAL_LAYOUTS.get(layout.nb_channels, layout.name)


def _time_s(frame: AudioFrame) -> Fraction | None:
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
