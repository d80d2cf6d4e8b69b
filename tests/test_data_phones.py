import numpy as np
import pytest

from loquent.data.phones import (
    PHONE_INDEX,
    PHONES,
    PhoneTrack,
    parts_of_arpabet,
    parts_of_ipa,
    parts_of_sampa,
    track_from_segments,
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("aɪ", ("a", "ih")),
        ("dʒ", ("d", "zh")),
        ("ˈɑː", ("aa",)),
        ("ɛ̃", ("eh",)),
        ("tʲ", ("t",)),
        ("(en)", ()),
        ("", ()),
    ],
)
def test_ipa_names_are_split_and_stripped_of_marks(name, parts):
    assert parts_of_ipa(name) == parts


def test_names_of_other_engines():
    assert parts_of_arpabet("AO1") == ("ao",)
    assert parts_of_arpabet("jh") == ("d", "zh")
    assert parts_of_sampa("a::") == ("a",)
    assert parts_of_sampa("O1") == ("ao",)
    assert parts_of_sampa("#") == ("sil",)


def test_a_track_has_no_gaps_and_shares_diphthongs():
    track = track_from_segments([(("m",), 0.1, 0.2), (("a", "ih"), 0.2, 0.4), (("sil",), 0.5, 0.6)], 0.8)
    assert track.names == ["sil", "m", "a", "ih", "sil"]
    np.testing.assert_allclose(track.bounds_s, [0, 0.1, 0.2, 0.31, 0.4, 0.8])


def test_frames_show_the_phone_at_their_time():
    track = track_from_segments([(("m",), 0.1, 0.2)], 0.3)
    frames = track.frames(30, 100)
    assert [PHONES[frames[index]] for index in (0, 9, 10, 19, 20, 29)] == ["sil", "sil", "m", "m", "sil", "sil"]


def test_a_stretched_clock_moves_the_bounds():
    track = PhoneTrack(np.array([PHONE_INDEX["m"]], np.int16), np.array([0.0, 1.0]))
    moved = track.mapped(np.array([0.0, 1.0]), np.array([0.0, 1.5]))
    np.testing.assert_allclose(moved.bounds_s, [0.0, 1.5])
