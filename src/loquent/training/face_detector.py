"""Trains the embedded face detector on one core.

    python -m loquent.training.face_detector CACHE PORTRAITS RUN --minutes 10
    python -m loquent.training.face_detector CACHE PORTRAITS RUN --export src/loquent/weights/face-detector

CACHE is what loquent.training.face_data made from the folder PORTRAITS. Scenes are put together while training: faces
of all sizes on textures, drawings and pictures from which the face was wiped away.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from loquent.face.blocks import channels_last
from loquent.face.crop import Square, cut, eye_roll, square_around
from loquent.face.detector import MAX_FACE_PX, MIN_FACE_PX, STRIDE, TYPICAL_FACE_PX, Detector, DetectorConfig
from loquent.face.landmarker import to_network
from loquent.training.face_data import load_portraits, mirror
from loquent.training.face_landmarker import FaceCache, update_average
from loquent.training.face_negatives import drawing, texture, wipe_face, without_face
from loquent.training.face_photometric import cover, degrade, put_on_glasses
from loquent.training.face_warps import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SCENE_PX = 96
IGNORED, NOTHING, FACE = -1, 0, 1


@dataclass(frozen=True, eq=False)
class Scene:
    """A training picture and what the detector must answer for it."""

    pixels: NDArray[np.uint8]  # (SCENE_PX, SCENE_PX, 3)
    labels: NDArray[np.int8]  # (h, w): IGNORED, NOTHING or FACE
    answers: NDArray[np.float32]  # (5, h, w): offsets, log size, cosine and sine of the roll; where FACE


class SceneMaker:
    """Draws scenes from whole portraits and from the cached faces."""

    def __init__(self, portraits: list[Sample], cache: FaceCache) -> None:
        self.portraits = portraits
        self.cache = cache

    def draw(self, rng: np.random.Generator) -> Scene:
        sample = self._pick(rng)
        if rng.random() < 0.35:
            return empty_scene(self._picture_without_face(sample, rng))
        if rng.random() < 0.1:
            sample = Sample(put_on_glasses(sample.pixels, sample.landmarks, rng), sample.landmarks)
        if rng.random() < 0.2:
            sample = trim(sample, rng)
        low, high = 0.4 * MIN_FACE_PX, 2.2 * MAX_FACE_PX
        usual = rng.random() < 0.8
        size = np.exp(rng.uniform(np.log(MIN_FACE_PX if usual else low), np.log(MAX_FACE_PX if usual else high)))
        face = square_around(sample.landmarks, 1.0)
        side = face.side_px * SCENE_PX / size
        roll = face.roll_rad + (rng.uniform(-0.75, 0.75) if rng.random() < 0.7 else rng.normal(0, 0.1))
        shift = rng.uniform(-0.42, 0.42, 2) * side
        window = Square(face.centre_x + float(shift[0]), face.centre_y + float(shift[1]), float(side), float(roll))
        pixels, landmarks = place(sample, window)
        if rng.random() < 0.6:
            pixels = change_background(pixels, sample, window, self._background(rng), rng)
        if rng.random() < 0.15:
            pixels = cover(pixels, self._background(rng), rng)
        return face_scene(degrade(pixels, rng), landmarks)

    def _pick(self, rng: np.random.Generator) -> Sample:
        if rng.random() < 0.6:
            sample = self.portraits[rng.integers(len(self.portraits))]
            return mirror(sample) if rng.random() < 0.5 else sample
        return self.cache[int(rng.integers(len(self.cache)))]

    def _picture_without_face(self, sample: Sample, rng: np.random.Generator) -> NDArray[np.uint8]:
        if rng.random() < 0.6:
            return without_face(sample, rng.uniform(1, 2), SCENE_PX, rng)
        wiped = wipe_face(sample, rng)
        height, width = wiped.shape[:2]
        square = Square(rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.3, 3) * width, rng.normal(0, 0.3))
        return degrade(cut(wiped, square, SCENE_PX).pixels, rng)

    def _background(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        kind = rng.random()
        if kind < 0.4:
            return texture(SCENE_PX, rng)
        if kind < 0.6:
            return drawing(SCENE_PX, rng)
        wiped = wipe_face(self._pick(rng), rng)
        return np.asarray(cv2.resize(wiped, (SCENE_PX, SCENE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def trim(sample: Sample, rng: np.random.Generator) -> Sample:
    """The picture cut close round the face, which then fills it."""
    low, high = sample.landmarks[:, :2].min(0), sample.landmarks[:, :2].max(0)
    height, width = sample.pixels.shape[:2]
    room = (high[1] - low[1]) * rng.uniform(0.0, 0.3, 4)
    left, top = np.maximum(low - room[:2], 0).astype(int)
    right, bottom = np.minimum(high + room[2:], [width, height]).astype(int)
    landmarks = sample.landmarks - np.array([left, top, 0], np.float32)
    return Sample(sample.pixels[top:bottom, left:right], landmarks)


def place(sample: Sample, window: Square) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The part of the sample in the window, SCENE_PX large, and the landmarks there."""
    crop = cut(sample.pixels, window, SCENE_PX)
    to_crop = cv2.invertAffineTransform(crop.crop_to_photo)
    return crop.pixels, (sample.landmarks[:, :2] @ to_crop[:, :2].T + to_crop[:, 2]).astype(np.float32)


def change_background(
    pixels: NDArray[np.uint8], sample: Sample, window: Square, background: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Keeps the portrait's own rectangle, or a soft oval round the head, and puts something else about it."""
    height, width = sample.pixels.shape[:2]
    mask = np.zeros((height, width), np.float32)
    if rng.random() < 0.5:
        mask[2:-2, 2:-2] = 1
    else:
        face = square_around(sample.landmarks, 1.0, roll_rad=0.0)
        axes = (int(face.side_px * rng.uniform(0.5, 0.9)), int(face.side_px * rng.uniform(0.65, 1.1)))
        middle = (int(face.centre_x), int(face.centre_y - 0.1 * face.side_px))
        cv2.ellipse(mask, middle, axes, 0, 0, 360, 1.0, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), face.side_px / 30)
    to_crop = cv2.invertAffineTransform(window.crop_to_photo(SCENE_PX))
    kept = cv2.warpAffine(mask, to_crop, (SCENE_PX, SCENE_PX), flags=cv2.INTER_LINEAR)[..., None]
    return (background + kept * (pixels.astype(np.float32) - background)).astype(np.uint8)


def empty_scene(pixels: NDArray[np.uint8]) -> Scene:
    cells = SCENE_PX // STRIDE
    return Scene(pixels, np.zeros((cells, cells), np.int8), np.zeros((5, cells, cells), np.float32))


def face_scene(pixels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> Scene:
    """The scene with one face. Faces outside the range of sizes, or cut off, ask for no answer near them."""
    face = square_around(landmarks, 1.0)
    cells = SCENE_PX // STRIDE
    middles = (np.arange(cells) + 0.5) * STRIDE - 0.5
    across = (face.centre_x - middles[None, :]) / TYPICAL_FACE_PX * np.ones((cells, 1))
    down = (face.centre_y - middles[:, None]) / TYPICAL_FACE_PX * np.ones((1, cells))
    away = np.hypot(across, down) * TYPICAL_FACE_PX / face.side_px
    labels = np.zeros((cells, cells), np.int8)
    labels[away < 0.45] = IGNORED
    inside = ((landmarks >= -0.1 * face.side_px) & (landmarks < SCENE_PX + 0.1 * face.side_px)).all(1).mean()
    fits = MIN_FACE_PX <= face.side_px <= MAX_FACE_PX and inside > 0.8
    if fits:
        labels[away < max(0.18, 0.6 * STRIDE / face.side_px)] = FACE
    elif not MIN_FACE_PX / 1.6 <= face.side_px <= MAX_FACE_PX * 1.6:
        labels[:] = NOTHING
    roll = eye_roll(landmarks)
    ones = np.ones((cells, cells))
    log_size = np.log(face.side_px / TYPICAL_FACE_PX) * ones
    answers = np.stack([across, down, log_size, np.cos(roll) * ones, np.sin(roll) * ones])
    return Scene(pixels, labels, answers.astype(np.float32))


def batches(maker: SceneMaker, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches: pictures (B, 3, H, W), labels (B, h, w), answers (B, 5, h, w)."""
    rng = np.random.default_rng(seed)
    while True:
        scenes = [maker.draw(rng) for _ in range(batch)]
        labels = torch.from_numpy(np.stack([scene.labels for scene in scenes]))
        answers = torch.from_numpy(np.stack([scene.answers for scene in scenes]))
        yield to_network(np.stack([scene.pixels for scene in scenes])), labels, answers


def loss_of(model: Detector, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Focal loss of the scores (Lin et al. 2017, equation 5, gamma 2) and the distance of the other answers."""
    pictures, labels, answers = batch
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.body(pictures)
    predicted = model.answer(maps.float())
    logits, is_face, counted = predicted[:, 0], (labels == FACE).float(), labels != IGNORED
    entropy = functional.binary_cross_entropy_with_logits(logits, is_face, reduction="none")
    miss = (torch.sigmoid(logits) - is_face).abs().detach()
    score_loss = (entropy * miss.square())[counted].sum() / is_face.sum().clamp(min=1)
    errors = functional.smooth_l1_loss(predicted[:, 1:], answers, reduction="none", beta=0.05).sum(1)
    return score_loss + (errors * is_face).sum() / is_face.sum().clamp(min=1)


def train(
    maker: SceneMaker, run: Path, minutes: float, batch: int = 64, learning_rate: float = 2e-3,
    config: DetectorConfig | None = None,
) -> Detector:  # fmt: skip
    """Trains for `minutes`, or what is left of them after the checkpoint in `run`."""
    torch.manual_seed(0)
    model = channels_last(Detector(config or DetectorConfig()))
    model.answer.bias = nn.Parameter(torch.tensor([-3.0, 0.0, 0.0, 0.0, 1.0, 0.0]))  # no face, no roll
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.02)
    average = copy.deepcopy(model).eval()
    checkpoint = run / "detector.pt"
    step, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
    source = batches(maker, batch, seed=step)
    model.train()
    before, saved, running = time.monotonic(), seconds, 0.0
    while seconds < 60 * minutes:
        progress = seconds / (60 * minutes)
        rate = learning_rate * min(1.0, (step + 1) / 200) * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, next(source))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        update_average(average, model, step)
        step += 1
        running += loss.item()
        now = time.monotonic()
        seconds, before = seconds + now - before, now
        if step % 200 == 0:
            logger.info("detector step %d, %.1f min, loss %.4f", step, seconds / 60, running / 200)
            running = 0.0
        if seconds - saved > 120 or seconds >= 60 * minutes:
            saved = seconds
            state = {"model": model.state_dict(), "average": average.state_dict(), "step": step, "seconds": seconds,
                     "optimizer": optimizer.state_dict()}  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    return average


def export(run: Path, folder: Path, config: DetectorConfig) -> None:
    """Writes the averaged weights: config.json and model.safetensors."""
    state = torch.load(run / "detector.pt", weights_only=True)["average"]
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.half().contiguous() for name, value in state.items() if value.is_floating_point()}
    save_file(half, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--export", type=Path, help="write the weights to this folder and stop")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if arguments.export:
        export(arguments.run, arguments.export, DetectorConfig())
        return
    arguments.run.mkdir(parents=True, exist_ok=True)
    portraits = load_portraits(arguments.portraits, arguments.cache / "labels.npz")
    train(SceneMaker(portraits, FaceCache(arguments.cache)), arguments.run, arguments.minutes)


if __name__ == "__main__":
    main()
