"""From a photo and keypoint motion to frames, with the warping renderer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.errors import ControlsError
from loquent.models.moda import crop
from loquent.models.moda.keypoints import (
    RELEASED_GAZE,
    KeypointMotion,
    Region,
    drive,
    match_amplitude,
    scaled_change,
    transform,
    with_sliders,
)
from loquent.models.moda.motion_space import SourceFace
from loquent.models.moda.renderer.fast import FastDecoder, FastWarping, Source
from loquent.models.moda.renderer.retargeting import stitch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.moda.renderer.networks import RendererNetworks


@dataclass(frozen=True, kw_only=True)
class DrivingOptions:
    """How the source follows the driver. The defaults are those of the released audio path.

    Raises:
        ControlsError: options that cannot go together.
    """

    relative: bool = False  # add the driver's changes to what the source does, instead of taking its place
    region: Region = "all"  # what is driven
    match_amplitude: bool = False  # relative motion in proportion to the source's face
    stitching: bool = True  # keeps the shoulders where they are
    strength: float = 1.0  # of all motion
    sliders: Mapping[str, float] = field(default_factory=lambda: RELEASED_GAZE)  # added to every frame

    def __post_init__(self) -> None:
        if self.match_amplitude and not self.relative:
            raise ControlsError("match_amplitude is for relative motion; set relative as well, or neither")


@dataclass(frozen=True, eq=False)
class SourcePhoto:
    """A photo with all that its frames share."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    crop_to_photo: NDArray[np.float32]  # (3, 3)
    face: SourceFace
    keypoints: Tensor  # (1, K, 3), transformed
    warping: Source


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
        return SourcePhoto(photo, square.crop_to_photo, face, keypoints, warping)

    @torch.no_grad()
    def read_motion(self, frames: NDArray[np.uint8]) -> KeypointMotion:
        """Motion of the face in crops of a driving video, (T, 256, 256, 3)."""
        pieces = []
        for start in range(0, len(frames), self.batch):
            pixels = torch.from_numpy(np.ascontiguousarray(frames[start : start + self.batch].transpose(0, 3, 1, 2)))
            pieces.append(SourceFace.from_raw(self._networks.motion(pixels.to(self._device).float() / 255)).motion)
        parts = (
            [getattr(piece, name) for piece in pieces] for name in ("expression", "rotation", "scale", "translation")
        )
        return KeypointMotion(*(torch.cat(part) for part in parts))

    @torch.no_grad()
    def targets(self, source: SourcePhoto, driver: KeypointMotion, options: DrivingOptions) -> Tensor:
        """Keypoints of every frame, (T, K, 3)."""
        driver = with_sliders(driver, **options.sliders)
        face = source.face
        target = drive(face.canonical, face.motion, driver, relative=options.relative, region=options.region)
        if options.match_amplitude:
            target = match_amplitude(source.keypoints, target)
        if options.stitching:
            target = stitch(self._networks.stitching, source.keypoints, target)
        return scaled_change(source.keypoints, target, options.strength)

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
