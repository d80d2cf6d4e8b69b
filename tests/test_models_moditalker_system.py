"""AToM as a system: landmarks fitted to the face, the motion of a recording, what draws it."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import loquent
from loquent.cli import app
from loquent.diffusion.stochastic import fine_timesteps, truncated_timesteps
from loquent.errors import ControlsError, WeightsError
from loquent.models.moditalker import AtomDenoiser, get_atom_preset
from loquent.models.moditalker import landmarks as lm
from loquent.models.moditalker.face_fit import ExpressionPrior, FaceFit, bounded_rows, gap_heights
from loquent.models.moditalker.generate import AtomGenerator, load_atom, save_atom
from loquent.models.moditalker.released import convert_atom
from loquent.models.moditalker.system import LandmarkRenderer, MoDiTalkerOptions, as_system
from loquent.models.moditalker.weights import atom_names
from loquent.motion.face_model import FaceShape, face_tables, fit_face, without_expression
from loquent.pipeline import average_portrait
from loquent.systems import find_system, load_system
from loquent.types import ARKIT_INDEX, Controls, Motion, MotionCodes, SpeechFeatures

TINY = replace(get_atom_preset("tiny"), num_frames=60, vector_scale=4.0)
PORTRAIT = average_portrait()
EXAMPLES = Path(loquent.__file__).parent / "examples"


@pytest.fixture(scope="module")
def shape() -> FaceShape:
    return without_expression(fit_face(150 * face_tables().neutral + [300, 280, 0]))


@pytest.fixture(scope="module")
def generator() -> AtomGenerator:
    torch.manual_seed(0)
    return AtomGenerator(AtomDenoiser(TINY), ExpressionPrior.broad(), None)


def faces(**weights: list[float]) -> np.ndarray:
    expression = np.zeros((len(next(iter(weights.values()))), 52), np.float32)
    for name, values in weights.items():
        expression[:, ARKIT_INDEX[name]] = values
    return expression


def displacement(shape: FaceShape, expression: np.ndarray) -> np.ndarray:
    canonical = lm.canonical_of_expression(shape, np.concatenate([np.zeros((1, 52)), expression]))
    return (canonical[1:] - canonical[0]).reshape(-1, lm.VECTOR_DIM)


def features(num_frames: int) -> list[SpeechFeatures]:
    values = np.random.default_rng(0).standard_normal((num_frames, 2, TINY.audio_dim)).astype(np.float32)
    return [SpeechFeatures(values[start : start + 25], start_frame=start) for start in range(0, num_frames, 25)]


# Landmarks to weights


def test_landmarks_give_back_the_face_that_made_them(shape):
    wanted = faces(jawOpen=[0, 0.3, 0.2, 0.25], mouthPucker=[0, 0, 0.5, 0], browInnerUp=[0, 0.4, 0, 0])
    weights = FaceFit(shape, ExpressionPrior.broad()).fit(displacement(shape, wanted))
    assert weights.min() >= 0
    assert weights.max() <= 1
    np.testing.assert_allclose(displacement(shape, weights), displacement(shape, wanted), atol=0.01)
    np.testing.assert_allclose(weights[:, ARKIT_INDEX["jawOpen"]], wanted[:, ARKIT_INDEX["jawOpen"]], atol=0.05)


def test_lips_that_all_but_touch_are_closed(shape):
    wanted = faces(jawOpen=[0.1, 0.1, 0.3], mouthClose=[0.1, 0.095, 0.0])
    random = np.random.default_rng(0)
    seen = displacement(shape, wanted) + 0.0005 * random.standard_normal((3, lm.VECTOR_DIM))
    gaps = gap_heights(displacement(shape, FaceFit(shape, ExpressionPrior.broad()).fit(seen))).max(1)
    assert gaps[0] < 1e-3
    assert gaps[1] < 1e-3
    assert gaps[2] == pytest.approx(gap_heights(displacement(shape, wanted)).max(1)[2], abs=0.01)


def test_a_prior_fills_in_what_landmarks_do_not_say(shape):
    """No landmark is on the tongue: it follows the smiles that it went with."""
    smile = np.random.default_rng(0).uniform(0, 1, 200)
    seen = faces(mouthSmileLeft=smile, mouthSmileRight=smile, tongueOut=smile)
    fit = FaceFit(shape, ExpressionPrior.of(seen))
    weights = fit.fit(displacement(shape, faces(mouthSmileLeft=[0, 0.8], mouthSmileRight=[0, 0.8])))
    assert weights[1, ARKIT_INDEX["tongueOut"]] > 0.4
    assert weights[0, ARKIT_INDEX["tongueOut"]] < 0.1


def test_bounded_rows_are_the_minimum_within_bounds():
    random = np.random.default_rng(0)
    root = random.standard_normal((5, 5))
    normal, target = root @ root.T + np.eye(5), 3 * random.standard_normal((20, 5))
    x = bounded_rows(normal, target, 0.0, 1.0)
    slope = x @ normal - target
    assert (np.abs(slope[(x > 0) & (x < 1)]) < 1e-2).all()
    assert (slope[x == 0] > -1e-2).all()
    assert (slope[x == 1] < 1e-2).all()


# Generator


@pytest.mark.parametrize("num_frames", [1, 59, 130])
def test_motion_is_as_long_as_speech(generator, num_frames):
    controls = Controls(steps=2)
    motion = Motion.concatenate(list(generator.generate(iter(features(num_frames)), PORTRAIT, controls)))
    assert len(motion) == num_frames
    assert motion.expression.min() >= 0
    assert motion.expression.max() <= 1
    assert not motion.rotation.any()  # there is no generator for the head


def test_a_seed_is_a_motion(generator):
    first, again, other = (
        Motion.concatenate(list(generator.generate(iter(features(60)), PORTRAIT, Controls(steps=2, seed=seed))))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.to_vector(), again.to_vector())
    assert np.abs(first.expression - other.expression).max() > 0.01


class NoddingHead:
    """Moves the head in pieces of another length than AToM's."""

    def sample(self, features, controls):
        assert controls.guidance == 1
        total = sum(len(block.values) for block in features)
        for start in range(0, total, 7):
            rows = np.arange(start, min(total, start + 7), dtype=np.float32)
            yield replace(Motion.neutral(len(rows)), rotation=np.stack([rows * 0.001] * 3, axis=1))


def test_the_head_is_the_other_generators(generator):
    nodding = AtomGenerator(generator.network, generator.prior, NoddingHead())  # type: ignore[arg-type]
    motion = Motion.concatenate(list(nodding.generate(iter(features(130)), PORTRAIT, Controls(steps=1))))
    assert len(motion) == 130
    middle = motion.rotation[30:90, 0]  # its start and its end are calmed
    np.testing.assert_allclose(np.diff(middle), 0.001, atol=1e-4)


def test_an_emotion_that_is_not_heard_is_told(generator, caplog):
    with caplog.at_level(logging.WARNING):
        next(generator.generate(iter(features(60)), PORTRAIT, Controls(steps=1, emotion="anger")))
    assert "AToM knows no emotions" in caplog.text


def test_fine_steps_end_where_even_ones_do_and_crowd_at_clean_data():
    for num_steps in (1, 4, 10, 1000):
        fine, even = fine_timesteps(num_steps), truncated_timesteps(num_steps)
        assert fine[-1] == even[-1] == 999
        assert len(set(fine)) == num_steps
        assert all(a <= b for a, b in zip(fine, even, strict=True))
    assert fine_timesteps(10)[:3] == [9, 39, 89]
    with pytest.raises(ControlsError, match="0 sampling steps"):
        fine_timesteps(0)


# Weights


def test_saved_weights_are_read_back(generator, tmp_path):
    prior = ExpressionPrior.of(np.random.default_rng(0).uniform(0, 1, (100, 52)))
    save_atom(generator.network, prior, tmp_path)
    network, read = load_atom(tmp_path)
    assert network.config == TINY
    np.testing.assert_allclose(read.mean, prior.mean, rtol=1e-5)
    np.testing.assert_allclose(read.precision, prior.precision, rtol=1e-4, atol=1e-3)
    for name, value in generator.network.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, atol=2e-3, rtol=1e-3)
    entry = find_system(str(tmp_path))
    assert (entry.build, entry.weights) == (find_system("moditalker").build, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"model\.safetensors does not hold weights"):
        load_atom(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors does not hold weights"):
        load_atom(tmp_path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_published_checkpoints_are_converted(tmp_path, wrapped):
    config = get_atom_preset("tiny")
    network = AtomDenoiser(config)
    ours = network.state_dict()
    state = {theirs: torch.zeros(1) if name is None else ours[name] for theirs, name in atom_names(config).items()}
    prefix = "module." if wrapped else ""
    content = {"model_state_dict": {prefix + name: value for name, value in state.items()}, "optimizer_state_dict": {}}
    torch.save(content, tmp_path / "atom.pt")
    convert_atom(tmp_path / "atom.pt", tmp_path / "atom", config)
    read, _ = load_atom(tmp_path / "atom")
    torch.testing.assert_close(read.out.weight, network.out.weight, atol=1e-3, rtol=1e-3)
    with pytest.raises(WeightsError, match="wrong shapes"):
        convert_atom(tmp_path / "atom.pt", tmp_path / "other", replace(config, hidden_dim=32))


# Drawing


class Notes:
    """A renderer that keeps what it is given."""

    size_px = (64, 48)

    def render(self, motion: MotionCodes):
        self.codes = motion
        yield from np.zeros((len(motion), 48, 64, 3), np.uint8)


def test_face_parameters_are_drawn_as_landmarks():
    notes = Notes()
    renderer = LandmarkRenderer(notes, PORTRAIT)  # type: ignore[arg-type]
    motion = replace(Motion.neutral(3), expression=faces(jawOpen=[0, 0.2, 0.4]), rotation=np.full((3, 3), 0.1, "f4"))
    motion.gaze[:, 1] = 0.2
    assert renderer.size_px == (64, 48)
    assert len(list(renderer.render(motion))) == 3
    assert notes.codes.values.shape == (3, 214)
    np.testing.assert_allclose(notes.codes.values[:, 204:], motion.to_vector()[:, 52:62])
    shape = fit_face(PORTRAIT.face.landmarks)
    canonical = lm.canonical_of_photo(shape) + notes.codes.values[2, :204].reshape(68, 3)
    np.testing.assert_allclose(canonical, lm.canonical_of_expression(shape, motion.expression)[2], atol=1e-5)


def test_options_of_the_system(generator):
    system = as_system("moditalker", None, generator, MoDiTalkerOptions())  # type: ignore[arg-type]
    assert system.configure is not None
    assert system.configure({"renderer": "mesh"}).space == "arkit"
    with pytest.raises(ControlsError, match="option renderer is 'oil'"):
        system.configure({"renderer": "oil"})
    with pytest.raises(ControlsError, match="video_steps is 0"):
        system.configure({"video_steps": "0"})
    with pytest.raises(ControlsError, match="no option 'colour'"):
        system.configure({"colour": "red"})


def test_shipped_weights_are_the_starter():
    folder = find_system("moditalker").weights
    assert json.loads((folder / "config.json").read_text())["num_frames"] == get_atom_preset("starter").num_frames
    network, prior = load_atom(Path(folder))
    assert network.config == get_atom_preset("starter")
    assert np.linalg.eigvalsh(prior.precision).min() > 0


def test_ones_own_networks_are_a_system(tmp_path):
    """AToM and MToV of one folder; the shipped AToM stands for one's own."""
    shutil.copytree(find_system("moditalker").weights, tmp_path / "atom")
    (tmp_path / "video").mkdir()
    system = load_system(str(tmp_path), "cpu", {"renderer": "video"})
    with pytest.raises(WeightsError, match=r"video/pictures/config\.json is not a readable configuration"):
        system.make_renderer(PORTRAIT, None)


def test_the_command_line_chooses_the_renderer(tmp_path):
    inputs = [str(EXAMPLES / "portrait_a.jpg"), str(EXAMPLES / "speech.flac"), "-o", str(tmp_path / "talk.mp4")]
    result = CliRunner().invoke(app, ["animate", *inputs, "--system", "moditalker", "--renderer", "oil", "--dry-run"])
    assert result.exit_code == 2
    assert "option renderer is 'oil'" in result.stderr
