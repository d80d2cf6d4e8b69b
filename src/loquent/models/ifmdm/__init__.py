"""IF-MDM: implicit motion, its renderer and its motion diffusion transformer."""

from loquent.models.ifmdm.autoencoder import Autoencoder
from loquent.models.ifmdm.config import (
    AutoencoderConfig,
    MotionConfig,
    get_autoencoder_preset,
    get_motion_preset,
)
from loquent.models.ifmdm.discriminator import Discriminator
from loquent.models.ifmdm.encoder import Appearance
from loquent.models.ifmdm.sampling import SamplerSettings, WindowedSampler
from loquent.models.ifmdm.transformer import MotionDiffusionTransformer

__all__ = [
    "Appearance",
    "Autoencoder",
    "AutoencoderConfig",
    "Discriminator",
    "MotionConfig",
    "MotionDiffusionTransformer",
    "SamplerSettings",
    "WindowedSampler",
    "get_autoencoder_preset",
    "get_motion_preset",
]
