"""The officially released files of MoDA: where they are, which are needed, and their conversion to ours.

Nothing of them is part of loquent; `LICENCES` says who may use what.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from loquent.errors import MissingExtraError, WeightsError
from loquent.models.moda.config import BASE, ModaConfig
from loquent.models.moda.network import MotionTransformer
from loquent.models.moda.renderer.config import PUBLISHED, RendererConfig
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.models.moda.weights import load_published
from loquent.speech.hubert import Hubert, HubertConfig, load_hubert_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MODA_REPOSITORY = "lixinyizju/moda"
PORTRAIT_REPOSITORY = "KlingTeam/LivePortrait"
SPEECH_REPOSITORY = "TencentGameMate/chinese-hubert-base"

LICENCES = """\
MoDA motion generator (lixinyizju/moda): no licence file; its authors speak of academic research. Do not pass it on.
LivePortrait renderer (KlingTeam/LivePortrait): MIT for code and weights of the files used here.
Chinese HuBERT base (TencentGameMate/chinese-hubert-base): MIT.
loquent uses its own face landmarks instead of the InsightFace files, which are for non-commercial research only."""

GENERATOR_FOLDER, RENDERER_FOLDER, SPEECH_FOLDER = "generator", "renderer", "speech-encoder"
_CHECKSUMS = "sha256.json"
_PREFIX = "decode/v1/first_stage/"


@dataclass(frozen=True)
class ReleasedFile:
    """One file that is needed, with the places where releases put it."""

    part: str
    places: tuple[str, ...]  # relative to the folder of downloads; the first one found is used
    source: str


FILES = (
    ReleasedFile("generator", ("moda/net-200.pth", "net-200.pth"), MODA_REPOSITORY),
    ReleasedFile(
        "statistics",
        ("mean.pt", "src/datasets/mean.pt"),
        "src/datasets/mean.pt of the code at github.com/lixinyyang/MoDA",
    ),
    *(
        ReleasedFile(
            part,
            (f"{_PREFIX}base_models/{name}.pth", f"liveportrait/base_models/{name}.pth", f"base_models/{name}.pth"),
            f"{MODA_REPOSITORY} or {PORTRAIT_REPOSITORY}",
        )
        for part, name in (
            ("appearance", "appearance_feature_extractor"),
            ("motion", "motion_extractor"),
            ("warping", "warping_module"),
            ("decoder", "spade_generator"),
        )
    ),
    ReleasedFile(
        "stitching",
        tuple(
            f"{folder}retargeting_models/stitching_retargeting_module.pth" for folder in (_PREFIX, "liveportrait/", "")
        ),
        f"{MODA_REPOSITORY} or {PORTRAIT_REPOSITORY}",
    ),
    ReleasedFile(
        "speech",
        tuple(
            f"{folder}/{name}"
            for folder in ("audio/chinese-hubert-base", "chinese-hubert-base")
            for name in ("model.safetensors", "pytorch_model.bin")
        ),
        f"{MODA_REPOSITORY} or {SPEECH_REPOSITORY}",
    ),
)
_RETARGETING = {"retarget_shoulder": "stitching", "retarget_mouth": "lips", "retarget_eye": "eyes"}


def find_released(folder: Path) -> dict[str, Path]:
    """The needed files in a folder of downloads, part -> path.

    Raises:
        WeightsError: some are missing; the message names each with its place and where to get it.
    """
    found: dict[str, Path] = {}
    missing = []
    for file in FILES:
        path = next((folder / place for place in file.places if (folder / place).is_file()), None)
        if path is None:
            missing.append(f"  {folder / file.places[0]}   from {file.source}")
        else:
            found[file.part] = path
    if missing:
        raise WeightsError(
            f"the released MoDA needs {len(missing)} more file{'s' if len(missing) > 1 else ''}; put there:\n"
            + "\n".join(missing)
        )
    return found


def fetch_released(folder: Path, endpoint: str | None = None) -> dict[str, Path]:
    """Downloads what is missing in `folder`; an interrupted download goes on where it stopped.

    Args:
        folder: of downloads.
        endpoint: address of a mirror of the Hugging Face Hub; None is the Hub itself.

    Raises:
        MissingExtraError: the extra `hub` is not installed.
        WeightsError: files are still missing, because there is no network or because they are not on the Hub; the
            message names them.
    """
    try:
        return find_released(folder)
    except WeightsError:
        _download(folder, endpoint)
    return find_released(folder)


def _download(folder: Path, endpoint: str | None) -> None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            "fetching weights needs the extra 'hub': pip install 'loquent[hub]'; or put the files into a folder by hand"
        ) from error
    # The downloads of the one repository lie where the other's would, so that either is enough.
    wanted = {
        MODA_REPOSITORY: (folder, ["moda/net-200.pth", f"{_PREFIX}base_models/*", f"{_PREFIX}retargeting_models/*"]),
        SPEECH_REPOSITORY: (folder / "chinese-hubert-base", ["config.json", "pytorch_model.bin", "model.safetensors"]),
    }
    for repository, (target, patterns) in wanted.items():
        try:
            snapshot_download(repository, local_dir=target, allow_patterns=patterns, endpoint=endpoint)
        except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            try:
                find_released(folder)
            except WeightsError as lacking:
                raise WeightsError(f"{repository} could not be fetched ({error}).\n{lacking}") from error


def record_checksums(folder: Path, files: Mapping[str, Path]) -> None:
    """Writes the SHA-256 of every file on first use, and checks it from then on.

    Raises:
        WeightsError: a file is not the one that was used before.
    """
    record_path = folder / _CHECKSUMS
    try:
        known: dict[str, str] = json.loads(record_path.read_text())
    except FileNotFoundError:
        known = {}
    for part, path in files.items():
        digest = _sha256(path)
        if known.setdefault(part, digest) != digest:
            raise WeightsError(
                f"{path} has changed since it was first used (SHA-256 {digest}, was {known[part]}); "
                f"fetch it again, or delete {record_path} if the change is wanted"
            )
    record_path.write_text(json.dumps(known, indent=2) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert_released(
    downloads: Path, output: Path, generator: ModaConfig = BASE, renderer: RendererConfig = PUBLISHED
) -> None:
    """Converts the released files once to safetensors under our names.

    Writes the folders `generator`, `renderer` and `speech-encoder`, each with config.json and model.safetensors, and
    the checksums of what they were made from.

    Args:
        downloads: folder of the released files.
        output: folder to write.
        generator: sizes of the generator's checkpoint.
        renderer: sizes of the renderer's checkpoints.

    Raises:
        WeightsError: files are missing, are not what they should be, or have changed.
    """
    files = find_released(downloads)
    output.mkdir(parents=True, exist_ok=True)
    record_checksums(output, files)
    _convert_generator(files, generator, output / GENERATOR_FOLDER)
    _convert_renderer(files, renderer, output / RENDERER_FOLDER)
    _convert_speech_encoder(files["speech"], output / SPEECH_FOLDER)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A released checkpoint, tensors only: `.safetensors`, or a pickle that may not run code.

    Raises:
        WeightsError: the file is damaged or holds something else than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise WeightsError(f"{path} is no checkpoint of tensors ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not named tensors; fetch it again")
    return content


def _convert_generator(files: Mapping[str, Path], config: ModaConfig, folder: Path) -> None:
    network = MotionTransformer(config)
    load_published(network, read_checkpoint(files["generator"]), str(files["generator"]))
    statistics = read_checkpoint(files["statistics"])
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    state |= {f"motion_{name}": _statistic(statistics, name, config, files["statistics"]) for name in ("mean", "std")}
    save_file(state, folder / "model.safetensors")


def _statistic(statistics: Mapping[str, Any], name: str, config: ModaConfig, path: Path) -> Tensor:
    values = torch.as_tensor(statistics.get(name, ())).float().flatten()
    if len(values) != config.motion_dim:
        raise WeightsError(
            f"{path} has {len(values)} numbers as {name}; {config.motion_dim} are wanted; fetch it again"
        )
    return values


def _convert_renderer(files: Mapping[str, Path], config: RendererConfig, folder: Path) -> None:
    states = {part: read_checkpoint(files[part]) for part in ("appearance", "motion", "warping", "decoder")}
    small = read_checkpoint(files["stitching"])
    for published, part in _RETARGETING.items():
        if published not in small:
            raise WeightsError(f"{files['stitching']} lacks the entry {published!r}; fetch it again")
        states[part] = small[published]
    networks = RendererNetworks(config)
    networks.load_published(states)
    networks.save_pretrained(folder)


def _convert_speech_encoder(path: Path, folder: Path) -> None:
    config_path = path.parent / "config.json"
    try:
        config = HubertConfig.from_published(json.loads(config_path.read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{config_path} is not readable ({error}); fetch it beside {path.name}") from error
    network = Hubert(config)
    load_hubert_state(network, read_checkpoint(path), str(path))
    network.save_pretrained(folder)
