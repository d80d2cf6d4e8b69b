"""The project's own format for video with exact labels: JPEG frames in safetensors files. docs/corpus.md describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import Dataset

from loquent.data.shards import CorpusError
from loquent.face.crop import mirror_landmarks
from loquent.face.topology import NUM_LANDMARKS
from loquent.types import MOTION_DIM, MOTION_RATE_HZ, SPEECH_RATE_HZ

FORMAT = "loquent-video/1"
KINDS = ("photo", "speech", "free")
SAMPLES_PER_FRAME = SPEECH_RATE_HZ // int(MOTION_RATE_HZ)
_INDEX = "index.json"
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


@dataclass(frozen=True, eq=False)
class VideoClip:
    """Consecutive frames of one person at 25 a second, with what drew them."""

    pictures: list[bytes]  # T JPEG files, (S, S, 3)
    landmarks: NDArray[np.float32]  # (T, 478, 3) in frame pixels, as types.Face.landmarks
    motion: NDArray[np.float32]  # (T, 62)
    audio: NDArray[np.int16]  # (T * 640,), 16 kHz; silence where the motion is not speech
    person: str
    kind: str  # one of KINDS
    recording: int = -1  # utterance of the speech corpus, -1 when the motion is not from it
    first_frame: int = 0  # of the utterance

    def __len__(self) -> int:
        return len(self.pictures)


def encode_picture(pixels: NDArray[np.uint8]) -> bytes:
    """RGB (H, W, 3) as a JPEG file of quality 95 with colour at full resolution."""
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], _JPEG)
    if not done:
        raise CorpusError(f"a picture of shape {pixels.shape} cannot be written as JPEG")
    return data.tobytes()


def decode_picture(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture (H, W, 3) in the bytes of a JPEG file.

    Raises:
        CorpusError: they are not a picture.
    """
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise CorpusError("a frame of the video corpus does not decode; build the corpus again")
    return np.asarray(pixels, np.uint8)


class VideoShardWriter:
    """Collects clips and writes a shard whenever `per_shard` frames are there. Use it as a context.

    The index is replaced after every shard, so a corpus in the making is already readable.
    """

    def __init__(self, folder: Path, size_px: int, per_shard: int = 2000, about: Mapping[str, Any] | None = None):
        self._folder = folder
        self._size_px = size_px
        self._per_shard = per_shard
        self._about = dict(about or {})
        self._pending: list[VideoClip] = []
        self._shards: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> VideoShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._write_shard()

    def add(self, clips: Sequence[VideoClip]) -> None:
        """Takes the clips of one person, which stay in one shard.

        Raises:
            CorpusError: pictures, landmarks, motion and audio of a clip do not cover the same frames.
        """
        for clip in clips:
            _check(clip)
        self._pending += clips
        if sum(len(clip) for clip in self._pending) >= self._per_shard:
            self._write_shard()

    def _write_shard(self) -> None:
        if not self._pending:
            return
        name = f"video-{len(self._shards):05d}.safetensors"
        pictures = [picture for clip in self._pending for picture in clip.pictures]
        tensors = {
            "pictures": np.frombuffer(b"".join(pictures), np.uint8),
            "offsets": np.cumsum([0, *map(len, pictures)], dtype=np.int64),
            "starts": np.cumsum([0, *map(len, self._pending)], dtype=np.int64),
            "landmarks": np.concatenate([clip.landmarks for clip in self._pending]).astype(np.float32),
            "motion": np.concatenate([clip.motion for clip in self._pending]).astype(np.float32),
            "audio": np.concatenate([clip.audio for clip in self._pending]),
        }
        temporary = self._folder / f".{name}.part"
        save_file(tensors, temporary)
        temporary.rename(self._folder / name)
        clips = [[clip.person, clip.kind, clip.recording, clip.first_frame] for clip in self._pending]
        self._shards.append({"file": name, "num_frames": len(pictures), "clips": clips})
        self._pending = []
        self._write_index()

    def _write_index(self) -> None:
        index = {
            "format": FORMAT,
            "size_px": self._size_px,
            "num_frames": sum(shard["num_frames"] for shard in self._shards),
            "about": self._about,
            "shards": self._shards,
        }
        temporary = self._folder / f".{_INDEX}.part"
        temporary.write_text(json.dumps(index))
        temporary.rename(self._folder / _INDEX)


@dataclass(frozen=True)
class ClipEntry:
    """What is known of a clip without reading it."""

    shard: int
    start: int  # first frame in the shard
    num_frames: int
    person: str
    kind: str
    recording: int
    first_frame: int


class VideoCorpus:
    """Read access to a folder of clips; files are mapped, not read whole. `clips` and `people` are its tables.

    Raises:
        CorpusError: the folder holds no video corpus of this format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / _INDEX
        if not path.is_file():
            raise CorpusError(f"{self.folder} holds no {_INDEX}; build one with `python -m loquent.data.video`")
        index = json.loads(path.read_text())
        if index.get("format") != FORMAT:
            raise CorpusError(f"{path} has format {index.get('format')!r}; {FORMAT!r} is wanted, build it again")
        self.size_px = int(index["size_px"])
        self.num_frames = int(index["num_frames"])
        self.about: dict[str, Any] = index["about"]
        self.clips: list[ClipEntry] = []
        self.people: dict[str, list[int]] = {}  # person -> numbers of their clips
        self._files = [self.folder / shard["file"] for shard in index["shards"]]
        self._open: dict[int, Any] = {}
        for number, shard in enumerate(index["shards"]):
            starts = self._shard(number).get_tensor("starts").tolist()
            for place, about in enumerate(shard["clips"]):
                self.people.setdefault(about[0], []).append(len(self.clips))
                self.clips.append(ClipEntry(number, starts[place], starts[place + 1] - starts[place], *about))

    def frames(self, clip: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Frames `start` to `stop` of a clip, RGB (T, S, S, 3)."""
        first, last = self._range(clip, start, stop)
        shard = self._shard(self.clips[clip].shard)
        offsets = shard.get_slice("offsets")[first : last + 1]
        data = shard.get_slice("pictures")[int(offsets[0]) : int(offsets[-1])]
        bounds = offsets - offsets[0]
        return np.stack([decode_picture(data[a:b]) for a, b in pairwise(bounds)])

    def landmarks(self, clip: int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """(T, 478, 3), x right and y down in frame pixels, z in the same scale."""
        first, last = self._range(clip, start, stop)
        return self._shard(self.clips[clip].shard).get_slice("landmarks")[first:last]

    def motion(self, clip: int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Motion vectors (T, 62); `Motion.from_vector` reads them."""
        first, last = self._range(clip, start, stop)
        return self._shard(self.clips[clip].shard).get_slice("motion")[first:last]

    def audio(self, clip: int, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """The sound of these frames, (T * 640,) at 16 kHz."""
        first, last = self._range(clip, start, stop)
        sound = self._shard(self.clips[clip].shard).get_slice("audio")
        return sound[first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME]

    def _range(self, clip: int, start: int, stop: int | None) -> tuple[int, int]:
        entry = self.clips[clip]
        stop = entry.num_frames if stop is None else stop
        if not 0 <= start < stop <= entry.num_frames:
            raise CorpusError(f"frames {start} to {stop} of a clip of {entry.num_frames}")
        return entry.start + start, entry.start + stop

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            self._open[number] = safe_open(self._files[number], "numpy").__enter__()
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker process maps the files anew


class VideoWindows(Dataset[dict[str, Tensor]]):
    """Random windows of consecutive frames, and a photo of the same person; the same for the same seed and index.

    Clips shorter than the window are not used. Half of the windows are mirrored, and most see another light, both
    together with their photo. Motion is not mirrored: read it with `mirror=False`.
    """

    def __init__(
        self,
        folder: str | Path,
        window_frames: int,
        seed: int = 0,
        num_windows: int = 1_000_000,
        *,
        mirror: bool = True,
        light: bool = True,
        kinds: Sequence[str] = ("speech", "free"),
    ) -> None:
        self.corpus = VideoCorpus(folder)
        self.window_frames = window_frames
        self.seed = seed
        self.num_windows = num_windows
        self._mirror, self._light = mirror, light
        entries = self.corpus.clips
        self._clips = [n for n, e in enumerate(entries) if e.kind in kinds and e.num_frames >= window_frames]
        if not self._clips:
            raise CorpusError(f"{folder}: no clip of kind {', '.join(kinds)} has {window_frames} frames")
        self._photos = {e.person: n for n, e in enumerate(entries) if e.kind == "photo"}

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`frames` (T, 3, S, S), `photo` (3, S, S), both in [-1, 1]; `landmarks` (T, 478, 3) and `photo_landmarks`
        (478, 3) in pixels; `motion` (T, 62); `audio` (T * 640,); `clip`, `start` (): where the window is from."""
        rng = np.random.default_rng((self.seed, index))
        clip = self._clips[int(rng.integers(len(self._clips)))]
        entry = self.corpus.clips[clip]
        start = int(rng.integers(entry.num_frames - self.window_frames + 1))
        stop = start + self.window_frames
        photo = self._photos[entry.person]
        pictures = np.concatenate([self.corpus.frames(photo), self.corpus.frames(clip, start, stop)])
        landmarks = np.concatenate([self.corpus.landmarks(photo), self.corpus.landmarks(clip, start, stop)])
        if self._mirror and rng.random() < 0.5:
            pictures, landmarks = mirror_pictures(pictures, landmarks)
        if self._light:
            pictures = change_light(pictures, rng)
        tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        points = torch.from_numpy(np.ascontiguousarray(landmarks))
        sound = self.corpus.audio(clip, start, stop).astype(np.float32) / 32768
        return {
            "frames": tensor[1:],
            "photo": tensor[0],
            "landmarks": points[1:],
            "photo_landmarks": points[0],
            "motion": torch.from_numpy(self.corpus.motion(clip, start, stop)),
            "audio": torch.from_numpy(sound),
            "clip": torch.tensor(clip),
            "start": torch.tensor(start),
        }


def mirror_pictures(
    pictures: NDArray[np.uint8], landmarks: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames (T, S, S, 3) and their landmarks (T, 478, 3) seen in a mirror."""
    width = pictures.shape[2]
    return np.ascontiguousarray(pictures[:, :, ::-1]), np.stack([mirror_landmarks(p, width) for p in landmarks])


def change_light(pictures: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another exposure, white balance, contrast and saturation, the same in all frames (T, S, S, 3)."""
    if rng.random() < 0.25:
        return pictures
    gamma = np.exp(rng.normal(0, 0.18))
    gain = np.exp(rng.normal(0, 0.10)) * np.exp(rng.normal(0, 0.05, 3))
    levels = np.linspace(0, 1, 256)[:, None] ** gamma * gain  # (256, 3)
    table = np.clip(levels * 255 + 0.5, 0, 255).astype(np.uint8)
    changed = np.stack([table[:, channel][pictures[..., channel]] for channel in range(3)], axis=-1)
    if rng.random() < 0.5:
        share = float(rng.uniform(0.0, 0.5)) ** 2 * 4  # mostly a little; at most grey
        grey = np.stack([cv2.cvtColor(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for p in changed])
        changed = cv2.addWeighted(changed, 1 - share, grey, share, 0).astype(np.uint8)
    return changed


def _check(clip: VideoClip) -> None:
    frames = len(clip.pictures)
    wanted = ((frames, NUM_LANDMARKS, 3), (frames, MOTION_DIM), (frames * SAMPLES_PER_FRAME,))
    given = (clip.landmarks.shape, clip.motion.shape, clip.audio.shape)
    if wanted != given or clip.kind not in KINDS:
        raise CorpusError(
            f"{clip.kind} clip of {clip.person}: landmarks, motion and audio have shapes {given}, wanted {wanted}"
        )
