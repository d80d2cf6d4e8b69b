"""AToM checkpoints of the published training code, converted to ours.

The authors' files have no lasting address, so nothing is fetched; whoever has a checkpoint converts it once:

    python -m loquent.models.moditalker.released atom.pt my-atom
    loquent animate photo.jpg speech.wav --system my-atom
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from loquent.errors import WeightsError
from loquent.models.moda.released import read_checkpoint
from loquent.models.moditalker.atom import AtomDenoiser
from loquent.models.moditalker.config import AtomConfig, get_atom_preset
from loquent.models.moditalker.face_fit import ExpressionPrior
from loquent.models.moditalker.generate import save_atom
from loquent.models.moditalker.weights import load_published_atom

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_STATES = ("model_state_dict", "ema_state_dict")  # the published script uses the first
_WRAPPED = "module."  # how training on several machines names weights


def convert_atom(checkpoint: Path, folder: Path, config: AtomConfig | None = None) -> AtomDenoiser:
    """Writes config.json and model.safetensors of a published checkpoint, in half precision.

    Args:
        checkpoint: a dictionary with `model_state_dict`, or the named tensors themselves.
        folder: to write.
        config: its sizes; None are the published ones.

    Raises:
        WeightsError: the file is no such checkpoint, or of other sizes.
    """
    content = read_checkpoint(checkpoint)
    state: Mapping[str, Tensor] = next((content[name] for name in _STATES if name in content), content)
    network = AtomDenoiser(config or get_atom_preset("published"))
    load_published_atom(network, {name.removeprefix(_WRAPPED): value for name, value in state.items()}, str(checkpoint))
    save_atom(network, ExpressionPrior.broad(), folder)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        convert_atom(arguments.checkpoint, arguments.folder)
    except WeightsError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
