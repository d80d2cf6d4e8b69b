"""The motion transformer: noise in a window of motion, given speech, a hint and the wanted statistics.

Shape letters: B batch, N frames of a window, V speech vectors of a frame, A speech channels, M motion numbers, T tokens
(N + 3), D hidden channels, H heads, d channels of one head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.errors import LoquentError
from loquent.nn.attention import attend
from loquent.nn.layers import Mlp, TimeEmbedder, VectorEmbedder

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.diffusion.gaussian import Predict
    from loquent.models.ifmdm.config import MotionConfig

NUM_CONTEXT = 3  # tokens after the frames: hint, mean, std
NORM_EPS = 1e-6


def position_table(num_tokens: int, dim: int) -> Tensor:
    """[sin(p·f), cos(p·f)], f_k = 10000^(−k/(dim/2)): (T, dim), computed in float64."""
    frequencies = 10_000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = torch.arange(num_tokens, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


class Modulation(nn.Module):
    """adaLN per token: shifts, scales and gates (Peebles and Xie 2023, DiT), of which each token has its own here."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, activated: Tensor) -> tuple[Tensor, ...]:
        """SiLU of the conditions (B, N, D) to tensors (B, T, D).

        Hint, mean and std have no condition, SiLU(0) = 0: the bias alone modulates them.
        """
        frames = self.linear(activated)
        context = self.linear.bias.expand(len(frames), NUM_CONTEXT, -1)
        return torch.cat([frames, context], dim=1).chunk(self.parts, dim=-1)


class Block(nn.Module):
    """Attention over all tokens, then a feed-forward layer."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.num_heads = config.num_heads
        self.modulation = Modulation(dim, 6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(activated)
        q, k, v = self.qkv(_modulate(x, shift, scale)).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        x = x + gate * self.proj(attend(q, k, v))
        return x + mlp_gate * self.mlp(_modulate(x, mlp_shift, mlp_scale))


class FinalLayer(nn.Module):
    """Modulated norm and the way back to motion: noise and variance logits of the frames."""

    def __init__(self, dim: int, output_dim: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 2 * dim)
        self.linear = nn.Linear(dim, output_dim)

    def forward(self, frames: Tensor, activated: Tensor) -> Tensor:
        shift, scale = self.modulation(activated).chunk(2, dim=-1)
        return self.linear(_modulate(frames, shift, scale))


@dataclass(frozen=True, eq=False)
class Drops:
    """Conditions that a sample goes without, (B,) bool each. Training draws them, guidance sets them.

    A dropped condition is zeros before its first layer. `joint` drops the path that ties noisy motion and speech frame
    by frame, with both its inputs; `speech` drops the other speech path.
    """

    joint: Tensor
    hint: Tensor
    mean: Tensor
    std: Tensor
    speech: Tensor


@dataclass(frozen=True, eq=False)
class ConditionTokens:
    """Everything that does not change from one denoising step to the next."""

    speech: Tensor  # (B, N, D), part of the modulation of each frame
    joint_speech: Tensor  # (B, N, D/2), joined with noisy motion frame by frame
    joint_kept: Tensor  # (B, 1, 1), 0 where that path is dropped
    context: Tensor  # (B, 3, D): hint, mean, std

    @staticmethod
    def concatenate(parts: list[ConditionTokens]) -> ConditionTokens:
        """One batch of several."""
        names = ("speech", "joint_speech", "joint_kept", "context")
        return ConditionTokens(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _kept(x: Tensor, dropped: Tensor | None) -> Tensor:
    return x if dropped is None else x.masked_fill(dropped.view(-1, *[1] * (x.ndim - 1)), 0.0)


class ConditionEmbedders(nn.Module):
    """The part of the network that needs neither noisy motion nor timestep."""

    config: MotionConfig
    joint_speech_embedder: VectorEmbedder
    hint_embedder: VectorEmbedder
    mean_embedder: VectorEmbedder
    std_embedder: VectorEmbedder
    speech_embedder: VectorEmbedder

    def embed_conditions(
        self, speech: Tensor, hint: Tensor, mean: Tensor, std: Tensor, drops: Drops | None = None
    ) -> ConditionTokens:
        """Arguments as of `MotionDiffusionTransformer.forward`."""
        self._check_length("speech", speech)
        embedders = {"hint": self.hint_embedder, "mean": self.mean_embedder, "std": self.std_embedder}
        values = {"hint": hint, "mean": mean, "std": std}
        context = [
            embed(_kept(values[name], drops and getattr(drops, name)))[:, None] for name, embed in embedders.items()
        ]
        kept = torch.ones(len(speech), 1, 1, device=speech.device, dtype=speech.dtype)
        return ConditionTokens(
            speech=self.speech_embedder(_kept(speech, drops and drops.speech)).mean(2),
            joint_speech=self.joint_speech_embedder(speech).flatten(2),
            joint_kept=_kept(kept, drops and drops.joint),
            context=torch.cat(context, dim=1),
        )

    def _check_length(self, what: str, x: Tensor) -> None:
        # With fewer frames the published network takes condition tokens for frames without a word.
        if x.shape[1] != self.config.num_frames:
            raise LoquentError(
                f"{what} has {x.shape[1]} frames; this network works on windows of exactly {self.config.num_frames}"
            )


class MotionDiffusionTransformer(ConditionEmbedders):
    """Noise and variance logits of a window of motion."""

    positions: Tensor

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        dim, motion_dim = config.hidden_dim, config.motion_dim
        self.motion_embedder = VectorEmbedder(motion_dim, dim)
        self.joint_motion_embedder = VectorEmbedder(motion_dim, dim // 2)
        self.joint_speech_embedder = VectorEmbedder(config.audio_dim, dim // 2 // config.vectors_per_frame)
        self.joint_embedder = VectorEmbedder(dim, dim)
        self.hint_embedder = VectorEmbedder(motion_dim, dim)
        self.mean_embedder = VectorEmbedder(motion_dim, dim)
        self.std_embedder = VectorEmbedder(motion_dim, dim)
        self.speech_embedder = VectorEmbedder(config.audio_dim, dim)
        self.time_embedder = TimeEmbedder(dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.final_layer = FinalLayer(dim, 2 * motion_dim)
        self.register_buffer("positions", position_table(config.num_frames + NUM_CONTEXT, dim), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Published initialisation: the untrained network predicts zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, VectorEmbedder):
                nn.init.normal_(module.fc1.weight, std=0.02)
                nn.init.normal_(module.fc2.weight, std=0.02)
            elif isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.final_layer.modulation.weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        speech: Tensor,
        hint: Tensor,
        mean: Tensor,
        std: Tensor,
        drops: Drops | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Args:
            noisy: noisy motion, (B, N, M), N = config.num_frames.
            timestep: (B,), original diffusion timesteps.
            speech: (B, N, V, A).
            hint: motion of the frame before the window, (B, M).
            mean: wanted mean of the window's motion, (B, M); zeros leave it open.
            std: wanted standard deviation, (B, M); zeros leave it open.
            drops: conditions to go without.

        Returns:
            Predicted noise and variance logits, (B, N, M) each.

        Raises:
            LoquentError: a window of another length.
        """
        return self.denoise(noisy, timestep, self.embed_conditions(speech, hint, mean, std, drops))

    def denoise(self, noisy: Tensor, timestep: Tensor, conditions: ConditionTokens) -> tuple[Tensor, Tensor]:
        """`forward` with conditions embedded before."""
        self._check_length("motion", noisy)
        num_frames = noisy.shape[1]
        joint = torch.cat([self.joint_motion_embedder(noisy), conditions.joint_speech], dim=-1) * conditions.joint_kept
        frames = self.motion_embedder(noisy) + self.joint_embedder(joint)
        x = torch.cat([frames, conditions.context], dim=1) + self.positions  # (B, T, D)
        activated = F.silu(conditions.speech + self.time_embedder(timestep)[:, None])  # (B, N, D)
        for block in self.blocks:
            x = block(x, activated)
        noise, logits = self.final_layer(x[:, :num_frames], activated).chunk(2, dim=-1)
        return noise, logits

    def denoiser(self, with_speech: ConditionTokens, silent: ConditionTokens | None = None) -> Predict:
        """`denoise` with these conditions.

        Given both sides of guidance, noise and logits are (2·B, N, M): with speech, then without.
        """
        if silent is None:
            return lambda noisy, timestep: self.denoise(noisy, timestep, with_speech)
        both = ConditionTokens.concatenate([with_speech, silent])
        return lambda noisy, timestep: self.denoise(noisy.repeat(2, 1, 1), timestep.repeat(2), both)
