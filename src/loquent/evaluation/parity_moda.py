"""Our MoDA and LivePortrait modules on the recorded numbers of the published ones.

Every function takes a fixture and gives our outputs under the fixture's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch.nn import functional as F

from loquent.diffusion.flow import add_noise, clean_estimate, euler, shift_sigma, time_grid, velocity_target
from loquent.diffusion.windows import crossfade, smooth3
from loquent.models.moda.config import BASE, ModaConfig
from loquent.models.moda.fast import FastMotionTransformer
from loquent.models.moda.network import (
    AudioEmbedder,
    FinalLayer,
    JointBlock,
    MotionTransformer,
    SingleBlock,
)
from loquent.models.moda.sampling import WindowedSampler
from loquent.models.moda.weights import load_exactly, load_published, rename_published
from loquent.nn.attention import rotary_table, rotate
from loquent.nn.layers import TimeEmbedder, VectorEmbedder, sinusoids

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loquent.evaluation.fixtures import Fixture

M = TypeVar("M", bound=torch.nn.Module)
_ROPE_THETA = 256.0


def _load_part(module: M, fixture: Fixture, published: str, ours: str) -> M:
    """`module` with the fixture's weights, renamed as the part of a checkpoint that starts with `published`."""
    state = {rename_published(published + name).removeprefix(ours): value for name, value in fixture.weights.items()}
    load_exactly(module, state, fixture.module)
    return module.eval()


def _block_config(fixture: Fixture) -> ModaConfig:
    names = {"hidden_size": "hidden_dim", "num_heads": "num_heads", "mlp_ratio": "mlp_ratio"}
    return ModaConfig(**{ours: fixture.config[name] for name, ours in names.items()})


def _block_table(fixture: Fixture, num_tokens: int, tiles: int) -> Tensor:
    head_dim = fixture.config["hidden_size"] // fixture.config["num_heads"]
    return rotary_table(torch.arange(num_tokens // tiles).repeat(tiles), head_dim, _ROPE_THETA)


def _timestep_embedder(fixture: Fixture) -> dict[str, Tensor]:
    width, frequencies = fixture.config["hidden_size"], fixture.config["frequency_embedding_size"]
    embedder = _load_part(TimeEmbedder(width, frequencies), fixture, "time_embedder.", "time_embedder.")
    t = fixture.inputs["t"]
    return {"emb": embedder(t), "freq": sinusoids(t, frequencies)}


def _motion_embedder(fixture: Fixture) -> dict[str, Tensor]:
    embedder = VectorEmbedder(fixture.config["motion_dim"], fixture.config["hidden_size"])
    _load_part(embedder, fixture, "motion_embedder.", "motion_embedder.")
    return {"y": embedder(fixture.inputs["x"])}


def _label_embedder(fixture: Fixture) -> dict[str, Tensor]:
    table = torch.nn.Embedding(fixture.config["num_classes"] + 1, fixture.config["hidden_size"])
    _load_part(table, fixture, "emo_embedder.", "emotion_table.")
    return {"y": table(fixture.inputs["labels"].long())}


def _audio_embedder(fixture: Fixture) -> dict[str, Tensor]:
    config = fixture.config
    embedder = AudioEmbedder(config["blocks"] * config["channels"], config["output_dim"])
    _load_part(embedder, fixture, "audio_embedder.", "audio_embedder.")
    return {"tokens": embedder(fixture.inputs["audio"][:, :, 0])[:, :, None]}


def _rope(fixture: Fixture) -> dict[str, Tensor]:
    positions = torch.arange(int(fixture.inputs["n"]))
    table = rotary_table(positions, fixture.config["head_dim"], fixture.config["theta"])
    cos, sin = table.repeat_interleave(2, dim=-1)
    return {"cos": cos, "sin": sin} | {name: rotate(fixture.inputs[name], table) for name in ("q", "k")}


def _final_layer(fixture: Fixture) -> dict[str, Tensor]:
    layer = FinalLayer(fixture.config["hidden_size"], fixture.config["out_channels"])
    _load_part(layer, fixture, "final_layer.", "final_layer.")
    return {"y": layer(fixture.inputs["x"], fixture.inputs["c"])}


def _four_stream(fixture: Fixture) -> dict[str, Tensor]:
    block = _load_part(JointBlock(_block_config(fixture), 4), fixture, "blocks4.0.", "four_stream_blocks.0.")
    names = ("motion", "audio", "emotion", "identity")
    table = _block_table(fixture, fixture.inputs["motion"].shape[1], 1)
    out = block([fixture.inputs[name] for name in names], fixture.inputs["c"], [table, table, None, None])
    return dict(zip(names, out, strict=True))


def _double_stream(fixture: Fixture) -> dict[str, Tensor]:
    block = _load_part(JointBlock(_block_config(fixture), 2), fixture, "blocks2.0.", "double_stream_blocks.0.")
    pair = [fixture.inputs["motion"], fixture.inputs["cond"]]
    tables = [_block_table(fixture, x.shape[1], tiles) for x, tiles in zip(pair, (1, 3), strict=True)]
    motion, cond = block(pair, fixture.inputs["c"], tables)
    return {"motion": motion, "cond": cond}


def _single_stream(fixture: Fixture) -> dict[str, Tensor]:
    block = _load_part(SingleBlock(_block_config(fixture)), fixture, "blocks.0.", "single_stream_blocks.0.")
    tokens = fixture.inputs["tokens"]
    return {"tokens": block(tokens, fixture.inputs["c"], _block_table(fixture, tokens.shape[1], 4))}


def _transformer(
    fixture: Fixture, audio_layers: int, num_frames: int = BASE.num_frames, overlap: int = BASE.overlap
) -> MotionTransformer:
    config = fixture.config
    network = MotionTransformer(
        ModaConfig(
            hidden_dim=config["hidden_size"],
            num_heads=config["num_heads"],
            mlp_ratio=config["mlp_ratio"],
            audio_layers=audio_layers,
            audio_dim=config["audio_dim"],
            four_stream_blocks=config["four_stream_blocks"],
            double_stream_blocks=config["double_stream_blocks"],
            single_stream_blocks=config["single_stream_blocks"],
            num_frames=num_frames,
            overlap=overlap,
        )
    )
    load_published(network, fixture.weights, fixture.module)
    return network.eval()


def _talking_head_dit(fixture: Fixture) -> dict[str, Tensor]:
    network = _transformer(fixture, audio_layers=fixture.config["audio_blocks"])
    inputs = fixture.inputs
    previous, noisy = inputs["motion"].split(fixture.config["output_dim"], dim=-1)
    audio, identity = inputs["audio"][:, :, 0], inputs["audio_cond"].mean(1)
    return {"velocity": network(noisy, inputs["times"] / 1000, previous, audio, inputs["emo"].long(), identity)}


def _motion_sampling(fixture: Fixture) -> dict[str, Tensor]:
    config, inputs = fixture.config, fixture.inputs
    network = FastMotionTransformer(  # what the published system samples with
        _transformer(
            fixture,
            audio_layers=config["audio_layers"],
            num_frames=config["n_pred_frames"],
            overlap=config["overlap"],
        )
    )

    def sample(guidance: float) -> Tensor:
        noise = iter(inputs["noise"][:, 0])
        pieces = WindowedSampler(network).sample(
            [inputs["audio"]],
            previous=inputs["prev_motion"][0, 0],
            emotion=F.one_hot(torch.tensor(config["emo"]), network.config.num_emotions + 1).float(),
            identity=inputs["ref_kp"][0],
            draw_noise=lambda: next(noise),
            steps=config["num_inference_steps"],
            guidance=guidance,
        )
        return torch.cat(list(pieces))

    old, new, overlap = inputs["fuse_prev"][0], inputs["fuse_cur"][0], config["overlap"]
    # The recording shows the joined motion up to the end of the overlap.
    fused = torch.cat([old[:-overlap], crossfade(old[-overlap:], new[:overlap])])
    return {
        "motion_cfg": sample(config["cfg_scale"]),
        "motion_nocfg": sample(1.0),
        "smooth_out": smooth3(inputs["smooth_in"][0], slice(config["exp_dim"], None))[None],
        "fuse_out": fused[None],
    }


def _flow_matching(fixture: Fixture) -> dict[str, Tensor]:
    inputs, recorded = fixture.inputs, fixture.outputs
    train_steps = fixture.config["num_train_timesteps"]
    sigma = inputs["train_timesteps"] / train_steps
    noise = recorded["noise"]  # the published code draws it itself
    noisy, target = add_noise(inputs["sample"], noise, sigma), velocity_target(inputs["sample"], noise)
    states, estimates = [inputs["x0"]], []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        v = x @ inputs["A"] + inputs["b"] * sigma[:, None, None] + inputs["c"]
        estimates.append(clean_estimate(x, v, sigma))
        states.append(x)
        return v

    end = euler(velocity, inputs["x0"], time_grid(fixture.config["num_inference_steps"]))
    levels = torch.arange(1, train_steps + 1) / train_steps
    grids = {f"timesteps_{steps}": time_grid(steps)[:-1] * train_steps for steps in (5, 10, 20, 50)}
    return grids | {
        "noise": noise,
        "used_timesteps": sigma * train_steps,
        "noisy": noisy,
        "target": target,
        "original_from_target": clean_estimate(noisy, target, sigma),
        "sigmas": levels,
        "sigmas_shift3": shift_sigma(levels, 3.0),
        "trajectory": torch.stack([*states[1:], end]),
        "pred_original": torch.stack(estimates),
    }


def _load_transformer_keys(state: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        network = MotionTransformer(BASE)
        load_published(network, state, "released key list")


EVALUATORS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    "timestep_embedder": _timestep_embedder,
    "motion_embedder": _motion_embedder,
    "label_embedder": _label_embedder,
    "audio_embedder": _audio_embedder,
    "rope": _rope,
    "final_layer": _final_layer,
    "block_four_stream": _four_stream,
    "block_double_stream": _double_stream,
    "block_single_stream": _single_stream,
    "talking_head_dit": _talking_head_dit,
    "motion_sampling": _motion_sampling,
    "flow_matching": _flow_matching,
}
KEY_LOADERS: dict[str, Callable[[dict[str, Tensor]], None]] = {"talking_head_dit": _load_transformer_keys}
