"""Trains MToV's autoencoders: the recipes `moditalker-autoencoder`, then `moditalker-landmark-autoencoder`.

The second is for dot pictures. It begins with the weights of the first and keeps its decoder, as published.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from loquent.errors import WeightsError
from loquent.models.moditalker import TriplaneAutoencoder
from loquent.models.moditalker.autoencoder import PLANES, freeze_decoder
from loquent.models.moditalker.config import AUTOENCODER_PRESETS, GRID, AutoencoderConfig
from loquent.models.moditalker.discriminator import PatchDiscriminator
from loquent.models.moditalker.moved_photo import mouth_corners
from loquent.models.moditalker.painter import Guide, tokens_of_boxes
from loquent.nn.weights import load_exactly, read_weights
from loquent.training.image_losses import slope_difference, total
from loquent.training.loop import Learner, TrainSettings, train, train_together
from loquent.training.machines import join_machines
from loquent.training.moditalker_latents import cache_latents, draw_latents
from loquent.training.moditalker_losses import PIXEL_WEIGHT, Discriminators, autoencoder_losses, discriminator_loss
from loquent.training.moditalker_video_data import (
    NUM_FRAMES,
    STORED_PX,
    NetworkView,
    StoredWindow,
    Windows,
    cut_boxes,
    variant,
    write_windows,
)
from loquent.training.optimizers import OptimizerSettings
from loquent.training.perceptual import make_distance, structure_distance
from loquent.training.recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from loquent.nn.config import SavedConfig
    from loquent.training.perceptual import Distance

LATENT_NOISE = 0.03  # deviation of what is added to latents, so that the decoder bears the denoiser's errors
LATENT_EDGE = 0.7  # latents beyond it are held back, or they stick at -1 and 1, where nothing is learnt
OPENING_WEIGHT = 60.0  # of pixels that neither layer's skin covers, in addition to 1: few, but the hard ones


@dataclass(frozen=True, kw_only=True)
class PainterLossWeights:
    """How much each term of a painter's loss counts."""

    sketch: float = 0.1
    picture: float = 1.0
    slopes: float = 1.5
    structure: float = 0.5
    colour: float = 0.25
    spill: float = 0.5  # of own colour over skin
    edge: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """Configuration of the recipe `moditalker-autoencoder`."""

    network: AutoencoderConfig
    train: TrainSettings
    batch_size: int = 1
    painted_frames: int = 8  # of a window, on which the loss of a painter is taken; the published loss takes all
    painter_loss: PainterLossWeights = field(default_factory=PainterLossWeights)
    painter_only: bool = False  # encoder and decoder stay as they began, and latents with them
    mixing: float = 0.0  # of others' latents into those that a painter is given, at most: denoisers err that way
    drawn_by: str = ""  # folder of a denoiser's weights, whose latents the painter is given; "": the frames' own
    judge: OptimizerSettings | None = None  # of the discriminators of the published loss; None: without them
    vgg: str = ""  # file with VGG-19's weights for the published perceptual term; "": colours and edges instead
    begin_with: str = ""  # folder of weights to go on from; "": afresh


@dataclass(frozen=True, kw_only=True)
class LandmarkRecipe:
    """Configuration of the recipe `moditalker-landmark-autoencoder`."""

    network: AutoencoderConfig
    train: TrainSettings
    batch_size: int = 1
    dot_weight: float = 0.0  # of white pixels in the loss, in addition to 1; 0 is published


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Clips, and the moved photo if the decoder paints over one."""

    clip: Tensor  # (B, 3, T, R, R), for a painter grey away from the mouth; (B, L, P) where latents are known already
    painted: PaintedFrames | None = None


@dataclass(frozen=True, eq=False)
class PaintedFrames:
    """What a painter's loss compares with."""

    numbers: Tensor  # (F,), of frames of the clips
    guide: Tensor  # (B·F, G, h, w)
    real: Tensor  # (B·F, 3, h, w)
    corners: Tensor  # (B·F, 2)


class ClipBatches:
    """Batches of a folder of windows by number, drawn at random from those that are there."""

    def __init__(self, folder: Path, recipe: AutoencoderRecipe) -> None:
        self._windows = Windows(folder)
        self._recipe = recipe
        self._drawn = draw_latents(cache_latents(folder), Path(recipe.drawn_by)) if recipe.drawn_by else None

    def __call__(self, number: int) -> ClipBatch:
        config, seed = self._recipe.network, self._recipe.train.seed
        rng = np.random.default_rng((seed, number))
        chosen = rng.integers(len(self._windows), size=self._recipe.batch_size)
        if not config.guide_channels:
            return ClipBatch(torch.stack([NetworkView(self._windows[int(n)], config).clip() for n in chosen]))
        numbers = np.sort(rng.permutation(config.num_frames)[: self._recipe.painted_frames]).tolist()
        sides = rng.integers(2, size=len(chosen))
        views = [
            NetworkView(variant(self._windows[int(n)], int(n), bool(side)), config)
            for n, side in zip(chosen, sides, strict=True)
        ]
        boxes = zip(*(view.mouth(numbers) for view in views), strict=True)
        painted = PaintedFrames(torch.tensor(numbers), *(torch.cat(parts) for parts in boxes))
        if self._drawn is not None:
            return ClipBatch(self._drawn[torch.from_numpy(2 * chosen + sides)], painted)
        return ClipBatch(torch.stack([view.openings() for view in views]), painted)


class PublishedTurns:
    """The published loss, whose adversarial terms are there where discriminators are."""

    def __init__(self, distance: Distance) -> None:
        self.distance = distance

    def __call__(
        self, networks: Mapping[str, nn.Module], batch: ClipBatch, random: torch.Generator, step: int
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        autoencoder, judges = networks["autoencoder"], networks.get("judges")
        assert isinstance(autoencoder, TriplaneAutoencoder)
        frame = torch.randint(batch.clip.shape[2], (len(batch.clip),), generator=random).to(batch.clip.device)
        made = autoencoder(batch.clip.to(autoencoder.patch_in.weight)).float()
        pair = None if judges is None else Discriminators(judges.frames, judges.clips)  # type: ignore[arg-type]
        terms = autoencoder_losses(batch.clip, made, frame, pair, self._perceptual)
        yield "autoencoder", {"loss": total(terms.values()), **terms}
        if pair is not None:
            yield "judges", {"loss": discriminator_loss(batch.clip, made, frame, pair)}

    def _perceptual(self, real: Tensor, made: Tensor) -> Tensor:
        return self.distance((real + 1) / 2, (made + 1) / 2)


class PainterLoss:
    """The loss of an autoencoder that paints over a moved photo."""

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        self._recipe = recipe

    def __call__(self, network: TriplaneAutoencoder, batch: ClipBatch, random: torch.Generator) -> dict[str, Tensor]:
        painted, weights = batch.painted, self._recipe.painter_loss
        assert painted is not None
        with torch.set_grad_enabled(not self._recipe.painter_only):
            given = batch.clip.to(network.patch_in.weight)
            latent = given if given.ndim == 3 else network.encode(given)
            tokens = network.decode_tokens(self._disturbed(latent, random))[:, painted.numbers].flatten(0, 1)
        guide, real = painted.guide, painted.real
        paint = network.paint(tokens, guide, painted.corners)
        made = paint.over(guide.to(paint.colour)).float()
        focus, near = opening_weights(guide), (Guide.of(guide).near + 1) / 2
        terms = {
            "sketch": self._sketch_difference(network, tokens, painted, focus),
            "picture": (focus * (made - real).abs()).mean(),
            "slopes": slope_difference(real, made, focus),
            "structure": structure_distance(near * (real + 1) / 2, near * (made + 1) / 2),
            "colour": (focus * (paint.colour.float() - real).abs()).mean(),
            "spill": (near * _skin(guide) * paint.shares[:, 4:].float()).mean(),
            "edge": (latent.float().abs() - LATENT_EDGE).clamp(min=0).square().mean(),
        }
        loss = total(getattr(weights, name) * value for name, value in terms.items())
        return {"loss": loss, **terms, "own": (focus * paint.shares[:, 4:].float()).mean().detach()}

    def _disturbed(self, latent: Tensor, random: torch.Generator) -> Tensor:
        """Latents as a denoiser may give them: noisy, and partly another person's."""
        noise = LATENT_NOISE * torch.randn(latent.shape, generator=random)
        share = self._recipe.mixing * torch.rand(len(latent), 1, 1, generator=random)
        return torch.lerp(latent, latent.roll(1, 0), share.to(latent)) + noise.to(latent)

    @staticmethod
    def _sketch_difference(
        network: TriplaneAutoencoder, tokens: Tensor, painted: PaintedFrames, focus: Tensor
    ) -> Tensor:
        height, width = (side // network.config.patch_px for side in painted.real.shape[2:])
        cells = painted.corners * (network.config.side // GRID)
        sketch = torch.tanh(network.painter.sketch(tokens_of_boxes(tokens, cells, (height, width)))).float()
        factor = painted.real.shape[3] // sketch.shape[3]
        small, weights = (F.avg_pool2d(value, factor) for value in (painted.real, focus))
        return (weights * (sketch - small).abs()).mean()


def _skin(guide: Tensor) -> Tensor:
    """How much of each pixel of a guide (N, G, h, w) is skin of one side of the opening: (N, 1, h, w), 0 to 1."""
    parts = Guide.of(guide)
    return (torch.maximum(parts.is_upper, parts.is_lower) + 1) / 2


def opening_weights(guide: Tensor) -> Tensor:
    """Weights (N, 1, H, W), mean 1, of pixels near mouth and eyes, most of those that no layer's skin covers."""
    parts = Guide.of(guide)
    opening = (1 - parts.is_upper) * (1 - parts.is_lower) / 4
    weights = (parts.near + 1) / 2 * (1 + OPENING_WEIGHT * opening)
    return weights / weights.mean().clamp(min=1e-3)


def train_pictures(recipe: AutoencoderRecipe, data: Path, output: Path, device: str = "cpu") -> nn.Module:
    """Trains on windows; the averaged weights are written to `output`/weights at every save."""
    torch.manual_seed(recipe.train.seed)
    network = TriplaneAutoencoder(recipe.network)
    for name in PLANES:
        network.to_latent[name].weight.data.mul_(0.3)  # type: ignore[operator]
        network.from_latent[name].weight.data.mul_(4)  # type: ignore[operator]
    if recipe.begin_with:
        begin_with(network, Path(recipe.begin_with), recipe.painter_only)
    batches = ClipBatches(data, recipe)

    def save(average: nn.Module, step: int) -> None:
        save_network(average, recipe.network, output / "weights")

    if recipe.network.guide_channels:
        return train(network, PainterLoss(recipe), batches, recipe.train, output, save, device=device)
    learners = {"autoencoder": Learner(network, recipe.train)}
    if recipe.judge is not None:
        judges = nn.ModuleDict({"frames": PatchDiscriminator(2), "clips": PatchDiscriminator(3)})
        learners["judges"] = Learner(judges, recipe.judge)
    turns = PublishedTurns(make_distance(recipe.vgg, join_machines(device).device))
    return train_together(learners, turns, batches, recipe.train, output, save, device=device)


def begin_with(network: TriplaneAutoencoder, folder: Path, painter_only: bool) -> None:
    """Takes over the weights of a folder. For the painter alone, all others then stay as they are, and of its own those
    are taken that fit.

    Raises:
        WeightsError: the weights are of an autoencoder of another size.
    """
    source = folder / "model.safetensors"
    state = read_weights(source)
    if painter_only:
        fixed = {name: value for name, value in state.items() if not name.startswith("painter.")}
        own = {name: value for name, value in network.state_dict().items() if name.startswith("painter.")}
        kept = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
        state = fixed | own | kept
        for name, weight in network.named_parameters():
            weight.requires_grad_(name.startswith("painter."))
    load_exactly(network, state, str(source))


class DotBatches:
    """Batches of dot pictures by number."""

    def __init__(self, folder: Path, recipe: LandmarkRecipe) -> None:
        self._windows = Windows(folder)
        self._recipe = recipe

    def __call__(self, number: int) -> Tensor:
        config, rng = self._recipe.network, np.random.default_rng((self._recipe.train.seed, number))
        chosen = rng.integers(len(self._windows), size=self._recipe.batch_size)
        return torch.stack([NetworkView(self._windows[int(index)], config).dots() for index in chosen])


def dots_loss(dot_weight: float) -> Callable[[TriplaneAutoencoder, Tensor, torch.Generator], dict[str, Tensor]]:
    """The published loss; pixels of dots, a thirtieth of all, may count more."""

    def loss(network: TriplaneAutoencoder, dots: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        made = network(dots.to(network.patch_in.weight)).float()
        weights = 1 + dot_weight * (dots + 1) / 2
        reconstruction = PIXEL_WEIGHT * (weights * (made - dots).abs()).mean() / weights.mean()
        return {"loss": reconstruction}

    return loss


def train_dots(recipe: LandmarkRecipe, data: Path, output: Path, device: str = "cpu") -> nn.Module:
    """Trains on windows, from the weights in `data`/pictures; those of dots are written to `output`/weights."""
    torch.manual_seed(recipe.train.seed)
    network = TriplaneAutoencoder(recipe.network)
    take_over(network, read_weights(data / "pictures" / "model.safetensors"))
    freeze_decoder(network)

    def save(average: nn.Module, step: int) -> None:
        save_network(average, recipe.network, output / "weights")

    return train(
        network, dots_loss(recipe.dot_weight), DotBatches(data, recipe), recipe.train, output, save, device=device
    )


def take_over(network: TriplaneAutoencoder, pictures: Mapping[str, Tensor]) -> None:
    """Copies the weights of the autoencoder of pictures into that of dot pictures; a painter has none of its last stage.

    Raises:
        WeightsError: the weights are of an autoencoder of another size.
    """
    own = network.state_dict()
    for name, value in own.items():
        if name in pictures and pictures[name].shape == value.shape:
            own[name] = pictures[name].float()
        elif not name.startswith("patch_out."):
            raise WeightsError(f"the autoencoder of pictures has another {name}; use two configurations of one size")
    network.load_state_dict(own)


def write_debug_windows(folder: Path) -> None:
    """A few windows of a dark spot that moves under a line of landmarks."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:STORED_PX, :STORED_PX]
    windows = []
    for _ in range(3):
        x, y = (np.cumsum(rng.normal(0, 2, NUM_FRAMES)) + STORED_PX / 2 for _ in range(2))
        offsets = np.stack([np.linspace(-30, 30, 68), np.zeros(68)], -1)
        spot = np.hypot(columns - x[:, None, None], rows - y[:, None, None]) < 30
        picture = np.where(rng.random() * 255 + columns[..., None] * [1.0, 0.5, 0] > 150, 220, 120).astype(np.uint8)
        frames = np.where(spot[..., None], 20, picture).astype(np.uint8)
        points = ((np.stack([x, y], -1)[:, None] + offsets) / STORED_PX).astype(np.float32)
        base, corners = np.broadcast_to(picture, frames.shape), mouth_corners(points)
        numbers = list(range(NUM_FRAMES))
        layer = cut_boxes(base, numbers, corners)
        skin = cut_boxes(np.where(spot, 0, 255).astype(np.uint8)[..., None], numbers, corners)
        near, places = np.full_like(skin, 255), np.full((*skin.shape[:3], 4), 128, np.uint8)
        mouth = np.concatenate([layer, skin, layer, skin, near, layer, np.zeros_like(skin), places], -1)
        windows.append(StoredWindow(frames, base, mouth, corners, points, picture))
    write_windows(folder, windows)


def write_debug_dots(folder: Path) -> None:
    """Windows, and weights of an autoencoder of pictures to begin with."""
    write_debug_windows(folder)
    torch.manual_seed(0)
    config = AUTOENCODER_PRESETS["tiny-painter"]
    save_network(TriplaneAutoencoder(config), config, folder / "pictures")


def save_network(network: nn.Module, config: SavedConfig, folder: Path) -> None:
    """Writes config.json and model.safetensors, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    save_file(
        {name: value.half().contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors"
    )


_WINDOWS = "windows made by `python -m loquent.training.moditalker_video_data`"
_DEBUG = TrainSettings(steps=24, learning_rate=5e-3, warmup_steps=2, save_every=12, log_every=6)
_PUBLISHED = TrainSettings(
    steps=1_000_000, learning_rate=1e-4, decay_share=0.0, betas=(0.5, 0.9), batches_per_step=3, autocast=True,
    save_every=2000,
)  # fmt: skip

RECIPE = Recipe(
    presets={
        "starter": AutoencoderRecipe(
            network=AUTOENCODER_PRESETS["starter"],
            batch_size=2,
            train=TrainSettings(
                steps=1600, learning_rate=1.5e-3, warmup_steps=60, decay_share=0.35, ema_decay=0.995, bfloat16=True,
                save_every=100, log_every=20,
            ),
        ),
        # On the weights of the run before (begin_with), whose latents stay as they are.
        "starter-painter": AutoencoderRecipe(
            network=AUTOENCODER_PRESETS["starter"],
            batch_size=2,
            painter_only=True,
            mixing=1.0,
            train=TrainSettings(
                steps=2800, learning_rate=1.5e-3, warmup_steps=50, decay_share=0.45, betas=(0.9, 0.99), ema_decay=0.995,
                bfloat16=True, save_every=100, log_every=20,
            ),
        ),
        "published": AutoencoderRecipe(network=AUTOENCODER_PRESETS["published"], train=_PUBLISHED),
        # The published fine-tuning against discriminators, on the weights of the run before (begin_with).
        "published-judged": AutoencoderRecipe(
            network=AUTOENCODER_PRESETS["published"],
            train=replace(_PUBLISHED, steps=10_000, batches_per_step=1),
            judge=OptimizerSettings(learning_rate=1e-4, decay_share=0.0, betas=(0.5, 0.9)),
            batch_size=8,
        ),
        "debug": AutoencoderRecipe(network=AUTOENCODER_PRESETS["tiny-painter"], train=_DEBUG, painted_frames=2),
    },
    run=train_pictures,
    data=_WINDOWS,
    write_debug_data=write_debug_windows,
)  # fmt: skip

LANDMARK_RECIPE = Recipe(
    presets={
        "starter": LandmarkRecipe(
            network=AUTOENCODER_PRESETS["starter-landmark"],
            dot_weight=8.0,
            train=TrainSettings(
                steps=800, learning_rate=1e-3, warmup_steps=40, decay_share=0.4, ema_decay=0.99, bfloat16=True,
                save_every=100, log_every=20,
            ),
        ),
        "published": LandmarkRecipe(network=AUTOENCODER_PRESETS["published"], train=_PUBLISHED),
        "debug": LandmarkRecipe(network=AUTOENCODER_PRESETS["tiny-landmark"], train=_DEBUG, dot_weight=8.0),
    },
    run=train_dots,
    data=f"{_WINDOWS}, with the weights of the autoencoder of pictures in the folder `pictures`",
    write_debug_data=write_debug_dots,
)  # fmt: skip
