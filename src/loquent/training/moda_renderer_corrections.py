"""Stage 2 of the warping renderer: the small networks that correct keypoints, with the drawing networks as they are.

Source: Guo et al. 2024, "LivePortrait", section 3.3. Openings of drawn faces are read by loquent's own landmarker.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from loquent.face.embedded import load_landmarker
from loquent.face.landmarker import EYE_MARGIN, EYE_POINTS, LIP_POINTS, LIPS_MARGIN, RIGHT_EYELIDS
from loquent.face.topology import CHIN, FOREHEAD, LEFT_EYE_OUTER, MIRRORED, RIGHT_EYE_OUTER
from loquent.models.moda.keypoints import KeypointMotion, driven_motion, transform
from loquent.models.moda.renderer.retargeting import KeypointMlp, retarget, stitch
from loquent.training.image_losses import total
from loquent.training.loop import TrainSettings, train
from loquent.training.machines import join_machines
from loquent.training.moda_renderer_drawing import cut_squares, draw, face_of, shrink

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loquent.face.landmarker import PointNet
    from loquent.models.moda.renderer.networks import RendererNetworks
    from loquent.training.moda_renderer_data import FacePairs, PairBatches

SMALL_NETWORKS = ("stitching", "lips", "eyes")
WIDEST_OPENING = 0.8  # gap over width; wanted openings are drawn from 0 to it
_EYE, _LIPS = ((159, 145), (33, 133)), ((13, 14), (61, 291))  # gap and width of the picture's left eye, and the lips
_OTHER_EYE = ((386, 374), (362, 263))
_ROOM = 1.25  # side of the squares that openings are read in, over what the landmarker is used to: mouths open
_BELOW_CHIN = 0.15  # of the face's height, from where on the body must stay


@dataclass(frozen=True, kw_only=True)
class CorrectionWeights:
    """How much each term counts, beside the pictures' and openings' own; the published weights are unknown."""

    shoulders: float = 1.0
    openings: float = 1.0
    change: float = 1.0  # size of the corrections


class CorrectionLoss:
    """Loss of the three small networks, for `loquent.training.loop.train`.

    Stitching gets the motion of somebody else, and must keep what is below the chin as in the source drawn with its
    own keypoints. Lips and eyes get an opening to aim at, which is read from the picture that is then drawn.
    """

    def __init__(self, drawing: RendererNetworks, input_px: int, weights: CorrectionWeights) -> None:
        self.drawing = drawing.eval().requires_grad_(False)
        self.openings = OpeningReader().to(next(drawing.parameters()).device)
        self.input_px, self.weights = input_px, weights

    def __call__(self, network: nn.Module, batch: FacePairs, random: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(network, nn.ModuleDict)
        stitching, lips, eyes = (network[name] for name in SMALL_NETWORKS)
        assert isinstance(stitching, KeypointMlp)
        assert isinstance(lips, KeypointMlp)
        assert isinstance(eyes, KeypointMlp)
        landmarks = batch.landmarks[:, 0]
        with torch.no_grad():
            small = shrink(batch.pictures[:, 0], self.input_px)
            volume, face = self.drawing.appearance(small), face_of(self.drawing.motion(small))
            source = transform(face.canonical, face.motion)
            target = transform(face.canonical, driven_motion(face.motion, _of_next(face.motion)))
            own = draw(self.drawing, volume, source, source)

        def drawn(keypoints: Tensor) -> Tensor:
            return draw(self.drawing, volume, keypoints, source)

        stitched = stitch(stitching, source, target)
        below = below_chin(landmarks, own.shape[-1])
        away = ((drawn(stitched) - own).abs() * below).sum() / (3 * below.sum()).clamp(min=1)
        wanted = WIDEST_OPENING * torch.rand(len(source), 2, generator=random).to(source)
        opened = openings_of(landmarks)
        eye_change = retarget(eyes, source, torch.cat([opened[:, :2], wanted[:, :1]], dim=1))
        lip_change = retarget(lips, source, torch.cat([opened[:, 2:], wanted[:, 1:]], dim=1))
        eye_openings = self.openings.eyes(drawn(source + eye_change), landmarks)
        lip_opening = self.openings.lips(drawn(source + lip_change), landmarks)
        terms = {
            "shoulders": away,
            "eye_opening": (eye_openings - wanted[:, :1]).abs().mean(),
            "lip_opening": (lip_opening - wanted[:, 1]).abs().mean(),
            "change": total(change.abs().mean() for change in (stitched - target, eye_change, lip_change)),
        }
        loss = (
            self.weights.shoulders * terms["shoulders"]
            + self.weights.openings * (terms["eye_opening"] + terms["lip_opening"])
            + self.weights.change * terms["change"]
        )
        return {"loss": loss, **terms}


class OpeningReader(nn.Module):
    """Reads from pictures how open eyes and lips are, so that gradients pass."""

    def __init__(self) -> None:
        super().__init__()
        self.landmarker = copy.deepcopy(load_landmarker()).eval().requires_grad_(False)

    def lips(self, pictures: Tensor, landmarks: Tensor) -> Tensor:
        """(B,): gap over width, of pictures (B, 3, S, S) in [0, 1] and rough landmarks (B, 478, 2) in −1..1."""
        return _read(self.landmarker.lips, LIP_POINTS, LIP_POINTS, LIPS_MARGIN, _LIPS, pictures, landmarks)

    def eyes(self, pictures: Tensor, landmarks: Tensor) -> Tensor:
        """(B, 2): the picture's left and right eye; arguments as for `lips`."""
        mirrored = landmarks[:, list(MIRRORED)] * torch.tensor([-1.0, 1.0]).to(landmarks)
        views = ((pictures, landmarks), (pictures.flip(-1), mirrored))
        found = [_read(self.landmarker.eye, EYE_POINTS, RIGHT_EYELIDS, EYE_MARGIN, _EYE, *view) for view in views]
        return torch.stack(found, dim=1)


def _read(
    network: PointNet,
    points: Sequence[int],
    framed: Sequence[int],
    margin: float,
    opening: tuple[tuple[int, int], tuple[int, int]],
    pictures: Tensor,
    landmarks: Tensor,
) -> Tensor:
    """Gap over width (B,) of the `points` that a network finds in the square around the landmarks `framed`."""
    across = landmarks[:, LEFT_EYE_OUTER] - landmarks[:, RIGHT_EYE_OUTER]
    roll = torch.atan2(across[:, 1], across[:, 0])
    turn = torch.stack([roll.cos(), -roll.sin(), roll.sin(), roll.cos()], dim=1).view(-1, 2, 2)
    upright = landmarks[:, list(framed)] @ turn
    low, high = upright.amin(1), upright.amax(1)
    centre = ((low + high) / 2)[:, None] @ turn.mT
    half = (high - low).amax(1) * margin * _ROOM / 2
    squares = cut_squares(pictures, centre[:, 0], half, network.config.crop_size, roll)
    found, _ = network(squares * 2 - 1)
    return ratio(found.float(), tuple(tuple(points.index(point) for point in pair) for pair in opening))


def openings_of(landmarks: Tensor) -> Tensor:
    """(B, 3): gap over width of the picture's left eye, its right eye and the lips, of landmarks (B, 478, 2)."""
    return torch.stack([ratio(landmarks, pairs) for pairs in (_EYE, _OTHER_EYE, _LIPS)], dim=1)


def ratio(points: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """Distance of the first pair of points over that of the second, (B,)."""
    gap, width = ((points[:, a] - points[:, b])[..., :2].square().sum(-1).add(1e-12).sqrt() for a, b in pairs)
    return gap / width.clamp(min=1e-6)


def below_chin(landmarks: Tensor, size_px: int) -> Tensor:
    """(B, 1, S, 1): 1 in rows well below the chin of landmarks (B, 478, 2)."""
    chin, forehead = landmarks[:, CHIN, 1], landmarks[:, FOREHEAD, 1]
    rows = (2 * torch.arange(size_px).to(landmarks) + 1) / size_px - 1
    below = rows > (chin + _BELOW_CHIN * (chin - forehead))[:, None]
    return below[:, None, :, None].float()


def _of_next(motion: KeypointMotion) -> KeypointMotion:
    """The motion of the next face in the batch for each."""
    parts = (motion.expression, motion.rotation, motion.scale, motion.translation)
    return KeypointMotion(*(part.roll(-1, 0) for part in parts))


def train_corrections(
    drawing: RendererNetworks,
    pairs: PairBatches,
    settings: TrainSettings,
    weights: CorrectionWeights,
    input_px: int,
    output: Path,
    device: str,
) -> RendererNetworks:
    """Trains the small networks of a renderer in `output`/corrections; all weights are written to `output`/weights."""
    drawing = drawing.to(join_machines(device).device)
    small = nn.ModuleDict({name: copy.deepcopy(drawing.get_submodule(name)) for name in SMALL_NETWORKS})
    for network in small.values():
        last = network.get_submodule("layers")[-1]  # type: ignore[index]
        nn.init.zeros_(last.weight)  # no correction to begin with
        nn.init.zeros_(last.bias)

    def take_over(ema: nn.Module) -> None:
        assert isinstance(ema, nn.ModuleDict)
        for name, network in ema.items():
            drawing.get_submodule(name).load_state_dict(network.state_dict())

    def save(ema: nn.Module, step: int) -> None:
        take_over(ema)
        drawing.save_pretrained(output / "weights")

    loss = CorrectionLoss(drawing, input_px, weights)
    take_over(train(small, loss, pairs.batch, settings, output / "corrections", save, device=device))
    return drawing
