"""Sizes of the MoDA motion generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from loquent.errors import WeightsError
from loquent.nn.config import SavedConfig, pick_preset


@dataclass(frozen=True, kw_only=True)
class ModaConfig(SavedConfig):
    """One network. The defaults are the published TalkingHeadDiT-B.

    Raises:
        WeightsError: the numbers do not fit together.
    """

    motion_dim: int = 70  # 63 keypoint offsets, scale, 3 translations, 3 angles
    identity_dim: int = 63  # canonical keypoints of the source
    num_emotions: int = 8  # the table has one more row, the null label
    audio_layers: int = 12
    audio_dim: int = 768
    hidden_dim: int = 768
    num_heads: int = 12
    mlp_ratio: float = 4.0
    four_stream_blocks: int = 3
    double_stream_blocks: int = 6
    single_stream_blocks: int = 12
    rope_theta: float = 256.0
    num_frames: int = 80  # frames of a window
    overlap: int = 16  # frames that neighbouring windows share
    smooth_from: int = 63  # channels smooth_from..smooth_to are smoothed over 3 frames after sampling
    smooth_to: int = 70
    # Deviation for small machines: "once" keeps emotion and identity as one token each at position 0, where the
    # published network repeats them for every frame and so spends half of its work on copies.
    condition_tokens: Literal["per_frame", "once"] = "per_frame"
    # Deviation for short training: `diffusion.flow.precondition` around the output.
    preconditioned: bool = False

    def __post_init__(self) -> None:
        if self.hidden_dim % (2 * self.num_heads):
            raise WeightsError(
                f"hidden_dim is {self.hidden_dim}; it must be an even multiple of num_heads ({self.num_heads})"
            )
        if not 0 < self.overlap < self.num_frames:
            raise WeightsError(f"overlap is {self.overlap}; choose 1 to {self.num_frames - 1} (num_frames − 1)")
        if not 0 <= self.smooth_from <= self.smooth_to <= self.motion_dim:
            raise WeightsError(
                f"channels {self.smooth_from}..{self.smooth_to} cannot be smoothed; motion has {self.motion_dim}"
            )

    @property
    def null_emotion(self) -> int:
        """Label that stands for no emotion."""
        return self.num_emotions


BASE = ModaConfig()
PRESETS = {
    "xl": replace(BASE, hidden_dim=1152, num_heads=16),
    "l": replace(BASE, hidden_dim=1024, num_heads=16),
    "b": BASE,
    "s": replace(BASE, hidden_dim=384, num_heads=6),
    "t": replace(BASE, hidden_dim=256, num_heads=4),
    "starter": replace(
        BASE,
        motion_dim=62,
        identity_dim=8,
        audio_layers=4,
        audio_dim=128,
        hidden_dim=192,
        num_heads=3,
        four_stream_blocks=1,
        double_stream_blocks=1,
        single_stream_blocks=4,
        smooth_from=52,
        smooth_to=58,
        condition_tokens="once",
        preconditioned=True,
    ),
    "tiny": ModaConfig(
        motion_dim=62,
        identity_dim=8,
        audio_layers=2,
        audio_dim=6,
        hidden_dim=16,
        num_heads=2,
        four_stream_blocks=1,
        double_stream_blocks=1,
        single_stream_blocks=1,
        num_frames=20,
        overlap=4,
        smooth_from=52,
        smooth_to=58,
        condition_tokens="once",
        preconditioned=True,
    ),
}


def get_preset(name: str) -> ModaConfig:
    """The configuration called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    return pick_preset(PRESETS, name)
