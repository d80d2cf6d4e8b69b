"""Material for the IF-MDM motion transformer: motion codes of a speech corpus, beside its speech features.

    python -m loquent.training.ifmdm_motion_data RENDERER VIDEO_CORPUS FEATURES OUT [--copies 8]

RENDERER is a trained renderer, or the basis by which a steered one was trained, VIDEO_CORPUS a folder of `loquent.data.video`, FEATURES a cache of
`loquent.training.moda_data`. Codes are read off frames of the video corpus with the frozen renderer. Drawing and reading
every frame of hours of speech would take days on a processor, so a small network learns from those frames how
codes move with face parameters, and writes the movement of the whole corpus, as spoken by many people.

A *move* is how far a code is from that of the person's face at rest, both before the tanh that ends the motion head. The
photo need not show the face at rest: an utterance begins at the photo's own move.

Shape letters: K frames read, P people, M motion numbers, N frames of the corpus, U utterances.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from loquent.data.video_shards import VideoCorpus
from loquent.errors import LoquentError
from loquent.models.ifmdm.code_space import CodeSpace, MoveParts, before_tanh
from loquent.models.ifmdm.config import get_motion_preset
from loquent.models.ifmdm.weights import load_autoencoder
from loquent.motion.controls import LIP_CHANNELS, apply_controls
from loquent.motion.face_model import fit_face
from loquent.training.ifmdm_motion_losses import MotionWindow, split_window
from loquent.types import ARKIT_NAMES, EMOTIONS, MOTION_DIM, Controls, Motion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm.autoencoder import Autoencoder

logger = logging.getLogger(__name__)

_BATCH = 16  # frames read at once
_RISE_FRAMES = 10  # in which a face goes from the photo's expression to speaking
_NEUTRAL_SHARE = 0.6  # utterances with a stronger emotion are left out: nothing would tell the transformer of it
_HEAD_AMOUNT, _HEAD_AMOUNT_SPREAD = 0.1, 0.4  # of the logarithm
_HEAD_LIMIT_RAD = np.radians([15.0, 25.0, 15.0]).astype(np.float32)  # what the video corpus shows
_START_SHARE = 0.2  # of the windows begin where an utterance begins, at the photo's own expression
_STRETCH_FRAMES = 64  # over which the usual spread is taken: a window
_TAIL_ROWS = 16  # a window may reach that far beyond an utterance's end
_MOVES, _PHOTOS = "moves-{}.npy", "photos-{}.npy"
_SPACE, _EXTRACTED, _INDEX = "space.safetensors", "extracted.safetensors", "index.json"


@dataclass(frozen=True, eq=False)
class Extracted:
    """Codes that the renderer read off frames whose face parameters are known."""

    codes: Tensor  # (K, M)
    motion: Tensor  # (K, 62)
    person: Tensor  # (K,), row of the two below
    photo_codes: Tensor  # (P, M)
    rest: Tensor  # (P, 52), expression of the photo

    def of_people(self, chosen: Tensor) -> Extracted:
        """The frames of those people for whom `chosen` (P,) is true."""
        kept = chosen[self.person]
        return Extracted(self.codes[kept], self.motion[kept], self.person[kept], self.photo_codes, self.rest)

    def save(self, path: Path) -> None:
        save_file({name: getattr(self, name).contiguous() for name in Extracted.__dataclass_fields__}, path)


@torch.inference_mode()
def extract(
    network: Autoencoder, corpus: VideoCorpus, frames_per_clip: int, max_people: int | None = None
) -> Extracted:
    """Reads codes off each person's photo and off frames of their clips, evenly spaced."""
    names = list(corpus.people)[:max_people]
    codes, motion, person, photo_codes, rest = [], [], [], [], []
    for row, name in enumerate(names):
        photo, *clips = corpus.people[name]
        pictures = [corpus.frames(photo)]
        for clip in clips:
            for frame in _evenly(corpus.clips[clip].num_frames, frames_per_clip):
                pictures.append(corpus.frames(clip, frame, frame + 1))
                motion.append(corpus.motion(clip, frame, frame + 1)[0])
                person.append(row)
        read = read_codes(network, np.concatenate(pictures))
        photo_codes.append(read[0])
        codes.append(read[1:])
        rest.append(corpus.motion(photo)[0, :52])
        if row % 50 == 49:
            logger.info("codes of %d of %d people", row + 1, len(names))
    return Extracted(
        codes=torch.cat(codes),
        motion=torch.from_numpy(np.stack(motion)),
        person=torch.tensor(person),
        photo_codes=torch.stack(photo_codes),
        rest=torch.from_numpy(np.stack(rest)),
    )


def steer(
    basis: NDArray[np.float32], corpus: VideoCorpus, frames_per_clip: int, max_people: int | None = None
) -> Extracted:
    """The same for a renderer whose codes were steered by landmarks while it learnt: no frame need be read.

    Args:
        basis: (956, M), from differences of landmarks to the photo, in halves of the picture, to moves
            (`loquent.training.ifmdm_autoencoder.SteeredAutoencoder`). Codes of photos count as 0.
    """
    names = list(corpus.people)[:max_people]
    moves, motion, person, rest = [], [], [], []
    for row, name in enumerate(names):
        photo, *clips = corpus.people[name]
        chosen = [corpus.motion(clip)[_evenly(corpus.clips[clip].num_frames, frames_per_clip)] for clip in clips]
        still = corpus.motion(photo)
        both = Motion.from_vector(np.concatenate([still, *chosen]))
        shape = fit_face(corpus.landmarks(photo)[0])
        points = shape.landmarks(both.expression, both.rotation, both.translation, both.gaze)[..., :2]
        halves = (points[1:] - points[:1]).reshape(len(points) - 1, -1) / (corpus.size_px / 2)
        moves.append(halves @ basis)
        motion += chosen
        person += [row] * len(halves)
        rest.append(still[0, :52])
    return Extracted(
        codes=torch.tanh(torch.from_numpy(np.concatenate(moves).astype(np.float32))),
        motion=torch.from_numpy(np.concatenate(motion)),
        person=torch.tensor(person),
        photo_codes=torch.zeros(len(names), basis.shape[1]),
        rest=torch.from_numpy(np.stack(rest)),
    )


def _evenly(length: int, count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, length - 1, count).astype(int))


@torch.inference_mode()
def read_codes(network: Autoencoder, frames: NDArray[np.uint8]) -> Tensor:
    """Codes (T, M) of frames (T, S, S, 3)."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    parts = [network.motion_of(part.float() / 127.5 - 1) for part in pictures.split(_BATCH)]
    return torch.cat(parts).float().clone()


class CodeWriter(nn.Module):
    """Face parameters to moves: h(motion) − h(motion of the photo)."""

    def __init__(self, motion_dim: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(MOTION_DIM, width), nn.SiLU(), nn.Linear(width, motion_dim))
        self.linear = nn.Linear(MOTION_DIM, motion_dim)
        for part in (self.layers[-1], self.linear):  # at first everyone stays as in the photo
            nn.init.zeros_(part.weight)  # type: ignore[arg-type]
        scale = torch.full((MOTION_DIM,), 5.0)  # expression weights run from 0 to 1, most stay below a half
        scale[52:55], scale[55:58], scale[58:] = 8.0, 12.0, 8.0
        self.register_buffer("scale", scale)
        self.scale: Tensor

    def forward(self, motion: Tensor, rest: Tensor) -> Tensor:
        """Moves (B, M) of motion (B, 62) of people whose photo shows the expression (B, 52)."""
        return self._place(motion) - self._place(F.pad(rest, (0, MOTION_DIM - rest.shape[1])))

    def _place(self, motion: Tensor) -> Tensor:
        scaled = motion * self.scale
        return self.linear(scaled) + self.layers(scaled)


def fit_writer(extracted: Extracted, steps: int = 2000, seed: int = 0) -> tuple[CodeWriter, float]:
    """Fits a writer; a tenth of the people are kept out to stop at the best, and to tell how well it does.

    Returns:
        The writer, and the share that it explains of how the codes of people kept out vary about their mean.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    kept_out = torch.rand(len(extracted.rest), generator=random) < 0.1
    learn, check = extracted.of_people(~kept_out), extracted.of_people(kept_out)
    spread = learn.codes.std(0)
    writer = CodeWriter(extracted.codes.shape[1])
    best, explained = copy.deepcopy(writer.state_dict()), -math.inf
    optimizer = torch.optim.AdamW(writer.parameters(), lr=2e-3, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rows = torch.randint(len(learn.codes), (256,), generator=random)
        error = (_write(writer, learn, rows) - learn.codes[rows]) / spread
        optimizer.zero_grad()
        F.smooth_l1_loss(error, torch.zeros_like(error)).backward()
        optimizer.step()
        rates.step()
        if step % 250 == 249 or step == steps - 1:
            share = _explained(writer, check if len(check.codes) else learn)
            if share > explained:
                best, explained = copy.deepcopy(writer.state_dict()), share
    writer.load_state_dict(best)
    return writer.eval(), explained


def _write(writer: CodeWriter, extracted: Extracted, rows: Tensor) -> Tensor:
    """Codes of frames `rows`."""
    person = extracted.person[rows]
    photo = before_tanh(extracted.photo_codes[person])
    return torch.tanh(photo + writer(extracted.motion[rows], extracted.rest[person]))


@torch.no_grad()
def _explained(writer: CodeWriter, extracted: Extracted) -> float:
    """Share of the codes' variance within people."""
    people = len(extracted.rest)
    error = _write(writer, extracted, torch.arange(len(extracted.codes))) - extracted.codes
    means = torch.zeros(people, error.shape[1]).index_add_(0, extracted.person, extracted.codes)
    means /= torch.bincount(extracted.person, minlength=people).clamp(min=1)[:, None]
    return float(1 - error.square().sum() / (extracted.codes - means[extracted.person]).square().sum())


def perform(motion: NDArray[np.float32], rest: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The motion of an utterance (T, 62) as another person makes it: with their own amount of head movement, and beginning
    with the expression of their photo (52,)."""
    amount = float(np.exp(rng.normal(_HEAD_AMOUNT, _HEAD_AMOUNT_SPREAD)))
    controls = Controls(keep_expression=0, head=min(2.0, amount), lips=float(rng.uniform(1, 1.2)))
    played = next(apply_controls([Motion.from_vector(motion)], controls)).to_vector()
    played[:, 52:55] = _HEAD_LIMIT_RAD * np.tanh(played[:, 52:55] / _HEAD_LIMIT_RAD)
    still = np.zeros(MOTION_DIM, np.float32)
    still[:52] = rest
    part = np.clip(np.arange(1, len(played) + 1) / _RISE_FRAMES, 0, 1)[:, None]
    return (still + part**2 * (3 - 2 * part) * (played - still)).astype(np.float32)


def write_moves(
    writer: CodeWriter, rest: NDArray[np.float32], features: Path, out: Path, copies: int, seed: int = 0
) -> None:
    """Writes moves-0.npy ... (N, M) and photos-0.npy ... (U, M): the corpus of a feature cache as people with expressions
    `rest` (P, 52) speak it, and the moves of their photos."""
    motion, starts = np.load(features / "motion.npy", mmap_mode="r"), np.load(features / "starts.npy")
    for number in range(copies):
        rng = np.random.default_rng((seed, number))
        parts, photos = [], []
        for first, end in pairwise(starts):
            still = rest[rng.integers(len(rest))]
            played = perform(np.asarray(motion[first:end], np.float32), still, rng)
            photo = np.pad(still, (0, MOTION_DIM - len(still)))
            written = _write_from_rest(writer, np.concatenate([photo[None], played]))
            photos.append(written[0])
            parts.append(written[1:])
        np.save(out / _MOVES.format(number), np.concatenate(parts))
        np.save(out / _PHOTOS.format(number), np.stack(photos))


def photo_moves(writer: CodeWriter, rest: Tensor) -> Tensor:
    """How far the codes of photos that show the expressions `rest` (P, 52) are from those of the faces at rest, (P, M)."""
    still = F.pad(rest, (0, MOTION_DIM - rest.shape[1]))
    return torch.from_numpy(_write_from_rest(writer, still.numpy())).float()


@torch.no_grad()
def _write_from_rest(writer: CodeWriter, motion: NDArray[np.float32]) -> NDArray[np.float16]:
    """Moves (T, M) of motion (T, 62)."""
    at_rest = torch.zeros(len(motion), len(ARKIT_NAMES))
    return writer(torch.from_numpy(motion), at_rest).half().numpy()


def build(
    extracted: Extracted, features: Path, out: Path, copies: int = 8, like: Path | None = None
) -> dict[str, float]:
    """Fits the writer and writes the material; returns what index.json says.

    Args:
        like: material of an earlier state of the same renderer: its space is kept as nearly as codes allow, so that a
            transformer trained there can go on here.
    """
    out.mkdir(parents=True, exist_ok=True)
    extracted.save(out / _EXTRACTED)
    writer, explained = fit_writer(extracted)
    write_moves(writer, extracted.rest.numpy(), features, out, copies)
    written = torch.from_numpy(np.load(out / _MOVES.format(0)).astype(np.float32))
    space = CodeSpace.fitted(written)
    with torch.no_grad():
        moves = writer(extracted.motion, extracted.rest[extracted.person])
    if like is not None:
        space = turned(space, moves, load_file(like / _SPACE)["normal"])
    save_space(space, moves, fit_parts(extracted, written), out)
    for path in (*sorted(features.glob("features-*.npy")), features / "starts.npy", features / "emotion.npy"):
        link = out / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    about = {"frames_read": len(extracted.codes), "people": len(extracted.rest), "explained": round(explained, 4)}
    (out / _INDEX).write_text(json.dumps({"copies": copies, **about}, indent=1) + "\n")
    return about


def turned(space: CodeSpace, moves: Tensor, wanted: Tensor) -> CodeSpace:
    """The space turned so that moves (K, M) come next to where they are wanted, (K or fewer, M): orthogonal Procrustes."""
    products = space.of_moves(moves[: len(wanted)]).T @ wanted[: len(moves)]
    left, _, right = torch.linalg.svd(products)
    return CodeSpace(space.mean, space.basis @ left @ right)


def fit_parts(extracted: Extracted, written: Tensor) -> MoveParts:
    """Parts of moves from frames whose face parameters are known; their usual spread from moves (N, M) of speech."""
    motion = extracted.motion.clone()
    motion[:, : len(ARKIT_NAMES)] -= extracted.rest[extracted.person]
    moves = before_tanh(extracted.codes) - before_tanh(extracted.photo_codes[extracted.person])
    head = [*range(len(ARKIT_NAMES), len(ARKIT_NAMES) + 6)]
    others = [index for index in range(MOTION_DIM) if index not in {*LIP_CHANNELS, *head}]
    return MoveParts.fitted(moves, motion[:, LIP_CHANNELS], motion[:, head], motion[:, others], spread_within(written))


def spread_within(moves: Tensor) -> Tensor:
    """Covariance (M, M) of moves (N, M) about the mean of each stretch of `_STRETCH_FRAMES`."""
    length = min(_STRETCH_FRAMES, len(moves))
    stretches = moves[: len(moves) // length * length].unflatten(0, (-1, length))
    away = (stretches - stretches.mean(1, keepdim=True)).flatten(0, 1)
    return away.T @ away / (len(away) - len(stretches))


def save_space(space: CodeSpace, moves: Tensor, parts: MoveParts, folder: Path) -> None:
    """Writes a space, its parts, and the moves of the frames read (K, M) as it shows them."""
    values = {"mean": space.mean, "basis": space.basis, "normal": space.of_moves(moves), **vars(parts)}
    save_file({name: value.contiguous() for name, value in values.items()}, folder / _SPACE)


def load_space(folder: Path) -> tuple[CodeSpace, MoveParts]:
    """The space of some material, and the parts of its moves."""
    values = load_file(folder / _SPACE)
    return CodeSpace(values["mean"], values["basis"]), MoveParts(values["lips"], values["head"], values["usual"])


class CodeWindows:
    """Random windows of the material, in its normal space or another one.

    Raises:
        LoquentError: the folder holds no material.
    """

    def __init__(
        self,
        folder: Path,
        num_frames: int,
        vectors_per_frame: int,
        batch_size: int,
        seed: int = 0,
        space: CodeSpace | None = None,
    ) -> None:
        if not (folder / _INDEX).is_file():
            raise LoquentError(f"{folder} holds no motion codes; run `python -m loquent.training.ifmdm_motion_data`")
        copies = json.loads((folder / _INDEX).read_text())["copies"]
        self.num_frames, self.vectors_per_frame = num_frames, vectors_per_frame
        self.batch_size, self.seed = batch_size, seed
        own, self.parts = load_space(folder)
        self.space = own if space is None else space
        self.features = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("features-*.npy"))]
        self.starts = np.load(folder / "starts.npy")
        self._moves = [self._normal(folder / _MOVES.format(number)) for number in range(copies)]
        self._photos = [self._normal(folder / _PHOTOS.format(number)) for number in range(copies)]
        lengths = np.diff(self.starts).astype(np.float64)
        calm = np.load(folder / "emotion.npy")[:, EMOTIONS.index("neutral")] >= _NEUTRAL_SHARE
        weights = lengths * calm * (lengths >= num_frames - _TAIL_ROWS)
        if not weights.any():
            raise LoquentError(f"{folder}: no calm utterance is as long as a window of {num_frames} frames")
        self._cumulative = np.cumsum(weights) / weights.sum()

    def _normal(self, path: Path) -> NDArray[np.float16]:
        return self.space.of_moves(torch.from_numpy(np.load(path).astype(np.float32))).half().numpy()

    def batch(self, step: int) -> MotionWindow:
        """The batch of a step; utterances are drawn in proportion to their length."""
        rng = np.random.default_rng((self.seed, step))
        items = [self._window(rng) for _ in range(self.batch_size)]
        motion, speech, photo = (torch.from_numpy(np.stack(parts)) for parts in zip(*items, strict=True))
        return split_window(motion, speech, photo)

    def _window(self, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
        """Motion (frames + 1, M), the hint first, speech vectors (frames + 1, V, A), and the photo's motion (M,)."""
        number = int(np.searchsorted(self._cumulative[:-1], rng.random(), side="right"))
        copy = rng.integers(len(self._moves))
        moves, photo = self._moves[copy], self._photos[copy][number].astype(np.float32)
        features = self.features[rng.integers(len(self.features))]
        first, end = int(self.starts[number]), int(self.starts[number + 1])
        latest = max(first, min(end - 1, end - self.num_frames + _TAIL_ROWS))
        start = first if rng.random() < _START_SHARE else int(rng.integers(first, latest + 1))
        stop = min(end, start + self.num_frames)
        missing = self.num_frames - (stop - start)
        hint = photo if start == first else moves[start - 1].astype(np.float32)
        motion = np.pad(moves[start:stop].astype(np.float32), ((0, missing), (0, 0)), mode="edge")
        heard = np.pad(features[start:stop].astype(np.float32), ((1, missing), (0, 0), (0, 0)))
        yield np.concatenate([hint[None], motion])
        yield heard.reshape(len(heard), self.vectors_per_frame, -1)
        yield photo


def write_debug_moves(folder: Path) -> None:
    """Material for the preset "tiny": three utterances whose moves follow one feature."""
    config = get_motion_preset("tiny")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((150, 4, config.vectors_per_frame * config.audio_dim // 4)).astype(np.float16)
    moves = (features[:, 0, :1] * rng.uniform(0.1, 0.5, (1, config.motion_dim))).astype(np.float32)
    write_calm_speech(folder, features, np.array([0, 70, 85, 150]), moves, np.zeros((3, config.motion_dim)))
    values = torch.from_numpy(moves)
    noise = torch.from_numpy(rng.standard_normal(moves.shape).astype(np.float32))
    half = torch.eye(config.motion_dim) / 2
    parts = MoveParts(half, half.clone(), spread_within(values))
    save_space(CodeSpace.fitted(values + 0.01 * noise), values, parts, folder)


def write_calm_speech(folder: Path, features: NDArray, starts: NDArray, moves: NDArray, photos: NDArray) -> None:
    """Writes utterances without emotion, spoken once, as `CodeWindows` reads them beside a space.

    Args:
        features: of speech, (N, L, C).
        starts: first frames of the utterances, and N, (U + 1,).
        moves: (N, M).
        photos: moves of the photo that begins each utterance, (U, M).
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features-0.npy", features.astype(np.float16))
    np.save(folder / "starts.npy", starts)
    calm = np.eye(len(EMOTIONS), dtype=np.float32)[EMOTIONS.index("neutral")]
    np.save(folder / "emotion.npy", np.tile(calm, (len(photos), 1)))
    np.save(folder / _MOVES.format(0), moves.astype(np.float16))
    np.save(folder / _PHOTOS.format(0), photos.astype(np.float16))
    (folder / _INDEX).write_text(json.dumps({"copies": 1}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("renderer", type=Path, help="folder with config.json and model.safetensors, or a basis .npy")
    parser.add_argument("video", type=Path)
    parser.add_argument("features", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--copies", type=int, default=8, help="how many people speak every utterance")
    parser.add_argument("--frames-per-clip", type=int, default=8)
    parser.add_argument("--people", type=int, help="at most so many")
    parser.add_argument("--like", type=Path, help="material of an earlier state of the renderer, whose space is kept")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    corpus, wanted = VideoCorpus(arguments.video), (arguments.frames_per_clip, arguments.people)
    if arguments.renderer.suffix == ".npy":
        extracted = steer(np.load(arguments.renderer), corpus, *wanted)
    else:
        extracted = extract(load_autoencoder(arguments.renderer), corpus, *wanted)
    logger.info("%s", build(extracted, arguments.features, arguments.out, arguments.copies, arguments.like))


if __name__ == "__main__":
    main()
