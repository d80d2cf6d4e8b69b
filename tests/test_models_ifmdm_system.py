"""IF-MDM as a system: codes of any length from speech, frames in the photo, statistics as a control."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loquent.errors import ControlsError, WeightsError
from loquent.face.analyze import analyze
from loquent.face.crop import head_square
from loquent.media.image import read_image
from loquent.models.ifmdm import Autoencoder, MotionDiffusionTransformer, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.code_space import CodeSpace
from loquent.models.ifmdm.generate import SPACE, USUAL_SPREAD, in_normal_units, save_generator
from loquent.models.ifmdm.portrait import ImplicitRenderer, read_code
from loquent.models.ifmdm.statistics import Statistics, WindowStart, get_setting
from loquent.models.ifmdm.system import ImplicitSystem, load_ifmdm
from loquent.motion.control_track import ControlTrack
from loquent.pipeline import TalkingHead
from loquent.systems import WEIGHTS_DIR, load_system
from loquent.types import Controls, MotionCodes, Photo, Portrait, Speech, SpeechFeatures

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"
MOTION, RENDERER = get_motion_preset("tiny"), get_autoencoder_preset("tiny-blend")


class NoiseEncoder:
    """Features of the right shape."""

    def encode(self, speech: Speech):
        rows = np.random.default_rng(0).standard_normal((speech.num_frames(), 4, 3)).astype(np.float32)
        for start in range(0, len(rows), 7):
            yield SpeechFeatures(rows[start : start + 7], start_frame=start)


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return analyze(read_image(EXAMPLES / "portrait_a.jpg"))


@pytest.fixture(scope="module")
def implicit(tmp_path_factory) -> ImplicitSystem:
    """Random weights, through files."""
    folder = tmp_path_factory.mktemp("ifmdm")
    torch.manual_seed(0)
    renderer, transformer = Autoencoder(RENDERER), MotionDiffusionTransformer(MOTION)
    for weight in transformer.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    (folder / "renderer").mkdir()
    RENDERER.save(folder / "renderer" / "config.json")
    state = {name: value.half().contiguous() for name, value in renderer.state_dict().items()}
    save_file(state, folder / "renderer" / "model.safetensors")
    space = CodeSpace(torch.tensor([0.1, 0.0, -0.1]), torch.tensor([[4.0, 1, 0], [0, 5, 0], [0, 1, 6]]))
    save_generator(transformer, space, folder / "motion")
    crop_px = RENDERER.output_px
    return ImplicitSystem.from_pretrained(folder / "renderer", folder / "motion", NoiseEncoder(), crop_px)


def codes_of(system: ImplicitSystem, portrait: Portrait, controls: Controls, num_frames: int) -> np.ndarray:
    speech = Speech(np.zeros(num_frames * 640, np.float32))
    pieces = system.generator.generate(system.encoder.encode(speech), portrait, controls)
    return np.concatenate([piece.values for piece in pieces])


@pytest.mark.parametrize("num_frames", [1, 8, 21])
def test_codes_cover_the_speech_and_repeat_with_the_seed(implicit, portrait, num_frames):
    first = codes_of(implicit, portrait, Controls(steps=2, seed=3), num_frames)
    assert first.shape == (num_frames, MOTION.motion_dim)
    assert np.abs(first).max() <= 1
    np.testing.assert_array_equal(first, codes_of(implicit, portrait, Controls(steps=2, seed=3), num_frames))
    assert (first != codes_of(implicit, portrait, Controls(steps=2, seed=4), num_frames)).any()


def test_a_code_space_goes_both_ways(implicit):
    space, codes, own = implicit.generator.space, torch.rand(20, 3) - 0.5, torch.tensor([0.3, -0.2, 0.9])
    torch.testing.assert_close(space.codes(space.normal(codes, own), own), codes)
    torch.testing.assert_close(space.normal(own, own), space.of_moves(torch.zeros(3)))
    assert space.codes(torch.full((1, 3), 1e3), own).abs().max() <= 1


def test_fitted_moves_are_decorrelated():
    moves = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.05, 0.02])
    moves = moves @ torch.linalg.qr(torch.randn(3, 3)).Q
    normal = CodeSpace.fitted(moves).of_moves(moves)
    torch.testing.assert_close(torch.cov(normal.T), torch.eye(3), atol=1e-4, rtol=0)


def test_statistics_count_in_published_units():
    portrait, last = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    start = WindowStart(1, portrait, last)
    assert in_normal_units(get_setting("std_0.3"))(start).std.tolist() == pytest.approx([0.3 / USUAL_SPREAD] * 2)
    torch.testing.assert_close(in_normal_units(get_setting("mean_last"))(start).mean, last)
    assert not in_normal_units(get_setting("free"))(start).std.any()


def test_statistics_come_from_options_and_from_the_track(implicit, portrait):
    seen: list[Statistics] = []

    def spy(start: WindowStart) -> Statistics:
        seen.append(get_setting("std_0.1")(start))
        return seen[-1]

    watched = ImplicitSystem(implicit.renderer, implicit.generator.with_statistics(spy), implicit.encoder, 64)
    by_option = codes_of(watched, portrait, Controls(steps=2), 12)
    assert len(seen) == 2
    track = ControlTrack([{"time_s": 0, "statistics": "std_0.1"}])
    np.testing.assert_array_equal(by_option, codes_of(watched, portrait, Controls(steps=2, track=track), 12))
    assert len(seen) == 2
    assert (by_option != codes_of(implicit, portrait, Controls(steps=2), 12)).any()
    wrong = ControlTrack([{"time_s": 0, "motion_std": (0.1, 0.2)}])
    with pytest.raises(ControlsError, match="3 dimensions"):
        codes_of(implicit, portrait, Controls(steps=2, track=wrong), 8)


def test_options_are_checked(implicit):
    system = implicit.as_system("ifmdm", "cpu")
    assert system.configure is not None
    assert system.configure({"statistics": "mean_last", "motion_std": "0.2"}).space == SPACE
    with pytest.raises(ControlsError, match="unknown motion statistics"):
        system.configure({"statistics": "lively"})
    with pytest.raises(ControlsError, match="motion_std"):
        system.configure({"motion_std": 0})


def test_the_first_frame_is_the_networks_picture_in_the_photo(implicit, portrait):
    system = implicit.as_system("ifmdm", "cpu")
    renderer = system.make_renderer(portrait, None)
    width, height = renderer.size_px
    square = head_square(portrait.face.landmarks)
    assert width == pytest.approx(portrait.photo.width_px * RENDERER.output_px / square.side_px, abs=2)
    code = read_code(implicit.renderer, portrait)[None].numpy()
    frames = list(renderer.render(MotionCodes(np.repeat(code, 11, 0), SPACE)))
    assert len(frames) == 11
    assert frames[0].shape == (height, width, 3)
    np.testing.assert_array_equal(frames[0], frames[10])


@pytest.mark.parametrize("size", [None, 300])
def test_outside_the_square_the_photo_stays(implicit, portrait, size):
    wide = np.zeros((700, 900, 3), np.uint8) + np.arange(900, dtype=np.uint8)[None, :, None]
    top, left = 60, 150
    wide[top : top + portrait.photo.height_px, left : left + portrait.photo.width_px] = portrait.photo.pixels[
        : 700 - top, : 900 - left
    ]
    moved = portrait.face.landmarks + np.array([left, top, 0], np.float32)
    larger = Portrait(Photo(wide), type(portrait.face)(moved), portrait.rest_expression, portrait.pose_rad)
    renderer = implicit.as_system("ifmdm", "cpu").make_renderer(larger, size)
    assert isinstance(renderer, ImplicitRenderer)
    codes = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
    first, second = renderer.render(MotionCodes(codes, SPACE))
    assert max(first.shape) == (size or max(first.shape))
    zoom = max(first.shape) / 900
    column = int(60 * zoom)
    np.testing.assert_array_equal(first[:, :column], second[:, :column])
    assert (first != second).any()


def test_the_pipeline_makes_a_clip_at_another_rate(implicit, portrait):
    head = TalkingHead(implicit.as_system("ifmdm", "cpu"))
    clip = head.animate(portrait, Speech(np.zeros(16_000, np.float32)), Controls(steps=2), fps=30)
    assert clip.num_frames == 30
    assert isinstance(clip.motion, MotionCodes)
    assert clip.frames is not None
    assert len(clip.frames) == 30


def test_ones_own_networks_are_a_system(portrait, tmp_path):
    """The weights of two runs in one folder; the shipped ones stand for them."""
    shutil.copytree(WEIGHTS_DIR / "ifmdm-renderer", tmp_path / "renderer")
    shutil.copytree(WEIGHTS_DIR / "ifmdm-motion", tmp_path / "motion")
    speech = Speech(np.random.default_rng(0).normal(0, 0.1, 3200).astype(np.float32))
    clips = [
        TalkingHead(load_system(name, "cpu")).animate(portrait, speech, Controls(steps=2))
        for name in (str(tmp_path), str(WEIGHTS_DIR / "ifmdm-motion"), "ifmdm")
    ]
    assert clips[0].frames is not None
    for clip in clips[1:]:
        np.testing.assert_array_equal(clip.frames, clips[0].frames)
    shutil.rmtree(tmp_path / "renderer")
    with pytest.raises(WeightsError, match=r"renderer/config\.json is not a readable configuration"):
        load_ifmdm("own", tmp_path)
