"""The motion transformer with less arithmetic: the same function, arranged for sampling.

What is saved:

- With guidance both sides have the same noisy motion: its two embeddings are made once.
- What speech adds where it is joined with motion is made once for a window, the embeddings of timesteps once for all.
- Without speech all frames have one modulation, and hint, mean and std always have the same: N + 2 rows stand for
  2·(N + 3) tokens. All layers' modulations are one product of these rows; the 1 of 1 + scale lies in its bias.
- Linear layers of blocks are packed, with GELU in the product (`nn.packed`). The small ones before and after are not:
  the 10 µs that a packed product takes to begin are more than it saves there.

docs/ifmdm.md, "Sampling fast", has the figures. Shape letters as in `transformer`; S sides: with speech and, where there
is guidance, without; R rows of a modulation.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from loquent.models.ifmdm.transformer import NORM_EPS, NUM_CONTEXT, ConditionEmbedders
from loquent.nn.attention import attend
from loquent.nn.packed import PackedLinear

if TYPE_CHECKING:
    from torch import Tensor

    from loquent.diffusion.gaussian import Predict
    from loquent.models.ifmdm.transformer import Block, ConditionTokens, MotionDiffusionTransformer

_NUM_TIMESTEPS = 1000
_BLOCK_PARTS, _BLOCK_SCALES = 6, (1, 4)  # parts of a block's modulation, and those of them that are scales
_FINAL_PARTS, _FINAL_SCALES = 2, (1,)


def _plus_one(bias: Tensor, parts: int, scales: tuple[int, ...]) -> Tensor:
    """The bias of a modulation that gives 1 + scale for each scale."""
    bias = bias.detach().clone()
    for scale in scales:
        bias.chunk(parts)[scale].add_(1)
    return bias


def _modulated(x: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), factor)


class _FastBlock(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.num_heads = block.num_heads
        self.qkv = PackedLinear.of(block.qkv)
        self.proj = PackedLinear.of(block.proj)
        self.fc1 = PackedLinear.of(block.mlp.fc1, "gelu_tanh")
        self.fc2 = PackedLinear.of(block.mlp.fc2)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (S·B, T, D) and their modulation (S·B, T, 6·D)."""
        shift, factor, gate, mlp_shift, mlp_factor, mlp_gate = modulation.chunk(_BLOCK_PARTS, dim=-1)
        q, k, v = self.qkv(_modulated(x, shift, factor)).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        x = torch.addcmul(x, gate, self.proj(attend(q, k, v)))
        return torch.addcmul(x, mlp_gate, self.fc2(self.fc1(_modulated(x, mlp_shift, mlp_factor))))


@dataclass(frozen=True, eq=False)
class _Given:
    """Everything that does not change from one denoising step to the next."""

    speech: Tensor  # (B, R − 1, D), of each frame and then of silence; hint, mean and std have none
    rows: Tensor  # (S·B, T), which row of B·R modulates a token
    joint_speech: Tensor  # (S, B, N, D), what speech adds in the layer that joins it with noisy motion
    joint_kept: Tensor  # (S, B, 1, 1), 0 where noisy motion does not get there
    context: Tensor  # (S·B, 3, D): hint, mean, std, with positions


class FastMotionDiffusionTransformer(ConditionEmbedders):
    """`MotionDiffusionTransformer` for sampling; weights are copied, so the network may be dropped."""

    def __init__(self, network: MotionDiffusionTransformer) -> None:
        super().__init__()
        self.config = network.config
        self.motion_embedder = deepcopy(network.motion_embedder)
        self.joint_motion_embedder = deepcopy(network.joint_motion_embedder)
        self.joint_speech_embedder = deepcopy(network.joint_speech_embedder)
        self.hint_embedder = deepcopy(network.hint_embedder)
        self.mean_embedder = deepcopy(network.mean_embedder)
        self.std_embedder = deepcopy(network.std_embedder)
        self.speech_embedder = deepcopy(network.speech_embedder)
        join = deepcopy(network.joint_embedder)
        self.join_motion, self.join_speech = join.fc1.weight.detach().chunk(2, dim=1)  # (D, D/2) each
        self.join_bias, self.joint_out = join.fc1.bias, join.fc2
        self.blocks = nn.ModuleList(_FastBlock(block) for block in network.blocks)  # type: ignore[arg-type]
        final = network.final_layer.modulation
        linears: list[nn.Linear] = [block.modulation.linear for block in network.blocks]  # type: ignore[union-attr, misc]
        biases = [_plus_one(linear.bias, _BLOCK_PARTS, _BLOCK_SCALES) for linear in linears]
        biases.append(_plus_one(final.bias, _FINAL_PARTS, _FINAL_SCALES))
        self.modulation = PackedLinear(torch.cat([linear.weight for linear in (*linears, final)]), torch.cat(biases))
        self._widths = [len(bias) for bias in biases]
        self.final_linear = deepcopy(network.final_layer.linear)
        self.positions = network.positions
        with torch.no_grad():
            self.times = network.time_embedder(torch.arange(_NUM_TIMESTEPS, device=network.positions.device))
        self.requires_grad_(False)

    def denoiser(self, with_speech: ConditionTokens, silent: ConditionTokens | None = None) -> Predict:
        """As of `MotionDiffusionTransformer`; timesteps are whole numbers below 1000.

        Where silent, all frames must be told the same: the first is read.
        """
        given = self._gather(with_speech, silent)
        return lambda noisy, timestep: self._denoise(noisy, timestep, given)

    def _gather(self, with_speech: ConditionTokens, silent: ConditionTokens | None) -> _Given:
        sides = [with_speech] if silent is None else [with_speech, silent]
        num_frames, device = self.config.num_frames, self.positions.device
        speech = torch.cat([with_speech.speech, *(side.speech[:, :1] for side in sides[1:])], dim=1)
        num_rows = speech.shape[1] + 1
        row_of = torch.full((len(sides), 1, num_frames + NUM_CONTEXT), num_rows - 1, device=device)
        row_of[0, :, :num_frames] = torch.arange(num_frames, device=device)
        row_of[1:, :, :num_frames] = num_frames
        first_rows = num_rows * torch.arange(len(speech), device=device)[:, None]  # of each sample
        joint = [F.linear(side.joint_speech * side.joint_kept, self.join_speech, self.join_bias) for side in sides]
        return _Given(
            speech=speech,
            rows=(first_rows + row_of).flatten(0, 1),
            joint_speech=torch.stack(joint),
            joint_kept=torch.stack([side.joint_kept for side in sides]),
            context=torch.cat([side.context for side in sides]) + self.positions[num_frames:],
        )

    @torch.inference_mode()
    def _denoise(self, noisy: Tensor, timestep: Tensor, given: _Given) -> tuple[Tensor, Tensor]:
        """Noise and variance logits, (S·B, N, M) each."""
        self._check_length("motion", noisy)
        num_frames = noisy.shape[1]
        joint = F.linear(self.joint_motion_embedder(noisy), self.join_motion)
        joint = self.joint_out(F.silu(torch.addcmul(given.joint_speech, joint, given.joint_kept)))  # (S, B, N, D)
        motion = self.motion_embedder(noisy) + self.positions[:num_frames]
        x = torch.cat([(motion + joint).flatten(0, 1), given.context], dim=1)  # (S·B, T, D)
        told = F.silu(given.speech + F.embedding(timestep, self.times)[:, None])
        rows = self.modulation(torch.cat([told, torch.zeros_like(told[:, :1])], dim=1)).flatten(0, 1)
        *of_blocks, of_final = rows.split(self._widths, dim=-1)
        for block, modulation in zip(self.blocks, of_blocks, strict=True):
            x = block(x, F.embedding(given.rows, modulation))
        shift, factor = F.embedding(given.rows, of_final).chunk(_FINAL_PARTS, dim=-1)
        noise, logits = self.final_linear(_modulated(x, shift, factor))[:, :num_frames].chunk(2, dim=-1)
        return noise, logits
