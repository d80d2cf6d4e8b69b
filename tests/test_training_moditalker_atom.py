"""The recipe `moditalker-atom` and its data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from loquent.errors import LoquentError
from loquent.models.moditalker import AtomDenoiser, get_atom_preset
from loquent.models.moditalker.generate import load_atom
from loquent.models.moditalker.landmarks import LIP_CHANNELS, OTHER_CHANNELS
from loquent.training.moditalker_atom import AtomLoss, AtomLossSettings, begin_local, lip_gaps
from loquent.training.moditalker_atom_data import AtomDataSettings, AtomWindows, write_debug_cache
from recipe_check import check_debug_recipe

TINY = get_atom_preset("tiny")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    write_debug_cache(folder)
    return folder


def windows(cache, **settings) -> AtomWindows:
    return AtomWindows(cache, TINY, AtomDataSettings(faces=1, **settings), batch_size=4)


def test_debug_recipe(tmp_path):
    output = check_debug_recipe("moditalker-atom", tmp_path)
    network, prior = load_atom(output / "weights")
    assert network.config == TINY
    assert prior.mean.shape == (52,)


def test_windows_move_from_the_neutral_face_or_the_first_frame(cache):
    batch = windows(cache, neutral_share=1).batch(0)
    assert batch.residual.shape == (4, TINY.num_frames, 204)
    assert batch.audio.shape == (4, TINY.num_frames, 2, TINY.audio_dim)
    is_open = batch.audio[:, :, 0, 0] > 0  # the jaw follows this feature
    moved = batch.residual.abs().amax(-1)
    assert (moved[is_open & batch.real] > 1).all()
    assert (moved[~is_open & batch.real] < 1e-3).all()
    of_first = windows(cache, neutral_share=0).batch(0)
    assert not of_first.residual[:, 0].any()
    torch.testing.assert_close(of_first.residual + of_first.landmark[:, None], batch.residual + batch.landmark[:, None])


def test_every_utterance_has_a_face_of_its_own(cache):
    neutral = windows(cache).neutral[0]
    assert np.abs(neutral[0] - neutral[1]).max() > 0.01


def test_only_the_jaw_and_what_it_carries_moves(cache):
    residual = windows(cache, neutral_share=1).batch(0).residual
    assert residual[..., LIP_CHANNELS].abs().max() > 10 * residual[..., OTHER_CHANNELS].abs().max()
    assert lip_gaps(residual).max() > 1


def test_what_is_missing_or_does_not_fit_is_an_error(cache, tmp_path):
    with pytest.raises(LoquentError, match="run `python -m"):
        windows(tmp_path)
    with pytest.raises(LoquentError, match="12 features a frame; the network takes 2 vectors of 7"):
        AtomWindows(cache, replace(TINY, audio_dim=7), AtomDataSettings(), batch_size=4)
    with pytest.raises(LoquentError, match=r"no utterance as neutral as 1\.5"):
        windows(cache, least_neutral=1.5)


def test_training_begins_at_rest_and_near_the_frame(cache):
    torch.manual_seed(0)
    network = AtomDenoiser(replace(TINY, num_frames=40, hidden_dim=64, vectors_per_frame=1, full_layers=True))
    begin_local(network)
    batch = windows(cache, neutral_share=1).batch(0)
    audio, landmark = torch.randn(1, 40, 1, TINY.audio_dim), batch.landmark[:1]
    assert not network(torch.randn(1, 40, 204), torch.tensor([5]), audio, landmark).any()
    # With any head on top, a frame depends more on speech at its time than on speech far away.
    torch.nn.init.normal_(network.out.weight)
    audio.requires_grad_()
    network(torch.zeros(1, 40, 204), torch.tensor([5]), audio, landmark)[0, 20].square().sum().backward()
    strength = audio.grad[0].norm(dim=(1, 2))
    assert strength[18:23].mean() > 1.5 * strength[[0, 1, 2, 37, 38, 39]].mean()


def test_the_gap_counts_on_top(cache):
    torch.manual_seed(0)
    network, batch = AtomDenoiser(TINY).eval(), windows(cache).batch(1)
    with torch.no_grad():
        terms = [
            AtomLoss(AtomLossSettings(gap=gap))(network, batch, torch.Generator().manual_seed(0)) for gap in (0, 3)
        ]
    torch.testing.assert_close(terms[1]["loss"], terms[0]["loss"] + 3 * terms[0]["gap"])
    torch.testing.assert_close(terms[0]["loss"], terms[0]["reconstruction"] + terms[0]["velocity"])
