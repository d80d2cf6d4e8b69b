"""Training material of the face networks: labelled portraits, and a cache of new faces made from them.

    python -m loquent.training.face_data PORTRAITS TEACHER_MODEL CACHE [--count 14000]

PORTRAITS is a folder of pictures with one face each, TEACHER_MODEL is MediaPipe's face_landmarker.task (Apache-2.0),
whose landmarks are the labels. Each new face is labelled by the teacher again, so that labels say what the teacher
would say of that picture; faces on which the teacher and the known warp disagree are left out.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.data.people import is_test, read_rgb
from loquent.face import mediapipe_backend
from loquent.face.crop import eye_roll, mirror_landmarks, square_around
from loquent.face.topology import NUM_LANDMARKS
from loquent.training.face_warps import FaceWarper, Sample, fill_mouth, random_expression, rotate_head

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

CACHE_SIZE = 240  # side of cached crops, pixels
CACHE_MARGIN = 1.9  # side of cached crops in units of the landmarks' box
MAX_DISAGREEMENT = 0.12  # mean distance of teacher and known warp, interocular distances


def load_portraits(folder: Path, labels: Path, test: bool = False) -> list[Sample]:
    """The labelled portraits of one split.

    Args:
        folder: holds IDENTITY.jpg files.
        labels: npz with `ids` (N,) and `landmarks` (N, 478, 3) in pixels, pixel centres at integers.
        test: the test split instead of the training split.
    """
    table = np.load(labels)
    samples = []
    for identity, landmarks in zip(table["ids"], table["landmarks"], strict=True):
        if is_test(str(identity)) == test:
            samples.append(Sample(read_rgb(folder / f"{identity}.jpg"), landmarks.astype(np.float32)))
    return samples


def label_portraits(folder: Path, model: Path, labels: Path) -> None:
    """Writes the teacher's landmarks of every portrait in which it finds a face."""
    ids, landmarks = [], []
    with mediapipe_backend.open_landmarker(model, max_faces=1) as teacher:
        for path in sorted(folder.glob("*.jpg")):
            faces = mediapipe_backend.detect(teacher, read_rgb(path))
            if faces:
                ids.append(path.stem)
                landmarks.append(faces[0].landmarks)
    np.savez(labels, ids=np.array(ids), landmarks=np.stack(landmarks))


def upright_shape(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Landmarks in interocular distances, origin between the outer eye corners, eyes level."""
    roll = eye_roll(landmarks)
    turn = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    unit = np.linalg.norm(landmarks[33, :2] - landmarks[263, :2])
    return (landmarks - landmarks[[33, 263]].mean(0)) @ turn.T / unit


def fit_similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """(2, 3): the scaling, turn and shift that brings points (N, 2) nearest to others (Umeyama 1991)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    cos, sin = (a * b).sum(), (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
    linear = np.array([[cos, -sin], [sin, cos]]) / (a**2).sum()
    return np.column_stack([linear, target_mean - linear @ source_mean])


class FaceMaker:
    """Draws new faces from labelled portraits: as they are, with another pose and expression, or blended."""

    def __init__(self, portraits: list[Sample]) -> None:
        self.portraits = portraits
        mean = np.mean([upright_shape(sample.landmarks) for sample in portraits], axis=0)
        self.warper = FaceWarper(mean.astype(np.float32))

    def draw(self, rng: np.random.Generator) -> Sample:
        """A crop of CACHE_SIZE with one upright face."""
        kind = rng.random()
        first = self._pick(rng)
        if kind < 0.2:
            return self.crop(first, first.landmarks, rng)
        if kind < 0.65:
            return self.crop(first, self._change(first.landmarks, rng), rng)
        return self._blend(first, self._pick(rng), rng)

    def _pick(self, rng: np.random.Generator) -> Sample:
        sample = self.portraits[rng.integers(len(self.portraits))]
        return mirror(sample) if rng.random() < 0.5 else sample

    def _change(self, landmarks: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        wanted = random_expression(landmarks, rng, rng.uniform(0.4, 1.0)) if rng.random() < 0.85 else landmarks
        if rng.random() < 0.7:
            wanted = rotate_head(wanted, rng.normal(0, 0.17), rng.normal(0, 0.24))
        stretch = 1 + rng.normal(0, 0.04, 2)
        wanted = wanted.copy()
        wanted[:, :2] = (wanted[:, :2] - wanted[1, :2]) * stretch + wanted[1, :2]
        return wanted

    def crop(self, sample: Sample, wanted: NDArray[np.float32], rng: np.random.Generator) -> Sample:
        """A crop of CACHE_SIZE in which the sample's face has the `wanted` landmarks (478, 3, its own pixels)."""
        square = square_around(wanted, CACHE_MARGIN)
        photo_to_crop = np.asarray(cv2.invertAffineTransform(square.crop_to_photo(CACHE_SIZE)), np.float64)
        crop, opening = self.warper.warp(sample, wanted, photo_to_crop, CACHE_SIZE)
        opened = np.ptp(wanted[[13, 14], 1]) > np.ptp(sample.landmarks[[13, 14], 1]) + 0.03 * sample_unit(sample)
        if opened and rng.random() < 0.8:
            return Sample(fill_mouth(crop, opening, rng), crop.landmarks)
        return crop

    def _blend(self, first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
        """A face between two people, in shape and in looks."""
        to_first = fit_similarity(second.landmarks[:, :2], first.landmarks[:, :2])
        scale = np.sqrt(np.linalg.det(to_first[:, :2]))
        moved = np.column_stack([second.landmarks[:, :2] @ to_first[:, :2].T + to_first[:, 2],
                                 second.landmarks[:, 2] * scale])  # fmt: skip
        shape_part, looks_part = rng.uniform(0, 1), rng.choice([0.0, rng.uniform(0.2, 0.8)])
        wanted = (first.landmarks + shape_part * (moved - first.landmarks)).astype(np.float32)
        if rng.random() < 0.5:
            wanted = self._change(wanted, rng)
        crop = self.crop(first, wanted, rng)
        if looks_part == 0:
            return crop
        first_to_second = cv2.invertAffineTransform(to_first)
        in_second = np.column_stack([wanted[:, :2] @ first_to_second[:, :2].T + first_to_second[:, 2],
                                     wanted[:, 2] / scale])  # fmt: skip
        square = square_around(wanted, CACHE_MARGIN)
        photo_to_crop = np.vstack([cv2.invertAffineTransform(square.crop_to_photo(CACHE_SIZE)), [0, 0, 1]])
        second_to_crop = (photo_to_crop @ np.vstack([to_first, [0, 0, 1]]))[:2]
        other, _ = self.warper.warp(second, in_second.astype(np.float32), second_to_crop, CACHE_SIZE)
        pixels = cv2.addWeighted(crop.pixels, 1 - looks_part, other.pixels, looks_part, 0)
        return Sample(np.asarray(pixels, np.uint8), crop.landmarks)


def sample_unit(sample: Sample) -> float:
    """Interocular distance in pixels."""
    return float(np.linalg.norm(sample.landmarks[33, :2] - sample.landmarks[263, :2]))


def mirror(sample: Sample) -> Sample:
    """The sample seen in a mirror."""
    landmarks = mirror_landmarks(sample.landmarks, sample.pixels.shape[1])
    return Sample(np.ascontiguousarray(sample.pixels[:, ::-1]), landmarks)


def build_cache(
    portraits: list[Sample], label: Callable[[NDArray[np.uint8]], NDArray[np.float32] | None],
    folder: Path, count: int, seed: int,
) -> None:  # fmt: skip
    """Fills `folder` with pixels.npy (N, S, S, 3) uint8 and landmarks.npy (N, 478, 3), up to `count` faces."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    maker = FaceMaker(portraits)
    shape = (count, CACHE_SIZE, CACHE_SIZE, 3)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
    labels = np.zeros((count, NUM_LANDMARKS, 3), np.float32)
    kept = drawn = 0
    while kept < count:
        sample = maker.draw(rng)
        taught = label(sample.pixels)
        drawn += 1
        if taught is None:
            continue
        away = np.linalg.norm(taught[:, :2] - sample.landmarks[:, :2], axis=1).mean() / sample_unit(sample)
        if away > MAX_DISAGREEMENT:
            continue
        pixels[kept], labels[kept] = sample.pixels, taught
        kept += 1
        if kept % 500 == 0 or kept == count:
            np.save(folder / "landmarks.npy", labels[:kept])
            logger.info("%s: %d of %d faces, %d drawn", folder, kept, count, drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--count", type=int, default=14000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    labels = arguments.cache / "labels.npz"
    if not labels.exists():
        label_portraits(arguments.portraits, arguments.teacher, labels)
    portraits = load_portraits(arguments.portraits, labels)
    with mediapipe_backend.open_landmarker(arguments.teacher, max_faces=1) as teacher:

        def label(pixels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
            faces = mediapipe_backend.detect(teacher, pixels)
            return faces[0].landmarks if faces else None

        build_cache(portraits, label, arguments.cache / f"faces-{arguments.seed}", arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
