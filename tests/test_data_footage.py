"""Video files into a video corpus."""

from importlib.resources import files

import cv2
import numpy as np
import pytest
import soundfile

from loquent.data import footage
from loquent.data.footage import build, cut_clips, even_frames, list_videos
from loquent.data.video_shards import VideoCorpus
from loquent.errors import VideoError
from loquent.media.audio import read_audio
from loquent.media.image import read_image
from loquent.media.video import VideoWriter
from loquent.types import Face

SIDE_PX = 256
EXAMPLE = str(files("loquent") / "examples" / "speech.flac")


@pytest.fixture(scope="module")
def portrait():
    pixels = read_image(str(files("loquent") / "examples" / "portrait_a.jpg")).pixels
    scale = 1.3 * SIDE_PX / pixels.shape[1]
    small = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(small[: small.shape[0] // 2 * 2, : small.shape[1] // 2 * 2])


@pytest.fixture
def write(tmp_path):
    def write(frames, fps=25, name="anna.mp4", *, sound=True):
        path = tmp_path / name
        soundfile.write(tmp_path / "word.wav", *soundfile.read(EXAMPLE, start=16_000))  # it begins with silence
        speech = read_audio(tmp_path / "word.wav") if sound else None
        with VideoWriter(path, (frames[0].shape[1], frames[0].shape[0]), fps, speech=speech) as writer:
            for frame in frames:
                writer.write(frame)
        return path

    return write


@pytest.fixture
def known_faces(monkeypatch):
    """A face finder that reads the face's place from the brightness of the frame's corner: x in pixels, 0 for none."""

    def find(pixels):
        x = float(pixels[:8, :8].mean())
        return [Face(np.add(FACE, [x, 0, 0], dtype=np.float32))] if x > 20 else []

    monkeypatch.setattr(footage.embedded, "find_landmarks", find)
    monkeypatch.setattr(
        footage.embedded, "follow_landmarks", lambda pixels, before: next((f.landmarks for f in find(pixels)), None)
    )
    monkeypatch.setattr(footage, "refine_inner_lips", lambda pixels, landmarks: landmarks)


def _face() -> np.ndarray:
    from loquent.motion.face_model import face_tables

    return face_tables().neutral * 80 + [0, 120, 0]


FACE = _face()


def frame_at(x: float) -> np.ndarray:
    return np.full((SIDE_PX, SIDE_PX, 3), round(x), np.uint8)


def test_frames_come_at_25_a_second_as_they_are_seen(write):
    path = write([frame_at(4 * i) for i in range(50)], fps=50, sound=False)
    levels = [float(frame.mean()) for frame in even_frames(path)]
    assert len(levels) == 25
    np.testing.assert_allclose(np.diff(levels), 8, atol=3)


def test_a_real_face_is_followed_and_cut(portrait, write, tmp_path, monkeypatch):
    monkeypatch.setattr(footage, "LEAST_CLIP_FRAMES", 10)
    sway = np.sin(0.6 * np.arange(12))
    path = write([np.roll(portrait, shift, axis=1) for shift in np.round(6 * sway).astype(int)])
    assert build([path], tmp_path / "corpus", 128) == 13
    corpus = VideoCorpus(tmp_path / "corpus")
    assert [(clip.kind, clip.num_frames, clip.person) for clip in corpus.clips] == [
        ("photo", 1, "anna"),
        ("speech", 12, "anna"),
    ]
    eyes = corpus.landmarks(1)[:, [33, 263], :2].mean(1)
    assert np.corrcoef(eyes[:, 0], sway)[0, 1] > 0.9
    assert np.abs(eyes[:, 0] - 64).max() < 20
    assert np.abs(corpus.audio(1)).max() > 500
    assert np.degrees(np.abs(corpus.motion(1)[:, 52:55]).max()) < 10


def test_clips_end_where_the_face_is_lost_jumps_or_leaves(write, known_faces, monkeypatch):
    monkeypatch.setattr(footage, "LEAST_CLIP_FRAMES", 4)
    places = [100] * 8 + [0] * 2 + [100] * 6 + [200] * 7 + [100 + 6 * i for i in range(14)]
    clips = list(cut_clips(write([frame_at(x) for x in places], sound=False), 64))
    assert clips[0].kind == "photo"
    assert [len(clip) for clip in clips[1:4]] == [8, 6, 6]
    assert all(clip.kind == "free" for clip in clips[1:])
    drift = [np.abs(clip.landmarks[:, :, 0].mean(1) - 32).max() for clip in clips]
    assert max(drift) < 0.2 * 64


def test_long_takes_are_divided(write, known_faces, monkeypatch):
    monkeypatch.setattr(footage, "LEAST_CLIP_FRAMES", 4)
    monkeypatch.setattr(footage, "MOST_CLIP_FRAMES", 10)
    clips = list(cut_clips(write([frame_at(120)] * 24), 64))
    assert [len(clip) for clip in clips[1:]] == [10, 10, 4]
    joined = np.concatenate([clip.audio for clip in clips[1:]])
    assert len(joined) == 24 * 640
    assert np.abs(joined).max() > 100


def test_files_without_a_face_are_left_out(write, tmp_path, caplog):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    empty = write([np.zeros((64, 64, 3), np.uint8)] * 3, sound=False)
    with pytest.raises(VideoError, match="no clip of a face"):
        build([tmp_path / "broken.mp4", empty], tmp_path / "corpus", 64)
    assert "broken.mp4" in caplog.text


def test_files_beyond_the_limits_are_refused(write, monkeypatch):
    monkeypatch.setattr(footage, "MAX_FILE_S", 0.1)
    with pytest.raises(VideoError, match="cut or shrink it"):
        next(even_frames(write([frame_at(0)] * 10, sound=False)))


def test_folders_are_searched(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("b.mp4", "a.txt", "more/c.MOV"):
        (tmp_path / name).touch()
    assert [path.name for path in list_videos([tmp_path])] == ["b.mp4", "c.MOV"]
