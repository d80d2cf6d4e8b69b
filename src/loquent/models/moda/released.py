"""The officially released files of MoDA: the table of them, and their conversion to ours (docs/moda.md).

Nothing of them is part of loquent; `RELEASE.licences` says who may use what.
"""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from loquent.errors import WeightsError
from loquent.fetch import HubFile, Release, ReleasedFile, WebFile
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
STATISTICS = "https://raw.githubusercontent.com/lixinyyang/MoDA/main/src/datasets/mean.pt"

LICENCES = """\
MoDA motion generator and statistics (lixinyizju/moda): no licence file; its authors speak of academic research. \
Do not pass it on.
LivePortrait renderer (KlingTeam/LivePortrait): MIT for code and weights of the files used here.
Chinese HuBERT base (TencentGameMate/chinese-hubert-base): MIT.
loquent uses its own face landmarks instead of the InsightFace files, which are for non-commercial research only."""

PREFIX = "decode/v1/first_stage/"  # of the renderer's files in MoDA's repository
GENERATOR_FOLDER, RENDERER_FOLDER, SPEECH_FOLDER = "generator", "renderer", "speech-encoder"


def _portrait_file(part: str, path: str, max_mb: float) -> ReleasedFile:
    """A file of the renderer: MoDA's release and LivePortrait's own hold the same."""
    remotes = (
        HubFile(MODA_REPOSITORY, f"{PREFIX}{path}"),
        HubFile(PORTRAIT_REPOSITORY, f"liveportrait/{path}"),
    )
    return ReleasedFile(part=part, remotes=remotes, max_mb=max_mb, other_places=(path,))


def _speech_file(part: str, name: str, max_mb: float, other_places: tuple[str, ...] = ()) -> ReleasedFile:
    remotes = (
        HubFile(MODA_REPOSITORY, f"audio/chinese-hubert-base/{name}"),
        HubFile(SPEECH_REPOSITORY, name, folder="chinese-hubert-base"),
    )
    return ReleasedFile(part=part, remotes=remotes, max_mb=max_mb, other_places=other_places)


FILES = (
    ReleasedFile(
        part="generator",
        remotes=(HubFile(MODA_REPOSITORY, "moda/net-200.pth"),),
        max_mb=6000,  # about 1500 in float32; a wrapper may hold more than the network
        other_places=("net-200.pth",),
    ),
    ReleasedFile(
        part="statistics",
        remotes=(WebFile(STATISTICS, "mean.pt"),),
        max_mb=1,
        other_places=("src/datasets/mean.pt",),
    ),
    _portrait_file("appearance", "base_models/appearance_feature_extractor.pth", 20),
    _portrait_file("motion", "base_models/motion_extractor.pth", 500),
    _portrait_file("warping", "base_models/warping_module.pth", 800),
    _portrait_file("decoder", "base_models/spade_generator.pth", 1000),
    _portrait_file("stitching", "retargeting_models/stitching_retargeting_module.pth", 20),
    _speech_file(
        "speech",
        "pytorch_model.bin",
        1600,
        other_places=("audio/chinese-hubert-base/model.safetensors", "chinese-hubert-base/model.safetensors"),
    ),
    _speech_file("speech-config", "config.json", 1),
)
RETARGETING = {"retarget_shoulder": "stitching", "retarget_mouth": "lips", "retarget_eye": "eyes"}


def convert(
    files: Mapping[str, Path], output: Path, generator: ModaConfig = BASE, renderer: RendererConfig = PUBLISHED
) -> None:
    """Converts the released files to safetensors under our names.

    Writes the folders `generator`, `renderer` and `speech-encoder`, each with config.json and model.safetensors.

    Args:
        files: part -> path, of every part of `FILES`.
        output: folder to write.
        generator: sizes of the generator's checkpoint.
        renderer: sizes of the renderer's checkpoints.

    Raises:
        WeightsError: a file is not what it should be.
    """
    _convert_generator(files, generator, output / GENERATOR_FOLDER)
    _convert_renderer(files, renderer, output / RENDERER_FOLDER)
    _convert_speech_encoder(files, output / SPEECH_FOLDER)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A released checkpoint, tensors only: `.safetensors`, or a pickle that may not run code.

    Raises:
        WeightsError: the file is damaged or holds something else than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, SafetensorError) as error:
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
    for published, part in RETARGETING.items():
        if published not in small:
            raise WeightsError(f"{files['stitching']} lacks the entry {published!r}; fetch it again")
        states[part] = small[published]
    networks = RendererNetworks(config)
    networks.load_published(states)
    networks.save_pretrained(folder)


def _convert_speech_encoder(files: Mapping[str, Path], folder: Path) -> None:
    config_path = files["speech-config"]
    try:
        config = HubertConfig.from_published(json.loads(config_path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{config_path} describes no speech encoder ({error}); fetch it again") from error
    network = Hubert(config)
    load_hubert_state(network, read_checkpoint(files["speech"]), str(files["speech"]))
    network.save_pretrained(folder)


RELEASE = Release(system="moda", files=FILES, licences=LICENCES, convert=convert)
