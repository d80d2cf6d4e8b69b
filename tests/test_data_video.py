"""The video corpus: labels that belong to the pixels, sound that belongs to the motion, people kept apart."""

import numpy as np
import pytest
import torch

from loquent.data import video
from loquent.data.people import is_test
from loquent.data.shards import Corpus, CorpusError
from loquent.data.video_shards import VideoCorpus, VideoWindows, change_light, mirror_pictures
from loquent.types import ARKIT_INDEX
from tiny_people import write_material

SIZE = 96
TRAIN, TEST = "A1", "A7"  # names on both sides of the split


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A corpus of one portrait under a training and a test name, and one blended person."""
    root = tmp_path_factory.mktemp("video")
    names = (TRAIN, TEST, "A2")
    portraits, labels, speech = write_material(root, names)
    plan = video.ClipPlan(speech=1, free=1, size_px=SIZE)
    people = video.People(portraits, labels, test=False, num_new=1, seed=0)
    frames = list(video.build(people, speech, root / "out", plan))
    return root, VideoCorpus(root / "out"), frames


def test_only_people_of_the_split_are_drawn(built):
    _, corpus, frames = built
    training = {name for name in (TRAIN, TEST, "A2") if not is_test(name)}
    assert TEST not in training
    assert training <= set(corpus.people)
    assert all(set(name.replace("m+", "+").split("+")) <= training for name in corpus.people)
    assert frames[-1] == corpus.num_frames == len(corpus.people) * (1 + video.SPEECH_FRAMES + video.FREE_FRAMES)


def test_sound_and_motion_are_those_of_the_named_recording(built):
    root, corpus, _ = built
    number = next(n for n, entry in enumerate(corpus.clips) if entry.kind == "speech")
    entry = corpus.clips[number]
    spoken = Corpus(root / "speech").read(entry.recording, entry.first_frame, entry.first_frame + entry.num_frames)
    np.testing.assert_array_equal(corpus.audio(number), spoken.audio)
    jaw = ARKIT_INDEX["jawOpen"]
    assert np.corrcoef(corpus.motion(number)[:, jaw], spoken.motion[:, jaw])[0, 1] > 0.99


def test_landmarks_lie_on_the_drawn_mouth(built):
    _, corpus, _ = built
    number = next(n for n, entry in enumerate(corpus.clips) if entry.kind == "speech")
    opening = np.diff(corpus.landmarks(number)[:, [13, 14], 1], axis=1)[:, 0]
    frames, points = corpus.frames(number), corpus.landmarks(number)
    inside = [
        frame[int(p[[13, 14], 1].mean().round()), int(p[13, 0].round())].mean()
        for frame, p in zip(frames, points, strict=True)
    ]
    assert opening.max() > 4
    assert np.corrcoef(opening, inside)[0, 1] < -0.5  # the open mouth is dark where the landmarks say it is


def test_the_photo_is_the_head_square_and_faces_have_one_size(built):
    _, corpus, _ = built
    for clips in corpus.people.values():
        points = corpus.landmarks(clips[0])[0, :, :2]
        assert corpus.clips[clips[0]].kind == "photo"
        assert np.ptp(points, axis=0).max() / SIZE == pytest.approx(1 / 1.75, rel=0.12)
        np.testing.assert_allclose((points.max(0) + points.min(0)) / 2, (SIZE - 1) / 2, atol=1.5)


def test_windows_repeat_and_go_with_their_labels(built):
    root, corpus, _ = built
    windows, again = VideoWindows(root / "out", 8, seed=1), VideoWindows(root / "out", 8, seed=1)
    for index in range(3):
        for name, value in windows[index].items():
            torch.testing.assert_close(value, again[index][name])
    item = VideoWindows(root / "out", 8, seed=2, mirror=False, light=False)[0]
    clip, start = int(item["clip"]), int(item["start"])
    wanted = torch.from_numpy(corpus.frames(clip, start, start + 8)).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(item["frames"], wanted)
    torch.testing.assert_close(item["landmarks"], torch.from_numpy(corpus.landmarks(clip, start, start + 8)))
    with pytest.raises(CorpusError, match="no clip of kind"):
        VideoWindows(root / "out", 500)


def test_mirroring_twice_and_light_keep_what_they_should(built):
    _, corpus, _ = built
    frames, points = corpus.frames(1, 0, 2), corpus.landmarks(1, 0, 2)
    back, points_back = mirror_pictures(*mirror_pictures(frames, points))
    np.testing.assert_array_equal(back, frames)
    np.testing.assert_allclose(points_back, points, atol=1e-4)
    changed = change_light(np.stack([frames[0], frames[0]]), np.random.default_rng(0))
    assert (changed != frames[0]).any()
    np.testing.assert_array_equal(changed[0], changed[1])
