"""The published system end to end, at small sizes and with random weights."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from loquent import TalkingHead
from loquent.driving import DriveSettings, DrivingVideo
from loquent.errors import ControlsError, WeightsError
from loquent.face.following import FollowedFace
from loquent.media import VideoWriter
from loquent.models.moda import MotionFlowGenerator, MotionTransformer
from loquent.models.moda.codes import EYE_OPENING, scale_parts
from loquent.models.moda.keypoints import LIPS
from loquent.models.moda.motion_space import POSE, motion_vectors
from loquent.models.moda.options import ModaOptions
from loquent.models.moda.published import PublishedModa, as_system, resized
from loquent.models.moda.renderer import TINY
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.motion.control_track import ControlTrack
from loquent.pipeline import average_portrait
from loquent.speech.hubert import Hubert, speech_feature_spans, speech_features
from loquent.types import Controls, Speech
from tiny_moda import GENERATOR, SPEECH


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("converted")
    network = MotionTransformer(GENERATOR)
    for weight in network.parameters():  # zero gates would hide every condition
        torch.nn.init.normal_(weight, std=0.2)
    MotionFlowGenerator(network, torch.zeros(70), torch.full((70,), 0.01)).save_pretrained(folder / "generator")
    RendererNetworks(TINY).save_pretrained(folder / "renderer")
    Hubert(SPEECH).save_pretrained(folder / "speech-encoder")
    return folder


@pytest.fixture(scope="module")
def moda(converted) -> PublishedModa:
    return PublishedModa.from_pretrained(converted)


@pytest.fixture(scope="module")
def portrait():
    return average_portrait(160)


def speech(num_frames: int, seed: int = 0) -> Speech:
    return Speech((0.1 * np.random.default_rng(seed).standard_normal(640 * num_frames)).astype(np.float32))


def generate(moda, portrait, sound=None, **controls) -> torch.Tensor:
    features = moda.encode(sound or speech(25))
    pieces = list(moda.generate(features, portrait, Controls(**{"steps": 2, **controls})))
    return torch.cat([torch.from_numpy(piece.values) for piece in pieces])


def test_seed_speech_and_emotion_decide(moda, portrait):
    first = generate(moda, portrait)
    assert len(first) == 25
    torch.testing.assert_close(first, generate(moda, portrait))
    for other in (
        generate(moda, portrait, seed=1),
        generate(moda, portrait, speech(25, seed=1)),
        generate(moda, portrait, emotion="anger"),
        generate(moda, portrait, guidance=3.0),
    ):
        assert (first - other).abs().max() > 1e-6
    torch.testing.assert_close(first, generate(moda, portrait, emotion="anger", emotion_strength=0.0))
    stated = moda.with_options(ModaOptions(state_neutral=True))
    assert (first - generate(stated, portrait)).abs().max() > 1e-6


def test_without_an_amount_the_face_stays_as_in_the_photo(moda, portrait):
    plain = moda.with_options(ModaOptions(gaze_y=0.0))
    still = generate(plain, portrait, amount=0.0, lips=0.0)
    own = motion_vectors(moda.source(portrait).face.motion)
    torch.testing.assert_close(still[:, :70], own.expand(25, -1), atol=1e-5, rtol=1e-5)
    lips = [3 * point + axis for point in LIPS for axis in range(3)]
    only_lips = generate(plain, portrait, amount=0.0)
    assert (only_lips[:, lips] - own[:, lips]).abs().max() > 1e-4
    others = [dim for dim in range(70) if dim not in lips]
    torch.testing.assert_close(only_lips[:, others], own[:, others].expand(25, -1), atol=1e-5, rtol=1e-5)


def test_a_control_track_turns_the_head_and_shuts_the_eyes(moda, portrait):
    track = ControlTrack([{"time_s": 0, "head_yaw_deg": 0}, {"time_s": 0.8, "head_yaw_deg": 10, "eyes_closed": 1}])
    turned, plain = generate(moda, portrait, track=track), generate(moda, portrait)
    torch.testing.assert_close((turned - plain)[-1, POSE], torch.tensor([0.0, -10.0, 0.0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(turned[0], plain[0])
    assert turned[0, EYE_OPENING] == 1
    assert turned[-1, EYE_OPENING] == 0


def test_the_silence_tail_is_heard_and_cut_off(moda, portrait):
    with_tail = moda.with_options(ModaOptions(silence_tail=True))
    assert sum(len(block.values) for block in with_tail.encode(speech(25))) == 75
    plain, tailed = generate(moda, portrait), generate(with_tail, portrait)
    assert len(tailed) == 25
    assert (plain - tailed).abs().max() > 1e-6
    modulated = generate(moda.with_options(ModaOptions(silence_tail=True, lip_modulation=True)), portrait)
    lips = [3 * point + axis for point in LIPS for axis in range(3)]
    changed = (modulated - tailed).abs().amax(0) > 1e-7
    assert changed[lips].any()
    assert not changed[[dim for dim in range(70) if dim not in lips]].any()


def test_smoothing_makes_motion_calmer_and_keeps_its_length(moda, portrait):
    plain = generate(moda, portrait)
    smoothed = generate(moda.with_options(ModaOptions(smoothing_s=0.08)), portrait)
    assert smoothed.shape == plain.shape
    assert smoothed.diff(dim=0).abs().mean() < 0.8 * plain.diff(dim=0).abs().mean()


def test_relative_motion_starts_at_the_photo(moda, portrait):
    relative = moda.with_options(ModaOptions(relative=True, gaze_y=0.0))
    own = motion_vectors(moda.source(portrait).face.motion)
    torch.testing.assert_close(generate(relative, portrait)[:1, :70], own, atol=1e-4, rtol=1e-4)


def test_parts_go_as_far_as_they_are_asked_to():
    rest, vectors = torch.zeros(70), torch.ones(3, 70)
    scaled = scale_parts(vectors, rest, expression=0.5, lips=torch.tensor([0.0, 1.0, 2.0]), pose=0.25)
    assert scaled[0, 0] == 0.5
    torch.testing.assert_close(scaled[:, 3 * LIPS[0]], torch.tensor([0.0, 1.0, 2.0]))
    assert scaled[0, POSE].tolist() == [0.25] * 3
    torch.testing.assert_close(scale_parts(vectors, rest), vectors)


def test_frames_are_as_large_as_asked_and_the_face_stays_in_its_place(moda, portrait):
    renderer = moda.make_renderer(portrait, 81)
    assert renderer.size_px == (80, 80)
    codes = list(moda.generate(moda.encode(speech(2)), portrait, Controls(steps=1)))
    frames = [frame for piece in codes for frame in renderer.render(piece)]
    assert [frame.shape for frame in frames] == [(80, 80, 3)] * 2
    source = moda.source(portrait)
    corner = source.crop_to_photo @ [256.0, 256.0, 1.0]
    half = resized(source, 80).crop_to_photo @ [256.0, 256.0, 1.0]
    np.testing.assert_allclose(half[:2], (corner[:2] + 0.5) / 2 - 0.5, atol=1e-4)


def test_what_cannot_be_done_is_an_error(moda, converted):
    with pytest.raises(WeightsError, match="convert one release"):
        PublishedModa(Hubert(replace(SPEECH, num_layers=1)), moda.generator, moda.statistics, moda.renderer)
    with pytest.raises(WeightsError):
        PublishedModa.from_pretrained(converted / "nowhere")
    with pytest.raises(ControlsError, match="smoothing_s is 3"):
        ModaOptions(smoothing_s=3)


def test_a_photo_follows_a_video_by_keypoints(moda, portrait, tmp_path, monkeypatch):
    # Random networks see no faces, so the landmarks are given: those of a face that moves to the right.
    landmarks = np.stack([portrait.face.landmarks + np.float32([2 * t, 0, 0]) for t in range(6)])
    followed = FollowedFace(landmarks, np.zeros((6, 2), np.float32), 25.0)
    monkeypatch.setattr("loquent.models.moda.published.follow_face", lambda *_: followed)
    random = np.random.default_rng(0)
    with VideoWriter(tmp_path / "person.mp4", (160, 160), 25) as writer:
        for _ in range(6):
            writer.write(cv2.GaussianBlur(random.integers(0, 255, (160, 160, 3), dtype=np.uint8), (0, 0), 5))
    own = motion_vectors(moda.source(portrait).face.motion)

    def follow(**settings) -> torch.Tensor:
        video = DrivingVideo.open(tmp_path / "person.mp4", DriveSettings(smoothing_s=0, **settings))
        return torch.from_numpy(moda.follow(portrait, video, Controls()).values)

    relative = follow()
    assert len(relative) == 6
    torch.testing.assert_close(relative[:1, :70], own, atol=1e-4, rtol=1e-4)
    assert (relative[1:, :70] - own).abs().max() > 1e-4
    assert (follow(mode="absolute")[0, :70] - own).abs().max() > 1e-4
    still = follow(expression=0.0, lips=0.0, eyes=0.0, pose=0.0)
    moved = (still[:, :70] - own).abs().amax(0) > 1e-4
    assert not moved[[dim for dim in range(70) if dim != 63]].any()  # the size of the face is no part of these
    clip = TalkingHead(as_system(moda, "moda", "cpu")).animate(portrait, drive=tmp_path / "person.mp4")
    assert clip.num_frames == 6


def test_long_speech_is_heard_in_spans_as_in_one_piece(moda):
    waveform = torch.from_numpy(speech(120).samples)
    whole = speech_features(moda.speech, waveform)
    spans = list(speech_feature_spans(moda.speech, waveform, span_rows=40, context_rows=30))
    assert [len(span) for span in spans] == [40, 40, 40]
    assert (torch.cat(spans) - whole).abs().max() < 0.1 * whole.abs().max()  # two layers hear far; their context is cut
    short = list(speech_feature_spans(moda.speech, waveform[: 640 * 90], span_rows=40, context_rows=30))
    torch.testing.assert_close(short[0], speech_features(moda.speech, waveform[: 640 * 90]))
