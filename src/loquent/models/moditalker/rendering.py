"""Draws a portrait from landmark motion with MToV's starter weights; see `loquent.types.Renderer`.

Windows of 16 frames are sampled one after the other. The frames before a window's new ones are shown to it again, every
window starts from the same noise, and what a window paints differently in the last frame already drawn is taken off its
next frames, less and less, so that nothing jumps at a window's border.

Shape letters: T frames of a piece, N frames of a window, R side of the network's crop, h, w height and width of the
box round the mouth.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from loquent.errors import MotionError
from loquent.models.moditalker import landmarks as space
from loquent.models.moditalker.autoencoder import TriplaneAutoencoder
from loquent.models.moditalker.config import GRID, AutoencoderConfig, UNetConfig
from loquent.models.moditalker.fast import fast_autoencoder, fast_unet
from loquent.models.moditalker.moved_photo import MovedPhoto, cut_crop, mouth_corners, to_crop, with_base
from loquent.models.moditalker.painter import Paint
from loquent.models.moditalker.pictures import dots_to_clip, draw_dots, hide_lower_face, to_clip
from loquent.models.moditalker.unet import LatentUNet
from loquent.models.moditalker.video_sampling import (
    Conditions,
    LatentSampler,
    VideoSettings,
    check_planes,
    encode_frames,
    encode_still,
    guided,
)
from loquent.nn.weights import load_exactly, read_weights
from loquent.render.mouth_photo import LUMA
from loquent.render.person import scaled_photo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.moditalker.moved_photo import Layers
    from loquent.types import MotionCodes, Portrait

MOTION_SPACE = "moditalker-landmarks"
# Columns of the space: canonical displacement of the 68 landmarks from the photo's, in decimetres, x y z of landmark 0
# first; head rotation, translation and gaze as in `types.Motion.to_vector`.
_PARTS = [204, 207, 210]  # where head rotation, translation and gaze begin
MOTION_DIM = space.VECTOR_DIM + 10

SCALE_NAME = "scale.safetensors"  # in the denoiser's folder; without it latents stay as they are
NOT_SHIPPED = ("decoder.", "from_latent.", "patch_out.")  # of the autoencoder of dots: only training draws dots
FAST = VideoSettings(steps=2, solver="dpm-solver")


@dataclass(frozen=True, eq=False)
class LatentScale:
    """Latents (..., L, P) brought to [−1, 1] for the denoiser: (latent − middle) / spread. Published: not done."""

    middle: Tensor  # (L, P)
    spread: Tensor  # (L, P)

    @staticmethod
    def none() -> LatentScale:
        return LatentScale(torch.zeros(1, 1), torch.ones(1, 1))

    @staticmethod
    def load(folder: Path) -> LatentScale:
        """That of a denoiser's folder; none where it has no file of it.

        Raises:
            WeightsError: the file is damaged.
        """
        path = folder / SCALE_NAME
        return LatentScale(**read_weights(path)) if path.is_file() else LatentScale.none()

    def to_unit(self, latent: Tensor) -> Tensor:
        return ((latent - self.middle) / self.spread).clamp(-1, 1)

    def from_unit(self, latent: Tensor) -> Tensor:
        return self.middle + self.spread * latent

    def to(self, device: str) -> LatentScale:
        return LatentScale(self.middle.to(device), self.spread.to(device))


@dataclass(frozen=True, eq=False)
class VideoNetworks:
    """MToV's three networks.

    Raises:
        WeightsError: they do not belong together.
    """

    pictures: TriplaneAutoencoder
    dots: TriplaneAutoencoder
    denoiser: LatentUNet
    scale: LatentScale = field(default_factory=LatentScale.none)

    def __post_init__(self) -> None:
        check_planes(self.pictures, self.dots, self.denoiser)

    @staticmethod
    def from_pretrained(folder: Path, device: str = "cpu") -> VideoNetworks:
        """Reads a folder with the denoiser's config.json and model.safetensors, and with those of the autoencoders in
        the folders `pictures` and `dots`.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        pictures, dots = (
            TriplaneAutoencoder(AutoencoderConfig.load(folder / name / "config.json")) for name in ("pictures", "dots")
        )
        autoencoders = [_load(pictures, folder / "pictures"), _load(dots, folder / "dots", NOT_SHIPPED)]
        denoiser = _load(LatentUNet(UNetConfig.load(folder / "config.json")), folder)
        networks = [network.to(device).eval().requires_grad_(False) for network in (*autoencoders, denoiser)]
        return VideoNetworks(*networks, LatentScale.load(folder).to(device))  # type: ignore[arg-type]


def _load(network: torch.nn.Module, folder: Path, optional: tuple[str, ...] = ()) -> torch.nn.Module:
    """Loads weights that must fit; names that begin as `optional` says may be missing."""
    path = folder / "model.safetensors"
    state = read_weights(path)
    if optional:
        state = {name: value for name, value in network.state_dict().items() if name.startswith(optional)} | state
    load_exactly(network, state, str(path))
    return network


class Seen(NamedTuple):
    """What the networks are shown of one frame."""

    guide: Tensor  # (G, h, w)
    corner: Tensor  # (2,) of the box, see `moved_photo.mouth_corners`
    dots: Tensor  # (3, R, R)
    pose: Tensor  # (3, R, R)


class Moves(NamedTuple):
    """How a face moves, as `MovedPhoto.draw` takes it."""

    canonical: NDArray  # (T, 68, 3)
    rotation: NDArray  # (T, 3)
    translation: NDArray  # (T, 3)
    gaze: NDArray  # (T, 2, 2)

    def rows(self, start: int, stop: int) -> Moves:
        return Moves(*(part[start:stop] for part in self))


class BoxPaint(NamedTuple):
    """Paint of one frame."""

    corner: list[int]  # row and column of the box, in cells of the grid
    paint: Paint  # of the box: (C, h, w) each


class VideoRenderer:
    """Draws one portrait as landmarks say. Pieces must come in order; nothing is held back between them."""

    def __init__(
        self,
        networks: VideoNetworks,
        portrait: Portrait,
        *,
        size: int | None = None,
        settings: VideoSettings = FAST,
        seed: int = 0,
    ) -> None:
        """
        Args:
            networks: with an autoencoder of pictures that paints over a moved photo.
            portrait: the photo and its face.
            size: longer side of the frames in pixels; None keeps the photo's own.
            settings: how to sample; overlap and reference do not apply.
            seed: of the noise.
        """
        pixels, landmarks = scaled_photo(portrait.photo.pixels, portrait.face.landmarks, size)
        self.photo = MovedPhoto(pixels, landmarks)
        self._networks = networks
        self._pictures, self._dots = (fast_autoencoder(network) for network in (networks.pictures, networks.dots))
        self._denoiser = fast_unet(networks.denoiser)
        config = networks.pictures.config
        self._num_frames, self._size = config.num_frames, config.size_px
        self._fade_frames = config.num_frames * 3 // 8  # over which a window comes to its own after the one before
        self._device = networks.pictures.patch_in.weight.device
        self._crop_to_photo = self.photo.crop_to_photo(self._size)
        self._settings, self._sampler = settings, LatentSampler(settings)
        random = torch.Generator().manual_seed(seed)
        self._noise = torch.randn(config.latent_dim, config.latent_length, generator=random).to(self._device)
        self._random = random
        self._shown: list[Seen] = []  # of the last frames drawn, at most a window less one
        self._last: BoxPaint | None = None  # of the last frame drawn
        crop = cut_crop(pixels, self._crop_to_photo, (self._size, self._size))
        still = to_clip(torch.from_numpy(crop).movedim(-1, 0)[None])[:, 0]
        self._still = encode_still(self._pictures, still.to(self._device))

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of every frame; both even."""
        return self.photo.pixels.shape[1], self.photo.pixels.shape[0]

    def render(self, motion: MotionCodes) -> Iterator[NDArray[np.uint8]]:
        """Yields one RGB frame (H, W, 3) for each row of `motion`.

        Raises:
            MotionError: the motion is of another space.
        """
        if motion.space != MOTION_SPACE or motion.values.shape[1] != MOTION_DIM:
            raise MotionError(
                f"motion of the space {motion.space!r} with {motion.values.shape[1]} columns; "
                f"this renderer draws {MOTION_SPACE!r} with {MOTION_DIM}"
            )
        parts = np.split(motion.values.astype(np.float64), _PARTS, axis=1)
        canonical = self.photo.canonical + parts[0].reshape(-1, space.NUM_LANDMARKS, 3)
        moves = Moves(canonical, parts[1], parts[2], parts[3].reshape(-1, 2, 2))
        new = self._num_frames if not self._shown else self._num_frames - self._fade_frames
        start = 0
        before: tuple[list[Layers], Future[list[BoxPaint]]] | None = None
        with ThreadPoolExecutor(1) as painting:  # the photo moves for the next window while the networks paint this one
            while start < len(canonical):
                layers, seen, num_known = self._move(moves.rows(start, start + new))
                paints = painting.submit(self._paint, seen, num_known)
                if before is not None:
                    yield from self._finish(*before)
                before = layers, paints
                start, new = start + new, self._num_frames - self._fade_frames
            if before is not None:
                yield from self._finish(*before)

    def _move(self, moves: Moves) -> tuple[list[Layers], list[Seen], int]:
        """The moved photo in the new frames of a window, what the networks see of all its frames, the number known."""
        layers = list(self.photo.draw(*moves))
        points = to_crop(self.photo.landmarks_px(*moves[:3]), self._crop_to_photo)
        num_new = len(layers)
        known = self._shown[len(self._shown) - (self._num_frames - num_new) :] if num_new < self._num_frames else []
        seen = [*known, *self._see(layers, points)]
        self._shown = seen[-(self._num_frames - 1) :]
        return layers, seen, len(known)

    def _finish(self, layers: list[Layers], paints: Future[list[BoxPaint]]) -> Iterator[NDArray[np.uint8]]:
        for layer, paint in zip(layers, paints.result(), strict=True):
            yield self._compose(layer, paint)

    def _see(self, layers: list[Layers], points: NDArray) -> list[Seen]:
        """What the networks are shown of new frames; points (T, 68, 2) in pixels of the crop."""
        size = self._size
        corners = mouth_corners(points / size)
        base = np.stack([cut_crop(layer.base, self._crop_to_photo, (size, size)) for layer in layers])
        mouths = [self.photo.mouth(layer, tuple(corner), size) for layer, corner in zip(layers, corners, strict=True)]
        whole = torch.from_numpy(base).permute(0, 3, 1, 2).float()
        dots = dots_to_clip(draw_dots(points, size, size)).transpose(0, 1)
        pose = to_clip(hide_lower_face(whole, points)).transpose(0, 1)
        guides = [
            with_base(mouth, picture, corner) for mouth, picture, corner in zip(mouths, base, corners, strict=True)
        ]
        guide = to_clip(torch.from_numpy(np.stack(guides)).permute(0, 3, 1, 2)).transpose(0, 1)
        return [Seen(*parts) for parts in zip(guide, torch.from_numpy(corners), dots, pose, strict=True)]

    @torch.no_grad()
    def _paint(self, seen: list[Seen], num_known: int) -> list[BoxPaint]:
        """Paint of each frame of a window but the known ones at its start."""
        num_real = len(seen)
        seen = seen + seen[-1:] * (self._num_frames - num_real)
        guide, corners, dots, pose = (torch.stack(parts).to(self._device) for parts in zip(*seen, strict=True))
        latent = self._sample(dots, pose)
        rows = slice(max(num_known - 1, 0), num_real)
        tokens = self._pictures.decode_tokens(latent)[0, rows]
        made = self._networks.pictures.paint(tokens, guide[rows], corners[rows])
        colours = made.colour.cpu() if self.photo.tone is None else in_tone(made.colour.cpu(), self.photo.tone)
        paints = [
            BoxPaint(corner, Paint(shares, colour))
            for corner, shares, colour in zip(corners[rows].tolist(), made.shares.cpu(), colours, strict=True)
        ]
        if num_known and self._last is not None:
            paints = _join(self._last, paints, self._fade_frames, self._size // GRID)
        self._last = paints[-1]
        return paints

    def _sample(self, dots: Tensor, pose: Tensor) -> Tensor:
        """The latent (1, L, P) of a window, from dot pictures and hidden faces (N, 3, R, R)."""
        conditions = Conditions(
            landmark=encode_frames(self._dots, dots),
            pose=encode_frames(self._pictures, pose),
            identity=self._still[..., : self._pictures.config.side**2],
        )
        network = guided(self._denoiser, conditions, self._settings.guidance)

        def draw_noise() -> Tensor:
            return torch.randn(self._noise.shape, generator=self._random)[None].to(self._device)

        scale = self._networks.scale
        start = self._sampler.start(scale.to_unit(self._still), self._noise[None])
        made = self._sampler.sample(network, start, draw_noise, self._denoiser.config.prediction)
        return scale.from_unit(made)

    def _compose(self, layers: Layers, box: BoxPaint) -> NDArray[np.uint8]:
        """A frame (H, W, 3) at the photo's resolution."""
        frame = layers.base.copy()
        rows, columns = (np.flatnonzero(layers.near.any(axis)) for axis in (1, 0))
        if not len(rows):
            return frame
        near_box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))  # of the face's box
        left, top = self.photo.face_box[0] + columns[0], self.photo.face_box[1] + rows[0]
        near = layers.near[near_box][..., None] * np.float32(1 / 255)
        height, width = near.shape[:2]
        to_photo = self._crop_to_photo.copy()
        to_photo[:, 2] += to_photo[:, :2] @ (np.array(box.corner[::-1]) * (self._size // GRID))
        to_box = to_photo - np.array([[0, 0, left], [0, 0, top]])
        shares, colour = (
            cv2.warpAffine(
                part.permute(1, 2, 0).numpy(),
                to_box,
                (width, height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for part in box.paint
        )
        seen = frame[top : top + height, left : left + width]
        base = seen.astype(np.float32)
        moved = (layer[near_box][..., :3] for layer in (layers.upper, layers.lower, layers.teeth))
        parts = (base, *moved, 127.5 * (colour + 1))
        painted = sum(shares[..., index, None] * part for index, part in enumerate(parts))
        seen[:] = np.clip(np.rint(base + near * (painted - base)), 0, 255)
        return frame


def in_tone(colour: Tensor, tone: NDArray) -> Tensor:
    """Colours (F, 3, h, w) in [−1, 1] as shades of one tone (3,), a colour of luma 1."""
    weights, shade = (torch.from_numpy(values).to(colour).view(3, 1, 1) for values in (LUMA, np.asarray(tone)))
    luma = (weights * (colour + 1)).sum(1, keepdim=True)
    return (shade * luma - 1).clamp(-1, 1)


def _join(last: BoxPaint, made: list[BoxPaint], fade_frames: int, cell_px: int) -> list[BoxPaint]:
    """New paints, brought up to `last`; the first of `made` is the same frame as `last`, and is left out."""
    away = [before - now for before, now in zip(last.paint, made[0].paint, strict=True)]
    joined = []
    for index, (corner, paint) in enumerate(made[1:], start=1):
        weight = max(0.0, 1 - index / fade_frames)
        if weight == 0:
            joined.append(BoxPaint(corner, paint))
            continue
        down, across = (cell_px * (new - old) for new, old in zip(corner, last.corner, strict=True))
        shares, colour = (part + weight * _moved(rest, down, across) for part, rest in zip(paint, away, strict=True))
        shares = shares.clamp(min=0)
        joined.append(BoxPaint(corner, Paint(shares / shares.sum(0, keepdim=True), colour.clamp(-1, 1))))
    return joined


def _moved(values: Tensor, down: int, across: int) -> Tensor:
    """Values (C, h, w) seen through a box that lies so many pixels further; 0 where they end."""
    height, width = values.shape[1:]
    padded = F.pad(values, (width, width, height, height))
    top, left = (int(np.clip(side + by, 0, 2 * side)) for side, by in ((height, down), (width, across)))
    return padded[:, top : top + height, left : left + width]
