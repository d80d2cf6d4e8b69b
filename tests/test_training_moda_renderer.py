"""The recipe `moda-renderer`: its losses of keypoints and pictures, and both of its stages."""

import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from loquent.errors import WeightsError
from loquent.face.analyze import analyze
from loquent.media.image import read_image
from loquent.models.moda.renderer.config import TINY
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.motion.face_model import face_tables, fit_face
from loquent.training.keypoint_losses import GUIDED, RandomWarp, equivariance_loss, guidance_loss, spread_loss, wing
from loquent.training.moda_renderer import with_spectral_norm, without_spectral_norm
from loquent.training.moda_renderer_corrections import OpeningReader, below_chin, openings_of
from loquent.training.moda_renderer_data import head_angles_deg
from loquent.training.moda_renderer_drawing import cut_squares
from loquent.training.perceptual import VggDistance, make_distance, structure_distance
from recipe_check import check_debug_recipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_debug_recipe(tmp_path):
    output = check_debug_recipe("moda-renderer", tmp_path)
    assert (output / "samples" / "step-000012.mp4").is_file()
    networks = RendererNetworks.from_pretrained(output / "weights")
    assert networks.config == TINY
    lines = [json.loads(line) for line in (output / "corrections" / "log.jsonl").read_text().splitlines()]
    assert {"shoulders", "eye_opening", "lip_opening"} <= set(lines[0])
    assert networks.stitching.layers[-1].weight.abs().max() > 0  # type: ignore[union-attr]


def test_keypoints_that_follow_a_warp_cost_nothing():
    warp = RandomWarp.draw(2, seeded())
    of_warped = torch.rand(2, 5, 3, generator=seeded(1)) - 0.5
    keypoints = torch.cat([warp.places(of_warped[..., :2]), of_warped[..., 2:]], dim=-1)
    assert equivariance_loss(keypoints, of_warped, warp) < 1e-6
    assert equivariance_loss(of_warped, of_warped, warp) > 1e-3


def test_a_warp_moves_what_pictures_show_as_it_moves_points():
    warp = RandomWarp.draw(1, seeded(3), spread=0.03)
    point = torch.tensor([[[0.2, -0.3]]])
    place = warp.places(point)  # where the picture has what the warped picture shows at `point`
    line = (2 * torch.arange(64) + 1) / 64 - 1
    x, y = torch.meshgrid(line, line, indexing="xy")
    blob = torch.exp(-((x - place[0, 0, 0]) ** 2 + (y - place[0, 0, 1]) ** 2) / 0.01)
    warped = warp.apply(blob[None, None])[0, 0]
    found = torch.stack([(warped * x).sum(), (warped * y).sum()]) / warped.sum()
    torch.testing.assert_close(found, point[0, 0], atol=0.02, rtol=0)


def test_spread_wants_keypoints_apart_at_a_depth():
    apart = torch.tensor([[[-0.8, 0, 0.33], [0.8, 0, 0.33]]])
    assert spread_loss(apart) < 1e-6
    assert spread_loss(apart * torch.tensor([0.1, 1, 1])) > 0.1


def test_guidance_leads_ten_keypoints_to_landmarks():
    landmarks = torch.rand(1, 478, 2, generator=seeded()) - 0.5
    keypoints = torch.zeros(1, 21, 3)
    for keypoint, landmark in GUIDED.items():
        keypoints[0, keypoint, :2] = landmarks[0, landmark]
    assert len(GUIDED) == 10
    assert guidance_loss(keypoints, landmarks) == 0
    torch.testing.assert_close(wing(torch.tensor([9.999999, 10.0])).diff(), torch.zeros(1), atol=1e-5, rtol=0)


def test_angles_of_landmarks_are_the_keypoints_own():
    shape = fit_face(face_tables().neutral * 60 + [128, 110, 0])
    turned = shape.landmarks(np.zeros((1, 52)), np.array([[0.1, -0.2, 0.3]]))[0]
    change = head_angles_deg(turned) - head_angles_deg(shape.landmarks(np.zeros((1, 52)))[0])
    np.testing.assert_allclose(change, np.degrees([-0.1, 0.2, 0.3]), atol=1.0)


def test_spectral_norm_is_divided_out_of_what_is_kept():
    networks = with_spectral_norm(RendererNetworks(TINY)).eval()
    plain = without_spectral_norm(networks)
    features = torch.randn(1, 8, 8, 8, generator=seeded())
    torch.testing.assert_close(plain.decoder(features), networks.decoder(features))
    assert "decoder.middle.0.conv0.weight" in plain.state_dict()
    assert networks.decoder(features).isfinite().all()  # which itself goes on under the norm


def test_openings_are_read_from_a_photo():
    portrait = analyze(read_image(str(files("loquent") / "examples" / "portrait_a.jpg")))
    height, width = portrait.photo.pixels.shape[:2]
    side = min(height, width)
    pixels = torch.from_numpy(portrait.photo.pixels[:side, :side].copy()).permute(2, 0, 1)[None].float() / 255
    landmarks = torch.from_numpy(portrait.face.landmarks[None, :, :2]) * 2 / side - 1
    known = openings_of(landmarks)[0]
    reader = OpeningReader()
    pixels.requires_grad_(True)
    eyes, lips = reader.eyes(pixels, landmarks)[0], reader.lips(pixels, landmarks)[0]
    torch.testing.assert_close(torch.cat([eyes, lips[None]]), known, atol=0.08, rtol=0)
    (eyes.sum() + lips).backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0


def test_below_the_chin_is_the_body():
    landmarks = torch.zeros(1, 478, 2)
    landmarks[:, 152, 1], landmarks[:, 10, 1] = 0.4, -0.6
    rows = below_chin(landmarks, 8)[0, 0, :, 0]
    assert rows.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_squares_are_cut_where_asked():
    picture = torch.zeros(1, 1, 8, 8)
    picture[0, 0, 4:, 4:] = 1
    cut = cut_squares(picture, torch.tensor([[0.5, 0.5]]), torch.tensor([0.5]), 4)
    torch.testing.assert_close(cut, torch.ones(1, 1, 4, 4))


def test_structure_distance_grows_with_blur():
    real = torch.rand(1, 3, 32, 32, generator=seeded())
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    assert structure_distance(real, real) == 0
    assert structure_distance(real, blurred) > 0
    assert make_distance("") is structure_distance


def test_files_that_hold_no_vgg_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "vgg.pth")
    with pytest.raises(WeightsError, match="torchvision's layout"):
        VggDistance(tmp_path / "vgg.pth")
