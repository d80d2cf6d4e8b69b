"""Photos that follow a video: the driving video is one that the mesh renderer draws of another portrait."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from fakes import make_system
from loquent import Controls, TalkingHead
from loquent.batch import Job
from loquent.driving import DriveSettings, DrivingVideo
from loquent.errors import ControlsError, FaceError, LoquentError, VideoError
from loquent.face.following import follow_face
from loquent.media import VideoWriter, limits
from loquent.motion.driven import motion_of
from loquent.motion.face_tracking import TrackedFace, track_expression
from loquent.pipeline import average_portrait
from loquent.systems import load_system
from loquent.types import ARKIT_INDEX, Motion

JAW, BLINKS = ARKIT_INDEX["jawOpen"], [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
PHOTO = str(files("loquent.examples").joinpath("portrait_a.jpg"))
OPEN, SHUT, TURNED = slice(6, 9), slice(12, 15), slice(18, 24)


def moving(num_frames: int = 24) -> Motion:
    """A jaw that opens, eyes that shut, a head that turns to the picture's right, one after the other."""
    motion = Motion.neutral(num_frames)
    motion.expression[OPEN, JAW] = 0.7
    motion.expression[SHUT, BLINKS] = 1
    motion.rotation[TURNED, 1] = np.radians(12)
    return motion


@pytest.fixture(scope="module")
def head() -> TalkingHead:
    return TalkingHead(load_system("starter", "cpu"))


@pytest.fixture(scope="module")
def video(head, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("driving") / "person.mp4"
    head.animate(PHOTO, motion=moving(), output=path, size=300)
    return path


@pytest.fixture(scope="module")
def tracked(video) -> TrackedFace:
    followed = follow_face(video)
    return track_expression(followed.landmarks, followed.closure, followed.rate_hz)


def test_what_the_person_does_is_seen(tracked):
    assert len(tracked) == 24
    assert tracked.rate_hz == pytest.approx(25)
    jaw = tracked.expression[:, JAW]
    assert jaw[OPEN].min() > 0.25 + np.delete(jaw, np.r_[OPEN]).max()
    closed = tracked.expression[:, BLINKS].min(1)
    assert closed[SHUT].min() > 0.7
    assert np.delete(closed, np.r_[SHUT]).max() < 0.3
    yaw = np.degrees(tracked.pose_rad[:, 1])
    assert 5 < yaw[20:].mean() - np.median(yaw) < 16


def test_strengths_and_modes(tracked):
    portrait = replace(average_portrait(256), pose_rad=np.array([0.0, 0.2, 0.0], np.float32))
    still = motion_of(tracked, portrait, DriveSettings(expression=0, lips=0, eyes=0, pose=0))
    np.testing.assert_array_equal(still.to_vector(), 0)
    full = motion_of(tracked, portrait, DriveSettings(smoothing_s=0))
    half = motion_of(tracked, portrait, DriveSettings(smoothing_s=0, lips=0.5, pose=0.5))
    np.testing.assert_allclose(half.expression[:, JAW], 0.5 * full.expression[:, JAW], atol=1e-6)
    np.testing.assert_allclose(half.rotation, 0.5 * full.rotation, atol=1e-6)
    np.testing.assert_allclose(half.expression[:, BLINKS], full.expression[:, BLINKS])
    absolute = motion_of(tracked, portrait, DriveSettings(smoothing_s=0, mode="absolute"))
    np.testing.assert_allclose(absolute.rotation + portrait.pose_rad, tracked.pose_rad, atol=1e-6)
    assert np.abs(np.median(full.rotation, axis=0)).max() < 1e-6


def test_another_photo_follows_with_the_length_and_sound_of_the_video(head, video, tmp_path):
    portrait = head.portrait(str(files("loquent.examples").joinpath("portrait_b.jpg")))
    clip = head.animate(portrait, drive=video, size=128, output=tmp_path / "silent.mp4")
    assert clip.num_frames == 24
    assert clip.settings["inputs"]["drive"]["name"] == "person.mp4"
    assert clip.settings["drive"]["mode"] == "relative"
    speech = (np.zeros(16_000 * 2 // 5, np.float32), 16_000)
    assert head.prepare(portrait, speech, drive=video).num_frames == 10  # the shorter of the two


def test_a_batch_knows_the_settings_of_a_video_before_making_it(head, video):
    job = Job(photo=Path(PHOTO), sound=None, output=Path("x.mp4"), drive=video)
    assert job.settings("starter") == head.prepare(PHOTO, drive=video).settings
    louder = replace(job, drive_settings=DriveSettings(lips=1.2))
    assert (
        louder.settings("starter") == head.prepare(PHOTO, drive=video, drive_settings=DriveSettings(lips=1.2)).settings
    )
    assert louder.settings("starter") != job.settings("starter")


def write_noise(path: Path, num_frames: int) -> Path:
    random = np.random.default_rng(0)
    with VideoWriter(path, (64, 64), 25) as writer:
        for _ in range(num_frames):
            writer.write(random.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return path


def test_videos_that_cannot_be_followed_are_errors(head, video, tmp_path, monkeypatch):
    noise = write_noise(tmp_path / "noise.mp4", 3)
    with pytest.raises(FaceError, match="no face was found in 3 frames"):
        head.animate(average_portrait(64), drive=noise)
    with pytest.raises(VideoError, match="two or more"):
        DrivingVideo.open(write_noise(tmp_path / "one.mp4", 1))
    monkeypatch.setattr(limits, "MAX_DRIVE_S", 0.5)
    with pytest.raises(VideoError, match="cut it into parts"):
        head.prepare(average_portrait(64), drive=video)


def test_what_does_not_go_together_is_an_error(head, video):
    with pytest.raises(LoquentError, match="leave one out"):
        head.prepare(average_portrait(64), drive=video, motion=Motion.neutral(3))
    with pytest.raises(LoquentError, match="cannot follow a driving video"):
        TalkingHead(make_system()).prepare(average_portrait(64), drive=video, controls=Controls())
    with pytest.raises(ControlsError, match="drive lips is 3"):
        DriveSettings(lips=3)
