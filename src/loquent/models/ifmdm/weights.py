"""Our own weights folders, and published names to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import save_file

from loquent.errors import WeightsError
from loquent.models.ifmdm.autoencoder import Autoencoder
from loquent.models.ifmdm.config import AutoencoderConfig
from loquent.nn.weights import load_exactly, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from loquent.models.ifmdm.config import MotionConfig
    from loquent.models.ifmdm.discriminator import Discriminator
    from loquent.models.ifmdm.transformer import MotionDiffusionTransformer

STEERING = "steering.safetensors"  # beside the weights of a renderer that was steered by landmarks

# Published -> ours; None: without effect in the published network, or rebuilt at construction, so dropped.
_CONV_LAYER = {"0.weight": "conv.weight", "1.bias": "activation.bias"}
_RES_BLOCK = {
    "conv1.0.weight": "conv1.conv.weight",
    "conv1.1.bias": "conv1.activation.bias",
    "conv2.0.kernel": None,
    "conv2.1.weight": "conv2.weight",
    "conv2.2.bias": "activation.bias",
    "skip.0.kernel": None,
    "skip.1.weight": "skip.weight",
}
_MODULATED = {
    "weight": "weight",
    "modulation.weight": "modulation.weight",
    "modulation.bias": "modulation.bias",
}
_STYLED = {f"conv.{theirs}": f"conv.{ours}" for theirs, ours in _MODULATED.items()} | {
    "activate.bias": "activation.bias",
    "noise.weight": None,  # noise is never given
}
UP_STYLED = _STYLED | {"conv.blur.kernel": None}
RGB = {
    "conv.0.weight": "layer.conv.weight",
    "conv.1.bias": "layer.activation.bias",
    "bias": "bias",
    "upsample.kernel": None,
}
_UNUSED_RGB: dict[str, str | None] = dict.fromkeys(("conv.0.weight", "conv.1.bias", "bias"))  # of the 4 x 4 start
FLOW = {
    **{f"conv.{theirs}": f"flow.{ours}" for theirs, ours in _MODULATED.items()},
    **{f"conv_gen.{theirs}": f"fill.{ours}" for theirs, ours in _MODULATED.items()},
    "bias": "bias",
    "upsample.kernel": None,
}
_LAST_FLOW = FLOW | {f"conv_gen.{theirs}": None for theirs in _MODULATED}  # computed, but nobody reads it

_EMBEDDERS = {
    "x_embedder": "motion_embedder",
    "xx_embedder": "joint_motion_embedder",
    "yy_embedder": "joint_speech_embedder",
    "xy_embedder": "joint_embedder",
    "x_hint_embedder": "hint_embedder",
    "x_mean_embedder": "mean_embedder",
    "x_std_embedder": "std_embedder",
    "y_embedder": "speech_embedder",
    "t_embedder": "time_embedder.embedder",
}
_BLOCK = {
    "attn.qkv": "qkv",
    "attn.proj": "proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "adaLN_modulation.1": "modulation.linear",
}


def _within(published: str, ours: str, table: Mapping[str, str | None]) -> dict[str, str | None]:
    return {published + theirs: None if name is None else ours + name for theirs, name in table.items()}


def _pyramid_names(published: str, ours: str, num_blocks: int) -> dict[str, str | None]:
    """A stem and the blocks that halve the picture."""
    table = _within(f"{published}0.", f"{ours}stem.", _CONV_LAYER)
    for block in range(num_blocks):
        table |= _within(f"{published}{block + 1}.", f"{ours}blocks.{block}.", _RES_BLOCK)
    return table


def appearance_names(config: AutoencoderConfig) -> dict[str, str | None]:
    """Names below `enc.net_app.` and `encoder.appearance.`."""
    num_blocks = len(config.channels) - 1
    return _pyramid_names("convs.", "", num_blocks) | {f"convs.{num_blocks + 1}.weight": "final.weight"}


def motion_head_names() -> dict[str, str | None]:
    """Names below `enc.fc.` and `encoder.motion.`."""
    inner = {f"{layer}.{kind}": f"layers.{layer}.{kind}" for layer in range(4) for kind in ("weight", "bias")}
    return inner | {"4.weight": "out.weight", "4.bias": None}


def refine_names(config: AutoencoderConfig) -> dict[str, str | None]:
    """Names below `dec.refine_block.` and `decoder.refine.`."""
    kinds = ("weight", "bias")
    table: dict[str, str | None] = {f"final_conv.{kind}": f"final.{kind}" for kind in kinds}
    for layer in range(config.refine_layers):
        table |= {f"convs.{2 * layer}.{kind}": f"convs.{layer}.{kind}" for kind in kinds}  # a ReLU lies between
    return table


def decoder_names(config: AutoencoderConfig) -> dict[str, str | None]:
    """Names below `dec.` and `decoder.`."""
    table: dict[str, str | None] = {"direction.weight": "directions.weight", "input.input": "start"}
    table |= _within("conv1.", "first.", _STYLED) | _within("to_rgb1.", "", _UNUSED_RGB)
    num_levels = len(config.level_sizes)
    for level in range(num_levels):
        table |= _within(f"convs.{2 * level}.", f"levels.{level}.up.", UP_STYLED)
        table |= _within(f"convs.{2 * level + 1}.", f"levels.{level}.conv.", _STYLED)
        table |= _within(f"to_flows.{level}.", f"levels.{level}.flow.", _LAST_FLOW if level == num_levels - 1 else FLOW)
        table |= _within(f"to_rgbs.{level}.", f"levels.{level}.rgb.", RGB)
    if config.refine_dim:
        table |= _within("refine_block.", "refine.", refine_names(config))
    return table


def autoencoder_names(config: AutoencoderConfig) -> dict[str, str | None]:
    """Every published name of the whole renderer."""
    return (
        _within("enc.net_app.", "encoder.appearance.", appearance_names(config))
        | _within("enc.fc.", "encoder.motion.", motion_head_names())
        | _within("dec.", "decoder.", decoder_names(config))
    )


def discriminator_names(config: AutoencoderConfig) -> dict[str, str | None]:
    """Every published name of the discriminator."""
    return (
        _pyramid_names("convs.", "", len(config.channels) - 1)
        | _within("final_conv.", "final_conv.", _CONV_LAYER)
        | {f"final_linear.0.{kind}": f"hidden.{kind}" for kind in ("weight", "bias")}
        | {f"final_linear.1.{kind}": f"out.{kind}" for kind in ("weight", "bias")}
    )


def _vector_embedder(published: str, ours: str) -> dict[str, str | None]:
    return {
        f"{published}.mlp.{layer}.{kind}": f"{ours}.{name}.{kind}"
        for layer, name in ((0, "fc1"), (2, "fc2"))
        for kind in ("weight", "bias")
    }


def motion_names(config: MotionConfig) -> dict[str, str | None]:
    """Every published name of the motion transformer."""
    table: dict[str, str | None] = {"pos_embed": None}  # fixed
    for published, ours in _EMBEDDERS.items():
        table |= _vector_embedder(published, ours)
    for kind in ("weight", "bias"):
        for block in range(config.num_blocks):
            for published, ours in _BLOCK.items():
                table[f"blocks.{block}.{published}.{kind}"] = f"blocks.{block}.{ours}.{kind}"
        table[f"final_layer.adaLN_modulation.1.{kind}"] = f"final_layer.modulation.{kind}"
        table[f"final_layer.linear.{kind}"] = f"final_layer.linear.{kind}"
    return table


def from_published(state: Mapping[str, Tensor], table: Mapping[str, str | None], source: str) -> dict[str, Tensor]:
    """A published state dict under our names and without the axes of length 1 that only serve broadcasting.

    Raises:
        WeightsError: a name is not in the table, or one of the table is missing.
    """
    extra, missing = sorted(set(state) - set(table)), sorted(set(table) - set(state))
    if extra or missing:
        raise WeightsError(
            f"{source} does not hold these IF-MDM weights: missing {missing[:5]}, unexpected {extra[:5]}; use the "
            f"configuration that it was made with"
        )
    return {ours: _unpad(state[theirs], ours) for theirs, ours in table.items() if ours is not None}


def _unpad(value: Tensor, name: str) -> Tensor:
    """(1, O, C, k, k) to (O, C, k, k), bias (1, C, 1, 1) to (C,), start (1, C, 4, 4) to (C, 4, 4)."""
    if value.ndim == 5 or name.endswith("start"):
        return value.squeeze(0)
    return value.flatten() if value.ndim == 4 and name.endswith("bias") else value


def load_published_autoencoder(network: Autoencoder, state: Mapping[str, Tensor], source: str) -> None:
    """Loads the `gen` part of a published checkpoint.

    Raises:
        WeightsError: it does not fit.
    """
    load_exactly(network, from_published(state, autoencoder_names(network.config), source), source)


def load_published_discriminator(network: Discriminator, state: Mapping[str, Tensor], source: str) -> None:
    """Loads the `dis` part of a published checkpoint.

    Raises:
        WeightsError: it does not fit.
    """
    load_exactly(network, from_published(state, discriminator_names(network.config), source), source)


def load_published_motion(network: MotionDiffusionTransformer, state: Mapping[str, Tensor], source: str) -> None:
    """Loads the `model` or `ema` part of a published checkpoint.

    Raises:
        WeightsError: it does not fit.
    """
    load_exactly(network, from_published(state, motion_names(network.config), source), source)


def load_autoencoder(folder: Path, device: str = "cpu") -> Autoencoder:
    """The renderer in a folder of config.json and model.safetensors, in float32.

    Raises:
        WeightsError: a file is missing or does not fit.
    """
    network = Autoencoder(AutoencoderConfig.load(folder / "config.json"))
    path = folder / "model.safetensors"
    load_exactly(network, read_weights(path), str(path))
    return network.to(device).eval()


def load_steering(folder: Path) -> NDArray[np.float32] | None:
    """The map from landmarks to codes, (956, M), by which the renderer in a folder was trained; None if it was not."""
    path = folder / STEERING
    return read_weights(path)["basis"].numpy() if path.is_file() else None


def save_autoencoder(network: Autoencoder, folder: Path) -> None:
    """Writes what `load_autoencoder` reads, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.save(folder / "config.json")
    state = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
