"""How different two pictures look: by features of VGG-19; by those of the shipped landmarker, which knows faces alone; or
without any weights by colours and edges at many sizes.

Source: Johnson et al. 2016, "Perceptual Losses for Real-Time Style Transfer"; Wang et al. 2018, "High-Resolution Image
Synthesis and Semantic Manipulation with Conditional GANs", for layers and weights.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from loquent.errors import WeightsError
from loquent.face.embedded import load_landmarker
from loquent.training.image_losses import PYRAMID_SHRINKS, pyramid_level, slope_difference

if TYPE_CHECKING:
    from collections.abc import Callable

    from loquent.face.landmarker import Part

    Distance = Callable[[Tensor, Tensor], Tensor]  # of pictures (B, 3, H, W) in [0, 1]

_WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 512, 512, "pool", 512)
_READ = (1, 6, 11, 20, 29)  # after the first activation of every size
_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures that VGG was trained on
_SLOPE_WEIGHT = 2.0
_STAGE_ENDS = (0, 2, 4, 6)  # of the landmarker's layers: stem, and two stages of two blocks
_LEAST_FEATURE = 1e-3


def make_distance(vgg: str, device: str | torch.device = "cpu") -> Distance:
    """The distance by VGG-19 whose weights lie in the file `vgg`; with "" the one that needs no weights."""
    return VggDistance(Path(vgg)).to(device) if vgg else structure_distance


def structure_distance(real: Tensor, made: Tensor) -> Tensor:
    """Mean difference of colours and of the steps between neighbours, at full size, a half, a quarter and an eighth.

    Ours, for where VGG's weights are not at hand: it sees sharpness and place of edges, and no texture.
    """
    total = real.new_zeros(())
    for shrink in PYRAMID_SHRINKS:
        small_real, small_made = pyramid_level(real, shrink), pyramid_level(made, shrink)
        even = torch.ones_like(small_real[:, :1])
        total = total + (small_real - small_made).abs().mean()
        total = total + _SLOPE_WEIGHT * slope_difference(small_real, small_made, even)
    return total / len(PYRAMID_SHRINKS)


class VggDistance(nn.Module):
    """Weighted mean differences of VGG-19's features at five depths.

    Args:
        path: state dict of torchvision's `vgg19` (its `features.*` are read), a .pth or .safetensors file.

    Raises:
        WeightsError: the file is missing or holds something else.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.features = _vgg_features()
        try:
            self.features.load_state_dict(_read_features(path, len(self.features)))
        except (OSError, RuntimeError, ValueError) as error:
            raise WeightsError(f"{path} does not hold VGG-19 in torchvision's layout ({error})") from error
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, real: Tensor, made: Tensor) -> Tensor:
        with torch.no_grad():
            of_real = self._read(real)
        of_made = self._read(made)
        away = [weight * (a - b).abs().mean() for weight, a, b in zip(_WEIGHTS, of_real, of_made, strict=True)]
        return torch.stack(away).sum()

    def _read(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures - self.mean) / self.std
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in _READ:
                found.append(x)
        return found


class LandmarkerDistance(nn.Module):
    """Mean difference of what a network of the embedded landmarker sees of two pictures, at three depths, each relative to
    the size of its features.

    Ours, for where VGG's weights are not at hand: it was trained in this project and lies in the package. It knows where
    lips, teeth and lids begin and end, and nothing but faces.

    Args:
        part: which of the three networks; see `face.landmarker`.

    Raises:
        WeightsError: the package's weights are damaged.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        network = load_landmarker().part(part)
        self.crop_size = network.config.crop_size  # the pictures' side that it was trained on; others work
        layers = list(copy.deepcopy(network.body))
        self.stages = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in itertools.pairwise(_STAGE_ENDS))
        self.eval().requires_grad_(False)

    def forward(self, real: Tensor, made: Tensor) -> Tensor:
        """Of pictures (B, 3, H, W) in [0, 1], H and W multiples of 8."""
        a, b = 2 * real - 1, 2 * made - 1
        away = []
        for stage in self.stages:
            with torch.no_grad():
                a = stage(a)
            b = stage(b)
            away.append((a - b).abs().mean() / a.abs().mean().clamp_min(_LEAST_FEATURE))
        return torch.stack(away).mean()


def _vgg_features() -> nn.Sequential:
    """VGG-19's layers up to the last that is read, numbered as torchvision numbers them."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _WIDTHS:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def _read_features(path: Path, num_layers: int) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, weights_only=True, map_location="cpu")
    prefix = "features."
    named = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in named.items() if int(name.split(".")[0]) < num_layers}
