import itertools
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest
import soundfile

import loquent.media.video as video_module
from loquent.errors import SpeechError, VideoError
from loquent.media import VideoWriter, parse_fps, probe, read_audio, read_video_frames

SIZE = (64, 48)
RATES = ["23.976", 24, 25, "29.97", 30, 50, 60]
SATURATED = [
    *itertools.product((0, 255), repeat=3),
    *((128, 128, 128), (200, 120, 100), (90, 50, 40), (240, 200, 180)),
]  # corners of the cube, grey, three skin colours


def frame(index: int = 0, size=SIZE) -> np.ndarray:
    """A grey picture whose brightness tells its number."""
    return np.full((size[1], size[0], 3), 40 + 8 * (index % 20), np.uint8)


def write(path, count: int = 10, fps=25, size=SIZE, **options):
    with VideoWriter(path, size, fps, preset="ultrafast", **options) as writer:
        for index in range(count):
            writer.write(frame(index, size))
    return path


def noise(rate_hz: int = 16_000, channels: int = 1, duration_s: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(rate_hz * duration_s), channels)).astype(np.float32)


def sound_file(path, rate_hz: int = 16_000, channels: int = 1, duration_s: float = 1.0, codec: str | None = None):
    """Writes noise by soundfile, or by FFmpeg where a codec is named."""
    samples = noise(rate_hz, channels, duration_s)
    if codec is None:
        soundfile.write(path, samples, rate_hz)
        return path
    with av.open(str(path), "w") as container:
        layout = {1: "mono", 2: "stereo"}[channels]
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        block.sample_rate, block.pts, block.time_base = rate_hz, 0, Fraction(1, rate_hz)
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


def sound_packets(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def write_and_fail(path, error, **options):
    """Raises `error` in the middle of a video."""
    with VideoWriter(path, SIZE, **options) as writer:
        for index in range(10):
            writer.write(frame(index))
        raise error


def files_in(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        ("23.976", Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        (25, Fraction(25)),
        (24.0, Fraction(24)),
        ("12.5", Fraction(25, 2)),
    ],
)
def test_parse_fps(given, exact):
    assert parse_fps(given) == exact


@pytest.mark.parametrize("given", ["fast", "", "1/0", 0, -25, 1000, float("nan"), float("inf")])
def test_parse_fps_refuses(given):
    with pytest.raises(VideoError, match="frame rate"):
        parse_fps(given)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("fps", RATES)
def test_pictures_are_as_long_as_the_sound(tmp_path, fps, suffix):
    speech = read_audio(sound_file(tmp_path / "a.wav", 44_100, 2, duration_s=1.7653))
    exact = parse_fps(fps)
    info = probe(write(tmp_path / f"v{suffix}", speech.num_frames(float(exact)), fps, speech=speech))
    assert abs(info.fps - exact) < Fraction(1, 1000)
    assert info.num_frames == speech.num_frames(float(exact))
    assert info.duration_s == pytest.approx(info.num_frames / exact, abs=0.002)
    assert abs(info.duration_s - speech.duration_s) <= 1 / exact
    assert abs(info.audio_duration_s - speech.duration_s) <= 1 / exact


def test_frame_times_and_order(tmp_path):
    path = write(tmp_path / "v.mp4", 40, "29.97", quality=95)
    frames = list(read_video_frames(path))
    assert len(frames) == 40
    for index, (pixels, time_s) in enumerate(frames):
        assert time_s == pytest.approx(index * 1001 / 30000, abs=1e-4)
        assert np.abs(pixels.astype(int) - frame(index)).max() <= 2


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
@pytest.mark.parametrize("height", [240, 246, 720])  # 246: colours, at half the size, of an odd height
def test_colours_survive_and_tags_match_the_matrix(tmp_path, height, suffix):
    card = np.repeat(np.repeat(np.array(SATURATED, np.uint8).reshape(3, 4, 3), height // 3, 0), 40, 1)
    path = tmp_path / f"v{suffix}"
    with VideoWriter(path, (160, height), preset="ultrafast", quality=90) as writer:
        for _ in range(3):
            writer.write(card)
    centres = np.ix_([height // 6, height // 2, 5 * height // 6], [20, 60, 100, 140])
    for pixels, _ in read_video_frames(path):
        assert np.abs(pixels[centres].astype(int) - card[centres]).max() <= 3
    if suffix != ".gif":
        assert probe(path).colour == (1, 1, 1 if height >= 720 else 6, 1)


def test_the_index_comes_first(tmp_path):
    data = write(tmp_path / "v.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("sound", "codec", "suffix"),
    [("a.m4a", "aac", ".mp4"), ("a.ogg", "libopus", ".webm"), ("a.mp3", "libmp3lame", ".mkv")],
)
def test_sound_is_copied_where_the_file_may_hold_it(tmp_path, sound, codec, suffix):
    path = sound_file(tmp_path / sound, 48_000, 2, codec=codec)
    speech = read_audio(path)
    video = write(tmp_path / f"v{suffix}", speech.num_frames(25), speech=speech)
    assert sound_packets(video) == sound_packets(path)
    assert read_audio(video).duration_s == pytest.approx(speech.duration_s, abs=0.03)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (22_050, 2), (44_100, 2), (48_000, 6)])
def test_sound_is_encoded_at_its_own_rate_and_channels(tmp_path, rate_hz, channels):
    speech = read_audio(sound_file(tmp_path / "a.wav", rate_hz, channels))
    info = probe(write(tmp_path / "v.mp4", 25, speech=speech))
    assert (info.audio_codec, info.audio_rate_hz, info.audio_channels) == ("aac", rate_hz, channels)
    info = probe(write(tmp_path / "v.webm", 25, speech=speech))
    assert (info.audio_codec, info.audio_rate_hz, info.audio_channels) == ("opus", 48_000, channels)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize(
    ("sound", "codec"), [("a.wav", None), ("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.ogg", "libopus")]
)
def test_sound_stays_in_step_with_the_pictures(tmp_path, sound, codec, suffix):
    """The sound of the video, read again, equals the speech that was read before, without a shift."""
    speech = read_audio(sound_file(tmp_path / sound, 48_000, codec=codec))
    again = read_audio(write(tmp_path / f"v{suffix}", speech.num_frames(25), speech=speech))
    piece = np.asarray(speech.samples)[4000:12_000]
    shift = int(np.correlate(again.samples[3200:12_800], piece, "valid").argmax()) - 800
    assert abs(shift) <= 16  # 1 ms: WebM counts milliseconds
    first_s = []
    for kind in ("video", "audio"):
        with av.open(str(tmp_path / f"v{suffix}")) as container:
            first_s.append(next(container.decode(**{kind: 0})).time)
    assert first_s == pytest.approx([0, 0], abs=0.01)


def test_sound_of_unusual_channels(tmp_path):
    for channels, heard in [(3, 2), (10, 2)]:
        speech = read_audio(sound_file(tmp_path / f"{channels}.wav", 16_000, channels))
        assert probe(write(tmp_path / "v.mp4", 25, speech=speech)).audio_channels == heard


def test_damaged_sound_is_not_copied(tmp_path):
    path = sound_file(tmp_path / "a.m4a", 48_000, duration_s=3.0, codec="aac")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    path.write_bytes(data)
    speech = read_audio(path)
    assert not speech.intact
    video = write(tmp_path / "v.mp4", speech.num_frames(25), speech=speech)
    assert read_audio(video).intact
    assert read_audio(video).duration_s == pytest.approx(speech.duration_s, abs=0.03)


def test_sound_from_memory(tmp_path):
    speech = read_audio((noise(44_100)[:, 0], 44_100))
    info = probe(write(tmp_path / "v.mp4", 25, speech=speech))
    assert info.audio_rate_hz == 44_100
    assert info.audio_duration_s == pytest.approx(1.0, abs=0.001)


def test_sound_beyond_the_pictures_is_left_out(tmp_path):
    speech = read_audio(sound_file(tmp_path / "a.wav", duration_s=3.0))
    assert probe(write(tmp_path / "v.mp4", 25, speech=speech)).audio_duration_s == pytest.approx(1.0, abs=0.1)


def test_metadata(tmp_path):
    tags = {"comment": "made by ärt", "title": "x" * 5000}
    assert tags.items() <= probe(write(tmp_path / "v.mp4", metadata=tags)).metadata.items()
    webm = {key.lower(): value for key, value in probe(write(tmp_path / "v.webm", metadata=tags)).metadata.items()}
    assert tags.items() <= webm.items()
    assert "made by ärt".encode() in write(tmp_path / "v.gif", metadata=tags).read_bytes()
    with PIL.Image.open(write(tmp_path / "pictures", metadata=tags) / "frame_000003.png") as image:
        assert image.text["comment"] == "made by ärt"
    with pytest.raises(VideoError, match="unknown metadata mood"):
        VideoWriter(tmp_path / "v.mp4", SIZE, metadata={"mood": "good"})


@pytest.mark.parametrize(("fps", "expected"), [(25, 30), ("29.97", 30), (50, 30), (60, 25)])
def test_gif_keeps_the_duration(tmp_path, fps, expected):
    path = write(tmp_path / "v.gif", 30, fps, metadata={"comment": "c" * 300})
    with PIL.Image.open(path) as image:
        durations_ms = []
        for index in range(image.n_frames):
            image.seek(index)
            durations_ms.append(image.info["duration"])
    assert len(durations_ms) == expected
    assert min(durations_ms) >= 20
    assert sum(durations_ms) == pytest.approx(30_000 / parse_fps(fps), abs=11)


def test_gif_with_more_frames_than_make_the_palette(tmp_path):
    frames = [pixels for pixels, _ in read_video_frames(write(tmp_path / "v.gif", 70))]
    assert len(frames) == 70
    assert np.abs(frames[65].astype(int) - frame(65)).max() <= 8


@pytest.mark.parametrize("name", ["pictures", "pictures.png"])
def test_png_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    path = write(tmp_path / name, 3, size=(33, 21))
    assert files_in(path) == ["frame_000000.png", "frame_000001.png", "frame_000002.png"]
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(path / "frame_000002.png")), frame(2, (33, 21)))
    with pytest.raises(VideoError, match="not empty"):
        VideoWriter(path, SIZE)


@pytest.mark.parametrize("name", ["v.mp4", "v.webm", "v.gif", "pictures"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_video_leaves_nothing(tmp_path, name, error):
    speech = read_audio((noise()[:, 0], 16_000))
    with pytest.raises(error):
        write_and_fail(tmp_path / name, error, speech=speech)
    assert files_in(tmp_path) == []


def test_an_existing_file_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_and_fail(path, RuntimeError)
    assert path.read_bytes() == b"old"
    with VideoWriter(path, SIZE) as writer:
        writer.write(frame())
        assert path.read_bytes() == b"old"
    assert probe(path).num_frames == 1
    assert files_in(tmp_path) == ["v.mp4"]


def test_ctrl_c_leaves_nothing(tmp_path):
    program = f"""
import signal
import numpy as np
from loquent.media import VideoWriter
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
with VideoWriter({str(tmp_path / "v.mp4")!r}, (64, 48)) as writer:
    print("running", flush=True)
    while True:
        writer.write(np.zeros((48, 64, 3), np.uint8))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    finally:
        process.kill()
        process.stdout.close()
    assert files_in(tmp_path) == []


def test_failures_of_the_encoder_surface_in_write(tmp_path, monkeypatch):
    def fail(self, prepared):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_module.ContainerSink, "add", fail)
    with pytest.raises(VideoError, match="No space left"):
        write(tmp_path / "v.mp4", 1_000_000)
    assert files_in(tmp_path) == []


def test_the_caller_may_reuse_its_array(tmp_path):
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    with VideoWriter(tmp_path / "v.mp4", SIZE, quality=95) as writer:
        for index in range(10):
            pixels[:] = frame(index)
            writer.write(pixels)
    for index, (decoded, _) in enumerate(read_video_frames(tmp_path / "v.mp4")):
        assert np.abs(decoded.astype(int) - frame(index)).max() <= 2


@pytest.mark.parametrize("name", ["v.mp4", "v.gif", "pictures"])
def test_views_are_taken_as_they_look(tmp_path, name):
    bgr = np.zeros((2 * SIZE[1], SIZE[0], 3), np.uint8)
    bgr[:, :, 0] = 200  # blue
    with VideoWriter(tmp_path / name, SIZE) as writer:
        writer.write(bgr[::-2, :, ::-1])
    if name == "pictures":
        pixels = np.asarray(PIL.Image.open(tmp_path / name / "frame_000000.png"))
    else:
        pixels, _ = next(read_video_frames(tmp_path / name))
    assert np.abs(pixels[24, 32].astype(int) - (0, 0, 200)).max() <= 3


def test_encoding_runs_while_the_caller_works(tmp_path, monkeypatch):
    may_encode = threading.Event()
    add = video_module.ContainerSink.add

    def add_later(self, prepared):
        assert may_encode.wait(10)
        add(self, prepared)

    monkeypatch.setattr(video_module.ContainerSink, "add", add_later)
    with VideoWriter(tmp_path / "v.mp4", SIZE) as writer:
        for index in range(5):
            writer.write(frame(index))  # returns although nothing is encoded yet
        may_encode.set()
    assert probe(tmp_path / "v.mp4").num_frames == 5


def test_requests_that_cannot_be_met(tmp_path):
    for arguments, words in [
        ((tmp_path / "v.avi", SIZE), "unknown suffix"),
        ((tmp_path / "none" / "v.mp4", SIZE), "does not exist"),
        ((tmp_path, SIZE), "not a file|is a folder|not empty"),
        ((tmp_path / "v.mp4", (63, 48)), "even width"),
        ((tmp_path / "v.mp4", (8, 8)), "each side"),
        ((tmp_path / "v.mp4", SIZE, "quick"), "frame rate"),
    ]:
        if arguments[0] == tmp_path:
            (tmp_path / "something").touch()
        with pytest.raises(VideoError, match=words):
            VideoWriter(*arguments)
    with pytest.raises(VideoError, match="quality"):
        VideoWriter(tmp_path / "v.mp4", SIZE, quality=0)
    with pytest.raises(VideoError, match="unknown preset"):
        VideoWriter(tmp_path / "v.mp4", SIZE, preset="hasty")
    with pytest.raises(VideoError, match="no frames"):
        write(tmp_path / "v.mp4", 0)
    with pytest.raises(VideoError, match="wanted"), VideoWriter(tmp_path / "v.mp4", SIZE) as writer:
        writer.write(frame(size=(32, 32)))
    assert files_in(tmp_path) == ["something"]


def test_speech_without_a_readable_source(tmp_path):
    speech = read_audio(sound_file(tmp_path / "a.wav"))
    with pytest.raises(VideoError, match="no source"):
        write(tmp_path / "v.mp4", speech=replace(speech, source=None))
    (tmp_path / "a.wav").unlink()
    with pytest.raises(SpeechError, match=r"a\.wav: cannot be read"):
        write(tmp_path / "v.mp4", speech=speech)
    assert files_in(tmp_path) == []


def test_quality_and_preset_change_the_file(tmp_path):
    def size(**options) -> int:
        rng = np.random.default_rng(0)
        with VideoWriter(tmp_path / "v.mp4", (128, 128), **options) as writer:
            for _ in range(5):
                writer.write(rng.integers(0, 256, (128, 128, 3), np.uint8))
        return (tmp_path / "v.mp4").stat().st_size

    assert size(quality=40) < size(quality=80) < size(quality=100)


def test_reading_what_is_no_video(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    for read in (probe, lambda path: list(read_video_frames(path))):
        with pytest.raises(VideoError, match="not a video file"):
            read(tmp_path / "a.txt")
        with pytest.raises(VideoError, match="cannot be read"):
            read(tmp_path / "none.mp4")
        with pytest.raises(VideoError, match="no pictures"):
            read(sound_file(tmp_path / "a.wav"))


def test_frames_of_a_turned_phone_video_are_upright(tmp_path):
    card = np.zeros((48, 64, 3), np.uint8)
    card[:24, :32] = 255  # top left
    with VideoWriter(tmp_path / "v.mp4", SIZE) as writer:
        writer.write(card)
    data = bytearray((tmp_path / "v.mp4").read_bytes())
    turned = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    )
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = turned  # a quarter turn clockwise, as phones write it
    (tmp_path / "turned.mp4").write_bytes(data)
    pixels, _ = next(read_video_frames(tmp_path / "turned.mp4"))
    assert pixels.shape == (64, 48, 3)
    assert pixels[:24, 32:].mean() > 240, "what was at the top left is at the top right"
    assert pixels[40:].mean() < 15
