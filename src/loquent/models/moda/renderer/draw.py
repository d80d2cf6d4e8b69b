"""From a photo and keypoint motion to frames, with the warping renderer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.errors import ControlsError
from loquent.models.moda import crop
from loquent.models.moda.keypoints import join_motion, scaled_change, transform
from loquent.models.moda.motion_space import SourceFace
from loquent.models.moda.renderer.fast import FastDecoder, FastWarping, Source
from loquent.models.moda.renderer.retargeting import retarget, stitch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.moda.keypoints import KeypointMotion
    from loquent.models.moda.renderer.networks import RendererNetworks
    from loquent.models.moda.renderer.retargeting import KeypointMlp


@dataclass(frozen=True, eq=False)
class SourcePhoto:
    """A photo with all that its frames share."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    crop_to_photo: NDArray[np.float32]  # (3, 3)
    face: SourceFace
    keypoints: Tensor  # (1, K, 3), transformed
    warping: Source
    openings: Tensor | None  # (3,): how open left eye, right eye and lips are; None where the landmarks do not tell


class WarpingRenderer:
    """Draws frames of a photo.

    Args:
        networks: it takes them over: their layers are rearranged for inference.
        batch: frames drawn at once; a graphics card is kept busy by more.
    """

    def __init__(self, networks: RendererNetworks, batch: int = 1) -> None:
        networks.eval().requires_grad_(False)
        self.batch = batch
        self._networks = networks
        self._device = next(networks.parameters()).device
        self._warping = FastWarping(networks.warping)
        self._decoder = FastDecoder(networks.decoder)

    @torch.no_grad()
    def prepare(self, photo: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> SourcePhoto:
        """Reads a photo once.

        Args:
            photo: RGB, (H, W, 3).
            landmarks: of its face, (N, 2 or 3), N one of those that `crop.face_square` knows.
        """
        square = crop.face_square(landmarks, crop.SOURCE)
        small = torch.from_numpy(crop.network_input(crop.cut(photo, square)))[None].to(self._device)
        face = SourceFace.from_raw(self._networks.motion(small))
        keypoints = transform(face.canonical, face.motion)
        warping = self._warping.prepare(self._networks.appearance(small), keypoints)
        opened = (
            torch.from_numpy(crop.openings(landmarks)).float() if len(landmarks) in crop.OPENING_LANDMARKS else None
        )
        return SourcePhoto(photo, square.crop_to_photo, face.cpu(), keypoints, warping, opened)

    @torch.no_grad()
    def read_faces(self, crops: NDArray[np.uint8]) -> KeypointMotion:
        """Motion of the faces in crops of a driving video, (T, 256, 256, 3)."""
        pieces = []
        for start in range(0, len(crops), self.batch):
            pixels = torch.from_numpy(np.ascontiguousarray(crops[start : start + self.batch].transpose(0, 3, 1, 2)))
            pieces.append(
                SourceFace.from_raw(self._networks.motion(pixels.to(self._device).float() / 255)).cpu().motion
            )
        return join_motion(pieces)

    @torch.no_grad()
    def targets(
        self,
        source: SourcePhoto,
        motion: KeypointMotion,
        *,
        eye_opening: Tensor | None = None,
        lip_opening: Tensor | None = None,
        stitching: bool = True,
        strength: float = 1.0,
    ) -> Tensor:
        """Keypoints (T, K, 3) that draw what the source's face does.

        Args:
            source: from `prepare`.
            motion: T frames, of the source's own face (`keypoints.driven_motion`).
            eye_opening: (T,), as factors of the photo's own; 1 leaves the eyes to the motion.
            lip_opening: (T,), the same of the lips.
            stitching: keeps the shoulders where they are.
            strength: of all motion.

        Raises:
            ControlsError: an opening is asked for, and the photo's landmarks do not tell its own.
        """
        target = transform(source.face.canonical, motion).to(self._device)
        opened = [(eye_opening, self._networks.eyes, slice(0, 2)), (lip_opening, self._networks.lips, slice(2, 3))]
        for factor, network, own in opened:
            if factor is not None and (factor != 1).any():
                target = target + self._opening_change(network, source, factor, own)
        if stitching:
            target = stitch(self._networks.stitching, source.keypoints, target)
        return scaled_change(source.keypoints, target, strength)

    def _opening_change(self, network: KeypointMlp, source: SourcePhoto, factor: Tensor, own: slice) -> Tensor:
        """What brings lips or eyes to `factor` (T,) of the photo's own opening, (T, K, 3); 0 where the factor is 1."""
        if source.openings is None:
            raise ControlsError("the photo's landmarks do not tell how open eyes and lips are; give 203 or 478 of them")
        opened = source.openings[own].expand(len(factor), -1)
        ratios = torch.cat([opened, factor[:, None] * opened.mean(1, keepdim=True)], dim=1)
        change = retarget(network, source.keypoints, ratios.to(self._device))
        return change * (factor != 1).to(change)[:, None, None]

    def draw(self, source: SourcePhoto, targets: Tensor, *, whole: bool = True) -> Iterator[NDArray[np.uint8]]:
        """Frames of the keypoints (T, K, 3), one after the other.

        Args:
            source: from `prepare`.
            targets: from `targets`.
            whole: True gives the photo with the face in it, False the face crop alone.
        """
        mask: NDArray[np.float32] | None = None
        for start in range(0, len(targets), self.batch):
            for face in self._draw_faces(source, targets[start : start + self.batch]):
                if not whole:
                    yield face
                    continue
                if mask is None:
                    mask = crop.paste_mask(len(face))
                scale = crop.SOURCE.size_px / len(face)  # a decoder of another size than the crop's
                to_photo = source.crop_to_photo @ np.diag([scale, scale, 1.0])
                yield crop.paste_back(source.pixels, face, to_photo, mask)

    @torch.no_grad()
    def _draw_faces(self, source: SourcePhoto, targets: Tensor) -> NDArray[np.uint8]:
        """Face crops (T, S, S, 3)."""
        features = self._warping(source.warping, targets.to(self._device)).features
        pictures = self._decoder(features).mul_(255).to(torch.uint8)  # truncates, as published
        return pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
