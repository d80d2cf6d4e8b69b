"""Trains the IF-MDM renderer with our output stage: stage 1 of the starter weights.

    python -m loquent.training.ifmdm_autoencoder CACHE RUN --steps 6000 [--export src/loquent/weights/ifmdm]

CACHE is what loquent.training.ifmdm_data made. A run that was stopped goes on where its last checkpoint stands.

What is added to the published recipe, for it to become presentable in an hour on one core: the cache's exact flow and
landmarks are targets while training (`flow`, `points`); what a pixel is, still, moved or new, is one for the shares of
the output stage (`shares`); and differences of motion codes must tell differences of landmarks by one linear map
(`probe`), so that the code soon holds mouth, lids and pose. None of this is needed to draw.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from loquent.errors import LoquentError
from loquent.models.ifmdm import Appearance, Autoencoder, get_autoencoder_preset
from loquent.models.ifmdm.output import compose, shrink
from loquent.training.checkpoint import load_checkpoint
from loquent.training.ifmdm_batches import PairBatch, PairGroups, landmark_weights
from loquent.training.ifmdm_data import MOUTH, MOVED, SLIDING, STILL
from loquent.training.ifmdm_stages import grow
from loquent.training.loop import TrainSettings, train

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm import AutoencoderConfig

logger = logging.getLogger(__name__)

PROBE_DIM = 40
_SMALL_FLOW = 0.02
RECIPE = TrainSettings(
    steps=6000, learning_rate=2e-3, warmup_steps=100, decay_share=0.3, weight_decay=0.0, betas=(0.9, 0.99),
    max_grad_norm=2.0, ema_decay=0.998, bfloat16=True, save_every=100, log_every=25,
)  # fmt: skip
DEBUG = replace(RECIPE, steps=30, learning_rate=3e-3, warmup_steps=5, bfloat16=False, save_every=30, log_every=10)
GROUPS = 2  # people in a batch


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts."""

    picture: float = 2.0
    edges: float = 2.0
    colours: float = 0.5
    flow: float = 0.2  # of a pixel at the decoder's size
    points: float = 0.2
    shares: float = 0.1
    probe: float = 0.3
    fine: float = 4.0  # of pixels at mouth and eyes, in addition to 1


class ProbedAutoencoder(nn.Module):
    """The renderer, and the linear map by which its codes tell landmarks while it is trained.

    Args:
        config: of the renderer.
        basis: landmark differences to the probe's numbers, (956, P); see `landmark_basis`.
    """

    basis: Tensor

    def __init__(self, config: AutoencoderConfig, basis: NDArray[np.float32]) -> None:
        super().__init__()
        self.autoencoder = start_at_rest(Autoencoder(config))
        self.probe = nn.Linear(config.motion_dim, basis.shape[1], bias=False)
        self.register_buffer("basis", torch.from_numpy(basis))


@torch.no_grad()
def start_at_rest(network: Autoencoder) -> Autoencoder:
    """Makes a new renderer's flow and planes small. Random ones are so large that tanh lets no gradient through."""
    for level in network.decoder.levels:
        level.flow.flow.weight.mul_(_SMALL_FLOW)
    if network.decoder.output is not None:
        network.decoder.output.planes.weight.mul_(0.1)
    return network


def grow_probed(smaller: ProbedAutoencoder, config: AutoencoderConfig, groups: PairGroups) -> ProbedAutoencoder:
    """A renderer of twice the size that begins where `smaller` is.

    The new last level adds little flow at first, and the encoder's two new layers are fitted to what the one layer that
    they replace made of the picture.
    """
    larger = ProbedAutoencoder(config, smaller.basis.numpy())
    grow(smaller.autoencoder, larger.autoencoder)
    larger.probe.load_state_dict(smaller.probe.state_dict())
    with torch.no_grad():
        last, before = larger.autoencoder.decoder.levels[-1], larger.autoencoder.decoder.levels[-2]
        last.flow.flow.weight.zero_()
        last.rgb.layer.conv.weight.mul_(0.1)
        before.flow.fill.weight.mul_(0.3)
    _fit_first_layers(smaller.autoencoder, larger.autoencoder, groups)
    return larger


def _fit_first_layers(smaller: Autoencoder, larger: Autoencoder, groups: PairGroups, steps: int = 150) -> None:
    old, new = smaller.encoder.appearance, larger.encoder.appearance
    size = larger.config.size_px
    layers = [*new.stem.parameters(), *new.blocks[0].parameters()]
    optimizer = torch.optim.Adam(layers, lr=1e-2, betas=(0.9, 0.99), foreach=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 * (1 - step / steps))
        pictures = shrink(groups.batch(step).pictures, size).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = old.stem(shrink(pictures, size // 2))
        error = (new.blocks[0](new.stem(pictures)) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    logger.info("the encoder's first layers are fitted to %.4f of %.4f", error.item(), wanted.square().mean().item())


def landmark_basis(groups: PairGroups, people: int = 400, dim: int = PROBE_DIM) -> NDArray[np.float32]:
    """Principal directions of landmarks' differences to the photo's, (956, dim).

    Lips and lids count more, and each direction is divided by the square root of its deviation: small movements are
    not lost beside turns of the head, yet matter less than those.
    """
    weights = landmark_weights().sqrt().numpy()[:, None]
    rows = []
    for number in range(min(people, len(groups))):
        landmarks = groups.person(number)["landmarks"] / 128
        rows.append((landmarks[1:] - landmarks[:1]).reshape(len(landmarks) - 1, -1, 2) * weights)
    table = np.concatenate(rows).reshape(-1, 2 * weights.shape[0])
    _, deviations, directions = np.linalg.svd(table - table.mean(0), full_matrices=False)
    deviations = deviations / np.sqrt(len(table))
    scaled = (
        directions[:dim] / np.sqrt(deviations[:dim, None] * deviations[0]) * np.tile(weights.repeat(2, 1).ravel(), 1)
    )
    return np.ascontiguousarray(scaled.T, np.float32)


class PairLoss:
    """Loss of a batch of pairs, for the training loop."""

    def __init__(self, weights: LossWeights | None = None) -> None:
        self.weights = weights or LossWeights()
        self._point_weights = landmark_weights()

    def __call__(self, network: ProbedAutoencoder, batch: PairBatch, random: torch.Generator) -> dict[str, Tensor]:
        sources, targets = batch.sources(), batch.targets()
        autoencoder = network.autoencoder
        dtype = network.probe.weight.dtype
        size = autoencoder.config.size_px
        pictures = shrink(batch.pictures, autoencoder.config.output_px)
        seen = shrink(pictures, size).to(dtype).contiguous(memory_format=torch.channels_last)
        appearance = autoencoder.encoder.appearance(seen)
        codes = autoencoder.encoder.motion(appearance.vector)
        photo = pictures[sources]
        chosen = Appearance(appearance.vector[sources], [maps[sources] for maps in appearance.features], photo)
        sketch = autoencoder.decoder.sketch(chosen, codes[targets])
        drawn, wanted = compose(photo, sketch), pictures[targets]
        kinds = batch.kinds[targets]
        near = 1 + self.weights.fine * to_size((kinds == MOUTH) | (kinds == SLIDING), wanted.shape[-1])
        near = near / near.mean()
        colours = sketch.colours.float()
        terms = {
            "picture": (near * (drawn - wanted).abs()).mean(),
            "edges": edge_loss(drawn, wanted, near),
            "colours": (near * (colours - wanted).abs()).mean(),
            "flow": flow_loss(sketch.flows, batch, targets),
            "points": self._point_loss(sketch.flows[-1], batch.landmarks[sources], batch.landmarks[targets]),
            "shares": share_loss(sketch.logits, batch.kinds[sources], kinds),
            "probe": self._probe_loss(network, codes[targets] - codes[sources], batch.landmarks, sources, targets),
        }
        loss = sum(getattr(self.weights, name) * value for name, value in terms.items())
        return {"loss": loss, **terms}

    def _point_loss(self, flow: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Pixels, at the decoder's size, that flow read at the target's landmarks is away from the source's."""
        offsets = torch.tanh(flow[:, :2])
        found = F.grid_sample(offsets, target[:, :, None], align_corners=False, padding_mode="border")[..., 0]
        away = (found.transpose(1, 2) - (source - target)).square().sum(-1).add(1e-8).sqrt()
        return (away * self._point_weights).mean() * (flow.shape[-1] / 2)

    def _probe_loss(
        self, network: ProbedAutoencoder, codes: Tensor, landmarks: Tensor, sources: Tensor, targets: Tensor
    ) -> Tensor:
        """What of landmarks' differences a linear map of the codes' differences misses."""
        wanted = (landmarks[targets] - landmarks[sources]).flatten(1) @ network.basis.float()
        return F.smooth_l1_loss(network.probe(codes).float(), wanted)


def to_size(places: Tensor, size: int) -> Tensor:
    """(B, s, s) bool to (B, 1, size, size) float."""
    return F.interpolate(places[:, None].float(), size=(size, size), mode="nearest")


def edge_loss(drawn: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean difference of the slopes of two pictures, at their size and at half of it."""
    total = drawn.new_zeros(())
    for _ in range(2):
        away = drawn - wanted
        total = total + (weights[..., 1:] * away.diff(dim=3).abs()).mean()
        total = total + (weights[:, :, 1:] * away.diff(dim=2).abs()).mean()
        drawn, wanted, weights = (F.avg_pool2d(x, 2) for x in (drawn, wanted, weights))
    return total


def flow_loss(flows: list[Tensor], batch: PairBatch, targets: Tensor) -> Tensor:
    """Pixels, at the last level's size, that flow is off where the person is moved, mean of levels of 16 and up."""
    known = batch.from_photo()
    wanted = batch.flow[targets][known]
    moved = (batch.kinds[targets][known] == MOVED)[:, None].float()
    total, count = wanted.new_zeros(()), 0
    for raw in flows[1:]:
        factor = wanted.shape[-1] // raw.shape[-1]
        whole = -F.max_pool2d(-moved, factor)
        goal = F.avg_pool2d(wanted, factor)
        away = (torch.tanh(raw[known, :2]) - goal).abs().sum(1, keepdim=True)
        total = total + (away * whole).sum() / whole.sum().clamp_min(1) * (wanted.shape[-1] / 2)
        count += 1
    return total / count


def share_loss(logits: Tensor, source_kinds: Tensor, kinds: Tensor) -> Tensor:
    """Cross entropy of the shares where it is known which one it must be."""
    wanted = torch.full_like(kinds, -1)
    wanted[(kinds == STILL) & (source_kinds == STILL)] = 0
    wanted[kinds == MOVED] = 1
    wanted[kinds == MOUTH] = 2
    return F.cross_entropy(shrink(logits.float(), kinds.shape[-1]), wanted, ignore_index=-1)


def export(network: Autoencoder, folder: Path) -> None:
    """Writes config.json and model.safetensors, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save(folder / "config.json")
    save_file(
        {name: value.half().contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors"
    )


def _begin(arguments: argparse.Namespace, groups: PairGroups) -> ProbedAutoencoder:
    config = get_autoencoder_preset(arguments.preset)
    if arguments.grow is None or (arguments.run / "checkpoint.pt").is_file():
        return ProbedAutoencoder(config, landmark_basis(groups))
    smaller = ProbedAutoencoder(
        replace(config, size_px=config.size_px // 2, channels=config.channels[:-1]), landmark_basis(groups, 1)
    )
    state = load_checkpoint(arguments.grow)
    if state is None:
        raise LoquentError(f"{arguments.grow} holds no checkpoint; train the smaller renderer there first")
    smaller.load_state_dict(state["ema"])
    return grow_probed(smaller, config, groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", default="starter-blend")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--rate", type=float, default=RECIPE.learning_rate)
    parser.add_argument("--groups", type=int, default=GROUPS, help="people in a batch, four frames each")
    parser.add_argument("--grow", type=Path, help="run of a renderer of half the size to begin with")
    parser.add_argument("--export", type=Path, help="write the averaged weights to this folder at every checkpoint")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    groups = PairGroups(arguments.cache, arguments.groups)
    logger.info("%d people", len(groups))
    torch.manual_seed(0)
    network = _begin(arguments, groups).to(memory_format=torch.channels_last)
    settings = replace(RECIPE, steps=arguments.steps, learning_rate=arguments.rate)

    def save(average: nn.Module, step: int) -> None:
        if arguments.export:
            export(average.autoencoder, arguments.export)

    train(network, PairLoss(), groups.batch, settings, arguments.run, on_save=save)


if __name__ == "__main__":
    main()
