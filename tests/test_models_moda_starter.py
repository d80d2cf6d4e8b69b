"""The shipped encoder and generator together, on made-up sound."""

from pathlib import Path

import numpy as np
import pytest

import loquent
from loquent.models.moda import MotionFlowGenerator
from loquent.speech.encoder import LogMelEncoder
from loquent.types import ARKIT_INDEX, Controls, Motion, Speech

WEIGHTS = Path(loquent.__file__).parent / "weights"


@pytest.fixture(scope="module")
def stages():
    encoder = LogMelEncoder.from_pretrained(WEIGHTS / "speech-encoder")
    return encoder, MotionFlowGenerator.from_pretrained(WEIGHTS / "moda-starter")


def animate(stages, samples: np.ndarray, **controls) -> Motion:
    encoder, generator = stages
    blocks = encoder.encode(Speech(samples.astype(np.float32)))
    return Motion.concatenate(list(generator.generate(blocks, None, Controls(**({"steps": 5} | controls)))))


def vowel(duration_s: float) -> np.ndarray:
    """A buzz of 120 Hz through the formants of an open vowel."""
    times_s = np.arange(int(duration_s * 16_000)) / 16_000
    partials = np.arange(1, 40) * 120.0
    formants = sum(
        1 / (1 + ((partials - centre) / width) ** 2) for centre, width in ((750, 90), (1250, 110), (2600, 160))
    )
    return 0.05 * sum(gain * np.sin(2 * np.pi * f * times_s) for gain, f in zip(formants, partials, strict=True))


def test_silence_is_calm(stages):
    motion = animate(stages, 1e-4 * np.random.default_rng(0).standard_normal(48_000))
    assert motion.expression[:, ARKIT_INDEX["jawOpen"]].max() < 0.08
    assert np.degrees(np.abs(np.diff(motion.rotation, axis=0))).mean() < 0.3


def test_a_vowel_between_silences_opens_the_mouth(stages):
    gap = np.zeros(12_800)
    motion = animate(stages, np.concatenate([gap, vowel(0.8), gap]))
    jaw = motion.expression[:, ARKIT_INDEX["jawOpen"]]
    assert jaw[25:37].mean() > 0.1
    assert jaw[25:37].mean() > 3 * jaw[:15].mean()
    assert jaw[25:37].mean() > 3 * jaw[-12:].mean()


def test_happiness_smiles_and_anger_frowns(stages):
    sound = vowel(1.0)
    neutral, happy, angry = (animate(stages, sound, emotion=name) for name in ("neutral", "happiness", "anger"))

    def mean(motion: Motion, name: str) -> float:
        return float(motion.expression[:, ARKIT_INDEX[name]].mean())

    assert mean(happy, "mouthSmileLeft") > mean(neutral, "mouthSmileLeft") + 0.1
    assert mean(angry, "browDownLeft") > mean(neutral, "browDownLeft") + 0.2


@pytest.mark.parametrize("duration_s", [0.2, 3.4])
def test_motion_has_the_length_of_the_speech(stages, duration_s):
    assert len(animate(stages, vowel(duration_s), steps=2)) == round(25 * duration_s)
