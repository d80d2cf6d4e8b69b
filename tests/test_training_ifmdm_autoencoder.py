"""The recipe `ifmdm-autoencoder`, its batches and its losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loquent.data.puppets import write_puppets
from loquent.errors import LoquentError
from loquent.face.topology import CHIN, NUM_LANDMARKS
from loquent.models.ifmdm import Discriminator, get_autoencoder_preset
from loquent.models.ifmdm.landmark_flow import LOWER_SIDE, POINTS, UPPER_SIDE, warp
from loquent.models.ifmdm.output import MouthSketch, mouth_move
from loquent.models.ifmdm.photo_layers import BLUE, RED
from loquent.models.ifmdm.weights import load_autoencoder
from loquent.training.ifmdm_autoencoder import (
    RECIPE,
    FaceFeatures,
    PairTurns,
    SteeredAutoencoder,
    cut_out,
    flow_loss,
    gap_loss,
    grow_steered,
    judge_config,
    landmark_basis,
    mouths,
    point_loss,
    read_steering,
    share_loss,
    skull_loss,
)
from loquent.training.ifmdm_batches import (
    FRAMES,
    GAP_LOWER,
    PAIRS,
    PairGroups,
    as_floats,
    continue_flow,
    open_groups,
    opening_change,
    side_weights,
)
from loquent.training.ifmdm_data import MOUTH, MOVED, SLIDING, STILL, UNSURE, write_sliding_pictures
from loquent.training.perceptual import structure_distance
from recipe_check import check_debug_recipe

TINY = get_autoencoder_preset("tiny-blend")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    write_sliding_pictures(folder)
    return folder


def test_debug_recipe(tmp_path):
    output = check_debug_recipe("ifmdm-autoencoder", tmp_path)
    assert load_autoencoder(output / "weights").config == replace(TINY, relative=True)


def test_groups_repeat_and_flow_carries_the_photo_to_each_frame(cache):
    groups = PairGroups(cache, 2)
    batch, again = groups.batch(3), groups.batch(3)
    assert batch.pictures.shape == (2 * FRAMES, 3, 256, 256)
    torch.testing.assert_close(batch.pictures, again.pictures)
    large = torch.nn.functional.interpolate(batch.flow, size=256, mode="nearest")
    photos = batch.pictures[::FRAMES].repeat_interleave(FRAMES, 0)
    moved = warp(photos, large)
    torch.testing.assert_close(moved[..., 40:-40, 40:-40], batch.pictures[..., 40:-40, 40:-40], atol=0.05, rtol=0)
    at = (
        batch.landmarks
        + torch.nn.functional.grid_sample(batch.flow, batch.landmarks[:, :, None], align_corners=False)[..., 0].mT
    )
    torch.testing.assert_close(at, batch.landmarks[::FRAMES].repeat_interleave(FRAMES, 0), atol=2e-3, rtol=0)


def test_pairs_are_of_one_person(cache):
    batch = PairGroups(cache, 3).batch(0)
    assert (batch.sources() // FRAMES == batch.targets() // FRAMES).all()
    assert batch.from_photo().sum() == 3 * sum(source == 0 for source, _ in PAIRS)


def test_a_mirrored_group_has_mirrored_flow():
    picture = np.zeros((1, 256, 256, 3), np.uint8)
    flow = np.zeros((1, 128, 128, 2), np.int16)
    flow[0, :, :64, 0] = 1024
    arrays = {"frames": picture, "kinds": np.zeros((1, 128, 128), np.uint8), "flow": flow}
    arrays["landmarks"] = np.zeros((1, 478, 2), np.float32)
    seeds = [seed for seed in range(20) if as_floats(arrays, np.random.default_rng(seed))[1][0, 0, 0, 0] == 0]
    mirrored = as_floats(arrays, np.random.default_rng(seeds[0]))
    assert mirrored[1][0, 0, 5, 100] == -0.25
    assert mirrored[4][0, 0, 0] > 0.9


def test_video_serves_as_well_without_known_flow(tmp_path):
    write_puppets(tmp_path)
    groups = open_groups(tmp_path, 1, layered=True)
    batch = groups.batch(0)
    assert batch.layers is not None
    assert batch.pictures.shape == (FRAMES, 3, 64, 64)
    assert not (batch.kinds == MOVED).any()
    assert (batch.kinds == MOUTH).any()
    assert (batch.kinds == UNSURE).any()
    network = SteeredAutoencoder(TINY, landmark_basis(groups, TINY.motion_dim))
    turns = PairTurns(RECIPE.presets["starter"], structure_distance)
    _, _, terms = turns.draw(network, batch, torch.Generator().manual_seed(0))
    assert all(torch.isfinite(value) for value in terms.values())
    assert terms["flow"] == 0


def test_flow_loss_counts_pixels_of_what_moved():
    wanted = torch.zeros(1, 2, 128, 128)
    wanted[:, 0] = 0.25
    moved = torch.zeros(1, 128, 128, dtype=torch.bool)
    moved[:, :64] = True
    offsets = [wanted[..., : 8 * 2**n, : 8 * 2**n] for n in range(4)]
    assert flow_loss(offsets, wanted, moved) < 1e-5
    assert flow_loss([torch.zeros_like(x) for x in offsets], wanted, moved) == pytest.approx(0.25 * 64)


def test_flow_goes_on_beyond_the_person():
    kinds = np.full((128, 128), STILL, np.uint8)
    kinds[:, :64] = MOVED
    kinds[0, 70] = MOUTH
    flow = np.where((kinds == MOVED)[..., None], np.int16(5), np.int16(0)).repeat(2, axis=2)
    continued, known = continue_flow(flow, kinds)
    assert (continued[:, :64] == 5).all()
    assert (continued[5, 64:72] == 5).all()
    assert not continued[5, 100].any()
    assert known[5, 72]
    assert not known[5, 100]
    assert not known[0, 70]
    assert not continue_flow(flow, np.full_like(kinds, UNSURE))[1].any()


def test_each_layer_answers_for_its_own_landmarks():
    source = torch.zeros(1, NUM_LANDMARKS, 2)
    target = source.clone()
    target[:, list(UPPER_SIDE)] = 0.25
    still = torch.zeros(1, 2, 16, 16)
    assert point_loss(still, source, target, side_weights(UPPER_SIDE, 12.0)) < 0.01
    assert point_loss(still, source, target, side_weights(LOWER_SIDE, 12.0)) > 3
    assert not set(UPPER_SIDE) & set(LOWER_SIDE)


def test_gaps_count_how_far_the_layers_part():
    landmarks = torch.rand(1, NUM_LANDMARKS, 2, generator=torch.Generator().manual_seed(0)) * 0.2
    apart = landmarks.clone()
    apart[:, GAP_LOWER, 1] += 0.125
    still, down = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    down[:, 1] = -0.125
    assert gap_loss(still, down, landmarks, apart) < 1e-4
    assert gap_loss(still, still, landmarks, apart) > 0.125 * 64
    assert gap_loss(down, down, landmarks, landmarks) < 1e-4


def test_skull_and_jaw_are_to_go_where_landmarks_carry_them(cache):
    batch = PairGroups(cache, 1, layered=True).batch(0)
    layers, source = batch.layers, batch.landmarks[:1]
    assert layers is not None
    target = source + torch.tensor([0.05, -0.02])
    target[:, CHIN, 1] += 0.1
    skull, jaw = mouth_move(layers, (target - source)[:, list(POINTS)])
    none = torch.zeros(1, 8, 4, 4)
    assert skull_loss(MouthSketch(skull, jaw, none), layers, source, target) < 1e-4
    assert skull_loss(MouthSketch(skull, jaw + 0.5, none), layers, source, target) > 1
    still = torch.eye(2, 3)[None]
    assert skull_loss(MouthSketch(still, jaw, none), layers, source, target) > 0.5


def test_the_judge_sees_the_inside_of_mouths_alone(cache):
    batch = PairGroups(cache, 1).batch(0)
    batch.kinds[:] = MOVED
    batch.kinds[1, 60:68, 60:68] = MOUTH
    batch.landmarks[:] = 0.0
    wanted = batch.pictures[batch.targets()]
    fake, real = mouths(torch.ones_like(wanted), wanted, batch)
    assert fake.shape == real.shape == (4, 3, 64, 64)
    torch.testing.assert_close(real[0, :, 28:36, 28:36], wanted[0, :, 124:132, 124:132])
    torch.testing.assert_close(fake[0, :, 28:36, 28:36], torch.ones(3, 8, 8))
    for seen in (fake, real):
        assert not seen[1:].any()
        assert not seen[0, :, :20].any()


def test_the_judge_begins_when_it_is_told_to(cache):
    recipe = replace(RECIPE.presets["debug"], judge_from=3)
    groups = PairGroups(cache, 1, layered=True)
    batch = groups.batch(0)
    networks = {
        "renderer": SteeredAutoencoder(recipe.network, landmark_basis(groups, recipe.network.motion_dim)),
        "judge": Discriminator(judge_config(recipe.network)),
    }
    turns = PairTurns(recipe, structure_distance)
    names = [[name for name, _ in turns(networks, batch, torch.Generator().manual_seed(0), step)] for step in (2, 3)]
    assert names == [["renderer"], ["renderer", "judge"]]


def test_places_are_cut_out_in_whole_pixels_within_the_picture():
    pictures = torch.arange(64.0).view(1, 1, 1, 64).expand(2, 1, 64, 64)
    cut = cut_out(pictures, torch.tensor([[0.01, 0.0], [5.0, -5.0]]))
    assert cut.shape == (2, 1, 16, 16)
    assert cut[0, 0, 0].tolist() == list(range(24, 40))
    assert cut[1, 0, 0].tolist() == list(range(48, 64))


def test_features_see_a_mouth_that_differs(cache):
    batch = PairGroups(cache, 1).batch(0)
    features = FaceFeatures()
    real = batch.pictures[:1]
    assert features(real, real, batch.landmarks[:1]) == 0
    made = real.clone().requires_grad_()
    away = features(real, made + 0.3, batch.landmarks[:1])
    away.backward()
    assert away > 0.02
    assert made.grad is not None
    assert made.grad.abs().max() > 0


def test_drawn_colours_cost_where_the_photo_serves():
    drawn, photo = torch.full((1, 1, 16, 16), 9.0), torch.full((1, 1, 16, 16), -9.0)
    for kind in (STILL, MOVED, SLIDING):
        kinds = torch.full((1, 8, 8), kind)
        assert share_loss(drawn, kinds) > 5
        assert share_loss(photo, kinds) < 1e-2
    for kind in (MOUTH, UNSURE):
        assert share_loss(drawn, torch.full((1, 8, 8), kind)) == 0


def test_frames_that_open_or_shut_are_chosen_more_often():
    landmarks = np.zeros((3, NUM_LANDMARKS, 2), np.float32)
    landmarks[:, 33, 0] = 100
    landmarks[2, 13, 1] = 10
    still, opened = opening_change(landmarks)
    assert still == 1
    assert opened == pytest.approx(3)


def test_people_whose_photo_shows_the_mouth_shut_may_be_chosen_more_often(tmp_path):
    write_sliding_pictures(tmp_path, people=4)
    (folder,) = tmp_path.glob("train-*")
    landmarks = np.load(folder / "landmarks.npy")
    landmarks[:, 14] = landmarks[:, 13] + [0, 20]  # three of four are open
    landmarks[:6, 14] = landmarks[:6, 13]
    np.save(folder / "landmarks.npy", landmarks)
    shares = []
    for shut in (1.0, 9.0):
        groups = PairGroups(tmp_path, 40, shut=shut)
        first = groups.batch(0).landmarks[::FRAMES]
        gaps = (first[:, 14] - first[:, 13]).norm(dim=-1)
        shares.append(float((gaps < 1e-3).float().mean()))
    assert shares[0] < 0.5
    assert shares[1] > 0.6


def test_layers_of_the_photos_come_in_the_batchs_light(cache):
    batch = PairGroups(cache, 2, layered=True).batch(1)
    assert batch.layers is not None
    assert batch.layers.planes.shape == (2, 9, 256, 256)
    torch.testing.assert_close(batch.layers.planes[:, RED : BLUE + 1], batch.pictures[::FRAMES])  # no background
    assert PairGroups(cache, 2).batch(1).layers is None


def test_a_grown_renderer_begins_near_the_smaller_one(cache):
    torch.manual_seed(0)
    groups = PairGroups(cache, 1)
    small = SteeredAutoencoder(TINY, landmark_basis(groups, TINY.motion_dim)).eval()
    config = replace(TINY, size_px=64, channels=(*TINY.channels, 6))
    large = grow_steered(small, config, groups, fit_steps=150).eval()
    pictures = groups.batch(0).pictures[:, :, ::2, ::2].contiguous()
    with torch.no_grad():
        before = small.autoencoder.motion_of(pictures)
        after = large.autoencoder.motion_of(pictures)
    assert (before - after).abs().mean() < 0.3 * before.std(0).mean() + 0.05


def test_codes_of_pairs_follow_the_landmarks(cache):
    groups = PairGroups(cache, 2)
    network = SteeredAutoencoder(replace(TINY, relative=True), landmark_basis(groups, TINY.motion_dim))
    batch = groups.batch(0)
    sources, targets = batch.sources(), batch.targets()
    wide = torch.randn(len(batch.pictures), TINY.motion_dim)
    turns = PairTurns(replace(RECIPE.presets["starter"], steered=1.0), structure_distance)
    codes, terms = turns._codes(network, wide, batch, torch.Generator().manual_seed(0))
    steps = network.steps(batch.landmarks[targets], batch.landmarks[sources])
    torch.testing.assert_close(codes, torch.tanh(steps))
    assert terms["code"] > 0
    true = network.steps(batch.landmarks, torch.zeros_like(batch.landmarks))
    codes, terms = turns._codes(network, true, batch, torch.Generator().manual_seed(0))
    assert terms["code"] < 1e-3


def test_absolute_codes_are_the_encoders(cache):
    network = SteeredAutoencoder(TINY, landmark_basis(PairGroups(cache, 1), TINY.motion_dim))
    batch = PairGroups(cache, 1).batch(0)
    wide = torch.randn(len(batch.pictures), TINY.motion_dim)
    turns = PairTurns(RECIPE.presets["published"], structure_distance)
    codes, terms = turns._codes(network, wide, batch, torch.Generator())
    torch.testing.assert_close(codes, torch.tanh(wide[batch.targets()]))
    assert set(terms) == {"range"}


def test_an_empty_cache_is_an_error(tmp_path):
    with pytest.raises(LoquentError, match=r"holds no train-\* folder; make one"):
        PairGroups(tmp_path, 1)


def test_codes_may_be_those_of_another_renderer(cache, tmp_path):
    basis = landmark_basis(PairGroups(cache, 1), 3)
    save_file({"basis": torch.from_numpy(basis)}, tmp_path / "steering.safetensors")
    np.testing.assert_array_equal(read_steering(str(tmp_path)), basis)
    with pytest.raises(LoquentError, match=r"holds no steering\.safetensors"):
        read_steering(str(tmp_path / "none"))


def test_senseless_recipes_are_errors():
    with pytest.raises(LoquentError, match="groups is 0"):
        replace(RECIPE.presets["starter"], groups=0)
    with pytest.raises(LoquentError, match=r"shut is 0\.0"):
        replace(RECIPE.presets["starter"], shut=0.0)
    with pytest.raises(LoquentError, match="judge_from -1"):
        replace(RECIPE.presets["starter"], judge_from=-1)
