"""Published names to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loquent.errors import WeightsError
from loquent.nn.weights import load_exactly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from loquent.models.moditalker.atom import AtomDenoiser
    from loquent.models.moditalker.config import AtomConfig

# Published -> ours; None: without effect in the published network, or rebuilt at construction, so dropped. Entries name
# a layer, whose weight and bias follow; those of _TENSORS name a tensor.
_ATOM_LAYERS = {
    "time_mlp.1": "time_hidden",
    "to_time_cond.0": "time_condition",
    "to_time_tokens.0": "time_tokens",
    "norm_cond": "memory_norm",
    "input_projection_lip": "lips_in",
    "input_projection_wo_lip": "others_in",
    "cond_projection": "audio_in",
    "face_projection": "landmark_in",
    "final_layer": "out",
    "input_projection": None,
    "face_mlp.0": None,
    "to_face_cond.0": None,
    "to_face_tokens.0": None,
    "pos_projection": None,
    "non_attn_pos_projection.0": None,
    "non_attn_pos_projection.1": None,
    "non_attn_pos_projection.3": None,
} | {
    f"non_attn_{published}_projection.{layer}": f"{ours}_summary.{layer}"
    for published, ours in (("cond", "audio"), ("face", "landmark"))
    for layer in (0, 1, 3)
}
_ATOM_TENSORS = {
    "null_cond_embed": "null_audio",
    "null_cond_hidden": "null_audio_summary",
    "face_null_cond_embed": "null_landmark",
    "rotary.freqs": None,
}
_ATTENTION = {
    "in_proj_weight": "in_proj.weight",
    "in_proj_bias": "in_proj.bias",
    "out_proj.weight": "out_proj.weight",
    "out_proj.bias": "out_proj.bias",
}
_ENCODER_LAYERS = {name: name for name in ("linear1", "linear2", "norm1", "norm2")}
_DECODER_LAYERS = {
    **{name: name for name in ("norm1", "norm2", "norm3")},
    **{f"film{index}.block.1": f"film{index}.linear" for index in (1, 2, 3)},
    "linear1": None,
    "linear2": None,
    "linear3": "out",
}


def _layers(table: Mapping[str, str | None]) -> dict[str, str | None]:
    """Names of weights and biases of named layers."""
    return {
        f"{published}.{kind}": None if ours is None else f"{ours}.{kind}"
        for published, ours in table.items()
        for kind in ("weight", "bias")
    }


def _within(published: str, ours: str | None, table: Mapping[str, str | None]) -> dict[str, str | None]:
    return {published + theirs: None if name is None or ours is None else ours + name for theirs, name in table.items()}


def _encoder_layer(published: str, ours: str | None) -> dict[str, str | None]:
    inner = _layers(_ENCODER_LAYERS) | _within("self_attn.", "attention.", _ATTENTION) | {"rotary.freqs": None}
    return _within(published, ours, inner)


def _decoder_layer(published: str, ours: str) -> dict[str, str | None]:
    inner = _layers(_DECODER_LAYERS) | {"rotary.freqs": None}
    inner |= _within("self_attn.", "self_attention.", _ATTENTION)
    inner |= _within("multihead_attn.", "cross_attention.", _ATTENTION)
    return _within(published, ours, inner)


def atom_names(config: AtomConfig) -> dict[str, str | None]:
    """Every published name of AToM's denoiser."""
    table = _layers(_ATOM_LAYERS) | _ATOM_TENSORS
    for layer in range(config.num_encoder_layers):
        table |= _encoder_layer(f"cond_encoder.{layer}.", f"audio_encoder.{layer}.")
        table |= _encoder_layer(f"face_encoder.{layer}.", f"landmark_encoder.{layer}.")
        table |= _encoder_layer(f"pos_encoder.{layer}.", None)
    for layer in range(config.num_layers):
        table |= _decoder_layer(f"seqTransDecoder.stack.{layer}.", f"layers.{layer}.")
    return table


def load_renamed(network: nn.Module, state: Mapping[str, Tensor], table: Mapping[str, str | None], source: str) -> None:
    """Loads a state dict of published names.

    Raises:
        WeightsError: a name is not in the table, one of the table is missing, or a shape does not fit.
    """
    extra, missing = sorted(set(state) - set(table)), sorted(set(table) - set(state))
    if extra or missing:
        raise WeightsError(
            f"{source} does not hold these MoDiTalker weights: missing {missing[:5]}, unexpected {extra[:5]}; use the "
            f"configuration that it was made with"
        )
    load_exactly(network, {ours: state[theirs] for theirs, ours in table.items() if ours is not None}, source)


def load_published_atom(network: AtomDenoiser, state: Mapping[str, Tensor], source: str) -> None:
    """Loads the `model_state_dict` or `ema_state_dict` of a published checkpoint.

    Raises:
        WeightsError: it does not fit.
    """
    load_renamed(network, state, atom_names(network.config), source)
