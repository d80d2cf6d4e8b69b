"""Sizes of the MoDiTalker networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loquent.errors import WeightsError
from loquent.nn.config import SavedConfig, pick_preset


@dataclass(frozen=True, kw_only=True)
class AtomConfig(SavedConfig):
    """Speech to landmarks (AToM). The defaults are the published network.

    Raises:
        WeightsError: the numbers do not fit together.
    """

    num_frames: int = 156  # of a window, at 25 a second
    audio_dim: int = 1024
    vectors_per_frame: int = 2  # speech vectors of one frame
    hidden_dim: int = 512
    feedforward_dim: int = 1024
    num_layers: int = 8
    num_encoder_layers: int = 2
    num_heads: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise WeightsError(
                f"hidden_dim is {self.hidden_dim}; it must be even and a multiple of num_heads ({self.num_heads})"
            )


ATOM = AtomConfig()
ATOM_PRESETS = {
    "published": ATOM,
    "starter": replace(
        ATOM, num_frames=100, audio_dim=256, hidden_dim=192, feedforward_dim=384, num_layers=4, num_heads=4
    ),
    "tiny": AtomConfig(
        num_frames=8, audio_dim=6, hidden_dim=16, feedforward_dim=24, num_layers=2, num_encoder_layers=1, num_heads=2
    ),
}


def get_atom_preset(name: str) -> AtomConfig:
    """The configuration of AToM called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    return pick_preset(ATOM_PRESETS, name)
