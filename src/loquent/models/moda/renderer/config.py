"""Sizes of the warping renderer. The defaults are the published LivePortrait networks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from loquent.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """Appearance extractor: a photo to a feature volume."""

    width: int = 64  # channels after the first convolution, doubled by each halving
    max_width: int = 512
    num_halvings: int = 2
    volume_channels: int = 32
    volume_depth: int = 16
    num_volume_blocks: int = 6

    def width_at(self, level: int) -> int:
        """Channels after `level` halvings; without the limit at level 0, as published."""
        return self.width if level == 0 else min(self.max_width, self.width * 2**level)


@dataclass(frozen=True, kw_only=True)
class MotionExtractorConfig:
    """Motion extractor: a photo to keypoints, pose and expression (ConvNeXt V2)."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    num_keypoints: int = 21
    num_bins: int = 66


@dataclass(frozen=True, kw_only=True)
class DenseMotionConfig:
    """Dense motion: two sets of keypoints to a flow of the feature volume and an occlusion map."""

    num_keypoints: int = 21
    volume_channels: int = 32
    volume_depth: int = 16
    compressed_channels: int = 4
    width: int = 32  # of the hourglass, doubled by each halving
    max_width: int = 1024
    num_halvings: int = 5

    @property
    def input_channels(self) -> int:
        """A heat map and the compressed volume, for every keypoint and the background."""
        return (self.num_keypoints + 1) * (self.compressed_channels + 1)

    @property
    def output_channels(self) -> int:
        return self.width + self.input_channels

    def width_at(self, level: int) -> int:
        return min(self.max_width, self.width * 2**level)


@dataclass(frozen=True, kw_only=True)
class WarpingConfig:
    """Warping network: the moved feature volume, flattened to a feature map."""

    dense_motion: DenseMotionConfig = field(default_factory=DenseMotionConfig)
    map_channels: int = 256


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """SPADE decoder: a feature map to a picture of 4 * `upscale` times its size."""

    map_channels: int = 256
    last_channels: int = 64
    shared_channels: int = 128
    num_middle_blocks: int = 6
    upscale: int = 2  # pixels that the last convolution makes of one, per side


@dataclass(frozen=True, kw_only=True)
class RendererConfig:
    """The whole renderer.

    Raises:
        WeightsError: the parts do not fit together.
    """

    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    motion: MotionExtractorConfig = field(default_factory=MotionExtractorConfig)
    warping: WarpingConfig = field(default_factory=WarpingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        dense, appearance = self.warping.dense_motion, self.appearance
        pairs = [
            ("num_keypoints", dense.num_keypoints, self.motion.num_keypoints),
            ("volume_channels", dense.volume_channels, appearance.volume_channels),
            ("volume_depth", dense.volume_depth, appearance.volume_depth),
            ("map_channels", self.warping.map_channels, self.decoder.map_channels),
        ]
        for name, a, b in pairs:
            if a != b:
                raise WeightsError(f"{name} is {a} in one network of the renderer and {b} in another; use one number")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> RendererConfig:
        """Reads what `save` wrote.

        Raises:
            WeightsError: the file is missing or holds unknown names.
        """
        try:
            return RendererConfig._from_values(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path} is no renderer configuration ({error}); restore the weights folder") from error

    @staticmethod
    def _from_values(values: dict[str, Any]) -> RendererConfig:
        motion = values["motion"] | {name: tuple(values["motion"][name]) for name in ("depths", "widths")}
        warping = values["warping"] | {"dense_motion": DenseMotionConfig(**values["warping"]["dense_motion"])}
        return RendererConfig(
            appearance=AppearanceConfig(**values["appearance"]),
            motion=MotionExtractorConfig(**motion),
            warping=WarpingConfig(**warping),
            decoder=DecoderConfig(**values["decoder"]),
        )


PUBLISHED = RendererConfig()
TINY = RendererConfig(
    appearance=AppearanceConfig(width=8, max_width=16, volume_channels=4, volume_depth=4, num_volume_blocks=1),
    motion=MotionExtractorConfig(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16)),
    warping=WarpingConfig(
        dense_motion=DenseMotionConfig(
            volume_channels=4, volume_depth=4, compressed_channels=2, width=4, max_width=16, num_halvings=2
        ),
        map_channels=8,
    ),
    decoder=DecoderConfig(map_channels=8, last_channels=6, shared_channels=8, num_middle_blocks=1),
)
