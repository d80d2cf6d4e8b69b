"""The original sound as packets of a video file: copied where the file may hold its codec, else encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.audio.stream import AudioStream

from loquent.errors import VideoError
from loquent.media._sound import USUAL_LAYOUTS, SoundReader

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet

    from loquent.types import Speech

# Rates that each encoder takes; other sound is resampled, once, to the next higher one, or the highest.
ENCODER_RATES_HZ = {
    "aac": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "libopus": (48000,),
}
BITS_PER_SAMPLE = 3  # 144 kbit/s for a channel at 48 kHz: no audible loss
MAX_CHANNEL_BITS_PER_S = 128_000


class Soundtrack:
    """Feeds the sound of a recording into a container, a stretch at a time."""

    def __init__(self, container: OutputContainer, speech: Speech, encoder: str, copied_codecs: frozenset[str]) -> None:
        """Adds an audio stream to `container`; nothing is written yet.

        Args:
            encoder: used where the sound's own codec is not among `copied_codecs`.
            copied_codecs: FFmpeg's names of codecs that the container takes as they are.

        Raises:
            VideoError: the speech does not say where its sound is.
            SpeechError: its source can no longer be read.
        """
        if speech.source is None:
            raise VideoError(f"{speech.name}: this speech has no source to take the sound from; use media.read_audio")
        self._container = container
        self._duration_s = speech.duration_s
        self._next: Packet | None = None
        self._reader = SoundReader(speech.source, speech.name)
        try:
            if speech.intact and self._reader.codec in copied_codecs:
                self._packets = self._copy(container.add_stream_from_template(self._reader.stream))
            else:
                self._packets = self._encode(self._add_encoder(encoder))
        except BaseException:
            self._reader.close()
            raise

    def mux_until(self, time_s: Fraction) -> None:
        """Writes the packets that begin before `time_s`."""
        while (packet := self._next or next(self._packets, None)) is not None:
            self._next = packet
            if _start_s(packet) >= time_s:
                return
            self._container.mux_one(packet)
            self._next = None

    def finish(self, video_s: Fraction, frame_s: Fraction) -> None:
        """Writes the rest, or what belongs to the video where that is shorter by more than a frame."""
        whole = self._duration_s <= video_s + frame_s
        self.mux_until(Fraction(10**9) if whole else video_s)

    def close(self) -> None:
        self._reader.close()

    def _copy(self, stream: AudioStream) -> Iterator[Packet]:
        """Packets as they are, shifted so that the first sample that decodes is at time 0."""
        last_time = None
        for packet in self._reader.packets():
            assert packet.dts is not None  # the reader leaves out those without
            time = packet.dts - round(self._reader.start_s / packet.time_base)
            if last_time is not None:
                time = max(time, last_time + 1)  # some recorders' clocks tremble; containers want them to rise
            packet.pts = packet.dts = last_time = time  # sound is decoded in the order in which it is heard
            packet.stream = stream
            yield packet

    def _add_encoder(self, encoder: str) -> AudioStream:
        rates = ENCODER_RATES_HZ[encoder]
        rate_hz = next((rate for rate in rates if rate >= self._reader.rate_hz), rates[-1])
        layout = USUAL_LAYOUTS.get(len(self._reader.channels), "stereo")  # others do not play everywhere
        bits_per_s = min(BITS_PER_SAMPLE * rate_hz, MAX_CHANNEL_BITS_PER_S) * av.AudioLayout(layout).nb_channels
        stream = self._container.add_stream(encoder, rate=rate_hz, layout=layout, bit_rate=bits_per_s)
        assert isinstance(stream, AudioStream)
        return stream

    def _encode(self, stream: AudioStream) -> Iterator[Packet]:
        position = 0
        layout = self._reader.layout
        has_layout = "NONE" not in self._reader.channels
        for block in self._reader.blocks():
            if not has_layout:  # several microphones, say: nothing tells which is left and which is right
                layout, block = "mono", block.mean(axis=0, keepdims=True)
            frame = av.AudioFrame.from_ndarray(block.T.reshape(1, -1), format="flt", layout=layout)
            frame.sample_rate = self._reader.rate_hz
            frame.time_base = Fraction(1, self._reader.rate_hz)
            frame.pts = position
            position += block.shape[1]
            yield from stream.encode(frame)
        yield from stream.encode(None)


def _start_s(packet: Packet) -> Fraction:
    assert packet.pts is not None
    return packet.pts * packet.time_base
