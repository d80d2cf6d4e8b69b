"""Growing the IF-MDM renderer to the next size, and which weights each of its training stages moves.

The published order is taken to be: base at 256, grown to 512, the new layers alone, all, the refine block alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from loquent.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

    from loquent.models.ifmdm.autoencoder import Autoencoder

Stage = Literal["base", "super_resolution", "decoder", "refine", "mouth"]
MOUTH_PART = "decoder.output.mouth."  # of the output stage, ours; its stage leaves the skull's movement as it is

_OUTPUT_INPUT = "decoder.output.conv."  # reads the last level, which is another one after growing
_BLOCK = re.compile(r"(encoder\.appearance\.blocks\.)(\d+)(\..*)")


def grow(smaller: Autoencoder, larger: Autoencoder) -> list[str]:
    """Copies the weights of a renderer into one of twice its size.

    The encoder's blocks move up by one: the larger one starts with a stem and a block of its own. The decoder gets one
    more level, and the level that was last a fill layer, which it had no use for.

    Returns:
        Names of the weights of `larger` that are new.

    Raises:
        WeightsError: the two differ in more than the last level.
    """
    size = smaller.config.size_px
    if larger.config.size_px != 2 * size or larger.config.channels[:-1] != smaller.config.channels:
        raise WeightsError(
            f"a renderer of {size} pixels with channels {smaller.config.channels} does not grow into one of "
            f"{larger.config.size_px} with {larger.config.channels}; the larger one has twice the size and one more number"
        )
    target = larger.state_dict()
    grown = {_grown_name(name): value for name, value in smaller.state_dict().items()}
    kept = {name: value for name, value in grown.items() if name is not None}
    misfits = [name for name, value in kept.items() if name not in target or target[name].shape != value.shape]
    new = sorted(set(target) - set(kept))
    allowed = tuple(_new_parts(larger))
    strays = [name for name in new if not name.startswith(allowed)]
    if misfits or strays:
        raise WeightsError(
            f"the renderers differ in more than size: {(misfits + strays)[:5]}; give both the same motion, style and "
            f"refine settings"
        )
    larger.load_state_dict(target | kept)
    return new


def _grown_name(name: str) -> str | None:
    """Name in a renderer of twice the size; None for what that one has of its own."""
    if name.startswith(("encoder.appearance.stem.", _OUTPUT_INPUT)):
        return None
    if match := _BLOCK.fullmatch(name):
        return f"{match[1]}{int(match[2]) + 1}{match[3]}"
    return name


def _new_parts(network: Autoencoder) -> list[str]:
    """Prefixes of the weights that growing adds."""
    last = len(network.config.level_sizes) - 1
    output = [_OUTPUT_INPUT] if network.config.output_dim else []
    return [
        *output,
        "encoder.appearance.stem.",
        "encoder.appearance.blocks.0.",
        f"decoder.levels.{last}.",
        f"decoder.levels.{last - 1}.flow.fill.",
    ]


def stage_parameters(network: Autoencoder, stage: Stage) -> dict[str, nn.Parameter]:
    """Weights that a stage trains, by name; the others stay as they are.

    Raises:
        WeightsError: the network has none of them.
    """
    prefixes = {
        "base": [""],
        "super_resolution": _new_parts(network),
        "decoder": ["decoder."],
        "refine": ["decoder.refine."],
        "mouth": [MOUTH_PART + name for name in ("texture", "tint.", "paint.")],
    }[stage]
    found = {name: weight for name, weight in network.named_parameters() if name.startswith(tuple(prefixes))}
    if not found:
        needed = "an output stage (output_dim)" if stage == "mouth" else "a refine block (refine_dim)"
        raise WeightsError(f"stage {stage!r} has nothing to train; give the renderer {needed}")
    return found
