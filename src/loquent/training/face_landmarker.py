"""Trains the three networks of the embedded landmarker, one after the other, on one core.

    python -m loquent.training.face_landmarker CACHE RUN --part face --minutes 25
    python -m loquent.training.face_landmarker CACHE RUN --export src/loquent/weights/face-landmarker

CACHE is what loquent.training.face_data made. A run that was stopped goes on where its last checkpoint stands. The
learning rate follows the time trained, so that a run ends when it should on whatever machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from loquent.face.blocks import channels_last
from loquent.face.crop import Square, cut, cut_mirrored, mirror_landmarks
from loquent.face.landmarker import (
    FACE_MARGIN,
    Landmarker,
    LandmarkerConfig,
    Part,
    PointNet,
    part_points,
    part_square,
    to_network,
)
from loquent.face.topology import EYELIDS, LIPS
from loquent.training.face_data import load_portraits
from loquent.training.face_negatives import not_a_face
from loquent.training.face_photometric import cover, degrade, put_on_glasses, recolour
from loquent.training.face_warps import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

NEGATIVE_PART = 0.15  # of the face network's crops show no face
CLEAN_PART = 0.4  # of the crops with a face change in colour only, as most photos are clean
FINE_WEIGHT = 2.0  # of lips and lids in the whole-face network's loss
DEPTH_WEIGHT = 0.3


class FaceCache:
    """The cached faces of `face_data`, all seeds together."""

    def __init__(self, folder: Path) -> None:
        parts = sorted(folder.glob("faces-*"))
        if not parts:
            raise FileNotFoundError(f"{folder} holds no faces-* folder; run loquent.training.face_data first")
        self.landmarks = [np.load(part / "landmarks.npy") for part in parts]
        self.pixels = [np.load(part / "pixels.npy", mmap_mode="r") for part in parts]
        self.ends = np.cumsum([len(block) for block in self.landmarks])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Sample:
        block = int(np.searchsorted(self.ends, index, side="right"))
        row = index - (int(self.ends[block - 1]) if block else 0)
        return Sample(np.asarray(self.pixels[block][row]), self.landmarks[block][row])


def jitter(square: Square, part: Part, rng: np.random.Generator) -> Square:
    """The square as an imperfect first guess would have it; wide misses for the whole face only."""
    wide = part == "face" and rng.random() < 0.35
    shift, zoom, turn = (0.07, 0.11, 0.17) if wide else (0.03, 0.05, 0.06)
    return Square(
        square.centre_x + square.side_px * float(rng.normal(0, shift)),
        square.centre_y + square.side_px * float(rng.normal(0, shift)),
        square.side_px * float(np.exp(rng.normal(0, zoom))),
        square.roll_rad + float(rng.normal(0, turn)),
    )


def training_example(
    cache: FaceCache, part: Part, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
    """One crop, its points (P, 3), and whether it shows a face."""
    sample = cache[int(rng.integers(len(cache)))]
    points = part_points(part)
    if part == "face" and rng.random() < NEGATIVE_PART:
        return not_a_face(sample, FACE_MARGIN, size, rng), np.zeros((len(points), 3), np.float32), False
    if rng.random() < 0.1:
        sample = Sample(put_on_glasses(sample.pixels, sample.landmarks, rng), sample.landmarks)
    width = sample.pixels.shape[1]
    mirrored = bool(rng.random() < 0.5)
    landmarks = mirror_landmarks(sample.landmarks, width) if mirrored else sample.landmarks
    square = jitter(part_square(part, landmarks), part, rng)
    pixels = cut_mirrored(sample.pixels, square, size) if mirrored else cut(sample.pixels, square, size).pixels
    wanted = square.from_photo(landmarks[points])
    if rng.random() < CLEAN_PART:
        return recolour(pixels, rng), wanted, True
    if rng.random() < 0.25:
        other = cache[int(rng.integers(len(cache)))].pixels
        pixels = cover(pixels, np.asarray(cv2.resize(other, (size, size)), np.uint8), rng)
    return degrade(pixels, rng), wanted, True


def batches(cache: FaceCache, part: Part, size: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches: crops (B, 3, S, S), points (B, P, 3), whether a face is there (B,)."""
    rng = np.random.default_rng(seed)
    while True:
        examples = [training_example(cache, part, size, rng) for _ in range(batch)]
        pixels, points, present = zip(*examples, strict=True)
        yield to_network(np.stack(pixels)), torch.from_numpy(np.stack(points)), torch.tensor(present)


def point_weights(part: Part) -> Tensor:
    """(P,), mean 1: how much each point counts."""
    weights = torch.ones(len(part_points(part)))
    fine = {*LIPS, *EYELIDS}
    weights[[row for row, index in enumerate(part_points(part)) if index in fine]] = FINE_WEIGHT
    return weights / weights.mean()


def point_loss(predicted: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean distance in the picture plane plus a little of the error in depth, in sides of the crop."""
    flat = (predicted - wanted)[..., :2].square().sum(-1).add(1e-6).sqrt()
    depth = (predicted - wanted)[..., 2].abs()
    return ((flat + DEPTH_WEIGHT * depth) * weights).mean()


def loss_of(model: Landmarker, part: Part, batch: tuple[Tensor, Tensor, Tensor], weights: Tensor) -> Tensor:
    """Loss of one network on a batch. Convolutions in bfloat16, the rest in float32."""
    crops, points, present = batch
    net = model.part(part)
    with torch.autocast("cpu", torch.bfloat16):
        maps = net.body(crops)
    features = torch.relu(net.hidden(maps.float().flatten(1)))
    predicted = net.points(features).unflatten(1, (-1, 3))
    loss = point_loss(predicted[present], points[present], weights)
    if part == "face":
        logits = model.presence(features).squeeze(1)
        loss = loss + 0.02 * functional.binary_cross_entropy_with_logits(logits, present.float())
    return loss


def start_at_mean(net: PointNet, cache: FaceCache, part: Part) -> None:
    """Lets the untrained network answer with the mean shape, and its output weights span how shapes vary."""
    rng = np.random.default_rng(0)
    points = part_points(part)
    shapes = []
    for index in rng.permutation(len(cache))[:1500]:
        landmarks = cache[int(index)].landmarks
        shapes.append(jitter(part_square(part, landmarks), part, rng).from_photo(landmarks[points]).ravel())
    table = np.stack(shapes)
    mean = table.mean(0)
    _, deviations, directions = np.linalg.svd(table - mean, full_matrices=False)
    layer = net.points
    with torch.no_grad():
        layer.bias.copy_(torch.from_numpy(mean))
        rank = min(layer.in_features // 2, len(directions))
        basis = directions[:rank] * (deviations[:rank, None] / math.sqrt(len(table)))
        layer.weight.mul_(0.05)
        layer.weight[:, :rank] += torch.from_numpy(0.3 * basis.T.astype(np.float32))


@torch.no_grad()
def test_error(model: Landmarker, part: Part, portraits: list[Sample]) -> float:
    """Mean distance to the labels on crops at the right place, % of the interocular distance."""
    points, errors = part_points(part), []
    net = model.part(part)
    for sample in portraits:
        square = part_square(part, sample.landmarks)
        pixels = cut(sample.pixels, square, net.config.crop_size).pixels
        predicted, _ = net(to_network(pixels[None]))
        wanted = square.from_photo(sample.landmarks[points])
        away = np.linalg.norm((predicted[0].numpy() - wanted)[:, :2], axis=1)
        unit = np.linalg.norm(sample.landmarks[33, :2] - sample.landmarks[263, :2])
        errors.append(away.mean() * square.side_px / unit)
    return 100 * float(np.mean(errors))


def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential average of the weights; statistics of normalisation are taken over."""
    keep = min(0.9985, (1 + step) / (20 + step))
    with torch.no_grad():
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, 1 - keep)
        for mean, value in zip(average.buffers(), model.buffers(), strict=True):
            mean.copy_(value)


def train(
    cache: FaceCache, run: Path, part: Part, minutes: float, portraits: list[Sample],
    batch: int = 64, learning_rate: float = 2e-3, config: LandmarkerConfig | None = None,
) -> Landmarker:  # fmt: skip
    """Trains one of the networks for `minutes`, or what is left of them after the last checkpoint in `run`."""
    torch.manual_seed(0)
    model = channels_last(Landmarker(config or LandmarkerConfig()))
    net = model.part(part)
    start_at_mean(net, cache, part)
    trained = [*net.parameters(), *(model.presence.parameters() if part == "face" else ())]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.02)
    average = copy.deepcopy(model).eval()
    checkpoint = run / f"{part}.pt"
    step, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
    weights = point_weights(part)
    source = batches(cache, part, net.config.crop_size, batch, seed=step)
    model.train()
    before, saved, running = time.monotonic(), seconds, 0.0
    while seconds < 60 * minutes:
        progress = seconds / (60 * minutes)
        rate = learning_rate * min(1.0, (step + 1) / 200) * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, part, next(source), weights)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        update_average(average, model, step)
        step += 1
        running += loss.item()
        now = time.monotonic()
        seconds, before = seconds + now - before, now
        if step % 200 == 0:
            logger.info("%s step %d, %.1f min, loss %.5f", part, step, seconds / 60, running / 200)
            running = 0.0
        if seconds - saved > 150 or seconds >= 60 * minutes:
            saved = seconds
            state = {"model": model.state_dict(), "average": average.state_dict(), "step": step, "seconds": seconds,
                     "optimizer": optimizer.state_dict()}  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
            logger.info("%s step %d: test split %.3f %%", part, step, test_error(average, part, portraits))
    return average


def export(run: Path, folder: Path, config: LandmarkerConfig) -> None:
    """Joins the averaged weights of all parts that were trained and writes config.json and model.safetensors."""
    model = Landmarker(config)
    state = model.state_dict()
    for part in ("face", "lips", "eye"):
        prefixes = (f"{part}.", "presence.") if part == "face" else (f"{part}.",)
        average = torch.load(run / f"{part}.pt", weights_only=True)["average"]
        state |= {name: value for name, value in average.items() if name.startswith(prefixes)}
    model.load_state_dict(state)
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()
            if not name.endswith("num_batches_tracked")}  # fmt: skip
    save_file({name: value.contiguous() for name, value in half.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--portraits", type=Path, help="folder of the portraits, for the error on the test split")
    parser.add_argument("--part", choices=("face", "lips", "eye"), default="face")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--export", type=Path, help="write the weights of all parts to this folder and stop")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if arguments.export:
        export(arguments.run, arguments.export, LandmarkerConfig())
        return
    arguments.run.mkdir(parents=True, exist_ok=True)
    labels = arguments.cache / "labels.npz"
    portraits = load_portraits(arguments.portraits, labels, test=True) if arguments.portraits else []
    train(FaceCache(arguments.cache), arguments.run, arguments.part, arguments.minutes, portraits)


if __name__ == "__main__":
    main()
