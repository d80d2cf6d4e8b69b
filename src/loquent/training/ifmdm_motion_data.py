"""Material for the IF-MDM motion transformer: motion codes of a speech corpus, beside its speech features.

    python -m loquent.training.ifmdm_motion_data RENDERER VIDEO_CORPUS FEATURES OUT [--copies 8]

RENDERER is a trained renderer, VIDEO_CORPUS a folder of `loquent.data.video`, FEATURES a cache of
`loquent.training.moda_data`. Codes are read off frames of the video corpus with the frozen renderer. Drawing and reading
every frame of hours of speech would take days on a processor, so a small network learns from those frames which code
goes with which face parameters of which person, and writes the codes of the whole corpus, as spoken by many people.

Shape letters: K frames read, P people, M motion numbers, N frames of the corpus, U utterances.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from loquent.data.video_shards import VideoCorpus
from loquent.errors import LoquentError
from loquent.models.ifmdm.code_space import CodeSpace
from loquent.models.ifmdm.config import get_motion_preset
from loquent.models.ifmdm.weights import load_autoencoder
from loquent.motion.controls import apply_controls
from loquent.training.ifmdm_motion_losses import MotionWindow, split_window
from loquent.types import EMOTIONS, MOTION_DIM, Controls, Motion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm.autoencoder import Autoencoder

logger = logging.getLogger(__name__)

_BATCH = 16  # frames read at once
_LIMIT = 0.999  # codes are kept this far inside (−1, 1) where their atanh is taken
_RISE_FRAMES = 10  # in which a face goes from the photo's expression to speaking
_NEUTRAL_SHARE = 0.6  # utterances with a stronger emotion are left out: nothing would tell the transformer of it
_HEAD_LIMIT_RAD = np.radians([15.0, 25.0, 15.0]).astype(np.float32)  # what the video corpus shows
_START_SHARE = 0.2  # of the windows begin where an utterance begins, at the photo's own expression
_TAIL_ROWS = 16  # a window may reach that far beyond an utterance's end
_CODES, _PEOPLE = "codes-{}.npy", "people-{}.npy"
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

    @staticmethod
    def load(path: Path) -> Extracted:
        return Extracted(**load_file(path))


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
            length = corpus.clips[clip].num_frames
            for frame in np.unique(np.linspace(0, length - 1, frames_per_clip).astype(int)):
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


@torch.inference_mode()
def read_codes(network: Autoencoder, frames: NDArray[np.uint8]) -> Tensor:
    """Codes (T, M) of frames (T, S, S, 3)."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    parts = [network.motion_of(part.float() / 127.5 - 1) for part in pictures.split(_BATCH)]
    return torch.cat(parts).float().clone()


class CodeWriter(nn.Module):
    """Face parameters to a person's codes: atanh(code) = atanh(code of the photo) + h(motion) − h(photo's motion)."""

    def __init__(self, motion_dim: int, width: int = 192) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(MOTION_DIM + motion_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, motion_dim),
        )  # fmt: skip
        self.linear = nn.Linear(MOTION_DIM, motion_dim)
        for part in (self.layers[-1], self.linear):  # at first everyone stays as in the photo
            nn.init.zeros_(part.weight)  # type: ignore[arg-type]
        scale = torch.full((MOTION_DIM,), 5.0)  # expression weights run from 0 to 1, most stay below a half
        scale[52:55], scale[55:58], scale[58:] = 8.0, 12.0, 8.0
        self.register_buffer("scale", scale)
        self.scale: Tensor

    def forward(self, motion: Tensor, photo_codes: Tensor, rest: Tensor) -> Tensor:
        """Motion (B, 62) of people with codes (B, M) and expressions (B, 52) in their photos to codes (B, M)."""
        still = F.pad(rest, (0, MOTION_DIM - rest.shape[1]))
        base = torch.atanh(photo_codes.clamp(-_LIMIT, _LIMIT))
        return torch.tanh(base + self._move(motion, base) - self._move(still, base))

    def _move(self, motion: Tensor, base: Tensor) -> Tensor:
        scaled = motion * self.scale
        return self.linear(scaled) + self.layers(torch.cat([scaled, base], dim=-1))


def fit_writer(extracted: Extracted, space: CodeSpace, steps: int = 3000, seed: int = 0) -> tuple[CodeWriter, float]:
    """Fits a writer; a tenth of the people are kept out to stop at the best, and to tell how well it does.

    Returns:
        The writer, and the share of the codes' variance, in the normal space, that it explains on people kept out.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    kept_out = torch.rand(len(extracted.rest), generator=random) < 0.1
    learn, check = extracted.of_people(~kept_out), extracted.of_people(kept_out)
    writer = CodeWriter(extracted.codes.shape[1])
    best, explained = copy.deepcopy(writer.state_dict()), -math.inf
    optimizer = torch.optim.AdamW(writer.parameters(), lr=2e-3, weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        rows = torch.randint(len(learn.codes), (256,), generator=random)
        error = space.normal(_write(writer, learn, rows)) - space.normal(learn.codes[rows])
        optimizer.zero_grad()
        F.smooth_l1_loss(error, torch.zeros_like(error)).backward()
        optimizer.step()
        rates.step()
        if step % 250 == 249 or step == steps - 1:
            share = _explained(writer, check if len(check.codes) else learn, space)
            if share > explained:
                best, explained = copy.deepcopy(writer.state_dict()), share
    writer.load_state_dict(best)
    return writer.eval(), explained


def _write(writer: CodeWriter, extracted: Extracted, rows: Tensor) -> Tensor:
    person = extracted.person[rows]
    return writer(extracted.motion[rows], extracted.photo_codes[person], extracted.rest[person])


@torch.no_grad()
def _explained(writer: CodeWriter, extracted: Extracted, space: CodeSpace) -> float:
    """Share of the variance within people: what a writer that always gave a person's mean would have none of."""
    target = space.normal(extracted.codes)
    error = space.normal(_write(writer, extracted, torch.arange(len(target)))) - target
    means = torch.zeros(len(extracted.rest), target.shape[1]).index_add_(0, extracted.person, target)
    means /= torch.bincount(extracted.person, minlength=len(extracted.rest)).clamp(min=1)[:, None]
    return float(1 - error.square().mean() / (target - means[extracted.person]).square().mean())


def perform(motion: NDArray[np.float32], rest: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The motion of an utterance (T, 62) as another person makes it: with some of their photo's expression (52,), their
    own amount of head movement, and beginning as the photo."""
    amount = float(np.exp(rng.normal(0, 0.5)))
    controls = Controls(
        keep_expression=float(rng.uniform(0.2, 0.7)), head=min(2.0, amount), lips=float(rng.uniform(1, 1.2))
    )
    played = next(apply_controls([Motion.from_vector(motion)], controls, rest)).to_vector()
    if amount > 1.6:  # now and then far more than speech has, for statistics that ask for it
        played[:, 52:58] *= rng.uniform(1, 3)
    played[:, 52:55] = _HEAD_LIMIT_RAD * np.tanh(played[:, 52:55] / _HEAD_LIMIT_RAD)
    still = np.zeros(MOTION_DIM, np.float32)
    still[:52] = rest
    part = np.clip(np.arange(1, len(played) + 1) / _RISE_FRAMES, 0, 1)[:, None]
    return (still + part**2 * (3 - 2 * part) * (played - still)).astype(np.float32)


def write_codes(
    writer: CodeWriter, extracted: Extracted, features: Path, out: Path, copies: int, seed: int = 0
) -> None:
    """Writes codes-0.npy ... (N, M): the corpus of a feature cache as other people speak it, and who they are."""
    motion, starts = np.load(features / "motion.npy", mmap_mode="r"), np.load(features / "starts.npy")
    for number in range(copies):
        rng = np.random.default_rng((seed, number))
        codes = np.empty((len(motion), extracted.codes.shape[1]), np.float16)
        people = rng.integers(len(extracted.rest), size=len(starts) - 1)
        for utterance, person in enumerate(people):
            rows = slice(starts[utterance], starts[utterance + 1])
            rest = extracted.rest[person]
            played = torch.from_numpy(perform(np.asarray(motion[rows], np.float32), rest.numpy(), rng))
            with torch.no_grad():
                photo = extracted.photo_codes[person].expand(len(played), -1)
                codes[rows] = writer(played, photo, rest.expand(len(played), -1)).numpy()
        np.save(out / _CODES.format(number), codes)
        np.save(out / _PEOPLE.format(number), people)


def build(
    network: Autoencoder, corpus: VideoCorpus, features: Path, out: Path, copies: int = 8, frames_per_clip: int = 8,
    max_people: int | None = None, like: Path | None = None,
) -> dict[str, float]:  # fmt: skip
    """Reads codes, fits the writer and writes the material; returns what index.json says.

    Args:
        like: material of an earlier state of the same renderer: its space is kept as nearly as codes allow, so that a
            transformer trained there can go on here.
    """
    out.mkdir(parents=True, exist_ok=True)
    extracted = extract(network.eval(), corpus, frames_per_clip, max_people)
    extracted.save(out / _EXTRACTED)
    space = CodeSpace.fitted(extracted.codes) if like is None else _space_like(extracted, like)
    _save_space(space, out)
    writer, explained = fit_writer(extracted, space)
    write_codes(writer, extracted, features, out, copies)
    for path in (*sorted(features.glob("features-*.npy")), features / "starts.npy", features / "emotion.npy"):
        link = out / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    about = {"frames_read": len(extracted.codes), "people": len(extracted.rest), "explained": round(explained, 4)}
    (out / _INDEX).write_text(json.dumps({"copies": copies, **about}, indent=1) + "\n")
    return about


def _space_like(extracted: Extracted, like: Path) -> CodeSpace:
    """Principal directions of the new codes, turned to where the normal codes of the same frames were before."""
    before, space = Extracted.load(like / _EXTRACTED), load_space(like)
    same = min(len(before.codes), len(extracted.codes))
    if not torch.equal(before.motion[:same], extracted.motion[:same]):
        raise LoquentError(f"{like} was read off other frames; give material of the same video corpus")
    fitted = CodeSpace.fitted(extracted.codes)
    products = fitted.normal(extracted.codes[:same]).T @ space.normal(before.codes[:same])
    left, _, right = torch.linalg.svd(products)  # the nearest turn: orthogonal Procrustes
    return CodeSpace(fitted.mean, fitted.basis @ left @ right)


def _save_space(space: CodeSpace, folder: Path) -> None:
    save_file({"mean": space.mean, "basis": space.basis.contiguous()}, folder / _SPACE)


def load_space(folder: Path) -> CodeSpace:
    """The space of some material."""
    values = load_file(folder / _SPACE)
    return CodeSpace(values["mean"], values["basis"])


class CodeWindows:
    """Random windows of the material, in the normal space.

    Raises:
        LoquentError: the folder holds no material.
    """

    def __init__(self, folder: Path, num_frames: int, vectors_per_frame: int, batch_size: int, seed: int = 0) -> None:
        if not (folder / _INDEX).is_file():
            raise LoquentError(f"{folder} holds no motion codes; run `python -m loquent.training.ifmdm_motion_data`")
        copies = json.loads((folder / _INDEX).read_text())["copies"]
        self.num_frames, self.vectors_per_frame = num_frames, vectors_per_frame
        self.batch_size, self.seed = batch_size, seed
        self.space = load_space(folder)
        self.features = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("features-*.npy"))]
        self.starts = np.load(folder / "starts.npy")
        photo_codes = Extracted.load(folder / _EXTRACTED).photo_codes
        self._photos = self.space.normal(photo_codes).numpy()
        self._codes = [self._normal(folder / _CODES.format(number)) for number in range(copies)]
        self._people = [np.load(folder / _PEOPLE.format(number)) for number in range(copies)]
        lengths = np.diff(self.starts).astype(np.float64)
        calm = np.load(folder / "emotion.npy")[:, EMOTIONS.index("neutral")] >= _NEUTRAL_SHARE
        weights = lengths * calm * (lengths >= num_frames - _TAIL_ROWS)
        if not weights.any():
            raise LoquentError(f"{folder}: no calm utterance is as long as a window of {num_frames} frames")
        self._cumulative = np.cumsum(weights) / weights.sum()

    def _normal(self, path: Path) -> NDArray[np.float16]:
        return self.space.normal(torch.from_numpy(np.load(path).astype(np.float32))).half().numpy()

    def batch(self, step: int) -> MotionWindow:
        """The batch of a step; utterances are drawn in proportion to their length."""
        rng = np.random.default_rng((self.seed, step))
        items = [self._window(rng) for _ in range(self.batch_size)]
        motion, speech = (torch.from_numpy(np.stack(parts)) for parts in zip(*items, strict=True))
        return split_window(motion, speech)

    def _window(self, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
        """Codes (frames + 1, M), the hint first, and speech vectors (frames + 1, V, A)."""
        number = int(np.searchsorted(self._cumulative[:-1], rng.random(), side="right"))
        take = int(rng.integers(len(self._codes)))
        codes, features = self._codes[take], self.features[rng.integers(len(self.features))]
        first, end = int(self.starts[number]), int(self.starts[number + 1])
        latest = max(first, min(end - 1, end - self.num_frames + _TAIL_ROWS))
        start = first if rng.random() < _START_SHARE else int(rng.integers(first, latest + 1))
        stop = min(end, start + self.num_frames)
        missing = self.num_frames - (stop - start)
        hint = self._photos[self._people[take][number]] if start == first else codes[start - 1]
        motion = np.pad(codes[start:stop].astype(np.float32), ((0, missing), (0, 0)), mode="edge")
        heard = np.pad(features[start:stop].astype(np.float32), ((1, missing), (0, 0), (0, 0)))
        yield np.concatenate([hint[None].astype(np.float32), motion])
        yield heard.reshape(len(heard), self.vectors_per_frame, -1)


def write_debug_codes(folder: Path) -> None:
    """Material for the preset "tiny": three utterances whose codes follow one feature."""
    config = get_motion_preset("tiny")
    rng = np.random.default_rng(0)
    features = rng.standard_normal((150, 4, config.vectors_per_frame * config.audio_dim // 4)).astype(np.float16)
    codes = np.tanh(features[:, 0, :1] * rng.uniform(0.1, 0.5, (1, config.motion_dim))).astype(np.float32)
    people = 2
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features-0.npy", features)
    np.save(folder / "starts.npy", np.array([0, 70, 85, 150]))
    np.save(folder / "emotion.npy", np.eye(len(EMOTIONS), dtype=np.float32)[[EMOTIONS.index("neutral")] * 3])
    np.save(folder / _CODES.format(0), codes.astype(np.float16))
    np.save(folder / _PEOPLE.format(0), np.array([0, 1, 0]))
    values = torch.from_numpy(codes)
    Extracted(
        codes=values,
        motion=torch.zeros(len(codes), MOTION_DIM),
        person=torch.zeros(len(codes), dtype=torch.int64),
        photo_codes=values[:people].clone(),
        rest=torch.zeros(people, 52),
    ).save(folder / _EXTRACTED)
    _save_space(
        CodeSpace.fitted(values + 0.01 * torch.from_numpy(rng.standard_normal(values.shape).astype(np.float32))), folder
    )
    (folder / _INDEX).write_text(json.dumps({"copies": 1}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("renderer", type=Path, help="folder with config.json and model.safetensors")
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
    about = build(
        load_autoencoder(arguments.renderer), VideoCorpus(arguments.video), arguments.features, arguments.out,
        arguments.copies, arguments.frames_per_clip, arguments.people, arguments.like,
    )  # fmt: skip
    logger.info("%s", about)


if __name__ == "__main__":
    main()
