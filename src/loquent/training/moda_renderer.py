"""Trains the warping renderer: the recipe `moda-renderer`.

    loquent train moda-renderer --data VIDEO_CORPUS --output RUN

Stage 1 trains the four large networks together, against judges of the whole picture, the face and the lips. Stage 2
(`moda_renderer_corrections`) trains the three small ones that correct keypoints, with the large ones as they are.

Source: Guo et al. 2024, "LivePortrait", section 3.2; its loss weights are unpublished, so those of Wang et al. 2021,
"One-Shot Free-View Neural Talking-Head Synthesis", on whose networks it builds, are taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from loquent.data.puppets import write_puppets
from loquent.face.topology import LIPS, NUM_MESH_LANDMARKS
from loquent.models.moda.keypoints import transform
from loquent.models.moda.renderer.config import (
    PUBLISHED,
    TINY,
    AppearanceConfig,
    DecoderConfig,
    DenseMotionConfig,
    MotionExtractorConfig,
    RendererConfig,
    WarpingConfig,
)
from loquent.models.moda.renderer.decoder import SpadeBlock
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.models.moditalker.discriminator import PatchDiscriminator
from loquent.training.image_losses import total
from loquent.training.keypoint_losses import (
    RandomWarp,
    equivariance_loss,
    expression_loss,
    guidance_loss,
    spread_loss,
)
from loquent.training.loop import Learner, TrainSettings, train_together
from loquent.training.machines import join_machines
from loquent.training.moda_renderer_corrections import CorrectionWeights, train_corrections
from loquent.training.moda_renderer_data import FacePairs, PairBatches
from loquent.training.moda_renderer_drawing import Drawn, cut_squares, draw_pairs, face_of, shrink
from loquent.training.optimizers import OptimizerSettings
from loquent.training.perceptual import make_distance
from loquent.training.recipes import Recipe
from loquent.training.samples import write_sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from loquent.training.perceptual import Distance

SAMPLE_FRAMES = 25
# Part -> its landmarks, side of its square in units of their box, its side in pixels as a share of the picture's.
PARTS = {"face": (list(range(NUM_MESH_LANDMARKS)), 1.2, 0.5), "lips": (list(LIPS), 1.8, 0.25)}


@dataclass(frozen=True, kw_only=True)
class RendererLossWeights:
    """How much each term of stage 1 counts."""

    perceptual: float = 10.0
    adversarial: float = 1.0
    features: float = 10.0  # that the judges see, of drawn and real pictures
    equivariance: float = 20.0
    spread: float = 10.0
    pose: float = 20.0  # of a radian
    expression: float = 5.0
    guidance: float = 10.0


@dataclass(frozen=True, kw_only=True)
class RendererRecipe:
    """Configuration of the recipe `moda-renderer`."""

    train: TrainSettings  # of stage 1
    judges: OptimizerSettings
    corrections: TrainSettings  # of stage 2
    network: RendererConfig
    loss: RendererLossWeights = field(default_factory=RendererLossWeights)
    correction_loss: CorrectionWeights = field(default_factory=CorrectionWeights)
    batch_size: int = 4
    input_px: int = 256  # side of the pictures that appearance and motion are read from
    judge_width: int = 64
    judged_from: int = 0  # step at which the judges come in
    vgg: str = ""  # file with VGG-19's weights for the perceptual term; "": the one that needs none

    @property
    def drawn_px(self) -> int:
        """Side of the drawn pictures."""
        return 4 * self.network.decoder.upscale * (self.input_px // 2**self.network.appearance.num_halvings)


class Judges(nn.Module):
    """One discriminator each for whole pictures, faces and lips."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: PatchDiscriminator(2, width) for name in ("whole", *PARTS)})

    def forward(self, views: Mapping[str, Tensor]) -> list[list[Tensor]]:
        """Features of each view; the last of each are logits."""
        return [self.parts[name](view * 2 - 1) for name, view in views.items()]


class RendererTurns:
    """The turns of stage 1, for `loquent.training.loop.train_together`."""

    def __init__(self, config: RendererRecipe, distance: Distance) -> None:
        self.config = config
        self.distance = distance

    def __call__(
        self, networks: Mapping[str, nn.Module], batch: FacePairs, random: torch.Generator, step: int
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        renderer, judges = networks["renderer"], networks["judges"]
        assert isinstance(renderer, RendererNetworks)
        source, target = batch.pictures.unbind(1)
        drawn = draw_pairs(renderer, self._input(source), self._input(target))
        real, made = (views_of(picture, batch.landmarks[:, 1]) for picture in (target, drawn.picture))
        warp = RandomWarp.draw(len(target), random).to(target)
        terms = self._keypoint_terms(renderer, drawn, batch, warp)
        terms["perceptual"] = total(self.distance(real[name], made[name]) for name in real)
        judged = step >= self.config.judged_from
        if judged:
            terms |= adversarial_terms(judges(made), judges(real))
        weights = self.config.loss
        yield "renderer", {"loss": total(getattr(weights, name) * value for name, value in terms.items()), **terms}
        if judged:
            of_made = judges({name: view.detach() for name, view in made.items()})
            yield "judges", {"loss": hinge_loss(judges(real), of_made)}

    def _input(self, pictures: Tensor) -> Tensor:
        return shrink(pictures, self.config.input_px)

    def _keypoint_terms(
        self, renderer: RendererNetworks, drawn: Drawn, batch: FacePairs, warp: RandomWarp
    ) -> dict[str, Tensor]:
        of_warped = face_of(renderer.motion(warp.apply(self._input(batch.pictures[:, 1]))))
        keypoints_of_warped = transform(of_warped.canonical, of_warped.motion)
        own = transform(drawn.target.canonical, drawn.target.motion)
        angles = torch.stack([drawn.source.pose_deg, drawn.target.pose_deg], dim=1)
        return {
            "equivariance": equivariance_loss(own, keypoints_of_warped, warp),
            "spread": spread_loss(own),
            "pose": (angles - batch.angles_deg).deg2rad().abs().mean(),
            "expression": expression_loss(drawn.target.motion.expression),
            "guidance": guidance_loss(drawn.keypoints, batch.landmarks[:, 1]),
        }


def views_of(pictures: Tensor, landmarks: Tensor) -> dict[str, Tensor]:
    """The whole pictures (B, 3, S, S), and squares around the landmarks (B, 478, 2) of face and lips."""
    views = {"whole": pictures}
    for name, (points, margin, share) in PARTS.items():
        chosen = landmarks[:, points]
        low, high = chosen.amin(1), chosen.amax(1)
        half = (high - low).amax(1) * margin / 2
        views[name] = cut_squares(pictures, (low + high) / 2, half, round(share * pictures.shape[-1]))
    return views


def adversarial_terms(of_made: list[list[Tensor]], of_real: list[list[Tensor]]) -> dict[str, Tensor]:
    """What the judges say of drawn pictures, and how differently they see them from the real ones."""
    pairs = [
        (made - real.detach()).abs().mean()
        for features_made, features_real in zip(of_made, of_real, strict=True)
        for made, real in zip(features_made[:-1], features_real[:-1], strict=True)
    ]
    return {"adversarial": -total(features[-1].mean() for features in of_made), "features": total(pairs) / len(pairs)}


def hinge_loss(of_real: list[list[Tensor]], of_made: list[list[Tensor]]) -> Tensor:
    """What the judges pay, summed over them."""
    return total(
        F.relu(1 - real[-1]).mean() + F.relu(1 + made[-1]).mean() for real, made in zip(of_real, of_made, strict=True)
    )


def with_spectral_norm(networks: RendererNetworks) -> RendererNetworks:
    """The same networks, whose decoder's convolutions are trained under spectral norm, as published; in place."""
    for block in networks.decoder.modules():
        if isinstance(block, SpadeBlock):
            for name, layer in block.named_children():
                if name.startswith("conv"):
                    parametrizations.spectral_norm(layer)
    return networks


def without_spectral_norm(networks: nn.Module) -> RendererNetworks:
    """Plain networks with the norms divided out, as weights are kept and used."""
    assert isinstance(networks, RendererNetworks)
    state = {name: value for name, value in networks.state_dict().items() if ".parametrizations." not in name}
    for name, layer in networks.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            state[f"{name}.weight"] = layer.weight
    plain = RendererNetworks(networks.config).to(next(networks.parameters()).device)
    plain.load_state_dict(state)
    return plain.eval()


def train_renderer(config: RendererRecipe, data: Path, output: Path, device: str = "cpu") -> RendererNetworks:
    """Both stages on a video corpus; the averaged weights are written to `output`/weights at every save."""
    torch.manual_seed(config.train.seed)
    pairs = PairBatches(data, config.drawn_px, config.batch_size, config.train.seed)
    networks = with_spectral_norm(RendererNetworks(config.network))
    turns = RendererTurns(config, make_distance(config.vgg, join_machines(device).device))

    def save(ema: nn.Module, step: int) -> None:
        without_spectral_norm(ema).save_pretrained(output / "weights")

    @torch.no_grad()
    def sample(ema: nn.Module, step: int) -> None:
        assert isinstance(ema, RendererNetworks)
        clip = pairs.clip(step, SAMPLE_FRAMES).pictures[0].to(next(ema.parameters()).device)
        source = clip[:1].expand_as(clip)
        small = shrink(clip, config.input_px)
        made = [draw_pairs(ema, small[:1], one[None]).picture for one in small]
        write_sample(output / "samples", step, source, clip, torch.cat(made))

    learners = {
        "renderer": Learner(networks, config.train),
        "judges": Learner(Judges(config.judge_width), config.judges),
    }
    drawing = without_spectral_norm(
        train_together(learners, turns, pairs.batch, config.train, output, save, sample, device)
    )
    return train_corrections(
        drawing, pairs, config.corrections, config.correction_loss, config.input_px, output, device
    )


STARTER = RendererConfig(
    appearance=AppearanceConfig(width=32, max_width=256, volume_channels=16, volume_depth=16, num_volume_blocks=3),
    motion=MotionExtractorConfig(depths=(2, 2, 6, 2), widths=(48, 96, 192, 384)),
    warping=WarpingConfig(
        dense_motion=DenseMotionConfig(
            volume_channels=16, volume_depth=16, compressed_channels=4, width=16, max_width=256, num_halvings=4
        ),
        map_channels=128,
    ),
    decoder=DecoderConfig(map_channels=128, last_channels=32, shared_channels=64, num_middle_blocks=3, upscale=1),
)
_ADAM = OptimizerSettings(optimizer="adam", learning_rate=2e-4, betas=(0.5, 0.999), decay_share=0.1)
_PUBLISHED_RUN = TrainSettings(
    steps=600_000, optimizer="adam", learning_rate=2e-4, betas=(0.5, 0.999), decay_share=0.1, autocast=True,
    ema_decay=0.999, save_every=1000, log_every=100, sample_every=5000, loader_workers=4,
)  # fmt: skip
_DEBUG_RUN = TrainSettings(
    steps=12, optimizer="adam", learning_rate=2e-3, betas=(0.5, 0.999), warmup_steps=2, decay_share=0.0, ema_decay=0.9,
    save_every=8, log_every=4, sample_every=12,
)  # fmt: skip

RECIPE = Recipe(
    presets={
        "starter": RendererRecipe(
            train=replace(_PUBLISHED_RUN, steps=100_000),
            judges=_ADAM,
            corrections=replace(_PUBLISHED_RUN, steps=10_000),
            network=STARTER,
            judge_width=32,
            judged_from=5000,
        ),
        "published": RendererRecipe(
            train=_PUBLISHED_RUN,
            judges=_ADAM,
            corrections=replace(_PUBLISHED_RUN, steps=100_000),
            network=PUBLISHED,
            batch_size=13,  # of each of eight processes: the published 104
        ),
        "debug": RendererRecipe(
            train=_DEBUG_RUN,
            judges=replace(_ADAM, learning_rate=1e-3, warmup_steps=2),
            corrections=replace(_DEBUG_RUN, steps=4, save_every=2, log_every=2),
            network=TINY,
            batch_size=2,
            input_px=32,
            judge_width=4,
        ),
    },
    run=train_renderer,
    data="a video corpus, made by `python -m loquent.data.video` or from footage by `python -m loquent.data.footage`",
    write_debug_data=write_puppets,
)
