import csv
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

import loquent
from fakes import make_system
from loquent import cli
from loquent.media.video import PRESETS, probe
from loquent.pipeline import average_portrait
from loquent.types import ARKIT_NAMES, EMOTIONS

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def fake_stages(monkeypatch):
    """A system without weights, and a face in every photo."""
    monkeypatch.setattr("loquent.pipeline.load_system", lambda name, device, options: make_system())
    monkeypatch.setattr(
        importlib.import_module("loquent.face.analyze"),
        "analyze",
        lambda photo, *_: replace(average_portrait(photo.width_px), photo=photo),
    )
    yield
    logging.getLogger().handlers.clear()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The current folder, with ann.png, bob.png, hello.wav and bye.wav."""
    monkeypatch.chdir(tmp_path)
    for name, grey in (("ann", 90), ("bob", 160)):
        Image.new("RGB", (64, 64), (grey,) * 3).save(f"{name}.png")
    for name, duration_s in (("hello", 1.0), ("bye", 0.6)):
        soundfile.write(f"{name}.wav", np.random.default_rng(1).uniform(-0.5, 0.5, round(duration_s * 16_000)), 16_000)
    return tmp_path


def run(*arguments: str, code: int = 0):
    result = RUNNER.invoke(cli.app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_animate_writes_the_video_and_says_so(files):
    result = run("animate", "ann.png", "hello.wav", "-o", "talk.mp4")
    assert probe("talk.mp4").num_frames == 25
    assert result.stdout.startswith("talk.mp4: 25 frames of 64x64, 1.0 s of video in ")
    assert "real-time factor" in result.stdout


def test_inputs_are_told_apart_by_content_not_order(files):
    Path("ann.png").rename("ann.dat")
    run("animate", "hello.wav", "ann.dat", "-o", "talk.mp4")
    assert probe("talk.mp4").audio_codec == "aac"


def test_every_photo_with_every_recording(files):
    run("animate", "ann.png", "bob.png", "hello.wav", "bye.wav", "-o", "videos")
    assert sorted(path.name for path in Path("videos").iterdir()) == [
        "ann_bye.mp4", "ann_hello.mp4", "bob_bye.mp4", "bob_hello.mp4",
    ]  # fmt: skip
    assert probe("videos/bob_bye.mp4").num_frames == 15


def test_an_existing_file_is_kept_unless_asked(files):
    Path("talk.mp4").write_text("mine")
    result = run("animate", "ann.png", "hello.wav", "-o", "talk.mp4", code=2)
    assert "talk.mp4 exists; choose another name, or add --overwrite" in one_line(result.stderr)
    assert Path("talk.mp4").read_text() == "mine"
    run("animate", "ann.png", "hello.wav", "-o", "talk.mp4", "--overwrite")
    assert probe("talk.mp4").num_frames == 25


def test_finished_videos_are_not_made_again(files):
    command = ("animate", "ann.png", "hello.wav", "-o", "talk.mp4", "--seed", "3")
    run(*command)
    made_at = Path("talk.mp4").stat().st_mtime_ns
    assert "finished before" in run(*command).stdout
    assert Path("talk.mp4").stat().st_mtime_ns == made_at
    run(*command[:-1], "4", code=2)  # other settings: another video under a name that is taken


def test_a_changed_photo_is_noticed(files):
    run("animate", "ann.png", "hello.wav", "-o", "talk.mp4")
    Image.new("RGB", (64, 64), "red").save("ann.png")
    run("animate", "ann.png", "hello.wav", "-o", "talk.mp4", code=2)


def write_csv(path: str, *rows: dict) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)


def test_a_manifest_continues_where_it_stopped(files):
    rows = [
        {"photo": "ann.png", "speech": "hello.wav", "output": "1.mp4", "seed": 1, "fps": 30},
        {"photo": "absent.png", "speech": "hello.wav", "output": "2.mp4"},
        {"photo": "bob.png", "speech": "bye.wav", "output": "3.mp4", "emotion": "anger"},
    ]
    write_csv("list.csv", *rows)
    result = run("animate", "--manifest", "list.csv", code=2)
    assert "absent.png: no such file" in one_line(result.stderr)
    assert "1 of 3 videos were not made" in one_line(result.stderr)
    assert probe("1.mp4").num_frames == 30
    assert probe("3.mp4").num_frames == 15
    made_at = Path("3.mp4").stat().st_mtime_ns
    rows[1]["photo"] = "bob.png"
    write_csv("list.csv", *rows)
    assert run("animate", "--manifest", "list.csv").stdout.count("finished before") == 2
    assert Path("2.mp4").exists()
    assert Path("3.mp4").stat().st_mtime_ns == made_at


def test_a_manifest_of_json_lines_in_another_folder(files):
    Path("in").mkdir()
    for name in ("ann.png", "hello.wav"):
        Path(name).rename(Path("in") / name)
    row = {"photo": "ann.png", "speech": "hello.wav", "output": "deep/talk.mp4", "size": 32}
    Path("in/list.jsonl").write_text(json.dumps(row) + "\n\n")
    run("animate", "--manifest", "in/list.jsonl", "-o", "out")
    assert probe("out/deep/talk.mp4").size_px == (32, 32)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"photo": "ann.png", "output": "1.mp4"}, "list.csv, row 1: give speech, text, motion or drive"),
        ({"speech": "hello.wav", "output": "1.mp4"}, "list.csv, row 1, column 'photo': field required"),
        (
            {"photo": "ann.png", "speech": "hello.wav", "output": "1.mp4", "sede": 3},
            "row 1, column 'sede': no such column; known: photo",
        ),
        (
            {"photo": "ann.png", "speech": "hello.wav", "output": "1.mp4", "head": 5},
            "row 1: head is 5.0; choose a number",
        ),
        ({"photo": "ann.png", "speech": "hello.wav", "output": "1.mp4", "seed": "x"}, "column 'seed'"),
        ({"photo": "ann.png", "speech": "hello.wav", "text": "Hi.", "output": "1.mp4"}, "speech or text, not both"),
    ],
)
def test_a_wrong_manifest_names_the_row(files, row, words):
    write_csv("list.csv", row)
    assert words in one_line(run("animate", "--manifest", "list.csv", code=2).stderr)


def test_control_tracks_from_the_command_line_and_a_manifest(files):
    Path("nod.csv").write_text("time_s,head_pitch_deg\n0,0\n0.5,-10\n")
    Path("wrong.csv").write_text("time_s,head_pitch_deg\n0,0\n0.5,ten\n")
    run("animate", "ann.png", "hello.wav", "-o", "1.mp4", "--controls", "nod.csv")
    track = json.loads(run("inspect", "1.mp4").stdout)["settings"]["controls"]["track"]
    assert track == "time_s,head_pitch_deg\n0,0\n0.5,-10\n"
    assert (
        "track of 2 rows to 0.5 s"
        in run("animate", "ann.png", "hello.wav", "--controls", "nod.csv", "--dry-run").stdout
    )
    row = {"photo": "ann.png", "speech": "hello.wav"}
    write_csv("list.csv", row | {"output": "1.mp4", "controls": "nod.csv"}, row | {"output": "2.mp4"})
    assert run("animate", "--manifest", "list.csv").stdout.count("finished before") == 1
    write_csv("list.csv", row | {"output": "3.mp4", "controls": "wrong.csv"})
    words = "list.csv, row 1: wrong.csv: line 3, head_pitch_deg is 'ten'; wanted a number"
    assert words in one_line(run("animate", "--manifest", "list.csv", code=2).stderr)


def test_two_rows_with_one_output(files):
    write_csv("list.csv", *[{"photo": "ann.png", "speech": "hello.wav", "output": "1.mp4"}] * 2)
    assert "rows 1 and 2 both write" in one_line(run("animate", "--manifest", "list.csv", code=2).stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ann.png"], "no recording among the inputs"),
        (["hello.wav"], "no photo among the inputs"),
        (["ann.png", "absent.wav"], "absent.wav: no such file"),
        (["ann.png", "hello.wav", "--text", "Hi."], "both given"),
        (["ann.png", "hello.wav", "--head", "3"], "head is 3.0; choose a number from 0.0 to 2.0"),
        (["ann.png", "hello.wav", "--fps", "0"], "frame rate 0"),
        (["ann.png", "hello.wav", "--size", "0"], "size 0; the video's longest side must have 16 to 8192 pixels"),
        (["ann.png", "."], ". is a folder"),
        (["ann.png", "hello.wav", "--system", "startr"], "nearest is 'starter'"),
        (["ann.png", "hello.wav", "-o", "talk.avi"], "unknown suffix"),
        (["ann.png", "bob.png", "hello.wav", "-o", "talk.mp4"], "2 videos are to be made; name a folder"),
        (["ann.png", "hello.wav", "--manifest", "list.csv"], "leave out the other inputs"),
        (["ann.png", "--motion", "absent.csv"], "absent.csv"),
        (["ann.png", "hello.wav", "--controls", "absent.csv"], "absent.csv: cannot be read"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(files, arguments, words):
    result = run("animate", *arguments, code=2)
    assert words in one_line(result.stderr)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert {path.name for path in files.iterdir()} == {"ann.png", "bob.png", "hello.wav", "bye.wav"}


def test_a_photo_that_is_no_picture_is_named(files):
    (files / "fake.jpg").write_text("no picture")
    assert "fake.jpg" in one_line(run("animate", "fake.jpg", "hello.wav", code=2).stderr)


def test_bugs_keep_their_traceback(files, monkeypatch):
    def fail(self, *_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("fakes.GreyRenderer.render", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run("animate", "ann.png", "hello.wav", "-o", "talk.mp4")
    assert not Path("talk.mp4").exists()


def test_dry_run_prints_the_plan_and_makes_nothing(files):
    result = run("animate", "ann.png", "hello.wav", "-o", "talk.mp4", "--size", "48", "--option", "a=b", "--dry-run")
    plan = one_line(result.stdout)
    assert "48x48, 25 frames at 25 a second" in plan
    assert "guidance of the system, a b" in plan
    assert not Path("talk.mp4").exists()
    assert "unknown suffix" in one_line(
        run("animate", "ann.png", "hello.wav", "-o", "t.avi", "--dry-run", code=2).stderr
    )


def test_sidecar(files):
    run("animate", "ann.png", "hello.wav", "-o", "talk.mp4", "--sidecar")
    assert json.loads(Path("talk.mp4.json").read_text())["file"] == "talk.mp4"


def test_inspect_prints_the_statement(files):
    run("animate", "ann.png", "hello.wav", "-o", "talk.mp4")
    assert json.loads(run("inspect", "talk.mp4").stdout)["settings"]["system"] == "starter"
    assert "holds no statement" in one_line(run("inspect", "hello.wav", code=2).stderr)
    assert "absent.mp4: no such file" in one_line(run("inspect", "absent.mp4", code=2).stderr)


def test_exported_motion_is_drawn_again(files):
    run("export", "ann.png", "hello.wav", "-o", "motion.csv")
    header = Path("motion.csv").read_text().splitlines()[0]
    assert all(name.lower() in header.lower() for name in ARKIT_NAMES)
    run("animate", "ann.png", "--motion", "motion.csv", "-o", "silent.mp4")
    run("animate", "ann.png", "hello.wav", "--motion", "motion.csv", "-o", "talk.mp4")
    assert probe("silent.mp4").num_frames == probe("talk.mp4").num_frames == 25
    assert probe("silent.mp4").audio_codec is None


def test_export_without_a_photo_to_json(files):
    assert "25 rows" in run("export", "hello.wav", "-o", "motion.json").stdout
    assert json.loads(Path("motion.json").read_text())
    assert "exists" in run("export", "hello.wav", "-o", "motion.json", code=2).stderr


def test_options_offer_what_the_package_knows():
    assert cli.Emotion.__args__ == EMOTIONS
    assert cli.Preset.__args__ == tuple(PRESETS)


def test_version():
    assert run("--version").stdout.strip() == f"loquent {loquent.__version__}"


def test_help_names_every_group():
    text = run("animate", "--help").stdout
    assert all(group in text for group in ("Files", "Motion", "Video", "Face", "Running"))


def test_doctor_reports_versions():
    result = RUNNER.invoke(cli.app, ["doctor"])
    assert result.exit_code in (0, 2)
    assert all(name in result.stdout for name in ("loquent", "torch", "device", "espeak-ng", "mediapipe"))


def test_help_does_not_import_the_large_packages():
    code = "import sys, loquent, loquent.cli; print([m for m in ('torch', 'cv2', 'av', 'numpy', 'PIL') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


SLOW_ANIMATE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
sys.path.insert(0, {tests!r})
import fakes, importlib, loquent.pipeline
from dataclasses import replace
loquent.pipeline.load_system = lambda name, device, options: fakes.make_system()
importlib.import_module("loquent.face.analyze").analyze = lambda photo, *_: replace(loquent.pipeline.average_portrait(photo.width_px), photo=photo)
draw = fakes.GreyRenderer.render
def slowly(self, motion):
    for frame in draw(self, motion):
        time.sleep(0.2)
        yield frame
fakes.GreyRenderer.render = slowly
sys.argv = ["loquent", "animate", "ann.png", "hello.wav", "-o", "talk.mp4"]
from loquent.cli import main
main()
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_signals_leave_nothing_half_written(files, sent, code):
    before = {path.name for path in files.iterdir()}
    script = SLOW_ANIMATE.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=files, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while {path.name for path in files.iterdir()} == before and time.monotonic() < deadline:
        time.sleep(0.05)  # until the writer has opened its file
    time.sleep(0.3)
    process.send_signal(sent)
    assert process.wait(timeout=20) == code, process.stderr.read()
    assert {path.name for path in files.iterdir()} == before


def test_evaluate_wants_the_words(files):
    assert "--text-file" in run("evaluate", "talk.mp4", code=2).stderr
