"""How the warping renderer is run while it learns: whole batches, no caches, and squares cut so that gradients pass.

Shape letters: B batch, K keypoints, S side of pictures. Pictures are (B, 3, S, S) in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from loquent.models.moda.keypoints import transform
from loquent.models.moda.motion_space import SourceFace
from loquent.models.moda.renderer.motion_extractor import RawMotion

if TYPE_CHECKING:
    from loquent.models.moda.renderer.networks import RendererNetworks


class Drawn(NamedTuple):
    """Pictures, and what was read to draw them."""

    picture: Tensor  # (B, 3, S, S)
    source: SourceFace
    target: SourceFace
    keypoints: Tensor  # (B, K, 3) of the target


def draw_pairs(renderer: RendererNetworks, source: Tensor, target: Tensor) -> Drawn:
    """Draws the face of `source` doing what that of `target` does; pictures (B, 3, s, s) of the input size."""
    of_source, of_target = face_of(renderer.motion(source)), face_of(renderer.motion(target))
    keypoints = transform(of_source.canonical, of_target.motion)
    own = transform(of_source.canonical, of_source.motion)
    picture = draw(renderer, renderer.appearance(source), keypoints, own)
    return Drawn(picture, of_source, of_target, keypoints)


def draw(renderer: RendererNetworks, volume: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """Pictures of a feature volume moved from keypoints `source` to `target`, (B, K, 3)."""
    return renderer.decoder(renderer.warping(volume, target, source).features).float()


def face_of(raw: RawMotion) -> SourceFace:
    """The motion extractor's answer in full precision."""
    return SourceFace.from_raw(RawMotion(*(part.float() for part in raw)))


def shrink(pictures: Tensor, size_px: int) -> Tensor:
    """Pictures averaged down to `size_px`."""
    return F.interpolate(pictures, size_px, mode="area") if pictures.shape[-1] != size_px else pictures


def cut_squares(pictures: Tensor, centre: Tensor, half: Tensor, size_px: int, roll_rad: Tensor | None = None) -> Tensor:
    """Squares cut out of pictures.

    Args:
        pictures: (B, C, H, W); beyond their edge its pixels go on.
        centre: (B, 2), −1..1 over the picture.
        half: (B,), half a side in the same unit.
        size_px: side of the result.
        roll_rad: (B,), turn of the squares; None: upright.
    """
    roll = torch.zeros_like(half) if roll_rad is None else roll_rad
    cos, sin = half * roll.cos(), half * roll.sin()
    affine = torch.stack([cos, -sin, centre[:, 0], sin, cos, centre[:, 1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(affine, [len(pictures), 1, size_px, size_px], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
