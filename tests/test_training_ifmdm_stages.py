from dataclasses import replace

import pytest
import torch

from loquent.errors import WeightsError
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset
from loquent.training.ifmdm_stages import grow, stage_parameters

TINY = get_autoencoder_preset("tiny")
LARGER = replace(TINY, size_px=64, channels=(*TINY.channels, 4))


def numbers(parameters) -> int:
    return sum(weight.numel() for weight in parameters.values())


def test_growing_keeps_all_but_the_first_encoder_layer():
    torch.manual_seed(0)
    small, large = Autoencoder(TINY), Autoencoder(LARGER)
    own = {name: value.clone() for name, value in large.state_dict().items()}
    new = grow(small, large)
    before, after = small.state_dict(), large.state_dict()
    torch.testing.assert_close(
        after["encoder.appearance.blocks.1.conv1.conv.weight"], before["encoder.appearance.blocks.0.conv1.conv.weight"]
    )
    for name in ("encoder.motion.out.weight", "decoder.levels.2.up.conv.weight", "decoder.refine.final.bias"):
        torch.testing.assert_close(after[name], before[name])
    for name in new:
        torch.testing.assert_close(after[name], own[name])
    assert set(new) == set(stage_parameters(large, "super_resolution"))
    assert "decoder.levels.2.flow.fill.weight" in new


@torch.no_grad()
def test_a_grown_decoder_moves_the_levels_it_had_as_before():
    torch.manual_seed(0)
    small, large = Autoencoder(TINY).eval(), Autoencoder(LARGER).eval()
    grow(small, large)
    style = torch.randn(1, TINY.style_dim)
    drawn = [network.decoder.levels[0].up(network.decoder.start[None], style) for network in (small, large)]
    torch.testing.assert_close(drawn[0], drawn[1])


def test_renderers_that_differ_otherwise_do_not_grow():
    small = Autoencoder(TINY)
    with pytest.raises(WeightsError, match=r"32 pixels .* does not grow into one of 32"):
        grow(small, Autoencoder(TINY))
    with pytest.raises(WeightsError, match=r"differ in more than size: .*encoder\.motion\.out\.weight"):
        grow(small, Autoencoder(replace(LARGER, motion_dim=5)))
    with pytest.raises(WeightsError, match=r"differ in more than size: .*decoder\.refine"):
        grow(Autoencoder(replace(TINY, refine_dim=0)), Autoencoder(LARGER))


def test_stages_train_the_published_weights():
    """Published counts, less what has no effect there and is not ours, and with the fill layer that growing brings."""
    with torch.device("meta"):
        network = Autoencoder(get_autoencoder_preset("published-512"))
    noise, last_fill, first_colours, motion_bias = 15, 32 * 32 + 32 * 512 + 32, 3 * 512 + 6, 20
    new_fill = 64 * 64 + 64 * 512 + 64
    assert numbers(stage_parameters(network, "super_resolution")) == 140_939 - 2 - last_fill + new_fill
    assert numbers(stage_parameters(network, "refine")) == 4_747_779
    assert numbers(stage_parameters(network, "decoder")) == 29_168_823 - noise - last_fill - first_colours
    assert numbers(stage_parameters(network, "base")) == 51_895_019 - noise - last_fill - first_colours - motion_bias


def test_a_stage_without_weights_is_an_error():
    with pytest.raises(WeightsError, match="stage 'refine' has nothing to train"):
        stage_parameters(Autoencoder(replace(TINY, refine_dim=0)), "refine")


def test_the_mouth_is_a_stage_of_the_output_stage():
    names = stage_parameters(Autoencoder(get_autoencoder_preset("tiny-blend")), "mouth")
    assert "decoder.output.mouth.texture" in names
    assert all(name.startswith("decoder.output.mouth.") and "motion" not in name for name in names)
    with pytest.raises(WeightsError, match="give the renderer an output stage"):
        stage_parameters(Autoencoder(TINY), "mouth")
