import json
import threading
import time

import av
import numpy as np
import pytest

import loquent
from fakes import make_system
from loquent import provenance
from loquent.errors import ControlsError, LoquentError, WeightsError
from loquent.motion.control_track import ControlTrack
from loquent.pipeline import Ahead, TalkingHead, VideoSettings, average_portrait
from loquent.systems import choose_device, find_system
from loquent.types import ARKIT_INDEX, Controls, Motion

RATE_HZ = 16_000


@pytest.fixture
def head():
    return TalkingHead(make_system())


@pytest.fixture
def portrait():
    return average_portrait(64)


def ramp(duration_s: float) -> tuple[np.ndarray, int]:
    """Speech whose loudness grows evenly from 0 to 1."""
    return np.linspace(0, 1, round(duration_s * RATE_HZ), dtype=np.float32), RATE_HZ


@pytest.mark.parametrize("fps", [23.976, 24, 25, 29.97, 30, 50, 60])
def test_video_is_as_long_as_the_sound(head, portrait, tmp_path, fps):
    clip = head.animate(portrait, ramp(3.21), output=tmp_path / "talk.mp4", fps=fps)
    assert abs(clip.num_frames / fps - 3.21) <= 0.5 / fps + 1e-6
    with av.open(str(clip.path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == clip.num_frames == len(clip.motion)


def test_frames_follow_the_sound_in_time(head, portrait):
    clip = head.animate(portrait, ramp(4.0), fps=50)
    expected = np.arange(clip.num_frames) / 50 / 4.0 * 255
    np.testing.assert_allclose(clip.frames[:, 0, 0, 0], expected, atol=4)  # the loudness is a mean over 40 ms


def test_stream_yields_the_frames_of_animate_one_by_one(head, portrait):
    frames = head.stream(portrait, ramp(20.0))
    first = next(frames)
    assert head.system.generator.pieces_made < 20 * 25 / 40  # the end is not made yet
    frames.close()
    assert first.shape == (64, 64, 3)
    np.testing.assert_array_equal(
        np.stack(list(head.stream(portrait, ramp(1.0)))), head.animate(portrait, ramp(1.0)).frames
    )


def test_stream_refuses_bad_input_at_once(head, portrait):
    with pytest.raises(LoquentError, match=r"at least 0\.2 s"):
        head.stream(portrait, ramp(0.1))


def test_closing_a_stream_ends_its_thread(head, portrait):
    frames = head.stream(portrait, ramp(20.0))
    next(frames)
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "loquent-ahead"]


def test_progress_counts_every_frame(head, portrait):
    seen = []
    head.animate(portrait, ramp(1.0), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 25) for done in range(1, 26)]


def test_interruption_leaves_nothing_behind(head, portrait, tmp_path):
    def interrupt(done, total):
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        head.animate(portrait, ramp(4.0), output=tmp_path / "talk.mp4", progress=interrupt, sidecar=True)
    assert list(tmp_path.iterdir()) == []


def test_motion_alone_is_what_the_video_shows(head, portrait):
    motion = head.motion(ramp(2.0), portrait, fps=30)
    np.testing.assert_array_equal(motion.to_vector(), head.animate(portrait, ramp(2.0), fps=30).motion.to_vector())
    assert motion.rate_hz == 30


def test_motion_without_a_photo(head):
    assert len(head.motion(ramp(2.0))) == 50


def test_given_motion_is_drawn_silently(head, portrait, tmp_path):
    motion = Motion.neutral(700)
    motion.expression[:, ARKIT_INDEX["jawOpen"]] = np.linspace(0, 1, 700)
    clip = head.animate(portrait, motion=motion, output=tmp_path / "talk.mp4")
    assert clip.num_frames == 700
    assert head.system.generator.pieces_made == 0
    np.testing.assert_allclose(clip.motion.to_vector(), motion.to_vector(), atol=1e-5)
    with av.open(str(clip.path)) as container:
        assert not container.streams.audio


def test_given_motion_lasts_as_long_as_the_speech(head, portrait):
    motion = Motion.neutral(10)
    assert head.animate(portrait, ramp(2.0), motion=motion).num_frames == 50
    assert head.animate(portrait, ramp(0.3), motion=motion).num_frames == 8


def test_neither_speech_nor_motion(head, portrait):
    with pytest.raises(LoquentError, match="neither speech nor motion"):
        head.animate(portrait)


def test_errors_of_the_generator_reach_the_caller(head, portrait, monkeypatch, tmp_path):
    def fail(features, portrait, controls):
        raise WeightsError("broken")
        yield

    monkeypatch.setattr(head.system.generator, "generate", fail)
    with pytest.raises(WeightsError, match="broken"):
        head.animate(portrait, ramp(1.0), output=tmp_path / "talk.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["talk.mp4", "talk.webm", "talk.gif", "pictures"])
def test_every_format_says_that_it_is_generated(head, portrait, tmp_path, name):
    controls = Controls(emotion="anger", seed=7)
    clip = head.animate(portrait, ramp(0.5), controls, tmp_path / name, fps=20, sidecar=True)
    found = provenance.read_statement(tmp_path / name)
    assert found["generated"] is True
    assert found["settings"] == json.loads(json.dumps(clip.settings))
    assert found["settings"]["controls"]["seed"] == 7
    assert {item["role"] for item in found["ingredients"]} == {"photo", "speech"}
    assert all(len(item["sha256"]) == 64 for item in found["ingredients"] if item["role"] == "speech")
    sidecar = json.loads((tmp_path / f"{name}.json").read_text())
    assert (
        sidecar["settings_sha256"] == found["settings_sha256"] == provenance.recorded_settings_sha256(tmp_path / name)
    )


def test_comment_is_readable_in_the_file(head, portrait, tmp_path):
    head.animate(portrait, ramp(0.5), output=tmp_path / "talk.mp4")
    with av.open(str(tmp_path / "talk.mp4")) as container:
        assert container.metadata["comment"].startswith(provenance.SENTENCE)


def test_a_video_by_another_program_says_nothing(tmp_path):
    path = tmp_path / "other.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    assert provenance.read_statement(path) is None
    assert provenance.recorded_settings_sha256(path) is None
    assert provenance.recorded_settings_sha256(tmp_path / "absent.mp4") is None


def test_settings_hash_ignores_order_and_sees_values():
    assert provenance.settings_sha256({"a": 1, "b": 2}) == provenance.settings_sha256({"b": 2, "a": 1})
    assert provenance.settings_sha256({"a": 1}) != provenance.settings_sha256({"a": 2})


def test_ahead_keeps_order_and_stays_near():
    made = []

    def count():
        for number in range(20):
            made.append(number)
            yield number

    items = Ahead(count(), depth=2)
    assert next(items) == 0
    time.sleep(0.05)
    assert len(made) <= 5  # taken, two waiting, one in hand
    assert list(items) == list(range(1, 20))


def test_unknown_system_names_the_nearest():
    with pytest.raises(LoquentError, match=r"unknown system 'startr', nearest is 'starter'; known: starter, moda"):
        find_system("startr")


def test_the_starter_is_in_the_package_and_moda_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("LOQUENT_CACHE", str(tmp_path))
    assert not find_system().released
    assert find_system().lacks == ""
    assert find_system("moda").released
    assert "loquent fetch moda" in find_system("moda").lacks


def test_options_are_for_systems_that_have_some():
    with pytest.raises(ControlsError, match="no options of its own; leave out stitching"):
        TalkingHead.from_pretrained("starter", "cpu", {"stitching": False})


def test_a_folder_of_weights_is_a_system(tmp_path):
    with pytest.raises(WeightsError, match=r"no config\.json"):
        find_system(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert find_system(str(tmp_path)).weights == tmp_path


@pytest.mark.parametrize("system", ["starter", "ifmdm", "moditalker"])
def test_a_generators_weights_tell_their_system(system):
    folder = find_system(system).weights
    entry = find_system(str(folder))
    assert (entry.name, entry.weights, entry.build) == (folder.name, folder, find_system(system).build)


@pytest.mark.parametrize(
    ("parts", "system"),
    [(("generator", "renderer"), "moda"), (("motion", "renderer"), "ifmdm"), (("atom", "video"), "moditalker")],
)
def test_a_folder_of_all_networks_tells_its_system(tmp_path, parts, system):
    for part in parts:
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    entry = find_system(str(tmp_path))
    assert (entry.weights, entry.build, entry.released) == (tmp_path, find_system(system).build, False)


@pytest.mark.parametrize(
    ("device", "words"), [("gpu", "unknown device"), ("cuda:99", "cannot use"), ("cpu:x", "unknown")]
)
def test_devices_that_do_not_exist(device, words):
    with pytest.raises(LoquentError, match=words):
        choose_device(device)


def test_public_names_resolve():
    for name in loquent.__all__:
        assert getattr(loquent, name) is not None
    with pytest.raises(AttributeError):
        loquent.Nothing  # noqa: B018


@pytest.mark.parametrize("name", ["talk.mp4", "talk.webm", "talk.mkv", "talk.gif", "pictures"])
def test_a_control_track_moves_the_head_and_travels_with_the_video(head, portrait, tmp_path, name):
    track = ControlTrack([{"time_s": 0.1 * i, "head_yaw_deg": (-1) ** i * i / 500, "lips": 1} for i in range(2000)])
    controls = Controls(seed=4, track=track)
    clip = head.animate(portrait, ramp(0.4), controls, output=tmp_path / name)
    assert np.abs(np.diff(clip.motion.rotation[:, 1])).max() > 0
    found = provenance.read_statement(tmp_path / name)
    assert found is not None
    assert Controls.from_dict(found["settings"]["controls"]) == controls


def test_a_track_and_a_given_motion_cannot_go_together(head, portrait):
    controls = Controls(track=ControlTrack([{"time_s": 0}]))
    with pytest.raises(LoquentError, match="leave one out"):
        head.prepare(portrait, ramp(0.4), controls, motion=Motion.neutral(10))


def test_a_track_that_outlasts_the_speech_is_said(head, portrait, caplog):
    head.prepare(portrait, ramp(0.4), Controls(track=ControlTrack([{"time_s": 0}, {"time_s": 3}])))
    assert "goes on to 3.0 s; the speech ends at 0.4 s" in caplog.text


def test_video_settings_are_recorded(head, portrait):
    work = head.prepare(portrait, ramp(0.5), video=VideoSettings(fps=30))
    assert work.settings["video"]["fps"] == 30
