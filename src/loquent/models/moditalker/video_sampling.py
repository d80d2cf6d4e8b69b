"""Video of any length from landmarks, one portrait and, if there are any, driving frames.

Windows of a few frames are sampled one after the other and fade into each other over the frames that they share.

Shape letters: T frames of a window, R picture side, L latent channels, P positions of all planes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from loquent.diffusion.dpm_solver import dpm_solver
from loquent.diffusion.flow import guide
from loquent.diffusion.gaussian import Schedule, add_noise, last_sample
from loquent.diffusion.stochastic import from_clean, from_noise, root_linear_betas, stochastic_ddim, truncated_timesteps
from loquent.diffusion.takes import full_windows, join_takes, keep_known
from loquent.errors import ControlsError, VideoError, WeightsError
from loquent.models.moditalker.fast import FastAutoencoder, FastUNet, fast_autoencoder, fast_unet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from loquent.diffusion.stochastic import Network
    from loquent.diffusion.takes import Window
    from loquent.models.moditalker.autoencoder import TriplaneAutoencoder
    from loquent.models.moditalker.unet import LatentUNet


_UNEQUAL = "driving frames and pictures of landmarks differ in number; give as many of either"


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How video is sampled.

    Published scripts: strength 0.25, overlap 0, reference "portrait" or, as an option, "last".
    """

    steps: int = 100
    solver: Literal["ddim", "dpm-solver"] = "ddim"  # dpm-solver: as good in a tenth of the steps, see `dpm_solver`
    eta: float = 1.0  # of ddim
    strength: float = (
        1.0  # 1: from pure noise; less: from the still portrait, noised so far, with that share of the steps
    )
    guidance: float = 1.0  # 1 is none; else the weights must have been trained with conditions left out
    overlap: int = 4  # frames that fade from one window to the next
    reference: Literal["portrait", "last"] = "portrait"  # which frame tells the identity: "last" drifts

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ControlsError(f"strength is {self.strength}; choose more than 0, and 1 at most")


class Conditions(NamedTuple):
    """What the denoiser is told of a window."""

    landmark: Tensor  # (B, L, P)
    pose: Tensor  # (B, L, P)
    identity: Tensor  # (B, L, xy positions)

    def dropped(self, keep: Tensor) -> Conditions:
        """The same with zeros where keep (B,) is false: how weights for guidance are trained."""
        return Conditions(*(torch.where(keep[:, None, None], latent, 0) for latent in self))


def guided(network: LatentUNet | FastUNet, conditions: Conditions, scale: float) -> Network:
    """The denoiser with its conditions, guided by all of them together.

    Raises:
        ControlsError: guidance is asked of weights that never did without conditions.
    """
    if scale == 1:
        return _told(network, conditions)
    if not network.config.condition_dropout:
        raise ControlsError(
            f"guidance is {scale}, but these weights were trained with all conditions at all times, as published; "
            f"leave it at 1 or use weights whose configuration has condition_dropout"
        )
    nothing = conditions.dropped(torch.zeros(len(conditions.pose), dtype=torch.bool, device=conditions.pose.device))
    both = _told(network, Conditions(*(torch.cat(pair) for pair in zip(conditions, nothing, strict=True))))

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        conditional, unconditional = both(x.repeat(2, 1, 1), timestep.repeat(2)).chunk(2)
        return guide(unconditional, conditional, scale)

    return predict


def _told(network: LatentUNet | FastUNet, conditions: Conditions) -> Network:
    """The denoiser with its conditions."""
    if isinstance(network, FastUNet):
        told = network.embed(*conditions)
        return lambda x, timestep: network.denoise(x, timestep, told)
    return lambda x, timestep: network(x, timestep, *conditions)


def kept_timesteps(steps: int, strength: float, num_timesteps: int) -> list[int]:
    """The timesteps of a walk of `steps` steps that are left when it begins at `strength`.

    Raises:
        ControlsError: none is left, or there are more steps than timesteps.
    """
    kept = truncated_timesteps(steps, num_timesteps)[: steps - int(steps * (1 - strength))]
    if not kept:
        raise ControlsError(f"{steps} steps at strength {strength} leave none; raise either")
    return kept


def check_planes(pictures: TriplaneAutoencoder, dots: TriplaneAutoencoder, network: LatentUNet) -> None:
    """
    Raises:
        WeightsError: the networks do not belong together.
    """
    for other in (dots.config, network.config):
        if other.planes != pictures.config.planes:
            raise WeightsError(
                f"latent channels, side and frames are {pictures.config.planes} in the autoencoder of pictures and "
                f"{other.planes} in another network; use networks of one training"
            )


class LatentSampler:
    """Walks from noise, or from a noised still portrait, to the latent of a clip."""

    def __init__(self, settings: VideoSettings) -> None:
        betas = root_linear_betas()
        self.settings = settings
        self._noising = Schedule.full(betas)
        self.schedule = Schedule.respaced(betas, kept_timesteps(settings.steps, settings.strength, len(betas)))

    def start(self, still: Tensor, noise: Tensor) -> Tensor:
        """Where the walk begins.

        Args:
            still: latent of the portrait, held still, (B, L, P).
            noise: (B, L, P).
        """
        if self.settings.strength == 1:
            return noise
        timestep = int(len(self._noising) * self.settings.strength)
        return add_noise(self._noising, still, noise, torch.full((len(still),), timestep, device=still.device))

    def sample(
        self, network: Network, start: Tensor, draw_noise: Callable[[], Tensor], prediction: str = "noise"
    ) -> Tensor:
        """The latent (B, L, P) that the walk from `start` ends with; `prediction` as in the network's configuration."""
        read = from_clean if prediction == "clean" else from_noise
        denoise = read(network, self.schedule)
        if self.settings.solver == "dpm-solver":
            return last_sample(dpm_solver(denoise, start, self.schedule))
        return last_sample(stochastic_ddim(denoise, start, self.schedule, draw_noise, eta=self.settings.eta))


class VideoSampler:
    """Turns pictures of landmarks into frames."""

    def __init__(
        self,
        pictures: TriplaneAutoencoder,
        dots: TriplaneAutoencoder,
        network: LatentUNet,
        settings: VideoSettings,
    ) -> None:
        """
        Args:
            pictures: autoencoder of frames.
            dots: autoencoder of dot pictures, see `pictures.dots_to_clip`.
            network: their denoiser.
            settings: how to sample.

        Raises:
            WeightsError: the networks do not belong together.
            ControlsError: windows cannot overlap so far.
        """
        check_planes(pictures, dots, network)
        num_frames = pictures.config.num_frames
        if not 0 <= settings.overlap <= num_frames // 2:
            raise ControlsError(
                f"windows of {num_frames} frames cannot overlap by {settings.overlap}; choose 0 to {num_frames // 2}"
            )
        self.pictures, self.dots = fast_autoencoder(pictures), fast_autoencoder(dots)
        self.network, self.settings = fast_unet(network), settings
        self._sampler = LatentSampler(settings)

    @torch.no_grad()
    def sample(
        self,
        landmarks: Iterable[Tensor],
        *,
        portrait: Tensor,
        pose: Tensor | Iterable[Tensor],
        draw_noise: Callable[[], Tensor],
    ) -> Iterator[Tensor]:
        """Turns a stream of dot pictures into a stream of frames of the same length.

        Args:
            landmarks: consecutive blocks (t, 3, R, R) of dot pictures.
            portrait: (3, R, R) in [−1, 1].
            pose: the portrait with its lower face hidden, (3, R, R), or blocks (t, 3, R, R) of driving frames of the
                same person with theirs hidden, as many as landmarks.
            draw_noise: gives the next (L, P) of noise.

        Yields:
            Consecutive pieces (t, 3, R, R) in [−1, 1], final once handed out.

        Raises:
            VideoError: pictures have another size, or there are fewer driving frames than landmarks or more.
        """
        num_frames, overlap = self.pictures.config.num_frames, self.settings.overlap
        still = encode_still(self.pictures, portrait)
        still_pose = encode_still(self.pictures, pose) if isinstance(pose, torch.Tensor) else None
        driving = iter(()) if isinstance(pose, torch.Tensor) else full_windows(pose, num_frames, overlap)
        reference = still

        def make_take(window: Window, known: Tensor | None) -> Tensor:
            nonlocal reference
            conditions = Conditions(
                landmark=encode_frames(self.dots, window.rows),
                pose=self._encode_driving(next(driving, None), window) if still_pose is None else still_pose,
                identity=reference[..., : self.pictures.config.side**2],
            )
            take = self._sample_window(conditions, reference, draw_noise)
            if known is not None:
                take = keep_known(take, known, overlap)
            if self.settings.reference == "last":
                reference = encode_still(self.pictures, take[window.num_real - 1])
            return take

        yield from join_takes(full_windows(landmarks, num_frames, overlap), make_take, overlap)
        if next(driving, None) is not None:
            raise VideoError(_UNEQUAL)

    def _encode_driving(self, driving: Window | None, window: Window) -> Tensor:
        """Latent (1, L, P) of the driving frames of a window of landmarks."""
        if driving is None or driving[1:] != window[1:]:
            raise VideoError(_UNEQUAL)
        return encode_frames(self.pictures, driving.rows)

    def _sample_window(self, conditions: Conditions, still: Tensor, draw_noise: Callable[[], Tensor]) -> Tensor:
        """Frames of a window, (T, 3, R, R)."""

        def draw() -> Tensor:
            return draw_noise()[None].to(still)

        network = guided(self.network, conditions, self.settings.guidance)
        latent = self._sampler.sample(network, self._sampler.start(still, draw()), draw, self.network.config.prediction)
        return self.pictures.decode(latent)[0].transpose(0, 1)


def encode_frames(autoencoder: TriplaneAutoencoder | FastAutoencoder, frames: Tensor) -> Tensor:
    """Latent (1, L, P) of frames (T, 3, R, R)."""
    weight = next(autoencoder.parameters())
    return autoencoder.encode(frames.to(weight).transpose(0, 1)[None])


def encode_still(autoencoder: TriplaneAutoencoder | FastAutoencoder, frame: Tensor) -> Tensor:
    """Latent (1, L, P) of a frame (3, R, R) that lasts a whole clip."""
    if isinstance(autoencoder, FastAutoencoder):
        return autoencoder.encode_still(frame)
    return encode_frames(autoencoder, frame.expand(autoencoder.config.num_frames, -1, -1, -1))
