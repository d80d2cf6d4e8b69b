"""The systems by name: which speech encoder, motion generator and renderer belong together, and their weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loquent.errors import ControlsError, LoquentError, WeightsError

if TYPE_CHECKING:
    from loquent.driving import DrivingVideo
    from loquent.types import AnyMotion, Controls, Motion, MotionGenerator, Portrait, Renderer, SpeechEncoder

WEIGHTS_DIR = Path(__file__).parent / "weights"
DEFAULT_SYSTEM = "starter"
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class System:
    """The three stages of a talking head, loaded and ready."""

    name: str
    encoder: SpeechEncoder
    generator: MotionGenerator[Any]
    make_renderer: Callable[[Portrait, int | None], Renderer[Any]]  # portrait, longest side of the frames in px or None
    device: str = "cpu"
    space: str = "arkit"  # of the motion between generator and renderer: `Motion`, or `MotionCodes` of that space
    # Motion of the portrait's face that follows a driving video; None: the system cannot. As with a generator, codes
    # (not `Motion`) are made with the controls applied.
    follow: Callable[[Portrait, DrivingVideo, Controls], AnyMotion] | None = None
    configure: Callable[[Mapping[str, Any]], System] | None = (
        None  # the same with options of its own; None: it has none
    )


@dataclass(frozen=True)
class SystemEntry:
    """How a system is built, for the table below."""

    name: str
    title: str
    weights: Path  # folder of the motion generator's weights; of a released system, its folder in the cache
    build: Callable[[SystemEntry, str], System]  # the entry itself, and the device
    released: bool = False  # its weights are fetched (`loquent.fetch`), not in the package

    @property
    def lacks(self) -> str:
        """What keeps the system from being loaded, and what to do; "" when it is ready."""
        if self.released:
            from loquent.fetch import find_release

            if find_release(self.name).is_ready:
                return ""
            return f"its released files are not here yet; run: loquent fetch {self.name}"
        if (self.weights / "model.safetensors").is_file():
            return ""
        return f"no weights in {self.weights}; reinstall loquent"


def find_system(name: str = DEFAULT_SYSTEM) -> SystemEntry:
    """The system of that name, without loading it.

    Args:
        name: a name of `SYSTEMS`, or a folder of weights: one with a motion generator's config.json and
            model.safetensors (of the starter, IF-MDM or AToM), which then takes the place of the shipped one's, or one
            with all of a system, as `_PARTS` says.

    Raises:
        LoquentError: unknown name.
        WeightsError: the folder holds no weights.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise LoquentError(_unknown_system(name))
    return replace(SYSTEMS[_kind_of(folder)], name=folder.name, weights=folder, released=False)


def _kind_of(folder: Path) -> str:
    """Which system's weights a folder holds, told by what lies in it."""
    for name, part in _PARTS.items():
        if (folder / part / "config.json").is_file():
            return name
    config = folder / "config.json"
    if not config.is_file():
        raise WeightsError(
            f"{folder}: no config.json there; a system's folder holds config.json and model.safetensors, or the folders "
            f"of all its networks"
        )
    text = config.read_text(errors="replace")
    return next((name for name, field in _FIELDS.items() if f'"{field}"' in text), DEFAULT_SYSTEM)


def load_system(name: str = DEFAULT_SYSTEM, device: str = "auto", options: Mapping[str, Any] | None = None) -> System:
    """Builds a system and loads its weights; released files that it needs are fetched first.

    Args:
        name: as in `find_system`.
        device: where the networks run: "auto", "cpu", "cuda", "cuda:1", "mps".
        options: of this system alone, by name; texts are read as the type that is wanted.

    Raises:
        LoquentError: unknown name or device.
        ControlsError: the system has no such options.
        WeightsError: the weights are missing or do not fit.
    """
    entry = find_system(name)
    system = entry.build(entry, choose_device(device))
    if not options:
        return system
    if system.configure is None:
        raise ControlsError(f"the system {name!r} has no options of its own; leave out {', '.join(options)}")
    return system.configure(options)


def choose_device(wanted: str = "auto") -> str:
    """The torch device to use; "auto" takes a graphics card when torch can use one, else the processor.

    Raises:
        LoquentError: not a device, or torch cannot use it here.
    """
    import torch

    kind, _, index = wanted.partition(":")
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if usable[name])
    if kind not in usable or (index and not index.isdigit()):
        raise LoquentError(f"unknown device {wanted!r}; choose one of {', '.join(DEVICES)}")
    if not usable[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise LoquentError(f"torch cannot use the device {wanted!r} on this machine; choose cpu or auto")
    return wanted


def _unknown_system(name: str) -> str:
    known = list(SYSTEMS)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", nearest is {near[0]!r}" if near else ""
    return (
        f"unknown system {name!r}{hint}; known: {', '.join(known)}, or a folder with config.json and model.safetensors"
    )


def _build_starter(entry: SystemEntry, device: str) -> System:
    from loquent.models.moda.generate import MotionFlowGenerator
    from loquent.render.mesh import MeshRenderer
    from loquent.speech.encoder import LogMelEncoder

    return System(
        name=entry.name,
        encoder=LogMelEncoder.from_pretrained(WEIGHTS_DIR / "speech-encoder"),
        generator=MotionFlowGenerator.from_pretrained(entry.weights, device),
        make_renderer=lambda portrait, size: MeshRenderer(portrait, size=size),
        device=device,
        follow=_follow_with_face_parameters,
    )


def _follow_with_face_parameters(portrait: Portrait, video: DrivingVideo, controls: Controls) -> Motion:
    from loquent.motion.driven import follow_video

    del controls  # applied by the pipeline
    return follow_video(portrait, video)


def _build_moda(entry: SystemEntry, device: str) -> System:
    from loquent.fetch import find_release, prepare
    from loquent.models.moda.published import PublishedModa, as_system

    folder = prepare(find_release(entry.name)) if entry.released else entry.weights
    return as_system(PublishedModa.from_pretrained(folder, device), entry.name, device)


def _build_moditalker(entry: SystemEntry, device: str) -> System:
    from loquent.models.moditalker.system import load_moditalker

    return load_moditalker(entry.name, entry.weights, device)


def _build_ifmdm(entry: SystemEntry, device: str) -> System:
    from loquent.models.ifmdm.system import load_ifmdm

    return load_ifmdm(entry.name, entry.weights, device)


def _build_large_ifmdm(entry: SystemEntry, device: str) -> System:
    from loquent.models.ifmdm.system import load_ifmdm

    return load_ifmdm(entry.name, entry.weights, device, crop_px=512)


SYSTEMS = {
    "starter": SystemEntry(
        name="starter",
        title="MoDA's multi-modal flow transformer at starter size, in ARKit parameters, with the mesh renderer",
        weights=WEIGHTS_DIR / "moda-starter",
        build=_build_starter,
    ),
    "moda": SystemEntry(
        name="moda",
        title="MoDA as released: its own weights at published size, with the warping renderer; fetched on first use",
        weights=Path("systems/moda"),
        build=_build_moda,
        released=True,
    ),
    "moditalker": SystemEntry(
        name="moditalker",
        title="MoDiTalker at starter size: landmarks by AToM, video by MToV or, with --renderer mesh, the mesh renderer",
        weights=WEIGHTS_DIR / "moditalker-atom",
        build=_build_moditalker,
    ),
    "ifmdm": SystemEntry(
        name="ifmdm",
        title="IF-MDM at starter size: implicit motion codes, drawn by a network of their own; head of 256 pixels",
        weights=WEIGHTS_DIR / "ifmdm-motion",
        build=_build_ifmdm,
    ),
    "ifmdm-512": SystemEntry(
        name="ifmdm-512",
        title="the same, head of 512 pixels",
        weights=WEIGHTS_DIR / "ifmdm-motion",
        build=_build_large_ifmdm,
    ),
}
# What tells a folder of weights: of a whole system the part that moves, and of a motion generator alone a setting.
_PARTS = {"moda": "generator", "ifmdm": "motion", "moditalker": "atom"}
_FIELDS = {"moditalker": "vector_scale", "ifmdm": "vectors_per_frame"}
