"""What a finished video says about itself: that it is generated, from which files, and how to make it again.

The statement travels in the file's own metadata: `comment` is a sentence for people, `description` is JSON for
programs. Its field names follow C2PA's assertions (actions, digitalSourceType, ingredients), but it is not signed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loquent import __version__
from loquent.errors import LoquentError, VideoError

if TYPE_CHECKING:
    from collections.abc import Mapping

# IPTC's term for pictures of a real source that a trained model has changed.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SENTENCE = (
    "This video is generated: a photo was animated by the program loquent. It is not footage of a person speaking."
)
STATEMENT_FILE = "loquent.json"  # the statement of a folder of pictures
_HASH_BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def settings_sha256(settings: Mapping[str, Any]) -> str:
    """Hex digest of settings, the same for equal settings whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def statement(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The machine-readable statement for a video made with `settings`, whose `inputs` name and hash the files."""
    return {
        "generated": True,
        "statement": SENTENCE,
        "claim_generator": f"loquent/{__version__}",
        "actions": [{"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE}],
        "ingredients": [
            {"title": item["name"], "role": role, "sha256": item["sha256"], "relationship": "inputTo"}
            for role, item in settings.get("inputs", {}).items()
        ],
        "settings": dict(settings),
        "settings_sha256": settings_sha256(settings),
    }


def metadata(settings: Mapping[str, Any]) -> dict[str, str]:
    """Container tags for a video made with `settings`: `comment` for people, `description` for programs."""
    inputs = "; ".join(f"{role} {item['name']} sha256 {item['sha256']}" for role, item in settings["inputs"].items())
    return {
        "comment": f"{SENTENCE} Made from: {inputs}.",
        "description": json.dumps(statement(settings), sort_keys=True, ensure_ascii=False),
    }


def write_sidecar(video: Path, settings: Mapping[str, Any]) -> Path:
    """Writes the statement with the video's own hash beside it, as NAME.json, and returns that path."""
    path = video.with_name(video.name + ".json")
    content = statement(settings) | {"file": video.name}
    if video.is_file():
        content["file_sha256"] = file_sha256(video)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_statement(path: Path) -> dict[str, Any] | None:
    """The statement in a video, GIF or folder of pictures; None when it holds none.

    Raises:
        VideoError: the file does not exist or is not a video.
    """
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    text = _read_description(path)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return None
    return content if isinstance(content, dict) and content.get("generated") is True else None


def recorded_settings_sha256(path: Path) -> str | None:
    """Hash of the settings that made the video at `path`; None when there is no such video or it says nothing."""
    if not path.exists():
        return None
    try:
        found = read_statement(path)
    except LoquentError:
        return None
    return None if found is None else found.get("settings_sha256")


def _read_description(path: Path) -> str | None:
    """The `description` tag of a container, GIF or folder of PNG files; None when there is none."""
    if path.is_dir():
        pictures = sorted(path.glob("*.png"))
        return _png_texts(pictures[0]).get("description") if pictures else None
    if path.suffix.lower() == ".gif":
        lines = _gif_comment(path).splitlines()
        return next((line.removeprefix("description: ") for line in lines if line.startswith("description: ")), None)
    return _container_tags(path).get("description")


def _png_texts(path: Path) -> dict[str, str]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return {str(key): str(value) for key, value in picture.info.items()}
    except (UnidentifiedImageError, OSError) as error:
        raise VideoError(f"{path}: cannot be read as a picture ({error})") from error


def _gif_comment(path: Path) -> str:
    """The comment extension before the file's trailer (GIF89a specification, section 24); empty when there is none."""
    data = path.read_bytes()[-_HASH_BLOCK_BYTES:]
    start = data.rfind(b"\x21\xfe")
    while start >= 0:
        comment, place = b"", start + 2
        while place < len(data) and data[place]:
            comment += data[place + 1 : place + 1 + data[place]]
            place += 1 + data[place]
        if data[place:] == b"\x00\x3b":
            return comment.decode("utf-8", "replace")
        start = data.rfind(b"\x21\xfe", 0, start)
    return ""


def _container_tags(path: Path) -> dict[str, str]:
    import av
    import av.error

    try:
        with av.open(f"file:{path}") as container:
            return {key.lower(): value for key, value in container.metadata.items()}
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read as a video ({error.strerror})") from error
