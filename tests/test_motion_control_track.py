import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loquent.errors import ControlsError, LoquentError
from loquent.models.ifmdm.statistics import SETTINGS
from loquent.motion.control_files import read_control_track
from loquent.motion.control_track import COLUMNS, MAX_ROWS, ControlRow, ControlTrack, values_at
from loquent.types import EMOTIONS, MOTION_STATISTICS, Controls

RATE_HZ = 25
HAPPINESS = EMOTIONS.index("happiness")


def at(times_s, *rows: dict, **controls):
    return values_at(Controls(track=ControlTrack(rows), **controls), times_s)


def test_without_a_track_the_controls_hold_all_the_time():
    values = values_at(Controls(emotion="anger", emotion_strength=0.5, lips=1.5, blinks=0), [0, 1000])
    np.testing.assert_array_equal(values.emotion[:, EMOTIONS.index("anger")], 1)
    np.testing.assert_array_equal(values.emotion_strength, 0.5)
    np.testing.assert_array_equal(values.lips, 1.5)
    np.testing.assert_array_equal(values.blinks, 0)
    for name in ("head_rad", "head_absolute", "gaze_rad", "gaze_absolute", "closure"):
        assert not getattr(values, name).any()


def test_numbers_run_straight_from_row_to_row_past_rows_that_do_not_state_them():
    rows = {"time_s": 1, "lips": 0}, {"time_s": 2, "amount": 2}, {"time_s": 3, "lips": 1}
    values = at([0, 1, 1.5, 2, 3, 9], *rows, lips=0.7, amount=0.5)
    np.testing.assert_allclose(values.lips, [0, 0, 0.25, 0.5, 1, 1])
    np.testing.assert_allclose(values.amount, [0.5, 0.5, 1.25, 2, 2, 2])  # the first row is as the controls say


def test_an_emotion_steps_at_its_row_and_takes_a_moment():
    rows = {"time_s": 0}, {"time_s": 2, "emotion": "happiness"}, {"time_s": 2.1, "emotion": "fear"}
    values = at(np.arange(0, 4, 0.04), *rows)
    np.testing.assert_allclose(values.emotion.sum(1), 1, rtol=1e-6)
    assert not values.emotion[:51, HAPPINESS].any()
    assert 0 < values.emotion[54, HAPPINESS] < 0.5
    np.testing.assert_allclose(values.emotion[70:, EMOTIONS.index("fear")], 1)
    assert np.abs(np.diff(values.emotion, axis=0)).max() < 0.2


def test_what_is_said_does_not_depend_on_how_the_times_are_cut():
    rows = [{"time_s": 0.3 * i, "emotion": EMOTIONS[i % 8], "head_yaw_deg": (-1) ** i * i, "blink": i % 2,
             "gaze_mode": ("offset", "absolute")[i % 2]} for i in range(12)]  # fmt: skip
    times = np.arange(120) / RATE_HZ
    whole = at(times, *rows)
    pieces = [at(times[a : a + 7], *rows) for a in range(0, 120, 7)]
    for name in ("emotion", "head_rad", "gaze_absolute", "closure"):
        np.testing.assert_allclose(np.concatenate([getattr(p, name) for p in pieces]), getattr(whole, name), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.2, 2.0), st.floats(-30, 30)), min_size=2, max_size=8),
)
@example([(1.0, 19.0), (2.0, 17.0), (0.21875, 0.0)])  # a slope of three times the smaller secant goes beyond the key
def test_head_angles_pass_their_rows_and_do_not_jerk(keys):
    times_s = np.cumsum([gap_s for gap_s, _ in keys])
    rows = [{"time_s": t, "head_yaw_deg": deg} for t, (_, deg) in zip(times_s, keys, strict=True)]
    np.testing.assert_allclose(np.degrees(at(times_s, *rows).head_rad[:, 1]), [deg for _, deg in keys], atol=1e-4)
    step_s = 1e-3
    fine_s = np.arange(times_s[0] - 0.1, times_s[-1] + 0.1, step_s)
    fine = np.degrees(values_at(Controls(track=ControlTrack(rows)), fine_s).head_rad[:, 1].astype(np.float64))
    low, high = min(deg for _, deg in keys), max(deg for _, deg in keys)
    assert low - 1e-3 <= fine.min()
    assert fine.max() <= high + 1e-3
    # Speeds of a key at most three times those of a straight way, nor does any step of the speed show.
    speed = np.diff(fine) / step_s
    fastest = np.abs(np.diff([deg for _, deg in keys]) / np.diff(times_s)).max()
    assert np.abs(speed).max() <= 3 * fastest + 0.5
    assert np.abs(np.diff(speed)).max() <= 0.1 * fastest + 0.5


def test_a_head_that_goes_on_does_not_stop_at_rows_on_the_way():
    times = np.arange(0, 3, 0.04)
    yaw = at(times, *({"time_s": t, "head_yaw_deg": 10 * t} for t in range(4))).head_rad[:, 1]
    assert np.diff(np.degrees(yaw))[10:-12].min() > 0.3


def test_absolute_angles_count_from_the_camera():
    rows = {"time_s": 0, "head_mode": "absolute", "head_yaw_deg": 10, "gaze_mode": "absolute", "gaze_pitch_deg": 5}, {
        "time_s": 2, "head_mode": "offset"
    }  # fmt: skip
    values = at([0, 2, 2.4, 9], *rows)
    pose = np.radians([4, -20, 0])
    turn = np.degrees(values.head_offset_rad(pose))
    np.testing.assert_allclose(turn[[0, 1, 3]], [[-4, 30, 0], [-4, 30, 0], [0, 10, 0]], atol=1e-4)
    assert 10 < turn[2, 1] < 30
    look = np.degrees(values.gaze_offset_rad(values.head_offset_rad(pose)))
    np.testing.assert_allclose(look[0], [9, -30], atol=1e-4)  # the eyes stay on the camera, 5 degrees above it


@pytest.mark.parametrize("fps", [15, 24, 25, 29.97, 60])
@pytest.mark.parametrize("phase_s", [0.0, 0.013, 0.02, 0.031])
def test_a_blink_on_command_closes_at_any_frame_rate(fps, phase_s):
    closure = at(np.arange(0, 3, 1 / fps), {"time_s": 0}, {"time_s": 1 + phase_s, "blink": 1}).closure
    assert closure.max() == pytest.approx(1, abs=2e-3)
    assert np.count_nonzero(closure > 0.05) / fps < 0.4
    assert closure[0] == closure[-1] == 0


def test_labels_at_a_moment():
    track = ControlTrack([{"time_s": 1, "statistics": "std_0.1"}, {"time_s": 2}, {"time_s": 3, "statistics": "free"}])
    assert [track.label_at("statistics", t) for t in (0, 1, 2.9, 3, 8)] == ["std_0.1"] * 3 + ["free"] * 2
    assert track.label_at("motion_std", 2, 0.0) == 0.0
    assert set(MOTION_STATISTICS) == set(SETTINGS)


ALL_COLUMNS = ControlTrack(
    [
        {"time_s": 0.04, "emotion": "fear", "emotion_strength": 0.5, "amount": 1, "head": 1, "brows": 1, "lips": 1,
         "blinks": 0, "keep_expression": 1, "head_pitch_deg": -3.5, "head_yaw_deg": 1e-5, "head_roll_deg": 2,
         "head_mode": "absolute", "gaze_pitch_deg": 0, "gaze_yaw_deg": 3, "gaze_mode": "offset", "blink": 1,
         "eyes_closed": 0.1, "statistics": "mean_last", "motion_mean": (0.1, -0.25), "motion_std": 0.3},
        {"time_s": 7},
    ]
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".json", ".CSV"])
def test_files_give_the_track_back(tmp_path, suffix):
    path = tmp_path / f"track{suffix}"
    ALL_COLUMNS.save(path)
    assert ControlTrack.read(path) == ALL_COLUMNS
    assert len(ALL_COLUMNS.rows[0].cells()) == len(COLUMNS)


def test_controls_and_their_track_come_back_from_a_videos_settings():
    controls = Controls(emotion="anger", seed=3, track=ALL_COLUMNS)
    assert Controls.from_dict(json.loads(json.dumps(controls.as_dict()))) == controls
    assert "track" not in Controls().as_dict()
    with pytest.raises(ControlsError, match="there is no control 'sede'"):
        Controls.from_dict({"sede": 3})
    with pytest.raises(ControlsError, match="control track: line 2, lips is 'x'"):
        Controls.from_dict({"track": "time_s,lips\n0,x\n"})


def test_semicolons_with_decimal_commas_blank_lines_and_short_rows(tmp_path):
    path = tmp_path / "track.csv"
    path.write_bytes("\ufeffTime_s; Lips ;emotion\r\n0;0,5;\r\n\r\n;;\r\n1,5;1\r\n".encode())
    assert read_control_track(path).rows == (ControlRow(time_s=0, lips=0.5), ControlRow(time_s=1.5, lips=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("time_s,lips\n", "has no rows"),
        ("lips\n1\n", r"line 1: no column time_s"),
        ("time_s,emotoin\n", r"line 1, column 'emotoin': unknown, nearest is 'emotion'"),
        ("time_s,lips,lips\n", r"line 1, column 'lips': given twice"),
        ("time_s,lips\n0,1\n1,much\n", r"line 3, lips is 'much'; wanted a number"),
        ("time_s,lips\n0,nan\n", r"line 2, lips is 'nan'; wanted a finite number"),
        ("time_s,lips\n\n0,3\n", r"line 3, lips is 3.0; choose a number from 0 to 2"),
        ("time_s,head_yaw_deg\n0,90\n", r"line 2, head_yaw_deg is 90.0; choose a number from -60 to 60"),
        ("time_s,emotion\n0,joy\n", r"line 2, emotion is 'joy'; choose one of anger"),
        ("time_s,blink\n0,0.5\n", r"line 2, blink is 0.5; choose 1"),
        ("time_s,lips\n,1\n", r"line 2, time_s is missing"),
        ("time_s,lips\n-1,1\n", r"line 2, time_s is -1.0; choose"),
        ("time_s,lips\n1,1\n1,1\n", r"line 3, time_s is 1 after 1; times must grow"),
        ("time_s\n1,1\n", r"line 2 has 2 cells, the header has 1"),
        ('time_s\n"1\n', r"is not CSV"),
        ("time_s,motion_std\n0,0.1 0.2 x\n", r"line 2, motion_std is '0.1 0.2 x'"),
        ("time_s,motion_std\n0,0.1 -0.2\n", r"line 2, motion_std is -0.2; choose"),
        (f"time_s,motion_std\n0,{'0.1 ' * 99}\n", r"line 2, motion_std holds 99 numbers"),
        ("time_s\n" + "\n".join(str(i) for i in range(MAX_ROWS + 1)), f"more than {MAX_ROWS} rows"),
        ("x" * 600_000, "more than 512 KiB"),
    ],
)
def test_bad_csv_names_the_line_and_the_column(tmp_path, text, message):
    path = tmp_path / "track.csv"
    path.write_text(text)
    with pytest.raises(ControlsError, match=message) as caught:
        read_control_track(path)
    assert str(path) in str(caught.value)


def document(rows: object) -> str:
    return json.dumps({"format": "loquent-controls", "version": 1, "rows": rows})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is not JSON \(line 1"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is JSON, but no control track"),
        ('{"format": "loquent-controls", "version": 9}', "version 9 is not known"),
        (document(3), "rows is no list"),
        (document([]), "has no rows"),
        (document([3]), "row 1 is no object"),
        (document([{"time_s": 0}, {"time_s": 1, "lisp": 1}]), "row 2, column 'lisp': unknown, nearest is 'lips'"),
        (document([{"lips": 1}]), "row 1: no column time_s"),
        (document([{"time_s": 0, "lips": "1"}]), "row 1, lips is '1'; choose a number"),
        (document([{"time_s": True}]), "row 1, time_s is True"),
        (document([{"time_s": 0, "emotion": ["fear"]}]), "row 1, emotion is"),
        (document([{"time_s": 0, "motion_mean": [1, None]}]), "row 1, motion_mean is None"),
        ('{"format": "loquent-controls", "version": 1, "rows": [{"time_s": NaN}]}', "row 1, time_s is nan"),
        ('{"format": "loquent-controls", "version": 1, "rows": [{"time_s": 1' + "0" * 5000 + "}]}", "track.json"),
    ],
)
def test_bad_json_names_the_row_and_the_column(tmp_path, text, message):
    path = tmp_path / "track.json"
    path.write_text(text)
    with pytest.raises(ControlsError, match=message):
        read_control_track(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ControlsError, match="cannot be read"):
        read_control_track(tmp_path / "none.csv")
    with pytest.raises(ControlsError, match=r"from a \.csv or \.json"):
        read_control_track(tmp_path / "none.txt")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ControlsError, match="UTF-8"):
        read_control_track(tmp_path / "binary.csv")
    with pytest.raises(ControlsError, match="cannot be written"):
        ALL_COLUMNS.save(tmp_path / "nowhere" / "track.csv")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='time_s,;lips\n\r"0123.-e \t\x00emotion[]{}:', max_size=60), st.sampled_from([".csv", ".json"]))
def test_nothing_but_a_clear_error_comes_of_garbage(tmp_path_factory, text, suffix):
    path = tmp_path_factory.mktemp("garbage") / f"track{suffix}"
    path.write_bytes(text.encode())
    with suppress(LoquentError):
        read_control_track(path)


def test_tracks_from_python_are_checked_too():
    with pytest.raises(ControlsError, match="row 2: there is no column 'yaw'"):
        ControlTrack([{"time_s": 0}, {"time_s": 1, "yaw": 3}])
    with pytest.raises(ControlsError, match="has no rows"):
        ControlTrack([])
    assert hash(Controls(track=ALL_COLUMNS)) == hash(Controls(track=ControlTrack(ALL_COLUMNS.rows)))
