"""Published names to ours, and files of either kind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from loquent.errors import WeightsError
from loquent.nn.weights import load_exactly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from loquent.models.moda.network import MotionTransformer

PUBLISHED_PREFIX = "talking_head_dit."
NULL_AUDIO_SEED = 42  # the published code seeds everything with 42 at import and draws its null vector then

# Published -> ours, for names without the prefix. {} is a block's number; a trailing dot matches weight and bias.
RENAMES = {
    "motion_embedder.mlp.0.": "motion_embedder.fc1.",
    "motion_embedder.mlp.2.": "motion_embedder.fc2.",
    "identity_embedder.mlp.0.": "identity_embedder.fc1.",
    "identity_embedder.mlp.2.": "identity_embedder.fc2.",
    "time_embedder.mlp.0.": "time_embedder.embedder.fc1.",
    "time_embedder.mlp.2.": "time_embedder.embedder.fc2.",
    "emo_embedder.embedding_table.": "emotion_table.",
    "audio_embedder.proj1.": "audio_embedder.proj1.",
    "audio_embedder.proj2.": "audio_embedder.proj2.",
    "audio_embedder.proj3.": "audio_embedder.proj3.",
    "audio_embedder.norm.": "audio_embedder.norm.",
    "final_layer.linear.": "final_layer.linear.",
    "final_layer.adaLN_modulation.1.": "final_layer.modulation.linear.",
    "blocks.{}.qkv_xs.": "single_stream_blocks.{}.qkv_mlp.",
    "blocks.{}.linear2.": "single_stream_blocks.{}.out.",
    "blocks.{}.attn1.xs_q_norm.": "single_stream_blocks.{}.qk_norm.q.",
    "blocks.{}.attn1.xs_k_norm.": "single_stream_blocks.{}.qk_norm.k.",
    "blocks.{}.adaLN_modulation_xs.1.": "single_stream_blocks.{}.modulation.linear.",
}

# The same parts exist in every stream of a joint block: stream 0 is motion (`xs`), the others have the suffixes below.
_STREAM_RENAMES = {
    "attn1.qkv_{au}{n}": "qkv",
    "attn1.{au}_q_norm{n}": "qk_norm.q",
    "attn1.{au}_k_norm{n}": "qk_norm.k",
    "attn1.{au}_proj{n}": "proj",
    "{audio}_mlp{n}.fc1": "mlp.fc1",
    "{audio}_mlp{n}.fc2": "mlp.fc2",
    "adaLN_modulation_{audio}{n}.1": "modulation.linear",
}
_JOINT_BLOCKS = {  # published block list -> ours, and the number that each condition stream carries in its names
    "blocks4": ("four_stream_blocks", ("1", "2", "3")),  # audio, emotion, identity
    "blocks2": ("double_stream_blocks", ("",)),  # the three of them in one
}


def _joint_renames() -> dict[str, str]:
    table = {}
    for published_list, (our_list, numbers) in _JOINT_BLOCKS.items():
        streams = [("xs", "xs", "")] + [("au", "audio", number) for number in numbers]
        for index, (au, audio, number) in enumerate(streams):
            for published, ours in _STREAM_RENAMES.items():
                name = published.format(au=au, audio=audio, n=number)
                table[f"{published_list}.{{}}.{name}."] = f"{our_list}.{{}}.streams.{index}.{ours}."
    return table


RENAMES |= _joint_renames()
_PATTERNS = [
    (re.compile(re.escape(published).replace(r"\{\}", r"(\d+)") + "(weight|bias)"), ours)
    for published, ours in RENAMES.items()
]


def rename_published(name: str) -> str:
    """Our name of a published tensor (without the prefix).

    Raises:
        WeightsError: the table does not know it.
    """
    for pattern, ours in _PATTERNS:
        if match := pattern.fullmatch(name):
            *numbers, kind = match.groups()
            return ours.format(*numbers) + kind
    raise WeightsError(f"tensor {name!r} does not belong to the MoDA generator; check that this is its checkpoint")


def from_published(state: Mapping[str, Tensor], audio_dim: int) -> dict[str, Tensor]:
    """A published state dict under our names.

    Names outside the generator that the published wrapper may hold (the schedule, the null vectors) are accepted; the
    null audio vector is used when present and drawn from a fixed seed otherwise.

    Raises:
        WeightsError: an unknown name.
    """
    ours = {}
    for name, tensor in state.items():
        if name == "null_audio_feat":
            ours["null_audio"] = tensor.reshape(-1)
        elif name not in ("null_motion_feat", "scheduler.sigmas"):
            ours[rename_published(name.removeprefix(PUBLISHED_PREFIX))] = tensor
    if "null_audio" not in ours:
        generator = torch.Generator().manual_seed(NULL_AUDIO_SEED)
        ours["null_audio"] = torch.randn(audio_dim, generator=generator)
    return ours


def load_published(network: MotionTransformer, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a published checkpoint.

    Raises:
        WeightsError: it does not fit.
    """
    load_exactly(network, from_published(state, network.config.audio_dim), source)
