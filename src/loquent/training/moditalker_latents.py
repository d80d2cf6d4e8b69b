"""Latents of windows for MToV's trainings: those that both autoencoders make, and those that a denoiser draws."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from loquent.models.moditalker import LatentUNet, TriplaneAutoencoder
from loquent.models.moditalker.config import AutoencoderConfig, UNetConfig
from loquent.models.moditalker.rendering import FAST, LatentScale
from loquent.models.moditalker.video_sampling import Conditions, LatentSampler, guided
from loquent.nn.weights import load_exactly, read_weights
from loquent.training.moditalker_video_data import NetworkView, Windows, variant

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from loquent.training.moditalker_video_data import StoredWindow

logger = logging.getLogger(__name__)

SPREAD = 2.5  # deviations that fill [0, 1]
_BATCH = 16


@dataclass(frozen=True, eq=False)
class LatentBatch:
    """Latents (B, L, P) of clips, and what the denoiser is told of them."""

    latent: Tensor
    landmark: Tensor
    pose: Tensor
    identity: Tensor  # (B, L, xy positions)


def cache_latents(folder: Path, kind: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Latents (N, L, P) of every window of a folder by its autoencoders; kept in latents.safetensors there.

    For autoencoders that paint over a photo every window counts twice, as it is and mirrored, and some without colour.
    """
    path = folder / "latents.safetensors"
    if path.is_file():
        return load_file(path)
    pictures, dots = (_read_autoencoder(folder / name).to(kind) for name in ("pictures", "dots"))
    config, windows = pictures.config, Windows(folder)
    encoders = _Encoders(pictures, dots, kind)
    found: dict[str, list[Tensor]] = {name: [] for name in LatentBatch.__dataclass_fields__}
    with torch.no_grad():
        for number in range(len(windows)):
            stored = windows[number]
            seen = [variant(stored, number, side) for side in (False, True)] if config.guide_channels else [stored]
            for window in seen:
                for name, latent in encoders.encode(window).items():
                    found[name].append(latent)
            if (number + 1) % 200 == 0:
                logger.info("latents of %d of %d windows", number + 1, len(windows))
    latents = {name: torch.cat(parts).half() for name, parts in found.items()}
    save_file(latents, path)
    return latents


class _Encoders:
    """Both autoencoders; portraits that they saw lately are not encoded again."""

    def __init__(self, pictures: TriplaneAutoencoder, dots: TriplaneAutoencoder, kind: torch.dtype) -> None:
        self._pictures, self._dots, self._kind = pictures, dots, kind
        self._identities: dict[bytes, Tensor] = {}

    def encode(self, window: StoredWindow) -> dict[str, Tensor]:
        """What `LatentBatch` holds of a window, (1, L, P) each."""
        config, view = self._pictures.config, NetworkView(window, self._pictures.config)
        clip = view.openings() if config.guide_channels else view.clip()
        latent, pose = (self._pictures.encode(part[None].to(self._kind)) for part in (clip, view.pose()))
        key = window.portrait.tobytes()
        if key not in self._identities:
            still = self._pictures.encode(view.portrait()[None].to(self._kind))
            recent = list(self._identities.items())[-3:]
            self._identities = dict(recent) | {key: still[..., : config.side**2].contiguous()}
        landmark = self._dots.encode(view.dots()[None].to(self._kind))
        return {"latent": latent, "landmark": landmark, "pose": pose, "identity": self._identities[key]}


def _read_autoencoder(folder: Path) -> TriplaneAutoencoder:
    network = TriplaneAutoencoder(AutoencoderConfig.load(folder / "config.json"))
    path = folder / "model.safetensors"
    load_exactly(network, read_weights(path), str(path))
    return network.eval()


def latent_scale(latent: Tensor) -> LatentScale:
    """What brings latents (N, L, P) to [−1, 1] but for the outermost."""
    deviation = latent.float().std(0)
    return LatentScale(latent.float().mean(0), SPREAD * deviation.clamp(min=0.2 * float(deviation.mean()) + 1e-6))


@torch.no_grad()
def draw_latents(latents: dict[str, Tensor], denoiser: Path, seed: int = 0) -> Tensor:
    """What a denoiser draws, told what it is told of each window, as users are shown it: (N, L, P).

    Args:
        latents: of `cache_latents`.
        denoiser: folder of its weights, with their scale.
        seed: of the noise.
    """
    network = LatentUNet(UNetConfig.load(denoiser / "config.json"))
    path = denoiser / "model.safetensors"
    load_exactly(network, read_weights(path), str(path))
    network.eval()
    scale, sampler, random = LatentScale.load(denoiser), LatentSampler(FAST), torch.Generator().manual_seed(seed)
    drawn = []
    for first in range(0, len(latents["latent"]), _BATCH):
        told = {name: values[first : first + _BATCH].float() for name, values in latents.items()}
        shape = told.pop("latent").shape
        made = sampler.sample(
            guided(network, Conditions(**told), 1.0),
            torch.randn(shape, generator=random),
            lambda shape=shape: torch.randn(shape, generator=random),
            network.config.prediction,
        )
        drawn.append(scale.from_unit(made))
    return torch.cat(drawn)
