"""Trains the IF-MDM renderer: the recipe `ifmdm-autoencoder`.

    loquent train ifmdm-autoencoder --data CACHE --output RUN

The data is what `loquent.training.ifmdm_data` made, or a video corpus (`loquent.data.video`, `loquent.data.footage`).
A run may begin with the renderer of another one, of the same size or of half of it, from which it then grows
(`--set begin_with=RUN`), and may train the decoder alone (`--set stage=decoder`), which keeps the meaning of codes, or
learn the inside of the mouth anew and nothing else (`--preset starter-mouth`).

What is added to the published recipe, for it to become presentable in an hour on one core: the exact flow and landmarks
of drawn people are targets (`flow`, `points`), and for the skull and jaw that carry the mouth's inside (`skull`); pixels
that the photo's layers hold are not to be drawn (`shares`); and relative codes are steered: before tanh, the code of a pair is to be what a fixed linear map makes
of the difference of their landmarks (`code`, `SteeredAutoencoder`). Most pairs are drawn by codes of which that is true
already, so that the decoder does not wait for the encoder. None of this is needed to draw, and all of it may be turned
off.

Source of the rest: IF-MDM (arXiv 2412.04000) and LIA (Wang et al. 2022, "Latent Image Animator"), section 3.3.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from loquent.errors import LoquentError
from loquent.face.landmarker import RIGHT_EYELIDS
from loquent.face.topology import LEFT_EYE_LOWER, LEFT_EYE_UPPER, LIPS, NUM_LANDMARKS
from loquent.models.ifmdm import Appearance, Autoencoder, Discriminator, get_autoencoder_preset
from loquent.models.ifmdm.config import SMALLEST_PX, AutoencoderConfig
from loquent.models.ifmdm.landmark_flow import LOWER_SIDE, POINTS, UPPER_SIDE
from loquent.models.ifmdm.output import LOOK_FACTOR, compose, mouth_move
from loquent.models.ifmdm.photo_layers import SPRITE_HALF, shrink
from loquent.models.ifmdm.weights import STEERING, load_steering, save_autoencoder
from loquent.nn.weights import load_exactly
from loquent.training.checkpoint import load_checkpoint
from loquent.training.ifmdm_batches import (
    FRAMES,
    GAP_LOWER,
    GAP_UPPER,
    GAP_WEIGHTS,
    landmark_weights,
    open_groups,
    side_weights,
)
from loquent.training.ifmdm_data import MOUTH, MOVED, SLIDING, STILL, write_sliding_pictures
from loquent.training.ifmdm_stages import MOUTH_PART, Stage, grow, stage_parameters
from loquent.training.image_losses import adversarial_loss, discriminator_loss, slope_difference, total
from loquent.training.loop import Learner, TrainSettings, train_together
from loquent.training.machines import join_machines
from loquent.training.optimizers import OptimizerSettings
from loquent.training.perceptual import LandmarkerDistance, make_distance
from loquent.training.recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm.output import MouthSketch, Sketch
    from loquent.models.ifmdm.photo_layers import PhotoLayers
    from loquent.training.ifmdm_batches import PairBatch, PairGroups, VideoGroups
    from loquent.training.perceptual import Distance

logger = logging.getLogger(__name__)

_POSE_DIM = 6  # directions of landmarks that are those of the whole head: two shifts, three turns, size
_POSE_SPREAD, _FACE_SPREAD = 0.45, 0.35  # deviation of the first code of each kind, before tanh
_EVENNESS = 0.25  # power of a direction's deviation that stays in its code
_LEAST = 1e-6
_PIXELS = 64  # of a half picture: errors of flow are counted as in pictures of 128 pixels
_MOUTH = 3.0
_SMALL_FLOW = 0.02  # of a new flow head's weights, less than drawn
MOUTH_PART_OF_SIDE = 4  # a mouth, or an eye, fills that part of a picture's side
LEFT_EYELIDS = tuple(sorted({*LEFT_EYE_UPPER, *LEFT_EYE_LOWER}))
_JUDGE_CHANNELS = (64, 64, 48, 32, 16, 16, 16)  # of the judge of mouths, at 4, 8, 16 ... pixels
_SPRITE_UNIT = 37 * SPRITE_HALF[0]  # pixels of 128 in the sprites' unit, for a face of the usual size


@dataclass(frozen=True, kw_only=True)
class PairLossWeights:
    """How much each term counts; a term of weight 0 is not worked out. The defaults are the starter renderer's."""

    picture: float = 2.0
    edges: float = 2.0
    perceptual: float = 0.0
    features: float = 0.5  # ours, of the shipped landmarker, at mouth and eyes
    adversarial: float = 0.2  # of whole pictures; of the mouth's inside where there is an output stage
    colours: float = 0.3  # of the output stage, everywhere: they are to be ready where they are needed
    flow: float = 0.1  # of a pixel in pictures of 128
    points: float = 0.2  # the same
    gaps: float = 0.3  # the same, of how far lips and lids part
    skull: float = 0.1  # the same, of the teeth's movement, where codes do not tell it
    shares: float = 0.3
    code: float = 2.0
    range: float = 0.05  # of codes before tanh beyond ±1: identity drives them to where tanh has no slope
    fine: float = 10.0  # of pixels at lips and eyes, in addition to 1; between the lips three times as much
    fine_points: float = 12.0  # of lips and lids among the landmarks of `points`


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """Configuration of the recipe `ifmdm-autoencoder`."""

    train: TrainSettings
    judge: OptimizerSettings
    network: AutoencoderConfig
    loss: PairLossWeights = field(default_factory=PairLossWeights)
    groups: int = 2  # of four frames of a person in a batch
    steering: str = ""  # folder with the steering.safetensors of the codes to be learnt; "": worked out from the data
    begin_with: str = ""  # folder of a run whose renderer is taken over, or grown if it is half as large; "": afresh
    stage: Stage = "base"  # which weights are trained
    steered: float = 0.9  # share of the pairs drawn by codes that follow the landmarks, where codes are relative
    shut: float = 1.0  # how many times as often people are chosen whose photo shows the mouth shut
    judge_from: int = 0  # step at which the judge begins
    picture_every: int = 1  # flow and codes alone, which are cheaper, are learnt in the other steps
    vgg: str = ""  # file with VGG-19's weights for the perceptual term; "": the one that needs none

    def __post_init__(self) -> None:
        if self.groups < 1 or self.picture_every < 1 or not 0 <= self.steered <= 1:
            raise LoquentError(
                f"groups is {self.groups}, picture_every {self.picture_every}, steered {self.steered}; the first two are 1 "
                f"or more, the last is a share from 0 to 1"
            )
        if self.shut <= 0 or self.judge_from < 0:
            raise LoquentError(
                f"shut is {self.shut}, judge_from {self.judge_from}; the first is a number above 0, 1 for no preference, the "
                f"second a step, 0 or later"
            )


class SteeredAutoencoder(nn.Module):
    """The renderer, and the map from landmarks to codes by which it is trained.

    Args:
        config: of the renderer.
        basis: differences of landmarks (956,) to differences of codes before tanh, (956, M); see `landmark_basis`.
    """

    basis: Tensor

    def __init__(self, config: AutoencoderConfig, basis: NDArray[np.float32]) -> None:
        super().__init__()
        self.autoencoder = start_at_rest(Autoencoder(config))
        self.register_buffer("basis", torch.from_numpy(basis))

    def steps(self, landmarks: Tensor, source: Tensor) -> Tensor:
        """What codes of a person are to be before tanh, relative to a source, (B, M).

        Args:
            landmarks: (B, 478, 2), −1 to 1 from edge to edge of the picture.
            source: those of the source, the same shape.
        """
        return (landmarks - source).flatten(1) @ self.basis.float()


@torch.no_grad()
def start_at_rest(network: Autoencoder) -> Autoencoder:
    """Makes a new renderer's flow and planes small. Random ones are so large that tanh lets no gradient through."""
    for level in network.decoder.levels:
        level.flow.flow.weight.mul_(_SMALL_FLOW)  # type: ignore[union-attr,operator]
    if network.decoder.output is not None:
        stage = network.decoder.output
        stage.planes.weight.mul_(0.1)
        stage.shift.weight.zero_()  # the landmarks' flow is right already
        stage.mouth.paint.weight.zero_()  # as drawn
        if stage.mouth.moves:
            stage.mouth.motion.weight.zero_()
    return network


def landmark_basis(groups: PairGroups | VideoGroups, dim: int, people: int = 400) -> NDArray[np.float32]:
    """From differences of landmarks to codes before tanh, (956, dim).

    Principal directions: first of all landmarks, which are those of the head as a whole; then of what these leave, with
    lips and lids counting more. Small movements are raised towards large ones, so that all codes matter.
    """
    rows = []
    for number in range(min(people, len(groups))):
        landmarks = 2 * groups.landmarks(number).reshape(-1, 2 * NUM_LANDMARKS)
        rows.append(landmarks[1:] - landmarks[:1])
    table = np.concatenate(rows)
    num_pose = min(_POSE_DIM, dim // 2)
    pose = np.linalg.svd(table, full_matrices=False)[2][:num_pose].T
    weights = np.repeat(landmark_weights().numpy(), 2)[:, None]
    rest = np.eye(len(pose)) - pose @ pose.T
    face = np.linalg.svd(table @ rest * weights[:, 0], full_matrices=False)[2][: dim - num_pose].T
    parts = [_spread(pose, table, _POSE_SPREAD), _spread(rest @ (weights * face), table, _FACE_SPREAD)]
    return np.ascontiguousarray(np.hstack(parts), np.float32)


def landmark_displacement(groups: PairGroups | VideoGroups, basis: NDArray, people: int = 400) -> Tensor:
    """(M, 2 K): by least squares, what the numbers of a code before tanh do to the landmarks of `landmark_flow`."""
    rows = np.concatenate([2 * (x[1:] - x[:1]) for x in map(groups.landmarks, range(min(people, len(groups))))])
    codes = rows.reshape(len(rows), -1) @ basis
    wanted = rows[:, list(POINTS)].reshape(len(rows), -1)
    gram = codes.T @ codes + _LEAST * len(rows) * np.eye(codes.shape[1])
    return torch.from_numpy(np.linalg.solve(gram, codes.T @ wanted).astype(np.float32))


def _spread(directions: NDArray, table: NDArray, spread: float) -> NDArray:
    """Directions (956, D), scaled to the wanted deviation over the table (N, 956), most of the first."""
    deviations = np.maximum((table @ directions).std(0), _LEAST)
    return directions / deviations * spread * (deviations / deviations.max()) ** _EVENNESS


def grow_steered(
    smaller: SteeredAutoencoder, config: AutoencoderConfig, groups: PairGroups | VideoGroups, fit_steps: int = 150
) -> SteeredAutoencoder:
    """A renderer of twice the size that begins where `smaller` is.

    The new last level adds no flow at first, and the encoder's two new layers are fitted to what the one layer that they
    replace made of the picture.
    """
    larger = SteeredAutoencoder(config, smaller.basis.numpy())
    grow(smaller.autoencoder, larger.autoencoder)
    before, last = list(larger.autoencoder.decoder.levels)[-2:]
    with torch.no_grad():
        last.flow.flow.weight.zero_()  # type: ignore[union-attr,operator]
        last.rgb.layer.conv.weight.mul_(0.1)  # type: ignore[union-attr,operator]
        before.flow.fill.weight.mul_(0.3)  # type: ignore[union-attr,operator]
    _fit_first_layers(smaller.autoencoder, larger.autoencoder, groups, fit_steps)
    return larger


def _fit_first_layers(smaller: Autoencoder, larger: Autoencoder, groups: PairGroups | VideoGroups, steps: int) -> None:
    old, new = smaller.encoder.appearance, larger.encoder.appearance
    first = new.blocks[0]
    size = larger.config.size_px
    optimizer = torch.optim.Adam([*new.stem.parameters(), *first.parameters()], lr=1e-2, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 * (1 - step / steps))
        pictures = shrink(groups.batch(step).pictures, size).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = old.stem(shrink(pictures, size // 2))
        error = (first(new.stem(pictures)) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        if step % 50 == 49:
            share = float(error.detach() / wanted.square().mean())
            logger.info("the encoder's new layers miss %.3f of what the old one made", share)


class PairTurns:
    """The turns of a step, for `loquent.training.loop.train_together`: the renderer's, and the judge's if there is one."""

    def __init__(self, config: AutoencoderRecipe, distance: Distance, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.weights = config.loss
        self.distance = distance
        self.features = FaceFeatures(device) if config.loss.features else None
        fine = config.loss.fine_points
        self._point_weights = landmark_weights(fine)
        self._upper_weights, self._lower_weights = (side_weights(other, fine) for other in (LOWER_SIDE, UPPER_SIDE))

    def __call__(
        self, networks: Mapping[str, nn.Module], batch: PairBatch, random: torch.Generator, step: int
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        whole = step % self.config.picture_every == 0
        judge = networks.get("judge") if whole and step >= self.config.judge_from else None
        drawn, wanted, terms = self.draw(networks["renderer"], batch, random, whole=whole)  # type: ignore[arg-type]
        if judge is not None:
            if self.config.network.output_dim:
                drawn, wanted = mouths(drawn, wanted, batch)
            terms["adversarial"] = adversarial_loss(judge(drawn.to(_dtype(judge))).float())
        yield "renderer", {"loss": total(getattr(self.weights, name) * value for name, value in terms.items()), **terms}
        if judge is not None:
            real, fake = (judge(x.detach().to(_dtype(judge))).float() for x in (wanted, drawn))
            yield "judge", {"loss": discriminator_loss(real, fake)}

    def draw(
        self, network: SteeredAutoencoder, batch: PairBatch, random: torch.Generator, *, whole: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Drawn and real pictures of a batch of pairs, and the terms of the loss but the adversarial one.

        Args:
            whole: False leaves out what the output stage needs for pictures: they are as small as the decoder draws them.
        """
        autoencoder, sources, targets = network.autoencoder, batch.sources(), batch.targets()
        decoder = autoencoder.decoder
        size = autoencoder.config.size_px
        pictures = shrink(batch.pictures, autoencoder.config.output_px)
        seen = shrink(pictures, size)
        appearance = autoencoder.encoder.appearance(seen.to(_dtype(network), memory_format=torch.channels_last))
        wide = autoencoder.encoder.motion.wide(appearance.vector).float()
        codes, code_terms = self._codes(network, wide, batch, random)
        wanted = (pictures if whole else seen)[targets]
        layers = None
        if decoder.output is not None:
            assert batch.layers is not None  # `train_autoencoder` asks for them
            layers = batch.layers.shrunk(pictures.shape[-1] if whole else LOOK_FACTOR * size).rows(sources // FRAMES)
        chosen = Appearance(appearance.vector[sources], [maps[sources] for maps in appearance.features], layers)
        sketch = decoder.sketch(chosen, codes, whole=whole)
        if decoder.refine is not None:
            sketch = replace(sketch, colours=decoder.refine(sketch.colours))
        drawn = sketch.colours.float() if layers is None or not whole else compose(layers, sketch)
        terms = self._picture_terms(drawn, wanted, sketch, batch.kinds[targets])
        if self.features is not None and whole:
            terms["features"] = self.features(wanted, drawn, batch.landmarks[targets])
        terms |= self._known_terms(sketch, batch, sources, targets)
        known = autoencoder.config.relative  # codes tell how the skull moves, nothing is to be learnt
        if self.weights.skull and layers is not None and sketch.mouth is not None and not known:
            terms["skull"] = skull_loss(sketch.mouth, layers, batch.landmarks[sources], batch.landmarks[targets])
        return drawn, wanted, terms | code_terms

    def _codes(
        self, network: SteeredAutoencoder, wide: Tensor, batch: PairBatch, random: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Codes of the pairs, the encoder's own or such that follow the landmarks, and terms for the encoder's."""
        sources, targets = batch.sources(), batch.targets()
        terms = {"range": (wide.abs() - 1).clamp_min(0).square().mean()}
        if not network.autoencoder.config.relative:
            return torch.tanh(wide[targets]), terms
        own = wide[targets] - wide[sources]
        steps = network.steps(batch.landmarks[targets], batch.landmarks[sources])
        terms["code"] = F.smooth_l1_loss(own, steps, beta=0.2)
        steered = torch.rand(len(own), 1, generator=random).to(own) < self.config.steered
        return torch.tanh(torch.where(steered, steps, own)), terms

    def _picture_terms(self, drawn: Tensor, wanted: Tensor, sketch: Sketch, kinds: Tensor) -> dict[str, Tensor]:
        """What tells the drawn picture from the real one; mouth and eyes count more."""
        near = (kinds == SLIDING).float() + _MOUTH * (kinds == MOUTH).float()
        near = 1 + self.weights.fine * F.interpolate(near[:, None], size=wanted.shape[-2:], mode="nearest")
        near = near / near.mean()
        half = (F.avg_pool2d(x, 2) for x in (wanted, drawn, near))
        terms = {
            "picture": (near * (drawn - wanted).abs()).mean(),
            "edges": slope_difference(wanted, drawn, near) + slope_difference(*half),
        }
        if sketch.shares is not None:
            terms["colours"] = (near * (sketch.colours.float() - wanted).abs()).mean()
        if self.weights.perceptual:
            terms["perceptual"] = self.distance((wanted + 1) / 2, (drawn.clamp(-1, 1) + 1) / 2)
        return terms

    def _known_terms(self, sketch: Sketch, batch: PairBatch, sources: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What is known of drawn people, and of landmarks."""
        terms = {}
        coarse = [torch.tanh(raw[:, :2]) for raw in sketch.flows[1:]]
        upper, lower = sketch.upper, sketch.lower
        offsets = coarse if upper is None or lower is None else [*coarse, upper, lower]
        if self.weights.flow:
            known = batch.from_photo()
            terms["flow"] = flow_loss(
                [x[known] for x in offsets], batch.flow[targets][known], batch.known[targets][known]
            )
        source, target = batch.landmarks[sources], batch.landmarks[targets]
        if self.weights.points:
            errors = [point_loss(coarse[-1], source, target, self._upper_weights)]
            if upper is not None and lower is not None:
                errors.append(point_loss(upper, source, target, self._upper_weights))
                errors.append(point_loss(lower, source, target, self._lower_weights))
            terms["points"] = total(errors) / len(errors)
        if self.weights.gaps and upper is not None and lower is not None:
            terms["gaps"] = gap_loss(upper, lower, source, target)
        if self.weights.shares and sketch.shares is not None:
            terms["shares"] = share_loss(sketch.shares[:, :1], batch.kinds[targets])
        return terms


def point_loss(offsets: Tensor, source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """How far what offsets (B, 2, s, s) read at the target's landmarks (B, 478, 2) is from the source's, in pixels of
    128; weights (478,)."""
    found = F.grid_sample(offsets, target[:, :, None], align_corners=False, padding_mode="border")[..., 0]
    away = (found.transpose(1, 2) - (source - target)).square().sum(-1).add(1e-8).sqrt()
    return (away * weights.to(away)).mean() * _PIXELS


def gap_loss(upper: Tensor, lower: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """How far the parting of lips and lids is off, in pixels of 128.

    Args:
        upper: offsets of the upper layer, (B, 2, s, s).
        lower: of the lower one.
        source: landmarks (B, 478, 2).
        target: the same.
    """
    parted = []
    for offsets, points in ((upper, GAP_UPPER), (lower, GAP_LOWER)):
        places = target[:, points]
        found = F.grid_sample(offsets, places[:, :, None], align_corners=False, padding_mode="border")[..., 0]
        parted.append(found.mT - (source[:, points] - places))
    weights = torch.tensor(GAP_WEIGHTS).to(upper)
    return ((parted[1] - parted[0]).abs().sum(-1) * weights).mean() * _PIXELS


def skull_loss(mouth: MouthSketch, layers: PhotoLayers, source: Tensor, target: Tensor) -> Tensor:
    """How far skull and jaw are from where landmarks (B, 478, 2) carry them, at the sprites' corners, pixels of 128."""
    skull, jaw = mouth_move(layers, (target - source)[:, list(POINTS)])
    corners = torch.tensor([(x, y, 1.0) for x in (-1, 1) for y in (-1, 1)]).to(skull)
    away = corners @ (mouth.skull - skull).mT
    return (away.abs().sum(-1).mean(1) + (mouth.jaw - jaw).abs().sum(-1)).mean() * _SPRITE_UNIT


def flow_loss(offsets: list[Tensor], wanted: Tensor, known: Tensor) -> Tensor:
    """How far offsets (B, 2, side, side) of several levels are off where flow is known, in pixels of 128.

    Args:
        offsets: half pictures.
        wanted: (B, 2, s, s), half pictures.
        known: (B, s, s) bool.
    """
    weights = known[:, None].float()
    errors = []
    for given in offsets:
        factor = wanted.shape[-1] // given.shape[-1]
        whole = -F.max_pool2d(-weights, factor)  # cells of nothing but known pixels
        away = (given - F.avg_pool2d(wanted, factor)).abs().sum(1, keepdim=True)
        errors.append((away * whole).sum() / whole.sum().clamp_min(1))
    return total(errors) / len(errors) * _PIXELS


def share_loss(logits: Tensor, kinds: Tensor) -> Tensor:
    """Mean of −log(1 − share) of drawn colours (B, 1, S, S) where the photo's layers hold what is to be seen."""
    held = ((kinds == STILL) | (kinds == MOVED) | (kinds == SLIDING))[:, None].float()
    logits = F.adaptive_avg_pool2d(logits.float(), kinds.shape[-1])
    return (F.softplus(logits) * held).sum() / held.sum().clamp_min(1)


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


def judge_config(config: AutoencoderConfig) -> AutoencoderConfig:
    """Sizes of the judge: of whole pictures, or where there is an output stage of mouths, see `mouths`."""
    if not config.output_dim:
        return config
    side = config.output_px // MOUTH_PART_OF_SIDE
    return replace(config, size_px=side, channels=_JUDGE_CHANNELS[: (side // SMALLEST_PX).bit_length()], output_dim=0)


def mouths(drawn: Tensor, wanted: Tensor, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """What the judge of an output stage sees of drawn and real pictures (B, 3, S, S): the inside of the mouths, grey around
    it, (B, 3, S/4, S/4)."""
    targets = batch.targets()
    inside = (batch.kinds[targets] == MOUTH)[:, None].to(drawn)
    inside = F.interpolate(inside, size=drawn.shape[-2:], mode="bilinear", align_corners=False)
    places = batch.landmarks[targets][:, list(LIPS)].mean(1)
    return cut_out(inside * drawn, places), cut_out(inside * wanted, places)


def cut_out(pictures: Tensor, places: Tensor) -> Tensor:
    """A quarter of each side of pictures (B, C, S, S) around places (B, 2), −1 to 1, in whole pixels: (B, C, S/4, S/4)."""
    size = pictures.shape[-1]
    side = size // MOUTH_PART_OF_SIDE
    corners = ((places + 1) * (size / 2) - side / 2).round().clamp(0, size - side).int().tolist()
    return torch.stack([x[:, y : y + side, x0 : x0 + side] for x, (x0, y) in zip(pictures, corners, strict=True)])


class FaceFeatures:
    """How different the mouths and eyes of two pictures are to the shipped landmarker."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._lips, self._eye = (LandmarkerDistance(part).to(device) for part in ("lips", "eye"))

    def __call__(self, real: Tensor, made: Tensor, landmarks: Tensor) -> Tensor:
        """Of pictures (B, 3, S, S) in [−1, 1] with landmarks (B, 478, 2) from −1 to 1."""
        real, made = (real + 1) / 2, (made.clamp(-1, 1) + 1) / 2
        places = [landmarks[:, list(points)].mean(1) for points in (LIPS, RIGHT_EYELIDS, LEFT_EYELIDS)]
        pairs = [(cut_out(real, place), cut_out(made, place)) for place in places]
        pairs[2] = (pairs[2][0].flip(3), pairs[2][1].flip(3))  # one network serves both eyes, the left in a mirror
        eyes = [self._eye(*pair) for pair in pairs[1:]]
        return self._lips(*pairs[0]) + (eyes[0] + eyes[1]) / 2


def train_autoencoder(config: AutoencoderRecipe, data: Path, output: Path, device: str) -> nn.Module:
    """Trains as configured; writes config.json and model.safetensors of the averaged renderer to output/weights."""
    layered = config.network.output_dim > 0
    groups = open_groups(data, config.groups, config.train.seed, layered=layered, shut=config.shut)
    logger.info("%d people", len(groups))
    torch.manual_seed(config.train.seed)
    network = _begin(config, groups, output).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = set(stage_parameters(network.autoencoder, config.stage))
    for name, weight in network.autoencoder.named_parameters():
        weight.requires_grad_(name in trained)
    learners = {"renderer": Learner(network, config.train)}
    if config.loss.adversarial:
        judge = Discriminator(judge_config(config.network)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learners["judge"] = Learner(judge, config.judge)
    here = join_machines(device).device
    turns = PairTurns(config, make_distance(config.vgg, here), here)

    def save(average: nn.Module, step: int) -> None:
        assert isinstance(average, SteeredAutoencoder)
        save_autoencoder(average.autoencoder, output / "weights")
        save_file({"basis": average.basis.contiguous()}, output / "weights" / STEERING)

    return train_together(learners, turns, groups.batch, config.train, output, on_save=save, device=device)


def read_steering(folder: str) -> NDArray[np.float32]:
    """The map from landmarks to codes that a renderer was trained by.

    Raises:
        LoquentError: the folder has none.
    """
    basis = load_steering(Path(folder))
    if basis is None:
        raise LoquentError(f"{folder} holds no {STEERING}; give the folder of a steered renderer's weights")
    return basis


def _begin(config: AutoencoderRecipe, groups: PairGroups | VideoGroups, output: Path) -> SteeredAutoencoder:
    """A new renderer, or one from another run; a run that goes on is filled from its own checkpoint later."""
    own = load_checkpoint(output)
    if own is not None:
        return SteeredAutoencoder(config.network, own["ema"]["basis"].numpy())
    if not config.begin_with:
        basis = (
            landmark_basis(groups, config.network.motion_dim) if not config.steering else read_steering(config.steering)
        )
        network = SteeredAutoencoder(config.network, basis)
        stage = network.autoencoder.decoder.output
        if stage is not None and config.network.relative:
            stage.displacement.copy_(landmark_displacement(groups, basis))
        return network
    state = load_checkpoint(Path(config.begin_with))
    if state is None:
        raise LoquentError(f"{config.begin_with} holds no checkpoint; train the renderer to begin with there first")
    basis, levels = state["ema"]["basis"].numpy(), len(config.network.level_sizes)
    is_half = f"autoencoder.decoder.levels.{levels - 1}.up.conv.weight" not in state["ema"]
    half = replace(config.network, size_px=config.network.size_px // 2, channels=config.network.channels[:-1])
    network = SteeredAutoencoder(half if is_half else config.network, basis)
    anew = f"autoencoder.{MOUTH_PART}" if config.stage == "mouth" else " "
    known = {name: value for name, value in state["ema"].items() if not name.startswith(anew)}
    fresh = {name: value for name, value in network.state_dict().items() if name.startswith(anew)}
    load_exactly(network, known | fresh, config.begin_with)
    return grow_steered(network, config.network, groups) if is_half else network


_STARTER = TrainSettings(
    steps=3000, learning_rate=3e-3, warmup_steps=100, decay_share=0.5, weight_decay=0.0, betas=(0.9, 0.99),
    max_grad_norm=2.0, ema_decay=0.998, bfloat16=True, save_every=100, log_every=25, loader_workers=1,
)  # fmt: skip
_PUBLISHED_G = OptimizerSettings(
    optimizer="adam", learning_rate=0.002 * 4 / 5, warmup_steps=0, decay_share=0, betas=(0.0, 0.99**0.8),
    max_grad_norm=float("inf"),
)  # fmt: skip
_PUBLISHED_D = replace(_PUBLISHED_G, learning_rate=0.002 * 16 / 17, betas=(0.0, 0.99 ** (16 / 17)))
_PUBLISHED_RUN = TrainSettings(
    steps=1_500_000, optimizer="adam", learning_rate=_PUBLISHED_G.learning_rate, warmup_steps=0, decay_share=0,
    betas=_PUBLISHED_G.betas, max_grad_norm=float("inf"), ema_decay=0.0, save_every=5000, log_every=500,
)  # fmt: skip
_PUBLISHED_LOSS = PairLossWeights(
    picture=1, edges=0, perceptual=10, features=0, adversarial=1, colours=0, flow=0, points=0, shares=0, code=0, fine=0
)
_MOUTH_LOSS = PairLossWeights(
    adversarial=0.5, colours=0, flow=0, points=0, gaps=0, skull=0, shares=0, code=0, range=0, fine=30
)
RECIPE = Recipe(
    presets={
        "starter": AutoencoderRecipe(
            train=_STARTER,
            judge=_PUBLISHED_D,
            network=get_autoencoder_preset("starter-blend"),
            groups=3,
            judge_from=500,
        ),
        "starter-mouth": AutoencoderRecipe(  # after "starter", with begin_with
            train=replace(_STARTER, steps=600, learning_rate=4e-3, warmup_steps=20, ema_decay=0.99),
            judge=replace(_PUBLISHED_D, learning_rate=8e-3),
            network=get_autoencoder_preset("starter-blend"),
            loss=_MOUTH_LOSS,
            groups=3,
            shut=5.0,
            stage="mouth",
        ),
        "published": AutoencoderRecipe(
            train=_PUBLISHED_RUN,
            judge=_PUBLISHED_D,
            network=get_autoencoder_preset("published-256"),
            loss=_PUBLISHED_LOSS,
            groups=16,
        ),
        "debug": AutoencoderRecipe(
            train=replace(
                _STARTER,
                steps=16,
                learning_rate=1e-2,
                warmup_steps=4,
                bfloat16=False,
                save_every=8,
                log_every=4,
                loader_workers=0,
            ),
            judge=replace(_PUBLISHED_D, learning_rate=1e-3),
            network=replace(get_autoencoder_preset("tiny-blend"), relative=True),
            loss=PairLossWeights(perceptual=0.1, features=0.1, adversarial=0.01),
            groups=1,
        ),
    },
    run=train_autoencoder,
    data="drawn people, made by `python -m loquent.training.ifmdm_data`, or a video corpus",
    write_debug_data=write_sliding_pictures,
)
