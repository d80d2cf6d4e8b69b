import json

import numpy as np
import pytest

from loquent.errors import MotionError
from loquent.motion.export import read_motion, write_motion
from loquent.types import ARKIT_INDEX, Motion


def some_motion(num_frames=80, rate_hz=25.0):
    rng = np.random.default_rng(0)
    return Motion(
        expression=rng.uniform(0, 1, (num_frames, 52)).astype(np.float32),
        rotation=rng.normal(0, 0.2, (num_frames, 3)).astype(np.float32),
        translation=rng.normal(0, 0.2, (num_frames, 3)).astype(np.float32),
        gaze=rng.normal(0, 0.2, (num_frames, 2, 2)).astype(np.float32),
        rate_hz=rate_hz,
    )


@pytest.mark.parametrize("suffix", [".csv", ".json"])
@pytest.mark.parametrize("rate_hz", [24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60])
def test_round_trip(tmp_path, suffix, rate_hz):
    motion = some_motion(150, rate_hz)
    path = tmp_path / f"motion{suffix}"
    write_motion(motion, path)
    again = read_motion(path)
    assert again.rate_hz == pytest.approx(rate_hz, rel=1e-9)
    np.testing.assert_allclose(again.to_vector(), motion.to_vector(), atol=2e-6)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("num_frames", [1, 2, 10])
def test_short_csv_of_ours_keeps_its_rate(tmp_path, num_frames):
    write_motion(some_motion(num_frames), tmp_path / "m.csv")
    again = read_motion(tmp_path / "m.csv")
    assert (len(again), again.rate_hz) == (num_frames, 25)


def test_csv_looks_as_the_app_writes_it(tmp_path):
    write_motion(some_motion(30), tmp_path / "m.csv")
    header, first, *_ = (tmp_path / "m.csv").read_text().splitlines()
    assert header.startswith("Timecode,BlendShapeCount,EyeBlinkLeft,EyeLookDownLeft,")
    assert "TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,LeftEyePitch,LeftEyeRoll,RightEyeYaw" in header
    assert first.startswith("00:00:00:00.000,61,")


def captured(tmp_path, rows, header="Timecode,BlendShapeCount,jawOPEN,HeadYaw,HeadPitch,EyeBlinkLeft,Nonsense"):
    path = tmp_path / "take.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_file_from_elsewhere(tmp_path):
    rows = [f"10:59:{59 + (i // 60):02d}:{i % 60:02d}.500,61,{i / 100},0.{30 + i % 10},0.1,,abc" for i in range(59)]
    motion = read_motion(captured(tmp_path, rows))
    assert motion.rate_hz == 60
    assert len(motion) == 59
    np.testing.assert_allclose(motion.expression[:, ARKIT_INDEX["jawOpen"]], np.arange(59) / 100, atol=1e-6)
    assert not motion.rotation[0].any()  # relative to the first frame
    assert motion.rotation[5, 1] == pytest.approx(0.05, abs=1e-6)
    assert not motion.rotation[:, 0].any()
    assert not motion.expression[:, ARKIT_INDEX["mouthPucker"]].any()


def test_lost_frames_are_filled(tmp_path):
    rows = [f"00:00:0{i // 30}:{i % 30:02d}.000,61,{i / 100},0,0,0,0" for i in range(90) if i not in (40, 41, 42)]
    motion = read_motion(captured(tmp_path, rows))
    assert motion.rate_hz == 30
    np.testing.assert_allclose(motion.expression[:, ARKIT_INDEX["jawOpen"]], np.arange(90) / 100, atol=1e-5)


def test_gaze_comes_from_weights_where_there_are_no_eye_columns(tmp_path):
    path = captured(tmp_path, ["0,0", "1,1"], "EyeLookOutLeft,EyeLookInRight")
    gaze = read_motion(path).gaze
    assert gaze[1, 0, 1] > 0.3  # both eyes to the picture's right
    assert gaze[1, 1, 1] > 0.3
    assert not gaze[:, :, 0].any()


def test_semicolons_and_decimal_commas(tmp_path):
    path = captured(tmp_path, ["00:00:00:00,0;0,25;0,1"], "Timecode;JawOpen;HeadYaw".replace(",", ";"))
    path.write_text("Timecode;JawOpen\n00:00:00:00.000;0,25\n")
    assert read_motion(path).expression[0, ARKIT_INDEX["jawOpen"]] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("Timecode,JawOpen\n", "no frames"),
        ("a,b\n1,2\n", "names no ARKit weight"),
        ("JawOpen,EyeBlinkLeft\n0,0\n0\n", "line 3 has 1 columns"),
        ("JawOpen\n0.1\nwide\n", "line 3 holds 'wide'"),
        ("JawOpen\n0.1\nnan\n", "line 3 holds 'nan'"),
        ("JawOpen\n0.1\n80\n", "hold 80 in line 3"),
        ("JawOpen,HeadYaw\n0.1,45\n", "radians hold 45 in line 2"),
        ("Timecode,JawOpen\nnoon,0.1\n", "line 2 holds the time code 'noon'"),
        ("Timecode,JawOpen\n00:00:02:00.0,0\n00:00:01:00.0,0\n", "line 3 goes back in time"),
    ],
)
def test_bad_csv_is_named_with_its_line(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(MotionError, match=words):
        read_motion(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "wanted an object with format"),
        ({"version": 9}, "version 9 is not known"),
        ({"fps": 0}, "fps is 0"),
        ({"expression": [[0] * 51]}, "expression has shape"),
        ({"expression": [["a"] * 52]}, "no table of numbers"),
        ({"rotation_rad": [[0, 0, 0]] * 2}, "rotation_rad has shape"),
        ({"gaze_rad": [[[0, 0], [0, float("nan")]]]}, "frame 0 holds"),
    ],
)
def test_bad_json_says_what_is_wrong(tmp_path, change, words):
    path = tmp_path / "bad.json"
    write_motion(Motion.neutral(1), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MotionError, match=words):
        read_motion(path)


def test_json_that_is_none(tmp_path):
    (tmp_path / "bad.json").write_text('{"format": ')
    with pytest.raises(MotionError, match="line 1"):
        read_motion(tmp_path / "bad.json")


def test_json_names_may_be_fewer_and_in_another_order(tmp_path):
    path = tmp_path / "few.json"
    path.write_text(json.dumps({"format": "loquent-motion", "version": 1, "fps": 30,
                                "names": ["mouthPucker", "jawOpen"], "expression": [[0.1, 0.2]]}))  # fmt: skip
    motion = read_motion(path)
    assert motion.expression[0, ARKIT_INDEX["jawOpen"]] == pytest.approx(0.2)
    assert motion.expression.sum() == pytest.approx(0.3)
    assert motion.rate_hz == 30


def test_suffixes_and_missing_files(tmp_path):
    with pytest.raises(MotionError, match="suffixes"):
        write_motion(Motion.neutral(1), tmp_path / "m.txt")
    with pytest.raises(MotionError, match="neither"):
        read_motion(tmp_path / "m.bvh")
    with pytest.raises(MotionError, match="check the name"):
        read_motion(tmp_path / "none.csv")
    with pytest.raises(MotionError, match="choose a folder"):
        write_motion(Motion.neutral(1), tmp_path / "none" / "m.csv")
