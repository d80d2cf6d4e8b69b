"""Which videos to make: from a command's arguments or a manifest, and which of them are already finished."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from loquent import provenance
from loquent.driving import DriveSettings
from loquent.errors import LoquentError
from loquent.media.video import probe
from loquent.motion.control_track import ControlTrack
from loquent.pipeline import FaceSettings, VideoSettings, describe_settings
from loquent.types import Controls, Speech

DEFAULT_VOICE = "en-us"
_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What is spoken: a recording, or a text for the speech engine."""

    path: Path | None = None
    text: str | None = None
    voice: str = DEFAULT_VOICE

    @property
    def label(self) -> str:
        return self.path.name if self.path is not None else "text"

    def source(self) -> Path | Speech:
        """What `TalkingHead.prepare` takes as speech.

        Raises:
            MissingExtraError: a text is to be spoken and there is no engine.
        """
        if self.path is not None:
            return self.path
        from loquent.speech.text_to_speech import speak

        assert self.text is not None
        return speak(self.text, self.voice)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to make, as asked: nothing is read yet."""

    photo: Path
    sound: Sound | None
    output: Path
    motion: Path | None = None
    drive: Path | None = None  # a video to follow
    drive_settings: DriveSettings = field(default_factory=DriveSettings)
    controls: Controls = field(default_factory=Controls)
    video: VideoSettings = field(default_factory=VideoSettings)
    face: FaceSettings = field(default_factory=FaceSettings)
    options: Mapping[str, str] = field(default_factory=dict)  # of the system alone

    @property
    def label(self) -> str:
        others = [path.name if path else None for path in (self.motion, self.drive)]
        parts = [self.photo.name, self.sound.label if self.sound else None, *others]
        return " + ".join(part for part in parts if part)

    def settings(self, system_name: str) -> dict[str, Any]:
        """The settings that `TalkingHead.prepare` would record, without decoding the files."""
        inputs = {"photo": _named_hash(self.photo)}
        if self.sound is not None:
            source = self.sound.source()
            inputs["speech"] = (
                _named_hash(source) if isinstance(source, Path) else {"name": source.name, "sha256": source.sha256}
            )
        if self.motion is not None:
            inputs["motion"] = _named_hash(self.motion)
        if self.drive is not None:
            inputs["drive"] = _named_hash(self.drive)
            if self.sound is None and probe(self.drive).audio_codec is not None:
                inputs["speech"] = inputs["drive"]
        drive = self.drive_settings if self.drive is not None else None
        return describe_settings(inputs, system_name, self.controls, self.video, self.face, self.options, drive)

    def is_finished(self, system_name: str) -> bool:
        """Whether `output` exists and says that it was made with exactly these settings and files."""
        recorded = provenance.recorded_settings_sha256(self.output)
        return recorded is not None and recorded == provenance.settings_sha256(self.settings(system_name))


def split_inputs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Sorts files into photos and recordings by their content.

    Raises:
        LoquentError: a file does not exist, or is a folder.
    """
    photos, recordings = [], []
    for path in paths:
        if not path.exists():
            raise LoquentError(f"{path}: no such file")
        if path.is_dir():
            raise LoquentError(f"{path} is a folder; name the photos and recordings in it, such as {path}/*")
        (photos if _is_picture(path) else recordings).append(path)
    return photos, recordings


def jobs_from_arguments(
    photos: Sequence[Path], sounds: Sequence[Sound], output: Path | None, template: Job
) -> list[Job]:
    """Every photo with every sound.

    Args:
        photos, sounds: at least one photo; no sounds when `template.motion` is drawn silently.
        output: the file to write when there is one video, the folder to write into when there are several; None puts
            PHOTO_SPEECH.mp4 into the current folder.
        template: everything else.

    Raises:
        LoquentError: nothing to do, or a file name where a folder is needed.
    """
    if not photos:
        raise LoquentError("no photo among the inputs; pass a picture of a face, such as photo.jpg")
    if not sounds and template.motion is None and template.drive is None:
        raise LoquentError(
            "no recording among the inputs; pass one, such as speech.wav, or --text, --motion or --drive"
        )
    pairs = [(photo, sound) for photo in photos for sound in (sounds or [None])]
    if len(pairs) == 1 and output is not None and not output.is_dir():
        outputs = [output]
    else:
        if len(pairs) > 1 and output is not None and output.suffix:
            raise LoquentError(
                f"{output}: {len(pairs)} videos are to be made; name a folder instead, such as -o videos"
            )
        outputs = _unique_names(
            [_name(photo, sound, template.motion or template.drive) for photo, sound in pairs], output or Path()
        )
    return [
        replace(template, photo=photo, sound=sound, output=target)
        for (photo, sound), target in zip(pairs, outputs, strict=True)
    ]


def jobs_from_manifest(manifest: Path, template: Job, output: Path | None = None) -> list[Job]:
    """One video a row of a CSV file (with a header) or a JSON-lines file.

    Columns: photo, output, and speech or text (with voice), motion or drive; then, where a row differs from the command line,
    any control (emotion, seed, ...), controls (a control track's file), fps, size, quality, preset, face. Paths count
    from the manifest's folder, outputs from `output` when it is given.

    Raises:
        LoquentError: the file cannot be read, or a row is not valid; the message names the row.
    """
    jobs = []
    for number, row in _rows(manifest):
        try:
            jobs.append(_ManifestRow.model_validate(row).to_job(template, manifest.parent, output or manifest.parent))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            column = ".".join(str(part) for part in first["loc"])
            where = f", column {column!r}" if column else ""
            if first["type"] == "extra_forbidden":
                known = ", ".join(_ManifestRow.model_fields)
                raise LoquentError(f"{manifest}, row {number}{where}: no such column; known: {known}") from error
            raise LoquentError(
                f"{manifest}, row {number}{where}: {_lower_first(first['msg'].removeprefix('Value error, '))}"
            ) from error
        except LoquentError as error:
            raise LoquentError(f"{manifest}, row {number}: {error}") from error
    if not jobs:
        raise LoquentError(f"{manifest}: no rows; write one line a video, with columns photo, speech, output")
    taken: dict[Path, int] = {}
    for number, job in enumerate(jobs, 1):
        if job.output in taken:
            raise LoquentError(f"{manifest}: rows {taken[job.output]} and {number} both write {job.output}")
        taken[job.output] = number
    return jobs


class _ManifestRow(BaseModel):
    """A row as written; what is None comes from the command line."""

    model_config = ConfigDict(extra="forbid")

    photo: Path
    output: Path
    speech: Path | None = None
    text: str | None = None
    voice: str = DEFAULT_VOICE
    motion: Path | None = None
    drive: Path | None = None
    controls: Path | None = None
    emotion: str | None = None
    emotion_strength: float | None = None
    amount: float | None = None
    head: float | None = None
    brows: float | None = None
    blinks: float | None = None
    lips: float | None = None
    keep_expression: float | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    fps: float | None = None
    size: int | None = None
    quality: int | None = None
    preset: str | None = None
    face: int | None = None

    @model_validator(mode="after")
    def _check_sound(self) -> _ManifestRow:
        if self.speech is not None and self.text is not None:
            raise ValueError("give speech or text, not both")
        if self.speech is None and self.text is None and self.motion is None and self.drive is None:
            raise ValueError("give speech, text, motion or drive")
        return self

    def to_job(self, template: Job, input_folder: Path, output_folder: Path) -> Job:
        sound = None
        if self.text is not None:
            sound = Sound(text=self.text, voice=self.voice)
        elif self.speech is not None:
            sound = Sound(path=input_folder / self.speech)
        motion = template.motion if self.motion is None else input_folder / self.motion
        return replace(
            template,
            photo=input_folder / self.photo,
            sound=sound,
            output=output_folder / self.output,
            motion=motion,
            drive=template.drive if self.drive is None else input_folder / self.drive,
            controls=replace(template.controls, **self._given(Controls), **self._track(input_folder)),
            video=replace(template.video, **self._given(VideoSettings)),
            face=replace(template.face, **self._given(FaceSettings)),
        )

    def _track(self, input_folder: Path) -> dict[str, ControlTrack]:
        return {} if self.controls is None else {"track": ControlTrack.read(input_folder / self.controls)}

    def _given(self, settings_class: type) -> dict[str, Any]:
        """The row's own values for the fields of a settings class."""
        values = {item.name: getattr(self, item.name, None) for item in fields(settings_class)}
        return {name: value for name, value in values.items() if value is not None}


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows of a manifest, empty cells left out."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LoquentError(f"{manifest}: cannot read the manifest ({error})") from error
    if manifest.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, _json_object(manifest, number, line)
    else:
        for number, row in enumerate(csv.DictReader(text.splitlines()), 1):
            if None in row:
                raise LoquentError(f"{manifest}, row {number}: more cells than the header has columns")
            yield number, {name.strip(): value.strip() for name, value in row.items() if value and value.strip()}


def _json_object(manifest: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise LoquentError(f"{manifest}, row {number}: not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise LoquentError(f'{manifest}, row {number}: not an object; write {{"photo": ..., "speech": ...}}')
    return row


def _is_picture(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path):
            return True
    except Image.DecompressionBombError:
        return True  # reading it gives the clear error
    except (UnidentifiedImageError, OSError, ValueError):
        return path.suffix.lower() in _PHOTO_SUFFIXES  # damaged, or something else: here too


def _named_hash(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise LoquentError(f"{path}: no such file")
    return {"name": path.name, "sha256": provenance.file_sha256(path)}


def _name(photo: Path, sound: Sound | None, motion: Path | None) -> str:
    if sound is not None:
        other = sound.path.stem if sound.path is not None else "text"
    else:
        assert motion is not None
        other = motion.stem
    return f"{photo.stem}_{other}"


def _unique_names(names: Sequence[str], folder: Path) -> list[Path]:
    """NAME.mp4 in `folder` for each name; a repeated name gets a number."""
    seen: dict[str, int] = {}
    paths = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        number = f"_{seen[name]}" if seen[name] > 1 else ""
        paths.append(folder / f"{name}{number}.mp4")
    return paths


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
