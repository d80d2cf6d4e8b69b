import numpy as np
import pytest

from loquent.errors import MissingExtraError, SpeechError
from loquent.speech import text_to_speech
from loquent.speech.text_to_speech import Espeak, speak


@pytest.fixture(scope="module")
def espeak():
    try:
        return Espeak.shared()
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_a_text_is_said(espeak):
    speech = speak("The quick brown fox jumps over the lazy dog.")
    assert speech.rate_hz == 16_000
    assert 2 < speech.duration_s < 4
    assert 0.1 < np.abs(speech.samples).max() <= 1


def test_rate_and_language_are_followed(espeak):
    slow, fast = (speak("One two three four five six.", rate_wpm=rate).duration_s for rate in (100, 220))
    assert slow > 1.5 * fast
    assert speak("Guten Morgen, wie geht es?", voice="de+f3").duration_s > 1


def test_phones_come_with_their_times(espeak):
    spoken = espeak.say("maybe", "en-us")
    names = [name for name, _ in spoken.phones if name]
    assert names[0] == "m"
    assert names[-1].startswith("i")
    times_s = [start_s for _, start_s in spoken.phones]
    assert times_s == sorted(times_s)
    assert times_s[-1] <= len(spoken.samples) / spoken.rate_hz + 0.01


def test_an_empty_text_and_an_unknown_voice_are_refused(espeak):
    with pytest.raises(SpeechError, match="empty"):
        speak("  ")
    with pytest.raises(SpeechError, match="no voice 'klingonese'"):
        speak("hello", voice="klingonese")


def test_a_missing_engine_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(text_to_speech, "_SYSTEM_LIBRARIES", ("libnothing-here.so",))
    monkeypatch.setattr(text_to_speech.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"loquent\[tts\]"):
        text_to_speech._load_library()
