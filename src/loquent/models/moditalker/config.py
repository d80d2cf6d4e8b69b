"""Sizes of the MoDiTalker networks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loquent.errors import WeightsError
from loquent.nn.config import SavedConfig, pick_preset

GRID = 16  # places along a side of the network's crop at which the box round the mouth may begin, see `moved_photo`
GUIDE_CHANNELS = 20  # of the moved photo, see `painter.Guide`


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
    vector_scale: float = 10.0  # of landmark vectors, to a decimetre; see `landmarks`
    full_layers: bool = False  # ours: decoder layers end in a feed-forward network and are added to their input

    def __post_init__(self) -> None:
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise WeightsError(
                f"hidden_dim is {self.hidden_dim}; it must be even and a multiple of num_heads ({self.num_heads})"
            )


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(SavedConfig):
    """The autoencoders of MToV, of pictures and of dot pictures. The defaults are the published networks.

    Raises:
        WeightsError: the numbers do not fit together.
    """

    size_px: int = 256
    num_frames: int = 16
    patch_px: int = 8
    channels: int = 384
    num_layers: int = 8  # of the encoder, and again of the decoder
    num_heads: int = 8
    head_dim: int = 64
    pool_layers: int = 4
    pool_heads: int = 4
    pool_head_dim: int = 48
    pool_mlp_dim: int = 512
    latent_dim: int = 4
    guide_channels: int = 0  # of the moved photo that the decoder paints over, see `painter`; 0, as published: none
    paint_channels: int = 32  # of the painter's layers
    texture_channels: int = 8  # of the teeth that the painter learns

    def __post_init__(self) -> None:
        if self.guide_channels and (self.patch_px < 2 or self.patch_px & (self.patch_px - 1)):
            raise WeightsError(f"patch_px is {self.patch_px}; it must be a power of 2 to paint over a moved photo")
        if self.size_px % self.patch_px:
            raise WeightsError(f"size_px is {self.size_px}; it must be a multiple of patch_px ({self.patch_px})")
        if self.guide_channels and self.side % GRID:
            raise WeightsError(
                f"{self.side} patches lie along a picture's side; to paint over a moved photo it must be a multiple of {GRID}"
            )
        if self.head_dim % 4:
            raise WeightsError(f"head_dim is {self.head_dim}; it must be a multiple of 4, for positions")

    @property
    def side(self) -> int:
        """Patches along a side of a picture."""
        return self.size_px // self.patch_px

    @property
    def planes(self) -> tuple[int, int, int]:
        """What networks of one training share: latent channels, side, frames."""
        return self.latent_dim, self.side, self.num_frames

    @property
    def latent_length(self) -> int:
        """Positions of the three planes."""
        return self.side * self.side + 2 * self.num_frames * self.side


@dataclass(frozen=True, kw_only=True)
class UNetConfig(SavedConfig):
    """The latent denoiser of MToV. The defaults are the published network.

    Raises:
        WeightsError: the numbers do not fit together.
    """

    latent_dim: int = 4  # as the autoencoders'
    side: int = 32  # as the autoencoders'
    num_frames: int = 16  # as the autoencoders'
    dim: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # of the width, level by level; each level halves the planes
    num_blocks: int = 2  # of a level
    attention_levels: tuple[int, ...] = (0, 1, 2)
    num_heads: int = 8
    condition_dropout: float = (
        0.0  # share of samples trained without conditions; 0, as published: guidance is impossible
    )
    prediction: str = "noise"  # as the published code has it, or "clean", the latent itself, as the paper writes it

    def __post_init__(self) -> None:
        if self.prediction not in ("noise", "clean"):
            raise WeightsError(f"prediction is {self.prediction!r}; choose noise or clean")
        if self.dim % 32 or self.dim % self.num_heads:
            raise WeightsError(f"dim is {self.dim}; it must be a multiple of 32 and of num_heads ({self.num_heads})")
        smallest = 2 ** (len(self.multipliers) - 1)
        if self.side % smallest or self.num_frames % smallest:
            raise WeightsError(
                f"planes of {self.num_frames} frames and side {self.side} cannot be halved {len(self.multipliers) - 1} "
                f"times; give multiples of {smallest} or fewer multipliers"
            )

    @property
    def planes(self) -> tuple[int, int, int]:
        """What networks of one training share: latent channels, side, frames."""
        return self.latent_dim, self.side, self.num_frames


ATOM = AtomConfig()
ATOM_PRESETS = {
    "published": ATOM,
    "starter": replace(
        ATOM,
        num_frames=80,
        audio_dim=512,  # the four times 128 features of a frame of our own speech encoder
        vectors_per_frame=1,  # so that speech and frame have the same position
        hidden_dim=128,
        feedforward_dim=256,
        num_layers=4,
        num_encoder_layers=1,
        num_heads=8,
        dropout=0.0,
        vector_scale=4.0,  # a jaw open as far as the ARKit weight 0.7 says
        full_layers=True,
    ),
    "tiny": AtomConfig(
        num_frames=8, audio_dim=6, hidden_dim=16, feedforward_dim=24, num_layers=2, num_encoder_layers=1, num_heads=2
    ),
}

AUTOENCODER = AutoencoderConfig()
STARTER_DOTS = replace(
    AUTOENCODER,
    patch_px=16,
    channels=96,
    num_layers=2,
    num_heads=3,
    head_dim=32,
    pool_layers=1,
    pool_head_dim=24,
    pool_mlp_dim=192,
    latent_dim=8,
)
TINY_AUTOENCODER = AutoencoderConfig(
    size_px=16,
    num_frames=4,
    patch_px=4,
    channels=16,
    num_layers=1,
    num_heads=2,
    head_dim=8,
    pool_layers=2,
    pool_heads=2,
    pool_head_dim=4,
    pool_mlp_dim=16,
    latent_dim=2,
)
TINY_DOTS = replace(TINY_AUTOENCODER, size_px=GRID * TINY_AUTOENCODER.patch_px)
AUTOENCODER_PRESETS = {
    "published": AUTOENCODER,
    # A fourth of the tokens, so that a clip takes a second on a CPU; eight latent channels keep as many numbers.
    "starter": replace(STARTER_DOTS, guide_channels=GUIDE_CHANNELS),
    "starter-landmark": STARTER_DOTS,
    "tiny": TINY_AUTOENCODER,
    "tiny-landmark": TINY_DOTS,
    "tiny-painter": replace(TINY_DOTS, guide_channels=GUIDE_CHANNELS, paint_channels=8, texture_channels=2),
}

UNET = UNetConfig()
TINY_UNET = UNetConfig(
    latent_dim=2,
    side=4,
    num_frames=4,
    dim=32,
    multipliers=(1, 1),
    num_blocks=1,
    attention_levels=(1,),
    num_heads=2,
    condition_dropout=0.1,
)
UNET_PRESETS = {
    "published": UNET,
    "published-longvid": replace(UNET, dim=256),
    "starter": replace(
        UNET,
        latent_dim=8,
        side=16,
        dim=64,
        multipliers=(1, 2),
        num_blocks=1,
        attention_levels=(1,),
        num_heads=2,
        condition_dropout=0.1,
        prediction="clean",
    ),
    "tiny-painter": replace(TINY_UNET, side=GRID),
    "tiny": TINY_UNET,
}


def get_autoencoder_preset(name: str) -> AutoencoderConfig:
    """The configuration of MToV's autoencoders called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    return pick_preset(AUTOENCODER_PRESETS, name)


def get_unet_preset(name: str) -> UNetConfig:
    """The configuration of MToV's denoiser called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    return pick_preset(UNET_PRESETS, name)


def get_atom_preset(name: str) -> AtomConfig:
    """The configuration of AToM called `name`.

    Raises:
        WeightsError: there is none; the message names the nearest.
    """
    return pick_preset(ATOM_PRESETS, name)
