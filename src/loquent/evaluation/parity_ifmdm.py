"""Our IF-MDM modules on the recorded numbers of the published ones.

Every function takes a fixture and gives our outputs under the fixture's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loquent.diffusion.gaussian import (
    Schedule,
    add_noise,
    ancestral,
    ddim,
    even_timesteps,
    linear_betas,
    strided_timesteps,
)
from loquent.models.ifmdm.autoencoder import Autoencoder
from loquent.models.ifmdm.config import AutoencoderConfig, MotionConfig, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.decoder import Decoder, Directions, FlowHead, RefineBlock, RgbHead, relative_motion
from loquent.models.ifmdm.discriminator import Discriminator
from loquent.models.ifmdm.encoder import Appearance, AppearanceNetwork, MotionHead
from loquent.models.ifmdm.layers import StyledConv
from loquent.models.ifmdm.sampling import guided
from loquent.models.ifmdm.transformer import MotionDiffusionTransformer
from loquent.models.ifmdm.weights import (
    FLOW,
    RGB,
    UP_STYLED,
    appearance_names,
    decoder_names,
    from_published,
    load_published_autoencoder,
    load_published_discriminator,
    load_published_motion,
    motion_head_names,
    refine_names,
)
from loquent.nn.weights import load_exactly
from loquent.training.ifmdm_motion_losses import motion_losses, split_window
from loquent.training.image_losses import pyramid_kernel, pyramid_level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TypeVar

    from torch import Tensor

    from loquent.diffusion.gaussian import Denoised
    from loquent.evaluation.fixtures import Fixture

    M = TypeVar("M", bound=torch.nn.Module)


def _load(module: M, fixture: Fixture, table: Mapping[str, str | None]) -> M:
    load_exactly(module, from_published(fixture.weights, table, fixture.module), fixture.module)
    return module.eval()


def autoencoder_config(recorded: Mapping[str, Any]) -> AutoencoderConfig:
    """A recording names widths at more resolutions than its network has."""
    size = recorded["size"]
    return AutoencoderConfig(
        size_px=size,
        motion_dim=recorded.get("motion_dim", 1),
        style_dim=recorded.get("style_dim", recorded.get("w_dim", 1)),
        channels=tuple(dim for side, dim in recorded["channels"].items() if int(side) <= size),
        refine_dim=recorded.get("refine_hidden", 0),
        refine_layers=recorded.get("refine_depth", 0),
    )


def _features(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensors[f"feat_{level}"] for level in range(sum(name.startswith("feat_") for name in tensors))]


def _encoder_net_app(fixture: Fixture) -> dict[str, Tensor]:
    config = autoencoder_config(fixture.config)
    found = _load(AppearanceNetwork(config), fixture, appearance_names(config))(fixture.inputs["image"])
    return {"h": found.vector} | {f"feat_{level}": value for level, value in enumerate(found.features)}


def _encoder_fc(fixture: Fixture) -> dict[str, Tensor]:
    config = AutoencoderConfig(style_dim=fixture.config["dim"], motion_dim=fixture.config["dim_motion"])
    return {"motion": _load(MotionHead(config), fixture, motion_head_names())(fixture.inputs["h"])}


def _direction(fixture: Fixture) -> dict[str, Tensor]:
    directions = Directions(fixture.config["rows"], fixture.config["motion_dim"])
    _load(directions, fixture, {"weight": "weight"})
    return {"Q": directions.basis(), "out": directions(fixture.inputs["alpha"])}


def _synthesis(fixture: Fixture) -> dict[str, Tensor]:
    config, inputs = autoencoder_config(fixture.config), fixture.inputs
    decoder = _load(Decoder(config), fixture, decoder_names(config))
    portrait = Appearance(inputs["wa"], _features(inputs))
    target, source, start = (inputs[f"alpha_{name}"] for name in ("target", "source", "start"))
    return {
        "single": decoder(portrait, target),
        "relative": decoder(portrait, relative_motion(target, source, start)),
        "none": decoder(portrait, None),
        "single_before_refine": decoder(portrait, target, refine=False),
    }


def _to_flow(fixture: Fixture) -> dict[str, Tensor]:
    inputs = fixture.inputs
    dim, size = inputs["x"].shape[1:3]
    head = _load(FlowHead(dim, fixture.config["style_dim"], size), fixture, FLOW)
    ours: dict[str, Tensor] = {}
    for suffix, previous in (("", None), ("_skip", inputs["skip"])):
        found = head(inputs["x"], inputs["style"], inputs["feat"], previous)
        ours |= {name + suffix: value for name, value in zip(("warp", "merged", "raw"), found, strict=True)}
    return ours


def _styled_conv_up(fixture: Fixture) -> dict[str, Tensor]:
    config = fixture.config
    layer = StyledConv(config["in_channel"], config["out_channel"], config["style_dim"], up=True)
    return {"y": _load(layer, fixture, UP_STYLED)(fixture.inputs["x"], fixture.inputs["style"])}


def _to_rgb(fixture: Fixture) -> dict[str, Tensor]:
    head, x = _load(RgbHead(fixture.config["in_channel"]), fixture, RGB), fixture.inputs["x"]
    return {"no_skip": head(x, None), "with_skip": head(x, fixture.inputs["skip"])}


def _generator(fixture: Fixture) -> dict[str, Tensor]:
    network = Autoencoder(autoencoder_config(fixture.config)).eval()
    load_published_autoencoder(network, fixture.weights, fixture.module)
    inputs = fixture.inputs
    portrait = network.encode(inputs["source"])
    drive, source, start = (network.motion_of(inputs[name]) for name in ("drive", "source", "drive_start"))
    return {
        "single": network(inputs["source"], inputs["drive"]),
        "relative": network.decoder(portrait, relative_motion(drive, source, start)),
        "source_only": network.decoder(portrait, None),
        "wa": portrait.vector,
        "motion_drive": drive,
        "motion_source": source,
        "motion_start": start,
    }


def _discriminator(fixture: Fixture) -> dict[str, Tensor]:
    network = Discriminator(autoencoder_config(fixture.config)).eval()
    load_published_discriminator(network, fixture.weights, fixture.module)
    image = fixture.inputs["image"]
    return {"logits": network(image), "logits_first2": network(image[:2])}


def _refine_block(fixture: Fixture) -> dict[str, Tensor]:
    dim, layers = fixture.config["hidden_channel"], fixture.config["depth"]
    config = AutoencoderConfig(refine_dim=dim, refine_layers=layers)
    return {"image": _load(RefineBlock(dim, layers), fixture, refine_names(config))(fixture.inputs["image"])}


def _antialias_downsample(fixture: Fixture) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for scale in fixture.config["scales"]:
        shrink = round(1 / scale)
        ours[f"scale_{scale}"] = pyramid_level(fixture.inputs["image"], shrink)
        ours[f"kernel_{scale}"] = pyramid_kernel(shrink)
    return ours


def _transformer(fixture: Fixture) -> MotionDiffusionTransformer:
    recorded = fixture.config
    config = MotionConfig(
        motion_dim=recorded["in_channels"],
        audio_dim=recorded["audio_dim"],
        num_frames=recorded["num_frames"],
        hidden_dim=recorded["hidden_size"],
        num_blocks=recorded["depth"],
        num_heads=recorded["num_heads"],
        mlp_ratio=recorded["mlp_ratio"],
    )
    network = MotionDiffusionTransformer(config).eval()
    load_published_motion(network, fixture.weights, fixture.module)
    return network


def _conditions(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Speech, hint, mean and std in our shapes."""
    return (inputs["y"].unflatten(1, (-1, 2)), *(inputs[f"x_{name}"][:, 0] for name in ("hint", "mean", "std")))


def _dit(fixture: Fixture) -> dict[str, Tensor]:
    network, inputs = _transformer(fixture), fixture.inputs
    x, t = inputs["x"], inputs["t"]
    speech, hint, mean, std = _conditions(inputs)
    open_statistics = torch.zeros_like(mean)
    predict = guided(network, speech, hint, mean, std, scale=fixture.config["cfg_scale"], kind="published")
    return {
        "forward": torch.cat(network(x, t, speech, hint, mean, std), dim=-1),
        "forward_no_statistics": torch.cat(network(x, t, speech, hint, open_statistics, open_statistics), dim=-1),
        "forward_with_cfg": torch.cat(predict(x, t), dim=-1),
    }


def _trajectory(name: str, states: Iterable[Denoised]) -> dict[str, Tensor]:
    samples, cleans = zip(*states, strict=True)
    return {f"{name}_samples": torch.stack(samples), f"{name}_pred_x0": torch.stack(cleans)}


def _sampling(fixture: Fixture) -> dict[str, Tensor]:
    network, inputs, steps = _transformer(fixture), fixture.inputs, fixture.config["steps"]
    noise, conditions = inputs["noise"], _conditions(inputs)
    betas = linear_betas(fixture.config["diffusion_steps"])
    strided = Schedule.respaced(betas, strided_timesteps(steps, len(betas)))
    even = Schedule.respaced(betas, even_timesteps(steps, len(betas)))
    with_guidance = guided(network, *conditions, scale=fixture.config["cfg_scale"], kind="published")
    plain = guided(network, *conditions, scale=1, kind="published")
    step_noise = iter(inputs["step_noise"])
    return {
        **_trajectory("ddim_cfg_clipped", ddim(with_guidance, noise, strided, clip=True)),
        **_trajectory("ddim_cfg_unclipped", ddim(with_guidance, noise, strided, clip=False)),
        **_trajectory("ddpm_clipped", ancestral(plain, noise, even, lambda: next(step_noise), clip=True)),
        "base_betas": betas,
        "ddim_betas": strided.betas,
        "ddpm_betas": even.betas,
        "ddim_timesteps": strided.timesteps,
        "ddpm_timesteps": even.timesteps,
    }


def _training_loss(fixture: Fixture) -> dict[str, Tensor]:
    network, inputs = _transformer(fixture), fixture.inputs
    schedule = Schedule.full(linear_betas(fixture.config["diffusion_steps"]))
    window = split_window(inputs["motion"], inputs["audio"].unflatten(1, (-1, 2)))
    step, noise = inputs["t"], inputs["noise"]
    noisy = add_noise(schedule, window.motion, noise, step)
    terms = motion_losses(network, schedule, window, step, noise, None)
    output = network(noisy, step, window.speech, window.hint, window.mean, window.std)
    return {
        "x_hint": window.hint[:, None],
        "x_mean": window.mean[:, None],
        "x_std": window.std[:, None],
        "x_t": noisy,
        "model_output": torch.cat(output, dim=-1),
        "mse": terms["noise"],
        "vb": terms["bound"],
        "loss": terms["noise"] + terms["bound"],
    }


def _load_autoencoder_keys(preset: str) -> Callable[[dict[str, Tensor]], None]:
    def load(state: dict[str, Tensor]) -> None:
        with torch.device("meta"):
            load_published_autoencoder(Autoencoder(get_autoencoder_preset(preset)), state, "key list")

    return load


def _load_discriminator_keys(preset: str) -> Callable[[dict[str, Tensor]], None]:
    def load(state: dict[str, Tensor]) -> None:
        with torch.device("meta"):
            load_published_discriminator(Discriminator(get_autoencoder_preset(preset)), state, "key list")

    return load


def _load_motion_keys(preset: str) -> Callable[[dict[str, Tensor]], None]:
    def load(state: dict[str, Tensor]) -> None:
        with torch.device("meta"):
            load_published_motion(MotionDiffusionTransformer(get_motion_preset(preset)), state, "key list")

    return load


EVALUATORS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    "encoder_net_app": _encoder_net_app,
    "encoder_fc": _encoder_fc,
    "direction": _direction,
    "synthesis": _synthesis,
    "to_flow": _to_flow,
    "styled_conv_up": _styled_conv_up,
    "to_rgb": _to_rgb,
    "generator": _generator,
    "discriminator": _discriminator,
    "refine_block": _refine_block,
    "antialias_downsample": _antialias_downsample,
    "dit": _dit,
    "sampling": _sampling,
    "training_loss": _training_loss,
}
KEY_LOADERS: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "generator_512": _load_autoencoder_keys("published-512"),
    "generator_256": _load_autoencoder_keys("published-256"),
    "discriminator_512": _load_discriminator_keys("published-512"),
    "discriminator_256": _load_discriminator_keys("published-256"),
    "dit_a0": _load_motion_keys("a0"),
    "dit_a1": _load_motion_keys("a1"),
}
# Without clipping, random weights let the state grow to some hundreds, and small values carry the rounding of large ones.
TOLERANCES: dict[str, dict[str, float]] = {
    "sampling": {"ddim_cfg_unclipped_samples": 1e-3, "ddim_cfg_unclipped_pred_x0": 1e-3}
}
