"""Material for the IF-MDM motion transformer from videos of people who speak: codes of every frame, as published.

    python -m loquent.training.ifmdm_footage_data RENDERER VIDEO_CORPUS OUT [--preset starter]

VIDEO_CORPUS is a folder of `loquent.data.footage`, or of `loquent.data.video`; its clips with speech are used. Where a
speech corpus is larger than what can be drawn and read, `loquent.training.ifmdm_motion_data` is the way.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from loquent.data.shards import CorpusError
from loquent.data.video_shards import VideoCorpus
from loquent.models.ifmdm.code_space import CodeSpace, before_tanh
from loquent.models.ifmdm.system import open_encoder
from loquent.models.ifmdm.weights import load_autoencoder
from loquent.training.ifmdm_motion_data import (
    extract,
    fit_parts,
    fit_writer,
    photo_moves,
    read_codes,
    save_space,
    write_calm_speech,
)
from loquent.training.recipes import load_recipe
from loquent.types import Speech

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.models.ifmdm.autoencoder import Autoencoder
    from loquent.types import SpeechEncoder

logger = logging.getLogger(__name__)

_FRAMES_PER_CLIP = 16  # of which face parameters tell what of a code is the lips' and the head's


def build(network: Autoencoder, corpus: VideoCorpus, encoder: SpeechEncoder, out: Path) -> int:
    """Reads every clip with speech; returns the number of frames written.

    What a face at rest would look like is not seen: how far a photo is from it is told by a network fitted to frames
    whose face parameters are known, as in `ifmdm_motion_data`.

    Raises:
        CorpusError: nobody speaks in the corpus.
    """
    spoken = [number for number, clip in enumerate(corpus.clips) if clip.kind == "speech"]
    if not spoken:
        raise CorpusError(f"{corpus.folder}: no clip has speech; give videos with sound")
    extracted = extract(network, corpus, _FRAMES_PER_CLIP)
    writer, explained = fit_writer(extracted)
    logger.info("face parameters explain %.2f of the codes", explained)
    offsets = photo_moves(writer, extracted.rest)
    of_photo = dict(zip(corpus.people, offsets - before_tanh(extracted.photo_codes), strict=True))
    rows = {name: row for row, name in enumerate(corpus.people)}
    moves, features = [], []
    for done, clip in enumerate(spoken, start=1):
        codes = read_codes(network, corpus.frames(clip))
        moves.append(before_tanh(codes) + of_photo[corpus.clips[clip].person])
        features.append(_features(encoder, corpus.audio(clip)))
        if done % 50 == 0:
            logger.info("%d of %d clips", done, len(spoken))
    written = torch.cat(moves)
    photos = offsets[[rows[corpus.clips[clip].person] for clip in spoken]]
    starts = np.cumsum([0, *map(len, moves)])
    write_calm_speech(out, np.concatenate(features), starts, written.numpy(), photos.numpy())
    of_frames = before_tanh(extracted.codes) + torch.stack(list(of_photo.values()))[extracted.person]
    save_space(CodeSpace.fitted(written), of_frames, fit_parts(extracted, written), out)
    return len(written)


def _features(encoder: SpeechEncoder, audio: NDArray[np.int16]) -> NDArray[np.float32]:
    """(T, L, C) of a clip's sound (T * 640,)."""
    speech = Speech(np.divide(audio, 32768, dtype=np.float32))
    return np.concatenate([block.values for block in encoder.encode(speech)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("renderer", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("video", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--preset", default="published", help="of `ifmdm-motion`, for whose network the speech is heard"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    corpus, recipe = VideoCorpus(arguments.video), load_recipe("ifmdm-motion")
    if arguments.preset not in recipe.presets:
        parser.error(f"ifmdm-motion has no preset {arguments.preset!r}; known: {', '.join(recipe.presets)}")
    encoder = open_encoder(recipe.presets[arguments.preset].network)
    logger.info("%d frames", build(load_autoencoder(arguments.renderer), corpus, encoder, arguments.out))


if __name__ == "__main__":
    main()
