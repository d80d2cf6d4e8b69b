"""The whole loading path, on small files in the released layout."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loquent import Controls, TalkingHead
from loquent.errors import ControlsError, WeightsError
from loquent.evaluation.fixtures import read_fixture
from loquent.evaluation.released_layout import write_release
from loquent.fetch import find, prepare
from loquent.models.moda import MotionFlowGenerator, MotionTransformer, released
from loquent.models.moda.released import read_checkpoint
from loquent.models.moda.renderer import TINY
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.pipeline import average_portrait
from loquent.speech.hubert import Hubert
from tiny_moda import GENERATOR, SPEECH

RECORDED = Path(__file__).parent / "parity" / "moda"
SOUND = (0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32), 16_000)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    generator = MotionTransformer(GENERATOR)
    for weight in generator.parameters():  # zero gates would hide every condition
        torch.nn.init.normal_(weight, std=0.2)
    return generator, RendererNetworks(TINY).eval(), Hubert(SPEECH)


@pytest.fixture
def downloads(networks, tmp_path) -> Path:
    inputs = read_fixture(RECORDED / "motion_parameters.safetensors").inputs
    write_release(tmp_path / "downloads", RECORDED, *networks, {name: inputs[name] for name in ("mean", "std")})
    return tmp_path / "downloads"


@pytest.fixture
def release(tmp_path, monkeypatch):
    """The release of MoDA at the sizes of these networks, with a cache of its own."""
    monkeypatch.setenv("LOQUENT_CACHE", str(tmp_path / "cache"))
    convert = partial(released.convert, generator=GENERATOR, renderer=TINY)
    monkeypatch.setattr(released, "RELEASE", replace(released.RELEASE, convert=convert))
    return released.RELEASE


def test_released_files_become_ours(downloads, release, networks):
    folder = prepare(release, source=downloads)
    loaded = [
        MotionFlowGenerator.from_pretrained(folder / "generator"),
        RendererNetworks.from_pretrained(folder / "renderer"),
        Hubert.from_pretrained(folder / "speech-encoder"),
    ]
    given = [networks[0].state_dict(), networks[1].state_dict(), networks[2].state_dict()]
    del given[0]["null_audio"]  # not in the released file: drawn from the published seed
    for network, state in zip([loaded[0].network, *loaded[1:]], given, strict=True):
        for name, value in state.items():
            torch.testing.assert_close(network.state_dict()[name], value, msg=name)
    assert loaded[0].network.null_audio.std() > 0.5
    assert loaded[0].mean[63] == pytest.approx(1.28646, abs=1e-4)


def test_the_system_runs_from_the_released_files(downloads, release):
    prepare(release, source=downloads)
    head = TalkingHead.from_pretrained("moda", "cpu")
    clip = head.animate(average_portrait(128), SOUND, Controls(steps=2), size=101)
    assert clip.num_frames == 25
    assert clip.frames.shape == (25, 100, 100, 3)
    assert clip.motion.space == "moda-keypoints"
    assert clip.settings["system"] == "moda"


def test_the_system_runs_from_a_folder_and_with_options(downloads, release):
    folder = prepare(release, source=downloads)
    options = {"silence_tail": "true", "lip_modulation": True, "smoothing_s": "0.04", "eye_opening": "0.5"}
    head = TalkingHead.from_pretrained(folder, "cpu", options)
    clip = head.animate(average_portrait(128), SOUND, Controls(steps=2))
    assert clip.num_frames == 25
    assert clip.settings["options"]["lip_modulation"] == "True"
    for wrong, message in (({"x": 1}, "has no option 'x'"), ({"batch": "many"}, "option batch"),
                           ({"lip_modulation": True}, "set silence_tail")):  # fmt: skip
        with pytest.raises(ControlsError, match=message):
            TalkingHead.from_pretrained(folder, "cpu", wrong)


def test_the_layout_of_the_other_release_is_found_too(downloads):
    (downloads / "decode/v1/first_stage").rename(downloads / "liveportrait")
    assert find(released.RELEASE, downloads)["decoder"] == downloads / "liveportrait/base_models/spade_generator.pth"


def test_pickles_that_run_code_and_damaged_files_are_refused(tmp_path):
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "cut.safetensors").write_bytes(b"cut off")
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    wanted = {"code.pth": "no checkpoint", "cut.pth": "no checkpoint", "cut.safetensors": "no checkpoint",
              "tensor.pth": "holds a Tensor"}  # fmt: skip
    for name, message in wanted.items():
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(tmp_path / name)


def test_a_checkpoint_of_another_network_is_an_error_and_leaves_nothing(downloads, release):
    base = downloads / "decode/v1/first_stage/base_models"
    (base / "spade_generator.pth").write_bytes((base / "warping_module.pth").read_bytes())
    with pytest.raises(WeightsError, match="does not belong to the SpadeDecoder"):
        prepare(release, source=downloads)
    assert not list(release.converted.parent.iterdir())


def test_saved_renderers_load_strictly(networks, tmp_path):
    networks[1].save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert set(state) == set(networks[1].state_dict())
    with pytest.raises(WeightsError, match="is no renderer configuration"):
        RendererNetworks.from_pretrained(tmp_path / "nowhere")
