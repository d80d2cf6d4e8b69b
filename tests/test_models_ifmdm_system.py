"""IF-MDM as a system: codes of any length from speech, frames in the photo, statistics as a control."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loquent.errors import ControlsError, WeightsError
from loquent.face.analyze import analyze
from loquent.face.crop import head_square
from loquent.media.image import read_image
from loquent.models.ifmdm import Autoencoder, MotionDiffusionTransformer, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.behaviour import FaceMoves, apply_blinks, press_lips
from loquent.models.ifmdm.code_space import CodeSpace, MoveParts, before_tanh
from loquent.models.ifmdm.generate import (
    SPACE,
    USUAL_SPREAD,
    ImplicitMotionGenerator,
    PortraitMoves,
    in_normal_units,
    save_generator,
)
from loquent.models.ifmdm.portrait import ImplicitRenderer, PortraitReader, read_code
from loquent.models.ifmdm.statistics import Statistics, WindowStart, get_setting
from loquent.models.ifmdm.system import ImplicitSystem, load_ifmdm
from loquent.motion.control_track import ControlTrack
from loquent.pipeline import TalkingHead
from loquent.systems import WEIGHTS_DIR, load_system
from loquent.training.ifmdm_autoencoder import start_at_rest
from loquent.types import Controls, MotionCodes, Photo, Portrait, Speech, SpeechFeatures

EXAMPLES = Path(__file__).parents[1] / "src/loquent/examples"
MOTION, RENDERER = get_motion_preset("tiny"), get_autoencoder_preset("tiny-blend")
PARTS = MoveParts(  # the first number is the lips', the second the head's, the third the eyes'
    torch.diag(torch.tensor([1.0, 0, 0])),
    torch.diag(torch.tensor([0, 1.0, 0])),
    torch.diag(torch.tensor([0.04, 0.01, 0.01])),
)


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
    """Random weights, but for flow that is as small as a renderer's that begins to learn, through files."""
    folder = tmp_path_factory.mktemp("ifmdm")
    torch.manual_seed(0)
    renderer, transformer = start_at_rest(Autoencoder(RENDERER)), MotionDiffusionTransformer(MOTION)
    for weight in transformer.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    (folder / "renderer").mkdir()
    RENDERER.save(folder / "renderer" / "config.json")
    state = {name: value.half().contiguous() for name, value in renderer.state_dict().items()}
    save_file(state, folder / "renderer" / "model.safetensors")
    space = CodeSpace(torch.tensor([0.1, 0.0, -0.1]), torch.tensor([[4.0, 1, 0], [0, 5, 0], [0, 1, 6]]))
    save_generator(transformer, space, PARTS, folder / "motion")
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


def test_statistics_count_in_codes_and_in_multiples_of_what_is_usual():
    space, rest = (
        CodeSpace(torch.tensor([0.1, 0.0, 0.2]), torch.diag(torch.tensor([5.0, 10, 10]))),
        torch.full((3,), 0.1),
    )
    start = WindowStart(1, space.of_moves(-rest), torch.tensor([0.3, 0.4, -0.2]))  # the photo's code is 0

    def asked(rule) -> Statistics:
        return in_normal_units(rule, space, PARTS, rest)(start)

    assert not asked(get_setting("free")).std.any()
    assert not asked(get_setting("free")).mean.any()
    torch.testing.assert_close(asked(get_setting("mean_last")).mean, start.last)
    torch.testing.assert_close(asked(get_setting("mean_portrait")).mean, start.portrait, atol=1e-4, rtol=0)
    times = 0.3 / USUAL_SPREAD
    wanted = torch.tensor([times**0.3 * 0.2 * 5, times * 0.1 * 10, 0.1 * 10])  # lips follow less far, eyes not at all
    torch.testing.assert_close(asked(get_setting("std_0.3")).std, wanted, atol=1e-4, rtol=1e-4)
    own = Statistics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 2 * USUAL_SPREAD, 0.0]))
    torch.testing.assert_close(space.moves(asked(lambda _: own).mean), before_tanh(own.mean) - rest)
    torch.testing.assert_close(asked(lambda _: own).std, torch.tensor([1.0, 2.0, 1.0]))


def test_amounts_and_blinks_act_on_their_part(implicit, portrait):
    plain = before_tanh(torch.from_numpy(codes_of(implicit, portrait, Controls(steps=2), 30)))
    for change, part in (({"lips": 0.5}, 0), ({"head": 0.5}, 1), ({"amount": 0.5}, slice(1, 3))):
        changed = before_tanh(torch.from_numpy(codes_of(implicit, portrait, Controls(steps=2, **change), 30)))
        factors = torch.ones(3)
        factors[part] = 0.5
        own = before_tanh(read_code(implicit.renderer, portrait))
        torch.testing.assert_close(changed - own, factors * (plain - own), atol=2e-3, rtol=1e-2)


def test_blinks_close_the_eyes_and_leave_the_rest():
    rng = np.random.default_rng(0)
    moves = np.cumsum(0.02 * rng.standard_normal((250, 3)), axis=0).astype(np.float32)
    moves[:, 2] = 0.05 * rng.random(250)
    closing = np.array([0, 0, 0.8], np.float32)
    pieces = np.array_split(moves, [50, 57, 120])
    blinked = np.concatenate(list(apply_blinks(pieces, Controls(), PARTS, closing)))
    np.testing.assert_array_equal(blinked[:, :2], moves[:, :2])
    closed = blinked[:, 2] / 0.8
    assert closed.max() == pytest.approx(1, abs=0.01)
    assert 1 <= ((closed[1:] > 0.5) & (closed[:-1] <= 0.5)).sum() <= 8
    never = np.concatenate(list(apply_blinks(pieces, Controls(blinks=0), PARTS, closing)))
    assert never[:, 2].max() < 0.1
    rows = [{"time_s": time_s, "eyes_closed": closed} for time_s, closed in ((0, 0), (3.5, 0), (4, 1), (6, 1), (7, 0))]
    track = ControlTrack(rows)
    asked = np.concatenate(list(apply_blinks(pieces, Controls(blinks=0, track=track), PARTS, closing)))
    assert asked[110:140, 2].min() > 0.79
    assert asked[:80, 2].max() < 0.1


def test_lips_that_nearly_meet_do_and_open_ones_stay():
    face = FaceMoves(np.zeros(3), gap=np.array([0.5, 0, 0]), opening=np.array([2.0, 0, 0.4]))
    moves = np.zeros((4, 3), np.float32)
    moves[:, 0] = [-0.02, 0.0, 0.03, 0.3]  # gaps of half as much
    (pressed,) = press_lips([moves], face)
    gaps = pressed @ face.gap
    np.testing.assert_allclose(gaps[[0, 1, 3]], [-0.01, 0, 0.15], atol=1e-4)
    assert gaps[2] < 0.003
    assert (
        np.diff([float(next(press_lips([np.array([[x, 0, 0]])], face))[0, 0]) for x in np.linspace(0, 1, 50)]) > 0
    ).all()


def test_codes_rest_in_pauses(implicit, portrait):
    silence = np.zeros((60, 4), np.float32)
    silence[25:40] = 1
    rows = np.random.default_rng(0).standard_normal((60, 4, 3)).astype(np.float32)
    spoken = [SpeechFeatures(rows, silence=silence)]
    pieces = implicit.generator.generate(iter(spoken), portrait, Controls(steps=2))
    speed = np.abs(np.diff(np.concatenate([piece.values for piece in pieces]), axis=0))
    assert speed[28:31, 0].max() < 0.01 * speed[:22, 0].mean()
    assert speed[28:38, 1].mean() < 0.5 * speed[:22, 1].mean()


def test_codes_begin_at_the_face_at_rest_where_the_renderer_follows_landmarks(implicit, portrait):
    basis = np.zeros((478, 2, 3), np.float32)
    basis[13, 1, 0], basis[14, 1, 0] = -1, 1  # the lips' distance
    basis[159, 1, 2], basis[145, 1, 2] = -1, 1  # an eye's
    reader = PortraitReader(implicit.renderer, basis.reshape(956, 3))
    own = before_tanh(read_code(implicit.renderer, portrait))
    read = reader(portrait, 0.0)
    torch.testing.assert_close(read.photo, own)
    assert read.face is not None
    half = head_square(portrait.face.landmarks).side_px / 2
    gap = portrait.face.landmarks[14, 1] - portrait.face.landmarks[13, 1]  # the example smiles with parted lips
    assert float(own[0] - read.rest[0]) == pytest.approx(gap / half, rel=0.3)
    eye = portrait.face.landmarks[145, 1] - portrait.face.landmarks[159, 1]
    assert float(-read.face.closing[2]) == pytest.approx(eye / half, rel=0.3)
    eyes_px = np.linalg.norm(portrait.face.landmarks[33, :2] - portrait.face.landmarks[263, :2])
    assert float(read.face.gap[0]) == pytest.approx(half / eyes_px, rel=0.1)
    np.testing.assert_allclose(read.face.opening @ read.face.gap, 1, atol=0.1)
    unsteered = PortraitReader(implicit.renderer, None)(portrait, 0.5)
    assert unsteered.face is None
    torch.testing.assert_close(unsteered.rest, own)


def test_codes_between_two_frames_lead_from_one_to_the_other(implicit, portrait):
    first, last = codes_of(implicit, portrait, Controls(steps=2), 30)[[4, 21]]
    share = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    between = MotionCodes((1 - share) * first + share * last, SPACE)
    renderer = implicit.as_system("ifmdm", "cpu").make_renderer(portrait, None)
    frames = np.stack(list(renderer.render(between))).astype(np.float32)
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    whole = np.abs(frames[-1] - frames[0]).mean()
    assert whole > 0
    assert steps.max() < 0.5 * whole  # no jump
    farther = np.abs(frames[2:] - frames[:-2]).mean((1, 2, 3))
    assert (farther > np.maximum(steps[:-1], steps[1:])).all()  # every frame lies between its neighbours


@pytest.fixture(scope="module")
def minute() -> list[SpeechFeatures]:
    """What the shipped transformer hears of a minute of noise."""
    sound = np.random.default_rng(0).normal(0, 0.1, 60 * 16_000).astype(np.float32)
    return list(load_system("ifmdm").encoder.encode(Speech(sound)))


def moves_of(features: list[SpeechFeatures], statistics: str, controls: Controls) -> tuple[np.ndarray, np.ndarray]:
    """Moves and the head's part of them, by the shipped transformer, of a portrait whose face is at rest."""
    generator = load_system("ifmdm", options={"statistics": statistics}).generator
    assert isinstance(generator, ImplicitMotionGenerator)
    at_rest = PortraitMoves(torch.zeros(20), torch.zeros(20), None)
    moves = np.concatenate(list(generator.sample(iter(features), at_rest, controls)))
    return moves, moves @ generator.parts.head.numpy()


@pytest.mark.parametrize("statistics", ["free", "mean_portrait"])
def test_a_minute_of_windows_does_not_drift(minute, statistics):
    moves, head = moves_of(minute, statistics, Controls(steps=4))
    assert np.abs(moves).max() < 1.5
    first, last = head[:500], head[-500:]
    assert np.linalg.norm(last.mean(0) - first.mean(0)) < 2 * np.linalg.norm(first.std(0))
    assert last.std(0).mean() < 1.5 * first.std(0).mean()


def test_the_head_moves_more_where_the_track_asks_for_it(minute):
    rows = [{"time_s": 0, "motion_std": 0.03}, {"time_s": 12, "motion_std": 0.0, "statistics": "std_0.3"}]
    _, head = moves_of(minute[:40], "free", Controls(steps=4, track=ControlTrack(rows)))
    speed = np.linalg.norm(np.diff(head, axis=0), axis=1)
    assert np.median(speed[400:]) > 2 * np.median(speed[:280])


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


class StillDrawer:
    """Draws what it has read."""

    def read(self, image: torch.Tensor, landmarks: np.ndarray) -> torch.Tensor:
        self.image, self.landmarks = image, landmarks
        return image

    def draw(self, image: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        return image.expand(len(motion), -1, -1, -1)


def framed(portrait: Portrait, box: tuple[int, int, int, int], zoom: float = 1.0) -> Portrait:
    """A part (left, top, right, bottom) of the photo, mirrored where it goes beyond it, and that at another size."""
    left, top, right, bottom = box
    height, width = portrait.photo.pixels.shape[:2]
    beyond = [(max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)), (0, 0)]
    pixels = np.pad(portrait.photo.pixels, beyond, mode="symmetric")
    pixels = pixels[max(0, top) :, max(0, left) :][: bottom - top, : right - left]
    size = round(zoom * pixels.shape[1]), round(zoom * pixels.shape[0])
    scale = np.array([*size, zoom], np.float64) / (pixels.shape[1], pixels.shape[0], 1)
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    moved = (portrait.face.landmarks - [left - 0.5, top - 0.5, 0]) * scale - [0.5, 0.5, 0]
    return replace(portrait, photo=Photo(pixels), face=type(portrait.face)(moved.astype(np.float32)))


PARTS_OF_A_PHOTO = {
    "inside": ((-300, -250, 901, 850), 1.0),
    "at an edge": ((180, 0, 700, 511), 1.0),
    "at both sides": ((160, -40, 371, 470), 1.0),
    "tiny": ((0, 0, 512, 511), 0.06),
    "odd": ((-301, -100, 702, 607), 0.37),
}


@pytest.mark.parametrize("part", PARTS_OF_A_PHOTO)
@pytest.mark.parametrize("crop_px", [64, 256])
def test_what_the_network_leaves_as_it_is_stays_exactly_the_photo(portrait, part, crop_px):
    photo = framed(portrait, *PARTS_OF_A_PHOTO[part])
    renderer = ImplicitRenderer(StillDrawer(), crop_px, photo)
    (frame,) = renderer.render(MotionCodes(np.zeros((1, 3), np.float32), SPACE))
    zoom = crop_px / head_square(photo.face.landmarks).side_px
    new = [round(zoom * side) for side in (photo.photo.width_px, photo.photo.height_px)]
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LANCZOS4
    expected = cv2.resize(photo.photo.pixels, new, interpolation=method)[: new[1] // 2 * 2, : new[0] // 2 * 2]
    np.testing.assert_array_equal(frame, expected)
    assert renderer.size_px == frame.shape[1::-1]


@pytest.mark.parametrize("size", [200, 500, 1001])
def test_at_another_size_what_stays_is_all_but_the_photo(portrait, size):
    photo = framed(portrait, *PARTS_OF_A_PHOTO["inside"])
    smooth = replace(photo, photo=Photo(cv2.GaussianBlur(photo.photo.pixels, (0, 0), 12)))
    renderer = ImplicitRenderer(StillDrawer(), 256, smooth, size)
    (frame,) = renderer.render(MotionCodes(np.zeros((1, 3), np.float32), SPACE))
    assert max(frame.shape) == size // 2 * 2
    scaled = cv2.resize(smooth.photo.pixels, (size, round(size * 1100 / 1201)), interpolation=cv2.INTER_AREA)
    expected = scaled[: frame.shape[0], : frame.shape[1]]
    np.testing.assert_allclose(frame.astype(int), expected.astype(int), atol=3)


@pytest.mark.parametrize("size", [None, 300, 700])
@pytest.mark.parametrize("part", PARTS_OF_A_PHOTO)
def test_landmarks_lie_where_the_drawer_sees_them(portrait, part, size):
    """A spot at the tip of the nose is found there in the picture that the drawer is given."""
    photo = framed(portrait, *PARTS_OF_A_PHOTO[part])
    tip = photo.face.landmarks[4, :2]
    y, x = np.mgrid[: photo.photo.height_px, : photo.photo.width_px]
    reach = 0.03 * head_square(photo.face.landmarks).side_px
    spot = np.exp(-((x - tip[0]) ** 2 + (y - tip[1]) ** 2) / (2 * reach**2))
    spotted = replace(photo, photo=Photo(np.repeat(np.round(255 * spot)[..., None], 3, axis=2).astype(np.uint8)))
    drawer = StillDrawer()
    ImplicitRenderer(drawer, 256, spotted, size)
    seen = drawer.image[0, 0].numpy() + 1
    y, x = np.mgrid[:256, :256]
    assert drawer.landmarks.shape == (478, 3)
    near = np.hypot(x - drawer.landmarks[4, 0], y - drawer.landmarks[4, 1]) < 30
    found = [(near * seen * axis).sum() / (near * seen).sum() for axis in (x, y)]
    np.testing.assert_allclose(drawer.landmarks[4, :2], found, atol=0.05)
    shape, seen_shape = (points - points.mean(0) for points in (photo.face.landmarks, drawer.landmarks))
    np.testing.assert_allclose(
        np.ptp(seen_shape, 0) / np.ptp(shape, 0), 256 / head_square(photo.face.landmarks).side_px, rtol=0.01
    )


@pytest.mark.parametrize(("name", "least"), [("ifmdm", 0.88), ("ifmdm-512", 0.95)])
def test_moved_frames_are_nearly_as_sharp_as_the_photo(portrait, name, least):
    """The shipped renderer; the measure is the mean size of the Laplacian."""
    renderer = load_system(name).make_renderer(portrait, None)
    codes = np.random.default_rng(1).uniform(-0.2, 0.2, (4, 20)).astype(np.float32)
    width, height = renderer.size_px
    photo = cv2.resize(portrait.photo.pixels, (width, height), interpolation=cv2.INTER_AREA)

    def sharpness(picture: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F)).mean())

    sharp = [sharpness(frame) / sharpness(photo) for frame in renderer.render(MotionCodes(codes, SPACE))]
    assert min(sharp) > least
    assert max(sharp) < 1.05  # nothing rings


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
