"""A folder of numbered PNG files, without sound."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loquent.media._sink import PRESETS, EncodingOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PngFolderSink:
    """Writes frame_000000.png, frame_000001.png, ...; the metadata are text chunks of every file."""

    def __init__(self, path: Path, options: EncodingOptions) -> None:
        self.path = path
        self._compress_level = PRESETS[options.preset][2]
        self._info = PngInfo()
        for key, value in options.metadata.items():
            self._info.add_itxt(key, value)
        self._num_frames = 0
        path.mkdir()

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels.copy()

    def add(self, prepared: NDArray[np.uint8]) -> None:
        file = self.path / f"frame_{self._num_frames:06d}.png"
        Image.fromarray(prepared).save(file, compress_level=self._compress_level, pnginfo=self._info)
        self._num_frames += 1

    def finish(self) -> None:
        pass  # every file is complete as soon as it is added

    def discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
