import numpy as np
import pytest

from loquent.data.articulation import ArticulationStyle, articulate, lip_opening, lip_width
from loquent.data.phones import track_from_segments
from loquent.types import ARKIT_INDEX, ARKIT_NAMES


def _say(names: list[str], length_s: float = 0.12, rate_hz: float = 25.0):
    """Mouth for phones of one length, with half a second of silence around them; and their track."""
    segments = [((name,), 0.5 + i * length_s, 0.5 + (i + 1) * length_s) for i, name in enumerate(names)]
    duration_s = 1.0 + len(names) * length_s
    track = track_from_segments(segments, duration_s)
    steps = int(duration_s * 200)
    mouth = articulate(track, np.ones(len(track)), ArticulationStyle(), steps, 200.0)
    return mouth[:: int(200 / rate_hz)].expression, track


def _at(expression, track, index: int) -> int:
    return min(len(expression) - 1, round(float(track.bounds_s[index : index + 2].mean()) * 25))


@pytest.mark.parametrize("phone", ["m", "b", "p"])
@pytest.mark.parametrize("vowel", ["aa", "iy", "uw"])
@pytest.mark.parametrize("length_s", [0.04, 0.055, 0.1, 0.2])
def test_lips_meet_in_a_bilabial_however_short(phone, vowel, length_s):
    expression, track = _say([vowel, phone, vowel], length_s)
    start, end = track.bounds_s[2] - 0.02, track.bounds_s[3] + 0.02
    opening = lip_opening(expression)[int(np.ceil(start * 25)) : int(end * 25) + 1]
    assert opening.min() < 0.004


def test_the_lower_lip_comes_to_the_teeth_without_the_lips_meeting():
    expression, track = _say(["aa", "f", "aa"])
    frame = expression[_at(expression, track, 2)]
    assert frame[ARKIT_INDEX["mouthRollLower"]] > 0.2
    assert frame[ARKIT_INDEX["mouthUpperUpLeft"]] > 0.1
    assert frame[ARKIT_INDEX["mouthLowerDownLeft"]] < 0.03


def test_open_vowels_open_more_than_close_ones():
    openings = []
    for vowel in ("aa", "eh", "iy"):
        expression, track = _say([vowel], 0.2)
        openings.append(lip_opening(expression)[_at(expression, track, 1)])
    assert openings[0] > 1.15 * openings[1] > 1.15 * 1.15 * openings[2]


def test_rounded_vowels_are_narrower_than_spread_ones():
    widths = []
    for vowel in ("uw", "iy"):
        expression, track = _say([vowel], 0.2)
        widths.append(lip_width(expression)[_at(expression, track, 1)])
    assert widths[0] < 0.9 * widths[1]


def test_rounding_starts_before_its_vowel():
    expression, track = _say(["iy", "s", "t", "uw"])
    pucker = expression[:, ARKIT_INDEX["mouthPucker"]]
    vowel_start = int(track.bounds_s[4] * 25)
    assert pucker[vowel_start - 2] > 0.25 * pucker.max()


def test_the_mouth_rests_in_silence():
    expression, _ = _say(["aa"])
    assert lip_opening(expression)[0] < 0.01
    assert np.abs(np.diff(lip_opening(expression)[-6:])).max() < 0.005


def test_only_mouth_and_jaw_move_and_weights_stay_weights():
    expression, _ = _say(["aa", "m", "uw", "sh", "iy", "f", "ae"])
    moved = {name for index, name in enumerate(ARKIT_NAMES) if expression[:, index].any()}
    assert all(name.startswith(("mouth", "jaw", "tongue")) for name in moved)
    assert expression.min() >= 0
    assert expression.max() <= 1
