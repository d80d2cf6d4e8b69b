"""MoDA's published layout at a size that tests can afford."""

from __future__ import annotations

from loquent.models.moda.config import ModaConfig
from loquent.speech.hubert import HubertConfig

SPEECH = HubertConfig(
    dim=16, num_layers=2, num_heads=2, feed_forward_dim=16, conv_dims=(8,) * 7, position_kernel=8, position_groups=2
)
GENERATOR = ModaConfig(
    audio_layers=2,
    audio_dim=16,
    hidden_dim=16,
    num_heads=2,
    four_stream_blocks=1,
    double_stream_blocks=1,
    single_stream_blocks=1,
    num_frames=20,
    overlap=4,
)
