"""Published names to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from loquent.errors import WeightsError
from loquent.models.moditalker.autoencoder import PLANES
from loquent.models.moditalker.unet import ResBlock, Stage
from loquent.nn.weights import load_exactly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from loquent.models.moditalker.atom import AtomDenoiser
    from loquent.models.moditalker.autoencoder import TriplaneAutoencoder
    from loquent.models.moditalker.config import AtomConfig, AutoencoderConfig
    from loquent.models.moditalker.discriminator import PatchDiscriminator
    from loquent.models.moditalker.unet import LatentUNet

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


_SELF_ATTENTION = {
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "fn.to_qkv.weight": "qkv.weight",
    "fn.to_out.0.weight": "out.weight",
    "fn.to_out.0.bias": "out.bias",
}
_FEED_FORWARD = {"norm": "norm", "fn.net.0": "inner", "fn.net.3": "out"}

UNET_PREFIX = "diffusion_model."
_RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "modulation",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
_RES_BLOCK_SKIP = {"skip_connection": "skip"}
_POSITION_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}


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


def _video_transformer(published: str, ours: str, config: AutoencoderConfig) -> dict[str, str | None]:
    table: dict[str, str | None] = {"frame_rot_emb.inv_freqs": None, "image_rot_emb.scales": None}
    for layer in range(config.num_layers):
        for index, attention in enumerate(("time_attention", "space_attention")):
            table |= _within(f"layers.{layer}.{index}.", f"layers.{layer}.{attention}.", _SELF_ATTENTION)
        table |= _within(f"layers.{layer}.2.", f"layers.{layer}.feedforward.", _layers(_FEED_FORWARD))
    return _within(published, ours, table)


def autoencoder_names(config: AutoencoderConfig) -> dict[str, str | None]:
    """Every published name of an autoencoder, of pictures or of dot pictures."""
    table: dict[str, str | None] = {"coords": None}
    table |= _layers({"encoder.to_patch_embedding": "patch_in", "to_pixel.1": "patch_out"})
    table |= _video_transformer("encoder.", "encoder.", config) | _video_transformer("decoder.", "decoder.", config)
    for plane in PLANES:
        table |= _layers({f"pre_{plane}": f"to_latent.{plane}", f"post_{plane}": f"from_latent.{plane}"})
        table |= {f"{plane}_token": f"pools.{plane}.token", f"{plane}_pos_embedding": f"pools.{plane}.positions"}
        for layer in range(config.pool_layers):
            published, ours = f"{plane}_quant_attn.layers.{layer}.", f"pools.{plane}.layers.{layer}."
            table |= _within(f"{published}0.", f"{ours}attention.", _SELF_ATTENTION)
            table |= _within(f"{published}1.", ours, _layers(_FEED_FORWARD))
    return table


def discriminator_names(num_stages: int) -> dict[str, str | None]:
    """Every published name of a patch discriminator of `num_stages` stages."""
    table: dict[str, str | None] = {}
    for stage in range(num_stages):
        table |= _layers({f"model{stage}.0": f"stages.{stage}.0"})
        if 0 < stage < num_stages - 1:
            kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            table |= {f"model{stage}.1.{kind}": f"stages.{stage}.1.{kind}" for kind in kinds}
    return table


def _unet_blocks(published: str, ours: str | None, blocks: Iterable[nn.Module]) -> dict[str, str | None]:
    """Names of the blocks of a stage that work on each plane."""
    table: dict[str, str | None] = {}
    for index, block in enumerate(blocks):
        layers = _RES_BLOCK if isinstance(block, ResBlock) else _POSITION_ATTENTION
        if isinstance(block, ResBlock) and isinstance(block.skip, nn.Conv2d):
            layers = layers | _RES_BLOCK_SKIP
        table |= _within(f"{published}.{index}.", f"{ours}.blocks.{index}." if ours else None, _layers(layers))
    return table


def _joint_attention(published: str, ours: str | None) -> dict[str, str | None]:
    return _within(f"{published}.", f"{ours}.joint." if ours else None, _layers(_POSITION_ATTENTION))


def unet_names(network: LatentUNet) -> dict[str, str | None]:
    """Every published name of the latent denoiser.

    The published network has a second way up, called `bg` and without attention within planes, that is never used.
    """
    table = _layers({"time_embed.0": "time1", "time_embed.2": "time2", "input_blocks.0.0": "first"})
    table |= _layers({"out.0": "out_norm", "out.2": "out"}) | {"zeros": None}
    table |= _unet_blocks("middle_block", "middle", network.middle.blocks) | _joint_attention("mid_attn", "middle")
    for index, stage in enumerate(_stages(network.down)):
        table |= _unet_blocks(f"input_blocks.{index + 1}", f"down.{index}", stage.blocks)
        table |= _joint_attention(f"input_attns.{index + 1}", f"down.{index}")
    for index, stage in enumerate(_stages(network.up)):
        table |= _unet_blocks(f"output_blocks.{index}", f"up.{index}", stage.blocks)
        table |= _joint_attention(f"output_attns.{index}", f"up.{index}")
        unused = [block for block in stage.blocks if isinstance(block, ResBlock)]
        table |= _unet_blocks(f"output_bg_blocks.{index}", None, unused)
        table |= _joint_attention(f"output_bg_attns.{index}", None)
    return _within(UNET_PREFIX, "", table)


def _stages(modules: nn.ModuleList) -> list[Stage]:
    return [stage for stage in modules if isinstance(stage, Stage)]


def load_renamed(network: nn.Module, state: Mapping[str, Tensor], table: Mapping[str, str | None], source: str) -> None:
    """Loads a state dict of published names; those without effect may be missing.

    Raises:
        WeightsError: a name is not in the table, one that matters is missing, or a shape does not fit.
    """
    extra = sorted(set(state) - set(table))
    missing = sorted(theirs for theirs, ours in table.items() if ours is not None and theirs not in state)
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


def load_published_autoencoder(network: TriplaneAutoencoder, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a published autoencoder, of pictures or of dot pictures.

    Raises:
        WeightsError: it does not fit.
    """
    load_renamed(network, state, autoencoder_names(network.config), source)


def load_published_discriminator(network: PatchDiscriminator, state: Mapping[str, Tensor], source: str) -> None:
    """Loads the names below `discriminator_2d.` or `discriminator_3d.`.

    Raises:
        WeightsError: it does not fit.
    """
    load_renamed(network, state, discriminator_names(len(network.stages)), source)


def load_published_unet(network: LatentUNet, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a published latent denoiser, with or without its branch that is never used.

    Raises:
        WeightsError: it does not fit.
    """
    load_renamed(network, state, unet_names(network), source)
