"""Records what the transformers library computes for tiny HuBERT and wav2vec 2.0 networks with random weights.

    python benchmarks/record_speech_parity.py tests/parity/speech

Needs `pip install transformers`. `tests/test_parity.py` holds our forward pass against these files, which are recorded
once; only another version of the library is a reason to do it again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "hidden_dropout": 0.0,
}  # fmt: skip
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
NETWORKS = {
    "hubert_large": ("Hubert", LARGE),
    "wav2vec2_base": ("Wav2Vec2", {}),
    "wav2vec2_large": ("Wav2Vec2", LARGE),
}


@torch.no_grad()
def record(family: str, variant: dict[str, object], path: Path) -> None:
    """Writes weights, waveform and hidden states of one network."""
    config = getattr(transformers, f"{family}Config")(**TINY, **variant)
    network = getattr(transformers, f"{family}Model")(config).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0.1, 0.3)
    waveform = torch.randn(1, 6400)
    outputs = network(waveform, output_hidden_states=True)
    tensors = {f"weights.{name}": value.clone().contiguous() for name, value in network.state_dict().items()}
    tensors |= {
        "input.waveform": waveform,
        "output.conv_features": network.feature_extractor(waveform).mT,
        "output.hidden_states": torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=2),
    }  # fmt: skip
    published = {name: config.to_dict()[name] for name in (*TINY, *LARGE, "conv_kernel", "conv_stride", "model_type")}
    call = f"transformers {transformers.__version__}: waveform (1, S) -> conv_features, hidden_states (1, T, layers + 1, C)"
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, path,
        {"config": json.dumps(published), "call": call},
    )  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, (family, variant) in NETWORKS.items():
        record(family, variant, folder / f"{name}.safetensors")
        print(folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
