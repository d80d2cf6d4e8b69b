"""HuBERT and wav2vec 2.0, base and large: speech to the outputs of all transformer layers.

One forward pass of our own, so that no further package is needed; files are those of the transformers library.

Shape letters: B batch, S samples, T frames, C channels, L layers.

Source: Hsu et al. 2021, "HuBERT"; Baevski et al. 2020, "wav2vec 2.0"; docs/moda.md, "Speech features".
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from loquent.errors import SpeechError, WeightsError
from loquent.nn.weights import load_exactly

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

RATE_HZ = 16_000
SAMPLES_PER_FRAME = 640  # 25 frames a second
_HOP = 320  # samples between the vectors of the convolutions
_LACK = 80  # samples that the convolutions want beyond a multiple of their hop
_NORM_EPS = 1e-5
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_BLOCK_VECTORS = 3000  # convolved at once: 60 s, about 0.4 GB in the first layer of the base network


@dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """Sizes; the defaults are those of the base networks."""

    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward_dim: int = 3072
    conv_dims: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16
    # Large networks norm every convolution (and give it a bias), and norm before each layer instead of after it.
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    norm_first: bool = False

    # Of a transformers folder's config.json -> ours.
    PUBLISHED_NAMES: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "feed_forward_dim",
        "conv_dim": "conv_dims",
        "conv_kernel": "conv_kernels",
        "conv_stride": "conv_strides",
        "num_conv_pos_embeddings": "position_kernel",
        "num_conv_pos_embedding_groups": "position_groups",
        "feat_extract_norm": "conv_norm",
        "conv_bias": "conv_bias",
        "do_stable_layer_norm": "norm_first",
    }

    @staticmethod
    def from_published(values: Mapping[str, Any]) -> HubertConfig:
        """Sizes from the `config.json` of a transformers folder.

        Raises:
            WeightsError: it describes another architecture.
        """
        plain = {"feat_proj_layer_norm": True, "conv_pos_batch_norm": False, "adapter_attn_dim": None,
                 "hidden_act": "gelu", "feat_extract_activation": "gelu", "position_embeddings_type": None}  # fmt: skip
        for name, value in plain.items():
            if values.get(name, value) != value:
                raise WeightsError(
                    f"the speech encoder has {name} = {values[name]}, only {value} is supported; "
                    "use a HuBERT or wav2vec 2.0, base or large"
                )
        names = HubertConfig.PUBLISHED_NAMES
        return _config_from_json({ours: values[name] for name, ours in names.items() if name in values})


def _config_from_json(values: Mapping[str, Any]) -> HubertConfig:
    sizes: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return HubertConfig(**sizes)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, T)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mT).mT


class ConvLayer(nn.Module):
    """Strided convolution, norm, GELU. Of base networks only the first layer is normed, each channel over all time."""

    def __init__(self, config: HubertConfig, index: int) -> None:
        super().__init__()
        channels_in = config.conv_dims[index - 1] if index else 1
        channels = config.conv_dims[index]
        self.conv = nn.Conv1d(
            channels_in, channels, config.conv_kernels[index], config.conv_strides[index], bias=config.conv_bias
        )
        self.norm: nn.Module
        if config.conv_norm == "layer":
            self.norm = ChannelNorm(channels, eps=_NORM_EPS)
        elif index == 0:
            self.norm = nn.GroupNorm(channels, channels, eps=_NORM_EPS)
        else:
            self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x)))


class Layer(nn.Module):
    """Transformer layer, with its norms after the sums or before the branches: (B, T, C) to the same."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.norm_first = config.norm_first
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.fc1 = nn.Linear(dim, config.feed_forward_dim)
        self.fc2 = nn.Linear(config.feed_forward_dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            x = x + self._attend(self.norm1(x))
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x))
        return self.norm2(x + self._feed(x))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _feed(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class NormStatistics(NamedTuple):
    """Of the first convolution's channels over all of the speech, (B, C, 1) each."""

    mean: Tensor
    inverse_deviation: Tensor


class Hubert(nn.Module):
    """Speech to the outputs of all layers."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.Sequential(*(ConvLayer(config, index) for index in range(len(config.conv_dims))))
        self.project_norm = nn.LayerNorm(config.conv_dims[-1], eps=_NORM_EPS)
        self.project = nn.Linear(config.conv_dims[-1], config.dim)
        # The published weight norm is folded when weights are loaded.
        self.position = nn.Conv1d(
            config.dim, config.dim, config.position_kernel, padding=config.position_kernel // 2,
            groups=config.position_groups,
        )  # fmt: skip
        self.norm = nn.LayerNorm(config.dim, eps=_NORM_EPS)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))

    @staticmethod
    def from_pretrained(folder: Path) -> Hubert:
        """Loads config.json and model.safetensors as `save_pretrained` writes them.

        Raises:
            WeightsError: a file is missing or does not fit.
        """
        try:
            values = json.loads((folder / _CONFIG).read_text())
            config = _config_from_json(values)
            state = load_file(folder / _WEIGHTS)
        except (OSError, SafetensorError, json.JSONDecodeError, TypeError) as error:
            raise WeightsError(f"{folder} holds no speech encoder ({error}); restore the folder") from error
        network = Hubert(config)
        load_exactly(network, state, str(folder))
        return network.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)

    def forward(self, waveform: Tensor, num_frames: int) -> Tensor:
        """Normalised and padded speech (B, S) to (B, T, L, C) with T = `num_frames`."""
        return self.encode(resample_frames(self.convolve(waveform), num_frames))

    def convolve(
        self, waveform: Tensor, block: int = _BLOCK_VECTORS, statistics: NormStatistics | None = None
    ) -> Tensor:
        """(B, S) to vectors of the convolutions, (B, T', C'), about 50 a second.

        Long speech is worked on in blocks of `block` vectors; the first norm of a base network, which looks at all of the
        speech, is measured over all of it before, so that the result is that of one pass. `statistics` are those of
        speech that `waveform` is a part of.
        """
        reach, hop = self.reach_and_hop
        num_samples = waveform.shape[-1]
        num_vectors = (num_samples - reach) // hop + 1
        if num_vectors <= block and statistics is None:
            return self.convs(waveform[:, None]).mT
        if statistics is None and self.config.conv_norm == "group":
            spans = self.norm_spans(num_samples, block * hop)
            statistics = self.norm_statistics(waveform[:, start:stop] for start, stop in spans)
        pieces = []
        for start in range(0, num_vectors, block):
            stop = min(start + block, num_vectors)
            samples = waveform[:, None, start * hop : (stop - 1) * hop + reach]
            pieces.append(self._convolve_piece(samples, statistics).mT)
        return torch.cat(pieces, dim=1)

    @property
    def reach_and_hop(self) -> tuple[int, int]:
        """Samples that one vector depends on, and samples from one vector to the next."""
        reach, hop = 1, 1
        for kernel, stride in zip(self.config.conv_kernels[::-1], self.config.conv_strides[::-1], strict=True):
            reach = (reach - 1) * stride + kernel
            hop *= stride
        return reach, hop

    def norm_spans(self, num_samples: int, block_samples: int) -> Iterator[tuple[int, int]]:
        """First sample and end of blocks for `norm_statistics`: they hold each value of the first convolution once."""
        kernel, stride = self.config.conv_kernels[0], self.config.conv_strides[0]
        num_values = (num_samples - kernel) // stride + 1
        per_block = max(1, block_samples // stride)
        for start in range(0, num_values, per_block):
            stop = min(start + per_block, num_values)
            yield start * stride, (stop - 1) * stride + kernel

    def norm_statistics(self, blocks: Iterable[Tensor]) -> NormStatistics:
        """What the first norm of a base network would measure over blocks (B, S) of samples together."""
        total = square = torch.zeros((), dtype=torch.float64)
        count = 0
        for samples in blocks:
            values = self.convs[0].conv(samples[:, None]).double()  # type: ignore[operator,union-attr]
            count += values.shape[-1]
            total, square = total + values.sum(-1, keepdim=True), square + values.square().sum(-1, keepdim=True)
        mean = total / count
        deviation = (square / count - mean.square() + _NORM_EPS).sqrt()
        kind = self.project.weight.dtype
        return NormStatistics(mean.to(kind), (1 / deviation).to(kind))

    def _convolve_piece(self, samples: Tensor, statistics: NormStatistics | None) -> Tensor:
        if statistics is None:
            return self.convs(samples)
        first: ConvLayer = self.convs[0]  # type: ignore[assignment]
        x = (first.conv(samples) - statistics.mean) * statistics.inverse_deviation
        x = F.gelu(x * first.norm.weight[:, None] + first.norm.bias[:, None])  # type: ignore[index,operator]
        return self.convs[1:](x)  # type: ignore[operator]

    def encode(self, vectors: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """Vectors (B, T, C') to the outputs of layers, (B, T, L, C): of all, or of those numbers; 0 is their input."""
        wanted = range(1, self.config.num_layers + 1) if layers is None else layers
        x = self.project(self.project_norm(vectors))
        x = x + F.gelu(self.position(x.mT)[..., : x.shape[1]]).mT
        if not self.config.norm_first:
            x = self.norm(x)
        outputs = {0: x}
        for number, layer in enumerate(self.layers[: max(wanted)], 1):  # type: ignore[arg-type]
            x = layer(x)
            if number in wanted:
                outputs[number] = x
        last = self.config.num_layers
        if self.config.norm_first and last in outputs:
            outputs[last] = self.norm(outputs[last])
        return torch.stack([outputs[number] for number in wanted], dim=2)


def normalise(waveform: Tensor) -> Tensor:
    """Zero mean and unit variance over the whole clip (S,)."""
    return (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-7).sqrt()


def pad_for_convolutions(waveform: Tensor) -> Tensor:
    """Lengthens a clip (S,) at both ends so that the convolutions give one vector for every 320 samples."""
    num_samples = len(waveform)
    side = -(-(_HOP * (num_samples // _HOP) + _LACK - num_samples) // 2)
    if side < 0:
        return waveform
    padded = waveform[None]
    for _ in range(2):  # reflected by half, twice, as published
        padded = F.pad(padded, (side // 2, side // 2), mode="reflect")
    return F.pad(padded, (side % 2, side % 2), mode="replicate")[0]


def resample_frames(vectors: Tensor, num_frames: int) -> Tensor:
    """(B, T', C) to (B, num_frames, C): linear in time, first and last vectors kept."""
    return F.interpolate(vectors.mT, num_frames, mode="linear", align_corners=True).mT


def speech_features(network: Hubert, waveform: Tensor) -> Tensor:
    """Outputs of all layers for a clip (S,) at 16 kHz, (T, L, C), one row for every whole 40 ms. Raises as below."""
    return torch.cat(list(speech_feature_spans(network, waveform, span_rows=len(waveform))))


@torch.no_grad()
def speech_feature_spans(
    network: Hubert, waveform: Tensor, span_rows: int = 1500, context_rows: int = 375
) -> Iterator[Tensor]:
    """`speech_features` in pieces, so that the transformer's work grows with the length and not with its square.

    Each span of `span_rows` hears `context_rows` on either side; speech of up to a span and its contexts is one piece.

    Raises:
        SpeechError: the clip is shorter than one row.
    """
    num_frames = len(waveform) // SAMPLES_PER_FRAME
    if not num_frames:
        raise SpeechError(f"{len(waveform)} samples of speech; at least {SAMPLES_PER_FRAME} (40 ms) are needed")
    clip = normalise(waveform)[: num_frames * SAMPLES_PER_FRAME]
    vectors = resample_frames(network.convolve(pad_for_convolutions(clip)[None]), num_frames)
    spans = 1 if num_frames <= span_rows + 2 * context_rows else -(-num_frames // span_rows)
    bounds = [num_frames * i // spans for i in range(spans + 1)]
    for start, stop in pairwise(bounds):
        low, high = max(0, start - context_rows), min(num_frames, stop + context_rows)
        yield network.encode(vectors[:, low:high])[0, start - low : stop - low]


# Names in transformers -> ours. {} is a number.
_RENAMES = {
    "feature_extractor.conv_layers.{}.conv.": "convs.{}.conv.",
    "feature_extractor.conv_layers.{}.layer_norm.": "convs.{}.norm.",
    "feature_projection.layer_norm.": "project_norm.",
    "feature_projection.projection.": "project.",
    "encoder.pos_conv_embed.conv.": "position.",
    "encoder.layer_norm.": "norm.",
    "encoder.layers.{}.attention.q_proj.": "layers.{}.q.",
    "encoder.layers.{}.attention.k_proj.": "layers.{}.k.",
    "encoder.layers.{}.attention.v_proj.": "layers.{}.v.",
    "encoder.layers.{}.attention.out_proj.": "layers.{}.out.",
    "encoder.layers.{}.layer_norm.": "layers.{}.norm1.",
    "encoder.layers.{}.feed_forward.intermediate_dense.": "layers.{}.fc1.",
    "encoder.layers.{}.feed_forward.output_dense.": "layers.{}.fc2.",
    "encoder.layers.{}.final_layer_norm.": "layers.{}.norm2.",
}
_PATTERNS = [(re.compile(re.escape(name).replace(r"\{\}", r"(\d+)")), ours) for name, ours in _RENAMES.items()]
_PREFIXES = re.compile(r"^(hubert|wav2vec2)\.")
_WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
# Used in pretraining or by tasks other than features.
_UNUSED = ("masked_spec_embed", "quantizer.", "project_hid.", "project_q.", "lm_head.")


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers state dict under our names, weight norm folded.

    Raises:
        WeightsError: an unknown name.
    """
    ours = {}
    for published, tensor in state.items():
        name = _PREFIXES.sub("", published)
        for new, old in _WEIGHT_NORM.items():
            name = name.replace(new, old)
        if not name.startswith(_UNUSED):
            ours[rename_hubert(name)] = tensor
    if "position.weight_g" in ours:
        g, v = ours.pop("position.weight_g"), ours.pop("position.weight_v")
        ours["position.weight"] = g * v / torch.linalg.vector_norm(v, dim=(0, 1), keepdim=True)
    return ours


def rename_hubert(name: str) -> str:
    """Our name of a tensor of a transformers state dict, without the prefix of the model.

    Raises:
        WeightsError: the table does not know it.
    """
    for pattern, ours in _PATTERNS:
        if match := pattern.match(name):
            return ours.format(*match.groups()) + name[match.end() :]
    raise WeightsError(f"tensor {name!r} belongs to no HuBERT or wav2vec 2.0; check that this is a speech encoder")


def load_hubert_state(network: Hubert, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a transformers state dict; it must fit without a gap.

    Raises:
        WeightsError: it does not.
    """
    load_exactly(network, from_published(state), source)
