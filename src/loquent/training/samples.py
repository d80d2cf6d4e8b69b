"""What a run shows of itself on its way: pictures side by side as a video."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loquent.media.video import VideoWriter

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def write_sample(folder: Path, step: int, *columns: Tensor) -> Path:
    """Writes clips (T, 3, S, S) in [0, 1], S even, side by side to `folder`/step-000000.mp4, at 25 frames a second."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.mp4"
    frames = np.concatenate([_frames(column) for column in columns], axis=2)
    height, width = frames.shape[1:3]
    with VideoWriter(path, (width, height)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def _frames(clip: Tensor) -> np.ndarray:
    """(T, 3, S, S) in [0, 1] to uint8 (T, S, S, 3)."""
    pixels = clip.detach().float().clamp(0, 1).mul(255).add(0.5).byte()
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
