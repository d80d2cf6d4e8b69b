"""How many sampler steps does AToM need, and how much guidance? Lips measured on the motion itself, with the time it takes.

    python benchmarks/atom_steps.py ../shared/data --steps 3 5 10 25 50
    python benchmarks/atom_steps.py ../shared/data --steps 10 --guidance 1 1.5 2 3

Speech and measure are those of `lip_sync.py`, but nothing is drawn: the lips are those of the face model. Needs the extra
`align`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lip_sync import TRANSCRIPTS, held_out_speech
from loquent.data.recordings import align
from loquent.evaluation.lips import lip_track_from_landmarks, measure, pool
from loquent.evaluation.report import table
from loquent.media.audio import read_audio
from loquent.models.moditalker.generate import GUIDANCE, AtomGenerator, load_atom
from loquent.motion.controls import apply_controls
from loquent.motion.face_model import fit_face
from loquent.pipeline import average_portrait
from loquent.speech.encoder import LogMelEncoder
from loquent.systems import WEIGHTS_DIR, find_system
from loquent.types import MOTION_RATE_HZ, Controls, Motion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, default=find_system("moditalker").weights)
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 5, 10, 25, 50])
    parser.add_argument("--guidance", type=float, nargs="+", default=[GUIDANCE])
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder = LogMelEncoder.from_pretrained(WEIGHTS_DIR / "speech-encoder")
    speech = []
    for path, words in held_out_speech(arguments.data, TRANSCRIPTS).items():
        recording = read_audio(path)
        speech.append((list(encoder.encode(recording)), align(recording.samples, words)))
    generator = AtomGenerator(*load_atom(arguments.weights), head=None)
    portrait = average_portrait()
    shape = fit_face(portrait.face.landmarks)
    figures = {}
    for steps, guidance in itertools.product(arguments.steps, arguments.guidance):
        controls = Controls(steps=steps, guidance=guidance, seed=arguments.seed, keep_expression=0)
        found, num_frames, started_s = [], 0, time.process_time()

        def made(blocks: list, controls: Controls = controls) -> Iterator[Motion]:
            return apply_controls(generator.generate(iter(blocks), portrait, controls), controls)

        motions = [Motion.concatenate(list(made(blocks))) for blocks, _ in speech]
        taken_s = time.process_time() - started_s
        for motion, (_, phones) in zip(motions, speech, strict=True):
            landmarks = shape.landmarks(motion.expression).astype(np.float32)
            found.append(measure(lip_track_from_landmarks(landmarks[..., :2], MOTION_RATE_HZ), phones))
            num_frames += len(motion)
        share = taken_s * MOTION_RATE_HZ / num_frames
        figures[f"{steps} steps, guidance {guidance:g}, {share:.2f} of real time"] = pool(found)
    print(table(figures))


if __name__ == "__main__":
    main()
