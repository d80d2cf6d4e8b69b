"""Fetching released files: from a mirror on this machine, from folders, and where there is nothing."""

import hashlib
import logging
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loquent import TalkingHead, fetch
from loquent.cli import app
from loquent.errors import LoquentError, MissingExtraError, WeightsError
from loquent.fetch import HubFile, Release, ReleasedFile, WebFile, find_release, prepare

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Just enough of the Hugging Face Hub, and a plain web server that can go on where a download stopped."""

    files: dict[str, bytes] = {}  # noqa: RUF012 (per server, set by the fixture)
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Range")))
        self.answer(with_body=True)

    def answer(self, with_body: bool):
        body = self.files.get(self.path)
        if body is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            self.wfile.write(body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.files, Hub.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def release(tmp_path, monkeypatch) -> Release:
    monkeypatch.setenv("LOQUENT_CACHE", str(tmp_path / "cache"))

    def convert(files: dict[str, Path], folder: Path):
        (folder / "joined").write_bytes(b"".join(files[part].read_bytes() for part in ("a", "b")))

    first = ReleasedFile(part="a", remotes=(HubFile("x/new", "deep/a.bin"), HubFile("x/old", "a.bin", "old")), max_mb=1)
    second = ReleasedFile(part="b", remotes=(HubFile("x/new", "b.bin"),), max_mb=1, other_places=("elsewhere/b.bin",))
    return Release(system="moda", files=(first, second), licences="x/new: nobody may", convert=convert)


def test_files_come_from_a_mirror_once(hub, release, caplog):
    pytest.importorskip("huggingface_hub")
    Hub.files = {"/x/old/resolve/main/a.bin": b"A" * 100, "/x/new/resolve/main/b.bin": b"B"}
    assert not release.is_ready
    folder = prepare(release, mirror=hub)
    assert (folder / "joined").read_bytes() == b"A" * 100 + b"B"
    assert (release.downloads / "old" / "a.bin").is_file()  # the second place, since the first had none
    assert "nobody may" in caplog.text
    assert release.is_ready
    asked = len(Hub.asked)
    assert prepare(release, mirror=hub) == folder
    assert len(Hub.asked) == asked


def test_a_file_that_differs_from_its_published_sum_or_size_is_refused(hub, release):
    pytest.importorskip("huggingface_hub")
    Hub.files = {"/x/new/resolve/main/deep/a.bin": b"A" * 100, "/x/new/resolve/main/b.bin": b"B"}
    small = replace(release.files[0], max_mb=1e-5)
    with pytest.raises(WeightsError, match="is not the file that is meant"):
        prepare(replace(release, files=(small, release.files[1])), mirror=hub)
    wrong = replace(release.files[0], sha256="0" * 64)
    with pytest.raises(WeightsError, match="is damaged"):
        prepare(replace(release, files=(wrong, release.files[1])), mirror=hub)
    assert not release.is_ready


def test_a_plain_download_goes_on_where_it_stopped(hub, release):
    body = bytes(range(256)) * 8
    Hub.files = {"/mean.pt": body}
    file = ReleasedFile(part="a", remotes=(WebFile(f"{hub}/mean.pt", "mean.pt"),), max_mb=1)
    release.downloads.mkdir(parents=True)
    (release.downloads / "mean.pt.part").write_bytes(body[:1000])
    found = fetch.fetch(replace(release, files=(file,)), release.downloads)
    assert found["a"].read_bytes() == body
    assert Hub.asked == [("/mean.pt", "bytes=1000-")]


def test_without_network_the_message_says_which_files_to_put_where(release, monkeypatch):
    pytest.importorskip("huggingface_hub")
    release.downloads.mkdir(parents=True)
    (release.downloads / "b.bin").write_bytes(b"B")
    with pytest.raises(WeightsError) as caught:
        prepare(release, mirror="http://127.0.0.1:9")  # nobody listens there
    message = str(caught.value)
    assert "1 of the 2 released files of 'moda' could not be fetched" in message
    assert "deep/a.bin   from deep/a.bin of huggingface.co/x/new" in message
    assert "loquent fetch moda --from FOLDER" in message
    assert "'starter'" in message
    assert "b.bin " not in message.split("FOLDER")[1]


def test_a_folder_takes_the_place_of_the_network(release, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "old" / "a.bin").write_bytes(b"A")
    with pytest.raises(WeightsError, match="1 of the 2 released files of 'moda' are not in"):
        prepare(release, source=tmp_path)
    (tmp_path / "elsewhere" / "b.bin").write_bytes(b"B")
    assert (prepare(release, source=tmp_path) / "joined").read_bytes() == b"AB"
    assert not release.downloads.exists()


def test_a_file_that_changed_since_its_first_use_is_an_error(release, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.bin").write_bytes(b"A")
    (tmp_path / "b.bin").write_bytes(b"B")
    folder = prepare(release, source=tmp_path)
    (tmp_path / "b.bin").write_bytes(b"C")
    with pytest.raises(WeightsError, match="has changed since it was first used"):
        prepare(release, source=tmp_path)
    assert (folder / "joined").read_bytes() == b"AB"


def test_an_interrupted_conversion_is_never_taken_for_a_finished_one(release, tmp_path):
    def convert(files, folder):
        (folder / "half").write_bytes(b"")
        raise KeyboardInterrupt

    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.bin").write_bytes(b"A")
    (tmp_path / "b.bin").write_bytes(b"B")
    with pytest.raises(KeyboardInterrupt):
        prepare(replace(release, convert=convert), source=tmp_path)
    assert not release.is_ready
    assert not list(release.converted.parent.iterdir())


def test_fetching_needs_the_extra(release, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'loquent\[hub\]'"):
        prepare(release)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("LOQUENT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / "loquent"
    monkeypatch.setenv("LOQUENT_CACHE", str(tmp_path / "own"))
    assert find_release("moda").converted == tmp_path / "own" / "systems" / "moda"


def test_the_command_line_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("LOQUENT_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(app, ["fetch", "moda", "--from", str(tmp_path)])
    assert result.exit_code == 2
    assert "9 of the 9 released files of 'moda' are not in" in result.stderr
    assert "net-200.pth" in result.stderr
    logging.getLogger().handlers.clear()


def test_systems_without_released_files_are_named(monkeypatch, tmp_path):
    with pytest.raises(LoquentError, match="known: moda"):
        find_release("starter")
    monkeypatch.setenv("LOQUENT_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(LoquentError, match="hub"):
        TalkingHead.from_pretrained("moda")
