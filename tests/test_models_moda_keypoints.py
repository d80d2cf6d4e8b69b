"""Keypoints, driving rules, crop and filters beyond the recorded numbers (those are in test_parity.py)."""

import cv2
import numpy as np
import pytest
import torch

from loquent.errors import ControlsError, FaceError, WeightsError
from loquent.models.moda import crop, filters
from loquent.models.moda.keypoints import (
    LIPS,
    KeypointMotion,
    drive,
    hull_volume,
    match_amplitude,
    rotation_matrix,
    scaled_change,
    slider_change,
    transform,
    with_sliders,
)
from loquent.models.moda.motion_space import MotionStatistics, SourceFace
from loquent.models.moda.renderer import RendererConfig
from loquent.models.moda.renderer.config import DecoderConfig


def motion(num_frames: int, seed: int) -> KeypointMotion:
    random = torch.Generator().manual_seed(seed)
    angles = (20 * torch.randn(3, num_frames, generator=random)).unbind(0)
    return KeypointMotion(
        0.02 * torch.randn(num_frames, 21, 3, generator=random),
        rotation_matrix(*angles),
        1 + 0.1 * torch.rand(num_frames, generator=random),
        0.1 * torch.randn(num_frames, 3, generator=random),
    )


@pytest.fixture
def canonical() -> torch.Tensor:
    return 0.3 * torch.randn(1, 21, 3, generator=torch.Generator().manual_seed(7))


def test_rotations_turn_and_do_not_stretch():
    angles = torch.tensor([[10.0, -40.0], [25.0, 3.0], [-5.0, 60.0]])
    rotation = rotation_matrix(*angles)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2))


def test_relative_motion_starts_from_the_source(canonical):
    source, driver = motion(1, 0), motion(5, 1)
    still = transform(canonical, source)
    first = drive(canonical, source, driver, relative=True)[:1]
    torch.testing.assert_close(first, still, atol=1e-5, rtol=1e-5)
    matched = match_amplitude(still, drive(canonical, source, driver, relative=True))
    torch.testing.assert_close(matched[:1], still, atol=1e-5, rtol=1e-5)


def test_driven_by_itself_the_source_stays(canonical):
    source = motion(1, 0)
    for region in ("all", "expression", "pose", "lips", "eyes"):
        torch.testing.assert_close(drive(canonical, source, source, region=region), transform(canonical, source))


@pytest.mark.parametrize("relative", [False, True])
def test_a_region_moves_only_its_keypoints(canonical, relative):
    source = motion(1, 0)
    moved = drive(canonical, source, motion(4, 1), relative=relative, region="lips") - transform(canonical, source)
    others = [k for k in range(21) if k not in LIPS]
    assert moved[:, others].abs().max() < 1e-6
    assert moved[1:, list(LIPS)].abs().max() > 1e-3


def test_scale_of_the_driver_counts_in_relative_motion_only(canonical):
    source, driver = motion(1, 0), motion(3, 1)
    larger = KeypointMotion(
        driver.expression, driver.rotation, driver.scale * torch.tensor([1, 2, 3]), driver.translation
    )
    torch.testing.assert_close(drive(canonical, source, driver), drive(canonical, source, larger))
    relative = [drive(canonical, source, which, relative=True) for which in (driver, larger)]
    assert (relative[0] - relative[1]).abs().max() > 0.1


def test_sliders_add_up_and_unknown_ones_are_errors():
    both = slider_change(smile=1.0, gaze_x=-2.0)
    torch.testing.assert_close(both, slider_change(smile=1.0) + slider_change(gaze_x=-2.0))
    assert both[11, 0] == pytest.approx(-0.002)
    base = motion(2, 0)
    torch.testing.assert_close(
        with_sliders(base, wink=3.0).expression - base.expression, slider_change(wink=3.0).expand(2, -1, -1)
    )
    with pytest.raises(ControlsError, match="choose among smile"):
        slider_change(grin=1.0)


def test_hull_volume_of_a_box_with_points_inside():
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 2) for z in (0, 3)], float)
    inside = np.random.default_rng(0).uniform(0.1, 0.9, (13, 3)) * [1, 2, 3]
    # Triangles of one face overlap where it has four corners; a slight skew makes every face a triangle.
    skew = np.random.default_rng(1).normal(0, 1e-4, corners.shape)
    assert hull_volume(np.concatenate([corners + skew, inside])) == pytest.approx(6, abs=1e-2)


def test_strength_scales_what_moves():
    source, target = torch.zeros(1, 21, 3), torch.ones(2, 21, 3)
    torch.testing.assert_close(scaled_change(source, target, 0.5), 0.5 * target)


def test_generated_motion_of_the_source_itself_gives_the_source_back():
    source = motion(1, 3)
    pose = torch.tensor([[4.0, -7.0, 2.0]])
    face = SourceFace(
        torch.zeros(1, 21, 3),
        KeypointMotion(source.expression, rotation_matrix(*pose.T), source.scale, source.translation),
        pose,
    )
    random = torch.Generator().manual_seed(0)
    statistics = MotionStatistics(torch.ones(70), 0.1 + torch.rand(70, generator=random))
    again = statistics.to_keypoint_motion(statistics.previous_motion(face), face)
    torch.testing.assert_close(again.expression, source.expression, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.rotation, face.motion.rotation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.scale, source.scale)
    torch.testing.assert_close(again.translation[:, :2], source.translation[:, :2])
    assert again.translation[0, 2] == pytest.approx(0, abs=1e-6)


def test_a_crop_pasted_back_changes_little_and_nothing_outside():
    random = np.random.default_rng(0)
    photo = cv2.GaussianBlur(random.integers(0, 255, (200, 240, 3), dtype=np.uint8), (0, 0), 4)
    points = np.array([[90.0, 80.0], [150.0, 84.0], [120.0, 110.0], [98.0, 140.0], [140.0, 143.0]])
    square = crop.face_square(points, crop.CropRule(512, 1.5))
    pasted = crop.paste_back(photo, crop.cut(photo, square), square.crop_to_photo, crop.paste_mask())
    assert np.abs(pasted.astype(int) - photo).max() <= 4
    corners = square.corners
    left, top = corners.min(0)
    assert left > 10
    np.testing.assert_array_equal(pasted[:, : int(left) - 2], photo[:, : int(left) - 2])
    np.testing.assert_array_equal(pasted[: max(0, int(top) - 2)], photo[: max(0, int(top) - 2)])


def test_crops_outside_the_photo_change_nothing():
    photo = np.full((20, 20, 3), 7, np.uint8)
    far = np.array([[1.0, 0, 500], [0, 1, 500]])
    np.testing.assert_array_equal(crop.paste_back(photo, photo, far, np.ones((20, 20))), photo)


def test_a_turned_face_gives_an_upright_crop():
    points = np.array([[90.0, 80.0], [150.0, 80.0], [120.0, 110.0], [100.0, 140.0], [140.0, 140.0]])
    turn = cv2.getRotationMatrix2D((120, 110), -30, 1)
    turned = np.column_stack([points, np.ones(5)]) @ turn.T
    square = crop.face_square(turned, crop.SOURCE)
    in_crop = np.column_stack([turned, np.ones(5)]) @ square.photo_to_crop.T
    assert in_crop[0, 1] == pytest.approx(in_crop[1, 1], abs=0.1)
    upright = crop.face_square(points, crop.SOURCE)
    assert square.side_px == pytest.approx(upright.side_px, rel=1e-4)


def test_unknown_numbers_of_landmarks_are_errors():
    with pytest.raises(FaceError, match="give one of 5, 9, 68"):
        crop.face_square(np.zeros((17, 2)), crop.SOURCE)


def test_the_mask_fades_over_sixteen_pixels():
    mask = crop.paste_mask()
    assert mask.shape == (512, 512)
    assert mask[0].max() == 0
    assert mask[16:497, 16:497].min() == 1
    assert mask[256, 8] == pytest.approx(0.5, abs=0.005)


def test_filters_keep_a_constant_and_smooth_more_when_asked():
    constant = np.full((20, 2), 3.0)
    np.testing.assert_allclose(filters.kalman_smooth(constant), constant)
    np.testing.assert_allclose(filters.exponential_average(constant), constant)
    noise = np.random.default_rng(0).normal(size=(50, 1))
    little, much = (np.abs(np.diff(filters.kalman_smooth(noise, v), axis=0)).mean() for v in (3e-7, 1e-4))
    assert much < 0.5 * little


def test_configurations_that_do_not_fit_together_are_errors(tmp_path):
    with pytest.raises(WeightsError, match="map_channels is 256 in one network of the renderer and 8"):
        RendererConfig(decoder=DecoderConfig(map_channels=8))
    RendererConfig().save(tmp_path / "config.json")
    assert RendererConfig.load(tmp_path / "config.json") == RendererConfig()
