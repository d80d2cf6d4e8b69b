import io
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from loquent.errors import SpeechError
from loquent.media import limits, read_audio


def sweep(rate_hz: int, channels: int = 1, duration_s: float = 1.5) -> np.ndarray:
    """(N, C), amplitude 0.3, rising from 200 Hz by 500 Hz a second in every channel, so that every shift shows."""
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    wave = 0.3 * np.sin(2 * np.pi * (200 * time_s + 250 * time_s**2))
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def wav(samples: np.ndarray, rate_hz: int, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def encode(
    path: Path, codec: str, rate_hz: int, channels: int = 1, duration_s: float = 1.5, video: bool = False
) -> Path:
    """Writes the sweep through FFmpeg; `video` adds pictures."""
    with av.open(str(path), "w") as container:
        if video:
            pictures = container.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        if video:
            for _ in range(10):
                container.mux(pictures.encode(av.VideoFrame(64, 48, "yuv420p")))
            container.mux(pictures.encode(None))
        planar = np.ascontiguousarray(sweep(rate_hz, channels, duration_s).T)
        frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def deviation(samples: np.ndarray) -> float:
    """Largest difference to the sweep at 16 kHz, edges apart; a shift of one sample gives at least 0.02."""
    return float(np.abs(samples - sweep(16_000, 1, len(samples) / 16_000)[:, 0])[1600:-1600].max())


def delay_s(samples: np.ndarray, start_s: float = 0.2, length_s: float = 1.0) -> float:
    """How much later than in the sweep a stretch of the samples comes, by the peak of the correlation."""
    start, length = round(start_s * 16_000), round(length_s * 16_000)
    piece = samples[start : start + length]
    reference = sweep(16_000, 1, start_s + length_s + 1.0)[:, 0]
    correlation = np.correlate(reference[max(0, start - 3200) : start + length + 3200], piece, "valid")
    return (start - max(0, start - 3200) - int(correlation.argmax())) / 16_000


@pytest.mark.parametrize("channels", [1, 2, 6, 10])
@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_wav_of_any_rate_and_channels(rate_hz, channels):
    speech = read_audio(wav(sweep(rate_hz, channels), rate_hz))
    assert speech.rate_hz == 16_000
    assert speech.samples.dtype == np.float32
    assert abs(len(speech.samples) - 24_000) <= 1
    assert deviation(speech.samples) < 1e-3


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_wav_of_any_sample_type(subtype):
    speech = read_audio(wav(sweep(16_000), 16_000, subtype))
    assert deviation(speech.samples) < (0.02 if subtype in ("PCM_U8", "ULAW") else 1e-3)


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "channels"),
    [
        ("a.mp3", "libmp3lame", 44_100, 2),
        ("a.m4a", "aac", 44_100, 2),
        ("a.m4a", "aac", 8_000, 1),
        ("a.m4a", "aac", 48_000, 6),
        ("a.ogg", "libopus", 48_000, 1),
        ("a.webm", "libopus", 48_000, 2),
        ("a.flac", "flac", 96_000, 2),
        ("a.mka", "ac3", 48_000, 6),
    ],
)
def test_compressed_formats_keep_time_and_length(tmp_path, name, codec, rate_hz, channels):
    speech = read_audio(encode(tmp_path / name, codec, rate_hz, channels))
    assert speech.duration_s == pytest.approx(1.5, abs=0.01)
    assert abs(delay_s(speech.samples)) <= 1 / 16_000


def test_sound_track_of_a_video(tmp_path):
    speech = read_audio(encode(tmp_path / "a.mp4", "aac", 44_100, 2, video=True))
    assert speech.duration_s == pytest.approx(1.5, abs=0.01)
    assert abs(delay_s(speech.samples)) <= 1 / 16_000


def test_channels_are_mixed_without_the_low_frequency_one():
    left_only = np.zeros((16_000, 2), np.float32)
    left_only[:, 0] = 0.5
    assert read_audio(wav(left_only, 16_000)).samples[8000] == pytest.approx(0.25, abs=1e-3)
    surround = np.zeros((16_000, 6), np.float32)
    surround[:, 3] = 0.5  # FL FR FC LFE BL BR
    assert np.abs(read_audio(wav(surround, 16_000)).samples).max() < 1e-3


def test_path_file_and_bytes_agree(tmp_path):
    path = tmp_path / "ä: speech.wav"
    path.write_bytes(wav(sweep(16_000), 16_000))
    by_path, by_bytes = read_audio(str(path)), read_audio(path.read_bytes())
    with path.open("rb") as file:
        by_file = read_audio(file)
    for speech in (by_bytes, by_file):
        np.testing.assert_array_equal(speech.samples, by_path.samples)
        assert speech.sha256 == by_path.sha256
    assert by_path.name == by_file.name == path.name
    assert by_path.source == path.resolve()
    assert by_bytes.source == path.read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(wav(sweep(16_000), 16_000),))
    writer.start()
    speech = read_audio(pipe)
    writer.join()
    assert deviation(speech.samples) < 1e-3


def test_arrays_of_every_kind():
    samples = sweep(48_000)[:, 0]
    for array in (
        samples,
        samples.astype(np.float64),
        (samples * 32768).astype(np.int16),
        sweep(48_000, 2).T,
        sweep(48_000, 2),
    ):
        speech = read_audio((array, 48_000))
        assert deviation(speech.samples) < 1e-3
        assert isinstance(speech.source, bytes)
    assert read_audio((samples, 48_000)).sha256 == read_audio((samples.copy(), 48_000)).sha256


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.full(16_000, np.nan, np.float32), "not finite"),
        (np.full(16_000, 20_000.0), "scale them"),
        (np.zeros((2, 3, 4)), r"wanted \(N,\)"),
    ],
)
def test_arrays_that_are_no_sound(array, words):
    with pytest.raises(SpeechError, match=words):
        read_audio((array, 16_000))


def test_silence_is_accepted_with_a_warning(caplog):
    assert not read_audio(wav(np.zeros(16_000), 16_000)).samples.any()
    assert "silent" in caplog.text


def test_clipping_is_accepted_with_a_warning(caplog):
    speech = read_audio(wav(np.clip(10 * sweep(16_000), -1, 1), 16_000))
    assert np.abs(speech.samples).max() <= 1.0
    assert "clipped" in caplog.text


def test_a_normal_level_gives_no_warning(caplog):
    read_audio(wav(sweep(16_000) / 0.3, 16_000))  # touches full scale without staying there
    assert not caplog.records


@pytest.mark.parametrize("duration_s", [0.0, 0.01, 0.19])
def test_too_short(duration_s):
    with pytest.raises(SpeechError, match=r"at least 0\.2 s|no samples"):
        read_audio(wav(sweep(16_000, 1, duration_s), 16_000))


def test_too_short_sound_is_not_called_silent(caplog):
    with pytest.raises(SpeechError, match=r"at least 0\.2 s"):
        read_audio(wav(np.zeros(1_600), 16_000))
    assert not caplog.records


def test_two_tenths_of_a_second_are_enough():
    assert read_audio(wav(sweep(44_100, 1, 0.2), 44_100)).duration_s == pytest.approx(0.2)


def test_too_long(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SPEECH_S", 1.0)
    with pytest.raises(SpeechError, match="longer than"):
        read_audio(wav(sweep(16_000), 16_000))


@pytest.mark.parametrize("data", [b"words, not sound\n" * 100, bytes(range(256)) * 20])
def test_files_that_are_no_sound(data):
    with pytest.raises(SpeechError, match=r"not a sound or video file|no sound"):
        read_audio(data)


def test_wav_with_values_that_are_not_numbers():
    with pytest.raises(SpeechError, match="not finite"):
        read_audio(wav(np.full(16_000, np.nan, np.float32), 16_000, "FLOAT"))


def test_missing_empty_folder_and_silent_film(tmp_path):
    with pytest.raises(SpeechError, match="no such file"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(SpeechError, match="is a folder"):
        read_audio(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(SpeechError, match="empty"):
        read_audio(tmp_path / "empty.wav")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(SpeechError, match="no sound in this file"):
        read_audio(tmp_path / "film.mp4")


def test_a_playlist_cannot_open_other_files(tmp_path):
    path = encode(tmp_path / "secret.ts", "aac", 44_100)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.5,\n{path}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    with pytest.raises(SpeechError):
        read_audio(tmp_path / "list.m3u8")


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mka", "libopus"), ("a.flac", "flac")])
def test_damage_in_the_middle_keeps_what_follows_in_time(tmp_path, caplog, name, codec):
    path = encode(tmp_path / name, codec, 48_000, duration_s=6.0)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 20] = np.random.default_rng(0).bytes(len(data) // 20)
    speech = read_audio(bytes(data))
    assert speech.duration_s == pytest.approx(6.0, abs=0.15)
    assert abs(delay_s(speech.samples, start_s=1.0)) <= 0.001
    assert abs(delay_s(speech.samples, start_s=4.9)) <= 0.002  # Matroska counts milliseconds
    assert "damaged" in caplog.text or "missing" in caplog.text


def test_cut_off_file_gives_what_there_is():
    data = wav(sweep(16_000, duration_s=4.0), 16_000)
    speech = read_audio(data[: len(data) // 2])
    assert speech.duration_s == pytest.approx(2.0, abs=0.05)


def test_long_recordings_are_mapped_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(limits, "SPEECH_IN_MEMORY_S", 2.0)
    path = tmp_path / "long.wav"
    path.write_bytes(wav(sweep(16_000, duration_s=6.0), 16_000))
    speech = read_audio(path)
    assert isinstance(speech.samples, np.memmap)
    assert not speech.samples.flags.writeable
    assert [file.name for file in tmp_path.iterdir()] == ["long.wav"]
    assert speech.duration_s == 6.0
    assert deviation(np.asarray(speech.samples)) < 1e-3
