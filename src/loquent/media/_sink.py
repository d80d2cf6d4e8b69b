"""What a video writer writes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# preset: (x264 preset, libvpx-vp9 cpu-used, zlib level of PNG files)
PRESETS = {
    "ultrafast": ("ultrafast", 8, 1),
    "superfast": ("superfast", 8, 1),
    "veryfast": ("veryfast", 7, 3),
    "faster": ("faster", 6, 4),
    "fast": ("fast", 5, 6),
    "medium": ("medium", 4, 6),
    "slow": ("slow", 2, 9),
}


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """What every sink is built from."""

    size_px: tuple[int, int]  # width, height
    fps: Fraction
    quality: int  # 1..100
    preset: str  # one of PRESETS
    metadata: Mapping[str, str]


class FrameSink(Protocol):
    """Writes frames to `path`, which is a temporary name. `add` runs in the encoder's thread, the rest elsewhere."""

    path: Path

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of an RGB frame, in the form that `add` takes."""
        ...

    def add(self, prepared: NDArray[np.uint8]) -> None:
        """Writes the next frame."""
        ...

    def finish(self) -> None:
        """Writes what is still held, and closes the file."""
        ...

    def discard(self) -> None:
        """Closes and removes whatever was written."""
        ...
