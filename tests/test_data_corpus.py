from pathlib import Path

import numpy as np
import pytest

from loquent.data import recordings, texts, voices
from loquent.data.corpus import Sources, build, join
from loquent.data.phones import PHONE_INDEX, track_from_segments
from loquent.data.shards import Corpus
from loquent.data.voices import Recording
from loquent.errors import MissingExtraError, SpeechError
from loquent.speech.text_to_speech import Espeak

_SHARED_SPEECH = Path(__file__).parents[2] / "shared/data/speech"


@pytest.fixture(scope="module")
def espeak():
    try:
        return Espeak.shared()
    except MissingExtraError as error:
        pytest.skip(str(error))


def _recording(name: str, start_s: float, end_s: float, duration_s: float) -> Recording:
    samples = np.zeros(int(duration_s * 16_000), np.float32)
    samples[int(start_s * 16_000) : int(end_s * 16_000)] = 0.1
    return Recording(samples, track_from_segments([((name,), start_s, end_s)], duration_s), "test")


def test_joined_recordings_keep_sound_and_labels_together():
    joined = join([_recording("aa", 0.1, 0.5, 0.6), _recording("iy", 0.0, 0.4, 0.4)], np.random.default_rng(0))
    frames = joined.track.frames(int(joined.track.duration_s * 100))
    loud = joined.samples[::160][: len(frames)] > 0
    assert (loud != (frames != PHONE_INDEX["sil"])).sum() <= 4  # one frame at each of four bounds
    silent = joined.track.ids == PHONE_INDEX["sil"]
    assert not (silent[1:] & silent[:-1]).any()


def test_what_is_not_installed_leaves_its_share_to_the_others():
    shares = Sources(real=[], engines=[]).shares()
    assert set(shares) == {"espeak-en", "espeak"}
    assert sum(shares.values()) == pytest.approx(1)


def test_a_small_corpus_is_whole_and_its_plan_follows_the_seed(espeak, tmp_path, monkeypatch):
    monkeypatch.setattr("loquent.data.corpus.available_engines", list)  # espeak-ng alone: the others start programs
    for name in ("first", "again"):
        build(tmp_path / name, hours=0.006, seed=5)
    first, again = Corpus(tmp_path / "first"), Corpus(tmp_path / "again")
    assert len(first) == len(again) >= 2
    for number in range(len(first)):
        item, same = first.read(number), again.read(number)
        np.testing.assert_array_equal(item.style, same.style)
        assert (item.emotion_id, item.speaker, item.language) == (same.emotion_id, same.speaker, same.language)
        assert len(item.motion) == pytest.approx(len(same.motion), rel=0.05)  # espeak-ng's own noise goes on
        assert np.abs(item.audio).max() > 500
        assert 0.3 < (item.phones != 0).mean() < 1


def test_every_sound_of_every_language_is_known(espeak):
    rng = np.random.default_rng(0)
    for language in texts.LANGUAGES:
        spoken = espeak.say(texts.sentence(language, rng), language)
        unknown = {
            name for name, _ in spoken.phones if name and not name.startswith("(") and not voices.parts_of_ipa(name)
        }
        assert len(unknown) <= 1, (language, unknown)


def test_a_voiceless_stop_holds_its_closure(espeak):
    recording = voices.say_with_espeak("papa papa", "it", 150, 50, 50)
    lengths_s = np.diff(recording.track.bounds_s)[recording.track.is_any(("p",))]
    assert (lengths_s[1:] > 0.06).all()


def test_sentences_differ_and_follow_the_seed():
    rng = np.random.default_rng(0)
    drawn = [texts.english_sentence(rng) for _ in range(300)]
    assert len(set(drawn)) > 200
    rng = np.random.default_rng(0)
    assert drawn == [texts.english_sentence(rng) for _ in range(300)]


def test_a_missing_program_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SpeechError, match="apt install flite"):
        voices.say_with_flite("hello", "slt")


def test_words_that_the_dictionary_lacks_are_named():
    pytest.importorskip("pocketsphinx")
    with pytest.raises(SpeechError, match="xyzzyblorb"):
        recordings.align(np.zeros(16_000, np.float32), "hello xyzzyblorb")


def test_held_out_sentences_stay_out():
    pytest.importorskip("pocketsphinx")
    if not _SHARED_SPEECH.is_dir():
        pytest.skip(f"needs the recordings in {_SHARED_SPEECH}")
    assert "LJ001-0025" in recordings.LJ_HELD_OUT
    aligned = recordings.read_ljspeech(_SHARED_SPEECH)
    assert len(aligned) == 8  # those with a transcript in metadata.csv
    for recording in aligned:
        assert recording.track.duration_s == pytest.approx(len(recording.samples) / 16_000, abs=0.02)
