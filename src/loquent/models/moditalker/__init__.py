"""MoDiTalker: speech to landmarks (AToM), landmarks to video (MToV)."""

from loquent.models.moditalker.atom import AtomDenoiser
from loquent.models.moditalker.atom_sampling import AtomSampler, AtomSettings
from loquent.models.moditalker.autoencoder import TriplaneAutoencoder
from loquent.models.moditalker.config import (
    AtomConfig,
    AutoencoderConfig,
    UNetConfig,
    get_atom_preset,
    get_autoencoder_preset,
    get_unet_preset,
)
from loquent.models.moditalker.discriminator import PatchDiscriminator
from loquent.models.moditalker.unet import LatentUNet
from loquent.models.moditalker.video_sampling import VideoSampler, VideoSettings

__all__ = [
    "AtomConfig",
    "AtomDenoiser",
    "AtomSampler",
    "AtomSettings",
    "AutoencoderConfig",
    "LatentUNet",
    "PatchDiscriminator",
    "TriplaneAutoencoder",
    "UNetConfig",
    "VideoSampler",
    "VideoSettings",
    "get_atom_preset",
    "get_autoencoder_preset",
    "get_unet_preset",
]
