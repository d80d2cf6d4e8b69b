"""Our MoDiTalker modules on the recorded numbers of the published ones.

Every function takes a fixture and gives our outputs under the fixture's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loquent.diffusion.gaussian import Schedule
from loquent.diffusion.stochastic import (
    cosine_betas,
    from_clean,
    from_noise,
    root_linear_betas,
    stochastic_ddim,
    truncated_timesteps,
)
from loquent.models.moditalker import alignment, pictures
from loquent.models.moditalker.atom import AtomDenoiser, guided
from loquent.models.moditalker.autoencoder import TriplaneAutoencoder
from loquent.models.moditalker.config import (
    AtomConfig,
    AutoencoderConfig,
    UNetConfig,
    get_atom_preset,
    get_autoencoder_preset,
    get_unet_preset,
)
from loquent.models.moditalker.discriminator import PatchDiscriminator
from loquent.models.moditalker.unet import LatentUNet
from loquent.models.moditalker.video_sampling import Conditions, LatentSampler, VideoSettings
from loquent.models.moditalker.video_sampling import guided as guided_video
from loquent.models.moditalker.weights import (
    atom_names,
    load_published_atom,
    load_published_autoencoder,
    load_published_discriminator,
    load_published_unet,
)
from loquent.training.adan import Adan
from loquent.training.moditalker_losses import (
    Discriminators,
    atom_losses,
    autoencoder_losses,
    discriminator_loss,
    latent_noise_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loquent.evaluation.fixtures import Fixture


def _atom(fixture: Fixture) -> AtomDenoiser:
    sizes = fixture.config
    network = AtomDenoiser(
        AtomConfig(
            num_frames=sizes["seq_len"],
            audio_dim=sizes["cond_feature_dim"],
            hidden_dim=sizes["latent_dim"],
            feedforward_dim=sizes["ff_size"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            dropout=sizes["dropout"],
        )
    ).eval()
    load_published_atom(network, fixture.weights, fixture.module)
    return network


def _atom_conditions(fixture: Fixture) -> tuple[Tensor, Tensor]:
    """Speech and first landmarks in our shapes."""
    return fixture.inputs["audio"].unflatten(1, (-1, 2)), fixture.inputs["initial_landmark"][:, 0]


def _atom_denoiser(fixture: Fixture) -> dict[str, Tensor]:
    network, (audio, landmark) = _atom(fixture), _atom_conditions(fixture)
    x, t = fixture.inputs["x"], fixture.inputs["times"]
    none = torch.zeros(len(x), dtype=torch.bool)
    return {
        "conditional": network(x, t, audio, landmark),
        "unconditional": network(x, t, audio, landmark, none),
        "masked": network(x, t, audio, landmark, fixture.inputs["keep_mask"]),
        "guided": guided(network, audio, landmark, scale=fixture.config["guidance_weight"])(x, t),
    }


def _schedule_tables(betas: Tensor) -> dict[str, Tensor]:
    schedule = Schedule.full(betas)
    bars = schedule.signal.square()
    bars_before = schedule.signal_before.square()
    posterior = schedule.betas * (1 - bars_before.double()) / schedule.noise.double().square()
    return {
        "betas": betas,
        "alphas_cumprod": bars,
        "alphas_cumprod_prev": bars_before,
        "sqrt_alphas_cumprod": schedule.signal,
        "sqrt_one_minus_alphas_cumprod": schedule.noise,
        "log_one_minus_alphas_cumprod": 2 * schedule.noise.log(),
        "sqrt_recip_alphas_cumprod": schedule.inverse_signal,
        "sqrt_recipm1_alphas_cumprod": schedule.inverse_noise,
        "posterior_mean_coef1": schedule.clean_weight,
        "posterior_mean_coef2": schedule.noisy_weight,
        "posterior_variance": posterior,
        "posterior_log_variance_clipped": posterior.clamp(min=1e-20).log(),
    }


def _with_end(timesteps: list[int]) -> Tensor:
    """Timesteps as published: falling, and −1 at the end."""
    return torch.tensor([*reversed(timesteps), -1])


def _atom_schedule(fixture: Fixture) -> dict[str, Tensor]:
    sizes = fixture.config
    betas = cosine_betas(sizes["n_timestep"], sizes["cosine_s"])
    return {
        **_schedule_tables(betas),
        "p2_loss_weight": torch.ones(len(betas)),
        "ddim_times_descending": _with_end(truncated_timesteps(sizes["ddim_steps"], len(betas))),
    }


@torch.enable_grad()
def _atom_training_loss(fixture: Fixture) -> dict[str, Tensor]:
    network, (audio, landmark), inputs = _atom(fixture), _atom_conditions(fixture), fixture.inputs
    schedule = Schedule.full(cosine_betas(fixture.config["n_timestep"]))
    conditions = network.embed_conditions(audio, landmark, inputs["keep_mask"])
    seen: dict[str, Tensor] = {}

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        seen["x_noisy"], seen["prediction"] = x, network.denoise(x, timestep, conditions)
        return seen["prediction"]

    terms = atom_losses(predict, schedule, inputs["x_start"], inputs["noise"], inputs["times"])
    total = terms["reconstruction"] + terms["velocity"]
    total.backward()
    ours, names = dict(network.named_parameters()), atom_names(network.config)
    gradients = {}
    for output in fixture.outputs:
        name = names[output.removeprefix("grad.")] if output.startswith("grad.") else None
        if name is not None:
            gradient = ours[name].grad
            assert gradient is not None
            gradients[output] = gradient
    return {
        "x_noisy": seen["x_noisy"],
        "prediction": seen["prediction"].detach(),
        "loss_reconstruction_weighted": terms["reconstruction"].detach(),
        "loss_velocity_weighted": terms["velocity"].detach(),
        "loss_total": total.detach(),
        **gradients,
    }


def _atom_sampling(fixture: Fixture) -> dict[str, Tensor]:
    network, sizes = _atom(fixture), fixture.config
    betas = cosine_betas(sizes["n_timestep"])
    schedule = Schedule.respaced(betas, truncated_timesteps(sizes["steps"], len(betas)))
    noise = iter(fixture.inputs["noise"])
    denoise = from_clean(guided(network, *_atom_conditions(fixture), scale=sizes["guidance_weight"]), schedule)
    states = list(stochastic_ddim(denoise, next(noise), schedule, lambda: next(noise), eta=sizes["eta"]))
    ours = {"final": states[-1].x}
    for step in (1, 5, 25, 49):
        ours[f"x_before_step_{step}"] = states[step - 1].x
        ours[f"x0_at_step_{step}"] = states[step].clean
    return ours


def _adan(fixture: Fixture) -> dict[str, Tensor]:
    weight = torch.nn.Parameter(fixture.inputs["parameter"].clone())
    sizes = fixture.config
    optimizer = Adan([weight], sizes["lr"], tuple(sizes["betas"]), sizes["eps"], sizes["weight_decay"])
    after = []
    for gradient in fixture.inputs["gradients"]:
        weight.grad = gradient
        optimizer.step()
        after.append(weight.detach().clone())
    return {"parameters": torch.stack(after)}


def _landmark_alignment(fixture: Fixture) -> dict[str, Tensor]:
    inputs = {name: value.numpy() for name, value in fixture.inputs.items()}
    angles, detected, template = inputs["angles"], inputs["detected_landmarks"], inputs["template5"]
    aligned = alignment.align_published(
        inputs["canonical_landmarks"], angles, inputs["translation"], detected, template
    )
    similarity = alignment.fit_template(detected, template)
    ours = {
        "aligned": aligned,
        "aligned_int": aligned.astype(int),
        "rotation": alignment.rotation_matrices(angles),
        "scale": similarity.scale,
        "translation2d": similarity.translation,
        "drawing": pictures.draw_dots(aligned[:1], fixture.config["size"]),
    }
    return {name: torch.from_numpy(value) for name, value in ours.items()}


def _preprocessing(fixture: Fixture) -> dict[str, Tensor]:
    video, landmarks = fixture.inputs["video"], fixture.inputs["landmarks"].numpy()
    masked = pictures.hide_lower_face(video, landmarks)
    size = fixture.config["resolution"]
    return {
        "landmark_images": torch.from_numpy(pictures.draw_dots(landmarks, fixture.config["width"])),
        "masked_first_frame": masked[0],
        "resized": pictures.to_square(video, size).movedim(0, 1),
        "masked_resized": pictures.to_square(masked, size).movedim(0, 1),
    }


def _autoencoder(fixture: Fixture) -> dict[str, Tensor]:
    sizes, inputs = fixture.config, fixture.inputs
    network = TriplaneAutoencoder(
        AutoencoderConfig(
            size_px=sizes["resolution"],
            num_frames=sizes["timesteps"],
            channels=sizes["channels"],
            num_layers=sizes["depth"],
            num_heads=sizes["heads"],
            head_dim=sizes["dim_head"],
            pool_layers=sizes["pool_depth"],
            pool_heads=sizes["pool_heads"],
            pool_head_dim=sizes["channels"] // 8,
            pool_mlp_dim=sizes["pool_mlp"],
            latent_dim=sizes["embed_dim"],
        )
    ).eval()
    load_published_autoencoder(network, fixture.weights, fixture.module)
    latent = network.encode(inputs["video"])
    return {
        "latent": latent,
        "sum_of_planes": network.volume(latent),
        "reconstruction": _frames(network.decode(latent)),
        "decoded_latent": _frames(network.decode(inputs["latent"])),
    }


def _frames(clips: Tensor) -> Tensor:
    """(B, 3, T, H, W) to (B·T, 3, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


def _adversarial_loss(fixture: Fixture) -> dict[str, Tensor]:
    inputs, sizes = fixture.inputs, fixture.config
    frames = PatchDiscriminator(2, sizes["ndf"], sizes["n_layers"]).eval()
    clips = PatchDiscriminator(3, sizes["ndf"], sizes["n_layers"]).eval()
    for network, prefix in ((frames, "discriminator_2d."), (clips, "discriminator_3d.")):
        state = {name.removeprefix(prefix): value for name, value in fixture.weights.items() if name.startswith(prefix)}
        load_published_discriminator(network, state, fixture.module)
    both = Discriminators(frames, clips)
    real, made, index = inputs["real"], inputs["reconstruction"], inputs["frame_index"]
    before = autoencoder_losses(real, made, index, None, None)
    after = autoencoder_losses(real, made, index, both, None)
    return {
        "generator_loss_before_start": torch.stack([*before.values()]).sum()[None],
        "generator_loss": torch.stack([*after.values()]).sum()[None],
        "discriminator_loss": discriminator_loss(real, made, index, both),
        "logits_2d_frame0": frames(real[:, :, 0])[-1],
        "logits_3d": clips(real)[-1],
    }


def _unet(fixture: Fixture) -> LatentUNet:
    sizes = fixture.config
    network = LatentUNet(
        UNetConfig(
            dim=sizes["model_channels"],
            multipliers=tuple(sizes["channel_mult"]),
            num_blocks=sizes["num_res_blocks"],
            attention_levels=tuple(factor.bit_length() - 1 for factor in sizes["attention_resolutions"]),
            num_heads=sizes["num_heads"],
        )
    ).eval()
    load_published_unet(network, fixture.weights, fixture.module)
    return network


def _video_conditions(fixture: Fixture) -> Conditions:
    inputs = fixture.inputs
    landmark, pose = inputs["cond"].chunk(2, dim=1)
    identity = inputs["identity"] if "identity" in inputs else inputs["identity_full"][..., :1024]
    return Conditions(landmark, pose, identity)


def _mtov_unet(fixture: Fixture) -> dict[str, Tensor]:
    return {"eps": _unet(fixture)(fixture.inputs["x"], fixture.inputs["times"], *_video_conditions(fixture))}


def _latent_betas(fixture: Fixture) -> Tensor:
    sizes = fixture.config
    return root_linear_betas(sizes["timesteps"], sizes["linear_start"], sizes["linear_end"])


def _mtov_schedule(fixture: Fixture) -> dict[str, Tensor]:
    betas = _latent_betas(fixture)
    tables = _schedule_tables(betas)
    bound = betas**2 / (2 * tables["posterior_variance"] * (1 - betas) * (1 - tables["alphas_cumprod"].double()))
    bound[0] = bound[1]
    return {
        **tables,
        "lvlb_weights": bound,
        "ddim_times_descending_100": _with_end(truncated_timesteps(100, len(betas))),
    }


def _mtov_training_loss(fixture: Fixture) -> dict[str, Tensor]:
    network, inputs = _unet(fixture), fixture.inputs
    conditions = _video_conditions(fixture)
    schedule = Schedule.full(_latent_betas(fixture))
    seen: dict[str, Tensor] = {}

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        seen["x_noisy"], seen["eps"] = x, network(x, timestep, *conditions)
        return seen["eps"]

    loss = latent_noise_loss(predict, schedule, inputs["z"], inputs["noise"], inputs["times"])
    return {"loss": loss, **seen}


def _mtov_sampling(fixture: Fixture) -> dict[str, Tensor]:
    sizes, inputs = fixture.config, fixture.inputs
    network = guided_video(_unet(fixture), _video_conditions(fixture), scale=1)
    whole = LatentSampler(VideoSettings(steps=sizes["steps"], eta=sizes["eta"]))
    noise = iter(inputs["noise"])
    walk = stochastic_ddim(from_noise(network, whole.schedule), next(noise), whole.schedule, lambda: next(noise))
    states = list(walk)
    part = LatentSampler(VideoSettings(steps=sizes["steps_noised_start"], eta=sizes["eta"], strength=sizes["ratio"]))
    step_noise = iter(inputs["noise_noised_start"])
    start = part.start(inputs["identity_full"], next(step_noise))
    return {
        "times": whole.schedule.timesteps.flip(0),
        "x0_first_step": states[0].clean,
        "final": states[-1].x,
        "times_noised_start": part.schedule.timesteps.flip(0),
        "x_start_noised": start,
        "final_noised_start": part.sample(network, start, lambda: next(step_noise)),
    }


def _load_autoencoder_keys(state: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        load_published_autoencoder(TriplaneAutoencoder(get_autoencoder_preset("published")), state, "key list")


def _load_unet_keys(preset: str) -> Callable[[dict[str, Tensor]], None]:
    def load(state: dict[str, Tensor]) -> None:
        with torch.device("meta"):
            load_published_unet(LatentUNet(get_unet_preset(preset)), state, "key list")

    return load


def _load_atom_keys(state: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        load_published_atom(AtomDenoiser(get_atom_preset("published")), state, "key list")


EVALUATORS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    "atom_denoiser": _atom_denoiser,
    "atom_schedule": _atom_schedule,
    "atom_training_loss": _atom_training_loss,
    "atom_sampling": _atom_sampling,
    "adan": _adan,
    "landmark_alignment": _landmark_alignment,
    "mtov_preprocessing": _preprocessing,
    "triplane_autoencoder": _autoencoder,
    "landmark_autoencoder": _autoencoder,
    "triplane_adversarial_loss": _adversarial_loss,
    "mtov_unet": _mtov_unet,
    "mtov_schedule": _mtov_schedule,
    "mtov_training_loss": _mtov_training_loss,
    "mtov_sampling": _mtov_sampling,
}
KEY_LOADERS: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "atom_denoiser": _load_atom_keys,
    "triplane_autoencoder": _load_autoencoder_keys,
    "landmark_autoencoder": _load_autoencoder_keys,
    "mtov_unet": _load_unet_keys("published"),
    "mtov_unet_longvid": _load_unet_keys("published-longvid"),
}
# The published tables are made in float32, and these three divide by 1 − bar(alpha), which is 4e-5 at the first timestep.
# Only ancestral sampling reads them, which AToM does not do.
TOLERANCES: dict[str, dict[str, float]] = {
    "atom_schedule": dict.fromkeys(
        ("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"), 2e-3
    )
}
