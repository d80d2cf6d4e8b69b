"""Animated GIF: one palette for the whole animation, so that nothing flickers; no sound."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.filter
import numpy as np
from av.error import FFmpegError

from loquent.media import limits
from loquent.media._sink import EncodingOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

TICK_S = Fraction(1, 100)  # the format counts hundredths of a second
MIN_TICKS = round(1 / limits.MAX_GIF_FPS / TICK_S)  # from frame to frame
PALETTE_FRAMES = 50  # from these, the first, the palette is made
PALETTE_BYTES = 256 * 2**20  # fewer frames make it where they are this large


class GifSink:
    """Writes a GIF. Frames beyond `limits.MAX_GIF_FPS` are dropped; the metadata become a comment in the file."""

    def __init__(self, path: Path, options: EncodingOptions) -> None:
        self.path = path
        self._fps = options.fps
        self._metadata = options.metadata
        width, height = options.size_px
        self._num_palette_frames = max(1, min(PALETTE_FRAMES, PALETTE_BYTES // (3 * width * height)))
        self._waiting: list[av.VideoFrame] = []  # for the palette
        self._palette: _Palette | None = None
        self._num_frames = 0
        self._last_tick = -1
        final_delay = max(MIN_TICKS, round(1 / self._fps / TICK_S))
        self._container = av.open(f"file:{path}", "w", format="gif", options={"final_delay": str(final_delay)})
        self._stream = self._container.add_stream("gif", rate=1 / TICK_S)
        self._stream.width, self._stream.height = options.size_px
        self._stream.pix_fmt = "pal8"

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.array(pixels, order="C")

    def add(self, prepared: NDArray[np.uint8]) -> None:
        time_s = self._num_frames / self._fps
        self._num_frames += 1
        tick = round(time_s / TICK_S)
        if self._fps > limits.MAX_GIF_FPS:
            tick = MIN_TICKS * int(time_s * limits.MAX_GIF_FPS)
        if tick == self._last_tick:
            return
        self._last_tick = tick
        frame = av.VideoFrame.from_numpy_buffer(prepared, format="rgb24")
        frame.time_base, frame.pts = TICK_S, tick
        if self._palette is not None:
            self._encode(frame)
            return
        self._waiting.append(frame)
        if len(self._waiting) == self._num_palette_frames:
            self._encode_waiting()

    def finish(self) -> None:
        if self._palette is None:
            self._encode_waiting()
        self._container.mux(self._stream.encode(None))
        self._container.close()
        _append_comment(self.path, "\n".join(f"{key}: {value}" for key, value in self._metadata.items()))

    def discard(self) -> None:
        with contextlib.suppress(FFmpegError):  # a file about to be removed need not be closed well
            self._container.close()
        self.path.unlink(missing_ok=True)

    def _encode_waiting(self) -> None:
        self._palette = _Palette(self._waiting)
        for frame in self._waiting:
            self._encode(frame)
        self._waiting.clear()

    def _encode(self, frame: av.VideoFrame) -> None:
        assert self._palette is not None
        for mapped in self._palette.map(frame):
            self._container.mux(self._stream.encode(mapped))


class _Palette:
    """The colours of some frames, and the mapping of frames to them."""

    def __init__(self, frames: list[av.VideoFrame]) -> None:
        size = {"width": frames[0].width, "height": frames[0].height, "time_base": TICK_S}
        palette = _make_palette(frames, size)
        graph = av.filter.Graph()
        self._pictures = graph.add_buffer(format=av.VideoFormat("rgb24"), **size)
        colours = graph.add_buffer(format=palette.format, width=palette.width, height=palette.height, time_base=TICK_S)
        mapper = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle")  # still parts keep their dither
        self._mapped = graph.add("buffersink")
        self._pictures.link_to(mapper, 0, 0)
        colours.link_to(mapper, 0, 1)
        mapper.link_to(self._mapped)
        graph.configure()
        self._graph = graph
        colours.push(palette)
        colours.push(None)

    def map(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Yields the pictures that are ready once `frame` is given: with this filter, the frame itself."""
        self._pictures.push(frame)
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                mapped = self._mapped.pull()
                assert isinstance(mapped, av.VideoFrame)
                yield mapped


def _make_palette(frames: list[av.VideoFrame], size: dict) -> av.VideoFrame:
    graph = av.filter.Graph()
    pictures, colours = graph.add_buffer(format=av.VideoFormat("rgb24"), **size), graph.add("buffersink")
    maker = graph.add("palettegen")
    pictures.link_to(maker)
    maker.link_to(colours)
    graph.configure()
    for frame in frames:
        pictures.push(frame)
    pictures.push(None)
    palette = colours.pull()
    assert isinstance(palette, av.VideoFrame)
    palette.pts, palette.time_base = 0, TICK_S
    return palette


def _append_comment(path: Path, comment: str) -> None:
    """Adds a comment extension before the trailer (GIF89a specification, section 24)."""
    data = comment.encode()
    if not data:
        return
    with path.open("r+b") as file:
        file.seek(-1, 2)
        assert file.read(1) == b"\x3b"
        file.seek(-1, 2)
        file.write(b"\x21\xfe")
        for start in range(0, len(data), 255):
            block = data[start : start + 255]
            file.write(bytes([len(block)]) + block)
        file.write(b"\x00\x3b")
