"""Motion of keypoints and HuBERT features of a video corpus: the cache that MoDA as published learns from.

    python -m loquent.training.moda_keypoint_data VIDEO_CORPUS WEIGHTS OUT

WEIGHTS holds `renderer/` and `speech-encoder/`, as `loquent fetch moda` leaves them or as they were trained here. The
cache is that of `moda_data`, and `loquent train moda-motion --preset published` reads it.

Source: docs/moda.md, "Motion space", for the 70 numbers and how a face's size is divided out of them.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.data.video_shards import VideoCorpus
from loquent.errors import LoquentError
from loquent.models.moda.motion_space import EPS, MOTION_DIM, SCALE, TRANSLATION
from loquent.models.moda.released import RENDERER_FOLDER, SPEECH_FOLDER
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.speech.hubert import Hubert, speech_features
from loquent.training.moda_renderer_drawing import face_of, shrink
from loquent.types import EMOTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_INPUT_PX = 256
_BATCH = 16


@torch.inference_mode()
def build_keypoint_cache(
    corpus: VideoCorpus, renderer: RendererNetworks, hubert: Hubert, folder: Path, input_px: int = _INPUT_PX
) -> None:
    """Writes features, motion, identity and statistics of every clip with speech under `folder`.

    No emotion is known of footage: every clip has the null label.

    Raises:
        LoquentError: the corpus holds no clip with speech.
    """
    clips = [number for number, clip in enumerate(corpus.clips) if clip.kind == "speech"]
    if not clips:
        raise LoquentError(f"{corpus.folder}: no clip with speech; MoDA's motion generator learns from those")
    folder.mkdir(parents=True, exist_ok=True)
    lengths = [corpus.clips[number].num_frames for number in clips]
    starts = np.cumsum([0, *lengths])
    shape = (int(starts[-1]), hubert.config.num_layers, hubert.config.dim)
    features = np.lib.format.open_memmap(folder / "features-0.npy", "w+", np.float16, shape)
    motion, scales, identity = np.empty((shape[0], MOTION_DIM), np.float32), [], []
    for place, number in enumerate(clips):
        rows = slice(starts[place], starts[place + 1])
        waveform = torch.from_numpy(corpus.audio(number).astype(np.float32) / 32768)
        features[rows] = speech_features(hubert, waveform).half().numpy()
        motion[rows], canonical = read_motion(renderer, corpus.frames(number), input_px)
        scales.append(motion[starts[place], SCALE])
        identity.append(canonical)
        if place % 50 == 0:
            logger.info("%d of %d clips", place, len(clips))
    _divide_sizes(motion, starts, np.array(scales))
    emotion = np.zeros((len(clips), len(EMOTIONS) + 1), np.float32)
    emotion[:, -1] = 1
    np.save(folder / "statistics.npy", np.stack([motion.mean(0), motion.std(0) + EPS]))
    np.save(folder / "motion.npy", motion)
    np.save(folder / "starts.npy", starts)
    np.save(folder / "emotion.npy", emotion)
    np.save(folder / "style.npy", np.stack(identity))


def read_motion(
    renderer: RendererNetworks, frames: NDArray[np.uint8], input_px: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The 70 numbers (T, 70) of frames (T, S, S, 3), and the mean canonical keypoints (63,)."""
    rows, canonical = [], []
    for piece in torch.from_numpy(frames).split(_BATCH):
        face = face_of(renderer.motion(shrink(piece.permute(0, 3, 1, 2).float() / 255, input_px)))
        motion = face.motion
        rows.append(
            torch.cat([motion.expression.flatten(1), motion.scale[:, None], motion.translation, face.pose_deg], 1)
        )
        canonical.append(face.canonical.flatten(1))
    numbers = torch.cat(rows)
    numbers[:, TRANSLATION.stop - 1] = 0
    return numbers.numpy(), torch.cat(canonical).mean(0).numpy()


def _divide_sizes(motion: NDArray[np.float32], starts: NDArray[np.int64], scales: NDArray[np.float32]) -> None:
    """Brings the scale and translation of every clip to a face of average size, in place."""
    ratios = (scales + EPS) / (motion[:, SCALE].mean() + EPS)
    motion[:, SCALE : TRANSLATION.stop] /= np.repeat(ratios, np.diff(starts))[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    renderer = RendererNetworks.from_pretrained(arguments.weights / RENDERER_FOLDER)
    hubert = Hubert.from_pretrained(arguments.weights / SPEECH_FOLDER).eval()
    build_keypoint_cache(VideoCorpus(arguments.corpus), renderer, hubert, arguments.out)


if __name__ == "__main__":
    main()
