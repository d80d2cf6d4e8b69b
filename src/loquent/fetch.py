"""Officially released weights of the published systems: found or fetched, checked, and converted once.

Nothing of them is part of loquent. A system's table of files is a `Release` in its own room
(`loquent.models.NAME.released`); `RELEASES` names the rooms.

    CACHE/downloads/NAME   what was fetched, in the layout of the release
    CACHE/systems/NAME     converted to safetensors under our names, with release.json beside it
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from loquent import __version__
from loquent.errors import LoquentError, MissingExtraError, WeightsError

logger = logging.getLogger(__name__)

RELEASES = {"moda": "loquent.models.moda.released"}  # system -> module that holds its RELEASE
FORMAT = 1  # of converted folders; a change makes them be converted again
_RECORD = "release.json"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face Hub."""

    repository: str
    path: str  # in the repository
    folder: str = ""  # of the downloads, into which the repository's layout goes

    @property
    def place(self) -> str:
        """Where it lies in the folder of downloads."""
        return f"{self.folder}/{self.path}".lstrip("/")

    @property
    def origin(self) -> str:
        return f"{self.path} of huggingface.co/{self.repository}"


@dataclass(frozen=True)
class WebFile:
    """A file at an address of its own."""

    address: str
    place: str  # in the folder of downloads

    @property
    def origin(self) -> str:
        return self.address


@dataclass(frozen=True, kw_only=True)
class ReleasedFile:
    """One file that a system needs."""

    part: str
    remotes: tuple[HubFile | WebFile, ...]  # tried in turn
    max_mb: float  # a larger file is not the one that is meant
    other_places: tuple[str, ...] = ()  # where else it may lie in a folder that was filled by hand
    sha256: str = ""  # where its authors published it; otherwise it is recorded on first use

    @property
    def places(self) -> tuple[str, ...]:
        return (*(remote.place for remote in self.remotes), *self.other_places)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Everything about one system's released files."""

    system: str
    files: tuple[ReleasedFile, ...]
    licences: str  # one line for each source
    convert: Callable[[Mapping[str, Path], Path], None]  # part -> path, and the folder to write

    @property
    def downloads(self) -> Path:
        return cache_folder() / "downloads" / self.system

    @property
    def converted(self) -> Path:
        return cache_folder() / "systems" / self.system

    @property
    def is_ready(self) -> bool:
        """Whether the converted files are in the cache."""
        return _read_record(self.converted).get("format") == FORMAT


def cache_folder() -> Path:
    """LOQUENT_CACHE, or the folder `loquent` in XDG_CACHE_HOME or in ~/.cache."""
    if own := os.environ.get("LOQUENT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "loquent"


def find_release(system: str) -> Release:
    """The released files of a system.

    Raises:
        LoquentError: there are none for a system of that name.
    """
    if system not in RELEASES:
        raise LoquentError(
            f"there are no released files for {system!r}; known: {', '.join(RELEASES)};"
            " the other systems' weights are in the package"
        )
    return importlib.import_module(RELEASES[system]).RELEASE


def prepare(release: Release, *, source: Path | None = None, mirror: str | None = None, again: bool = False) -> Path:
    """The folder of converted weights, made first if it is not there yet.

    Args:
        release: from `find_release`.
        source: a folder that already holds the released files; None fetches what is missing into the cache.
        mirror: address of a mirror of the Hugging Face Hub; None is the Hub, or what HF_ENDPOINT names.
        again: also if it is there.

    Raises:
        WeightsError: files are missing, damaged, or not the ones that were used before.
        MissingExtraError: something is to be fetched and the extra `hub` is not installed.
    """
    if release.is_ready and not again and source is None:
        return release.converted
    logger.warning("licences of the released files of %s:\n%s", release.system, release.licences)
    files = find(release, source) if source is not None else fetch(release, release.downloads, mirror)
    _convert(release, files)
    return release.converted


def find(release: Release, folder: Path) -> dict[str, Path]:
    """The needed files in a folder of downloads, part -> path.

    Raises:
        WeightsError: some are missing; the message names each with its place and its origin.
    """
    found = _present(release, folder)
    if len(found) < len(release.files):
        raise WeightsError(_what_is_missing(release, folder, set(found)))
    return found


def fetch(release: Release, folder: Path, mirror: str | None = None) -> dict[str, Path]:
    """Downloads what is missing in `folder`; an interrupted download goes on where it stopped. Raises as `prepare`."""
    for file in release.files:
        if file.part in _present(release, folder):
            continue
        try:
            _fetch_one(file, folder, mirror)
        except (OSError, URLError) as error:  # no network, no space, no such repository
            present = set(_present(release, folder))
            raise WeightsError(_what_is_missing(release, folder, present, reason=_first_line(error))) from error
    return find(release, folder)


def _present(release: Release, folder: Path) -> dict[str, Path]:
    found = {}
    for file in release.files:
        path = next((folder / place for place in file.places if (folder / place).is_file()), None)
        if path is not None:
            found[file.part] = path
    return found


def _what_is_missing(release: Release, folder: Path, present: set[str], reason: str = "") -> str:
    missing = [file for file in release.files if file.part not in present]
    count = f"{len(missing)} of the {len(release.files)} released files of {release.system!r}"
    what = f"{count} could not be fetched ({reason})" if reason else f"{count} are not in {folder}"
    lines = [f"  {file.places[0]}   from {file.remotes[0].origin}" for file in missing]
    return (
        f"{what}; put them into a folder, each at the place named here, and run:"
        f" loquent fetch {release.system} --from FOLDER\n" + "\n".join(lines) + "\n"
        "The system 'starter' is in the package and needs none of them."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _fetch_one(file: ReleasedFile, folder: Path, mirror: str | None) -> None:
    """Takes the first of its remotes that has it.

    Raises:
        OSError: none has it, or there is no connection.
        WeightsError: what is there is not the file that is meant.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for remote in file.remotes:
        logger.info("fetching %s", remote.origin)
        if isinstance(remote, WebFile):
            expected = _download_web(remote, folder / remote.place, file)
        else:
            expected = _download_hub(remote, folder, file, mirror)
        if expected is not None:
            _keep_if_intact(folder / remote.place, file.sha256 or expected)
            return
    raise FileNotFoundError(f"{file.remotes[0].origin} is no longer there")


def _download_hub(remote: HubFile, folder: Path, file: ReleasedFile, mirror: str | None) -> str | None:
    """Fetches a file of the Hub; its SHA-256 where the Hub states it, else ""; None when it is not there."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            "fetching weights needs the extra 'hub': pip install 'loquent[hub]';"
            " or put the files into a folder by hand and name it with --from"
        ) from error
    try:
        stated = get_hf_file_metadata(hf_hub_url(remote.repository, remote.path, endpoint=mirror), endpoint=mirror)
        _check_size(remote.origin, stated.size, file)
        hf_hub_download(remote.repository, remote.path, local_dir=folder / remote.folder, endpoint=mirror)
    except (EntryNotFoundError, RepositoryNotFoundError):
        return None
    except (OSError, RuntimeError) as error:
        raise OSError(_first_line(error)) from error
    except Exception as error:
        if type(error).__module__.startswith("httpx"):  # the Hub's client lets its own errors through
            raise OSError(_first_line(error)) from error
        raise
    return stated.etag if re.fullmatch("[0-9a-f]{64}", stated.etag or "") else ""


def _download_web(remote: WebFile, target: Path, file: ReleasedFile) -> str:
    """Fetches an address, from where an earlier download of it stopped."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    start = part.stat().st_size if part.is_file() else 0
    request = Request(remote.address, headers={"Range": f"bytes={start}-"} if start else {})
    with urlopen(request, timeout=_TIMEOUT_S) as response:
        goes_on = response.status == HTTPStatus.PARTIAL_CONTENT
        size = start if goes_on else 0
        with part.open("ab" if goes_on else "wb") as out:
            while chunk := response.read(_CHUNK_BYTES):
                size += len(chunk)
                _check_size(remote.origin, size, file)
                out.write(chunk)
    part.replace(target)
    return ""


def _check_size(origin: str, size: int | None, file: ReleasedFile) -> None:
    if size is not None and size > file.max_mb * 1e6:
        raise WeightsError(
            f"{origin} has more than {file.max_mb:g} MB, so it is not the file that is meant; nothing was taken"
        )


def check_sha256(path: Path, expected: str) -> str:
    """The file's SHA-256.

    Raises:
        WeightsError: it is not the expected one; "" expects none.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and digest != expected:
        raise WeightsError(f"{path} is damaged: its SHA-256 is {digest}, not {expected}; fetch it again")
    return digest


def _keep_if_intact(path: Path, expected: str) -> None:
    try:
        check_sha256(path, expected)
    except WeightsError:
        path.unlink()
        raise


def _convert(release: Release, files: Mapping[str, Path]) -> None:
    """Converts into the cache; a folder that is there is complete, since it gets its name at the end."""
    target = release.converted
    known = _read_record(target).get("sha256", {})
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    checksums = {
        file.part: check_first_use(files[file.part], file.sha256, known.get(file.part)) for file in release.files
    }
    try:
        release.convert(files, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    record = {"format": FORMAT, "loquent": __version__, "sha256": checksums, "licences": release.licences.splitlines()}
    (partial / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def check_first_use(path: Path, published: str, used_before: str | None) -> str:
    """SHA-256 of a file that must be the published one, or else the one that was used before.

    Raises:
        WeightsError: it is another.
    """
    digest = check_sha256(path, published)
    if used_before is not None and digest != used_before:
        raise WeightsError(
            f"{path} has changed since it was first used (SHA-256 {digest}, was {used_before});"
            " fetch it again, or delete the converted folder if the change is wanted"
        )
    return digest


def _read_record(folder: Path) -> dict:
    try:
        record = json.loads((folder / _RECORD).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}
