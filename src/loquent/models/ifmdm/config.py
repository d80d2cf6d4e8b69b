"""Sizes of the two IF-MDM networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loquent.errors import WeightsError
from loquent.nn.config import SavedConfig, pick_preset

SMALLEST_PX = 4  # the decoder's learned start


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(SavedConfig):
    """The renderer (stage 1) and its discriminator. The defaults are the published network at 512 x 512.

    Raises:
        WeightsError: the numbers do not fit together.
    """

    size_px: int = 512
    motion_dim: int = 20  # published runs; the published scripts default to 100
    style_dim: int = 512  # width of the appearance vector
    channels: tuple[int, ...] = (512, 512, 512, 512, 256, 128, 64, 32)  # at 4, 8, 16 ... size_px pixels
    refine_dim: int = 512  # 0: no refine block
    refine_layers: int = 3
    output_dim: int = 0  # channels of our output stage; 0: none, as published
    relative: bool = False  # ours: codes tell how far a frame is from the portrait, whose own code is 0
    motion_gain: float = 1.0  # ours, of relative codes: how far the directions are walked
    output_factor: int = 4  # by which the output stage makes pictures larger

    def __post_init__(self) -> None:
        if self.size_px != SMALLEST_PX * 2 ** (len(self.channels) - 1) or len(self.channels) < 3:
            raise WeightsError(
                f"size_px is {self.size_px} with {len(self.channels)} channel numbers; give at least three, one for "
                f"each of 4, 8, 16 ... size_px"
            )
        if not 0 < self.motion_dim <= self.style_dim:
            raise WeightsError(
                f"motion_dim is {self.motion_dim}; choose 1 to {self.style_dim} (style_dim), for directions at right angles"
            )

    @property
    def output_px(self) -> int:
        """Side of the pictures drawn; with an output stage any larger multiple may be asked for as well."""
        return self.output_factor * self.size_px if self.output_dim else self.size_px

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Sides in pixels of the levels that the decoder warps: 8, 16 ... size_px."""
        return tuple(2 * SMALLEST_PX * 2**level for level in range(len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class MotionConfig(SavedConfig):
    """The motion transformer (stage 2). The defaults are the published DiT-A0.

    Raises:
        WeightsError: the numbers do not fit together.
    """

    motion_dim: int = 20
    audio_dim: int = 768
    vectors_per_frame: int = 2  # speech vectors of one frame
    num_frames: int = 64  # frames of a window
    hidden_dim: int = 512
    num_blocks: int = 6
    num_heads: int = 8
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.hidden_dim % self.num_heads:
            raise WeightsError(
                f"hidden_dim is {self.hidden_dim}; it must be a multiple of num_heads ({self.num_heads})"
            )
        if self.hidden_dim % (2 * self.vectors_per_frame):
            raise WeightsError(
                f"hidden_dim is {self.hidden_dim}; it must be a multiple of twice vectors_per_frame "
                f"({2 * self.vectors_per_frame})"
            )


PUBLISHED = AutoencoderConfig()
# Starter renderers spend about a tenth of the published work on a frame. Widths are multiples of 16, which is what
# vector units take at once.
_STARTER = replace(
    PUBLISHED, size_px=256, style_dim=256, channels=(256, 256, 192, 128, 64, 32, 16), refine_dim=0, refine_layers=0
)
AUTOENCODER_PRESETS = {
    "published-512": PUBLISHED,
    "published-256": replace(PUBLISHED, size_px=256, channels=PUBLISHED.channels[:-1], refine_dim=0),
    "starter-512": replace(_STARTER, size_px=512, channels=(*_STARTER.channels, 16)),
    "starter-256": _STARTER,
    # With our output stage: the decoder draws 64 pixels, the stage 256 or more.
    "starter-blend": replace(
        _STARTER,
        size_px=64,
        style_dim=192,
        channels=(160, 160, 128, 64, 32),
        relative=True,
        motion_gain=10.0,
        output_dim=48,
    ),
    "tiny": AutoencoderConfig(
        size_px=32, motion_dim=3, style_dim=16, channels=(16, 12, 8, 6), refine_dim=4, refine_layers=1
    ),
    "tiny-blend": AutoencoderConfig(
        size_px=32,
        motion_dim=3,
        style_dim=16,
        channels=(16, 12, 8, 6),
        refine_dim=0,
        refine_layers=0,
        output_dim=4,
        output_factor=2,
    ),
}

A0 = MotionConfig()
MOTION_PRESETS = {
    "a0": A0,
    "a1": replace(A0, num_blocks=12, num_heads=16),
    "a2": replace(A0, num_blocks=24, hidden_dim=1024, num_heads=16),
    "s": replace(A0, num_blocks=12, hidden_dim=384, num_heads=6),
    "b": replace(A0, num_blocks=12, hidden_dim=768, num_heads=12),
    "l": replace(A0, num_blocks=24, hidden_dim=1024, num_heads=16),
    "xl": replace(A0, num_blocks=28, hidden_dim=1152, num_heads=16),
    "starter": replace(A0, audio_dim=256, hidden_dim=128, num_blocks=4, num_heads=4),
    "tiny": MotionConfig(motion_dim=3, audio_dim=6, num_frames=8, hidden_dim=16, num_blocks=2, num_heads=2),
}


def get_autoencoder_preset(name: str) -> AutoencoderConfig:
    """The renderer's configuration called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    return pick_preset(AUTOENCODER_PRESETS, name)


def get_motion_preset(name: str) -> MotionConfig:
    """The transformer's configuration called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    return pick_preset(MOTION_PRESETS, name)
