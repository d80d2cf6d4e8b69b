"""Our HuBERT and wav2vec 2.0 on recorded numbers of the published ones; see `parity_moda`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loquent.speech.hubert import (
    Hubert,
    HubertConfig,
    load_hubert_state,
    normalise,
    pad_for_convolutions,
    resample_frames,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loquent.evaluation.fixtures import Fixture


def _audio_padding(fixture: Fixture) -> dict[str, Tensor]:
    lengths = fixture.inputs["lengths"].tolist()
    return {"padded_lengths": torch.tensor([len(pad_for_convolutions(torch.zeros(length))) for length in lengths])}


def _audio_features(fixture: Fixture) -> dict[str, Tensor]:
    network = Hubert(HubertConfig.from_published(fixture.config)).eval()
    load_hubert_state(network, fixture.weights, fixture.module)
    normalised = normalise(fixture.inputs["waveform"])
    padded = pad_for_convolutions(normalised)[None]
    convolved = network.convolve(padded)
    resampled = resample_frames(convolved, fixture.config["frames"])
    return {
        "normalised": normalised,
        "padded": padded,
        "conv_features": convolved,
        "resampled": resampled,
        "layers": network.encode(resampled)[0],
    }


def _hidden_states(fixture: Fixture) -> dict[str, Tensor]:
    network = Hubert(HubertConfig.from_published(fixture.config)).eval()
    load_hubert_state(network, fixture.weights, fixture.module)
    convolved = network.convolve(fixture.inputs["waveform"])
    layers = range(network.config.num_layers + 1)
    return {"conv_features": convolved, "hidden_states": network.encode(convolved, layers)}


def _load_hubert_keys(state: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        load_hubert_state(Hubert(HubertConfig()), state, "released key list")


EVALUATORS: dict[str, Callable[[Fixture], dict[str, Tensor]]] = {
    "audio_padding": _audio_padding,
    "audio_features": _audio_features,
    **dict.fromkeys(("hubert_large", "wav2vec2_base", "wav2vec2_large"), _hidden_states),
}
KEY_LOADERS: dict[str, Callable[[dict[str, Tensor]], None]] = {"hubert_base": _load_hubert_keys}
