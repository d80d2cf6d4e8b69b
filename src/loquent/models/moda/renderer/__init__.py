"""The warping renderer of the LivePortrait family, which draws what MoDA generates."""

from loquent.models.moda.renderer.appearance import AppearanceExtractor
from loquent.models.moda.renderer.config import PUBLISHED, TINY, RendererConfig
from loquent.models.moda.renderer.decoder import SpadeDecoder
from loquent.models.moda.renderer.motion_extractor import MotionExtractor
from loquent.models.moda.renderer.warping import WarpingNetwork

__all__ = [
    "PUBLISHED",
    "TINY",
    "AppearanceExtractor",
    "MotionExtractor",
    "RendererConfig",
    "SpadeDecoder",
    "WarpingNetwork",
]
