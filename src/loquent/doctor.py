"""What `loquent doctor` reports: versions, devices, models found, and how to get what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from loquent import __version__

State = Literal["ok", "optional", "missing"]

CORE_PACKAGES = (
    "torch", "numpy", "safetensors", "av", "soundfile", "soxr", "opencv-python-headless", "pillow", "typer", "rich",
    "pydantic", "pyyaml",
)  # fmt: skip
OTHER_OPENCV_WHEELS = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: State
    detail: str  # version or place; what is missing and how to get it


def examine() -> list[Finding]:
    """Looks at everything that loquent uses; raises nothing that a broken installation could cause."""
    findings = [
        Finding("loquent", "ok", f"{__version__} in {Path(__file__).parent}"),
        Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors"),
        *(_package(name) for name in CORE_PACKAGES),
        *_opencv_conflicts(),
        _devices(),
        *_video_encoders(),
        *_models(),
        _espeak(),
        _mediapipe(),
    ]
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", f"not installed; run: {sys.executable} -m pip install loquent")


def _opencv_conflicts() -> list[Finding]:
    """Two OpenCV wheels own the same folder, and the one installed last wins in part."""
    found = []
    for name in OTHER_OPENCV_WHEELS:
        if _installed(name):
            how = f"pip uninstall {name}, then: pip install --force-reinstall --no-deps opencv-python-headless"
            found.append(Finding(name, "optional", f"conflicts with opencv-python-headless; run: {how}"))
    return found


def _devices() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("device", "missing", f"torch cannot be imported ({error})")
    names = [f"cpu with {torch.get_num_threads()} threads"]
    names += [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    return Finding("device", "ok", ", ".join(names))


def _video_encoders() -> list[Finding]:
    try:
        import av
    except (ImportError, OSError) as error:
        return [Finding("video encoders", "missing", f"av cannot be imported ({error})")]
    wanted = {"libx264": "MP4", "aac": "sound in MP4", "libvpx-vp9": "WebM", "libopus": "sound in WebM"}
    absent = [f"{name} ({use})" for name, use in wanted.items() if name not in av.codecs_available]
    if absent:
        return [Finding("video encoders", "missing", f"av lacks {', '.join(absent)}; install av from its wheel")]
    return [Finding("video encoders", "ok", f"{', '.join(wanted)}, in FFmpeg {_ffmpeg_version()}")]


def _ffmpeg_version() -> str:
    import av

    return getattr(av, "ffmpeg_version_info", "of unknown version")


def _models() -> list[Finding]:
    """The weights in the package, one folder a network, and which systems are ready."""
    from loquent.systems import SYSTEMS, WEIGHTS_DIR

    found = []
    for folder in sorted(path for path in WEIGHTS_DIR.glob("*") if path.is_dir() and not path.name.startswith("_")):
        megabytes = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6
        state: State = "ok" if megabytes else "missing"
        detail = f"{megabytes:.1f} MB in {folder}" if megabytes else f"no .safetensors in {folder}; reinstall loquent"
        found.append(Finding(f"model {folder.name}", state, detail))
    for name, entry in SYSTEMS.items():
        absent: State = "optional" if entry.released else "missing"
        found.append(Finding(f"system {name}", absent if entry.lacks else "ok", entry.lacks or entry.title))
    return found


def _espeak() -> Finding:
    from loquent.errors import LoquentError
    from loquent.speech.text_to_speech import Espeak

    try:
        engine = Espeak.shared()
    except LoquentError as error:
        return Finding("espeak-ng (--text)", "optional", str(error))
    return Finding("espeak-ng (--text)", "ok", f"speaks at {engine.rate_hz} Hz")


def _mediapipe() -> Finding:
    from loquent.errors import LoquentError
    from loquent.face.mediapipe_backend import find_model

    name = "mediapipe (--face-backend)"
    if importlib.util.find_spec("mediapipe") is None:
        return Finding(
            name, "optional", "not installed; run: pip install 'loquent[mediapipe]' && pip install --no-deps mediapipe"
        )
    try:
        return Finding(name, "ok", f"{version('mediapipe')}, model {find_model(None)}")
    except LoquentError as error:
        return Finding(name, "optional", f"{version('mediapipe')}; {error}")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
