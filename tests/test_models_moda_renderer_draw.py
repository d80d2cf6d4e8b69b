import cv2
import numpy as np
import pytest
import torch

from loquent.errors import ControlsError
from loquent.models.moda.keypoints import KeypointMotion
from loquent.models.moda.renderer import TINY
from loquent.models.moda.renderer.draw import DrivingOptions, WarpingRenderer
from loquent.models.moda.renderer.networks import RendererNetworks

POINTS = np.array([[90.0, 80.0], [150.0, 84.0], [120.0, 110.0], [98.0, 140.0], [140.0, 143.0]])


@pytest.fixture(scope="module")
def renderer() -> WarpingRenderer:
    torch.manual_seed(0)
    return WarpingRenderer(RendererNetworks(TINY), batch=2)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (240, 260, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


def wiggle(renderer, photo, num_frames: int) -> KeypointMotion:
    frames = np.stack([np.roll(photo[:64, :64], 8 * t, axis=1) for t in range(num_frames)])
    return renderer.read_motion(frames)


def test_frames_come_one_for_each_motion_and_only_the_face_changes(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    targets = renderer.targets(source, wiggle(renderer, photo, 3), DrivingOptions())
    frames = list(renderer.draw(source, targets))
    assert len(frames) == 3
    assert all(frame.shape == photo.shape for frame in frames)
    np.testing.assert_array_equal(frames[0][:4, -4:], photo[:4, -4:])
    assert np.abs(frames[0].astype(int) - photo).max() > 0
    faces = list(renderer.draw(source, targets, whole=False))
    assert faces[0].shape == (512, 512, 3)


def test_batches_do_not_change_a_frame(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    targets = renderer.targets(source, wiggle(renderer, photo, 2), DrivingOptions())
    together = list(renderer.draw(source, targets, whole=False))
    alone = [next(renderer.draw(source, targets[i : i + 1], whole=False)) for i in range(2)]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_without_strength_nothing_moves(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    options = DrivingOptions(strength=0.0)
    targets = renderer.targets(source, wiggle(renderer, photo, 2), options)
    torch.testing.assert_close(targets, source.keypoints.expand(2, -1, -1))


def test_relative_motion_without_sliders_and_stitching_starts_at_the_source(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    options = DrivingOptions(relative=True, match_amplitude=True, stitching=False)
    targets = renderer.targets(source, wiggle(renderer, photo, 3), options)
    torch.testing.assert_close(targets[:1], source.keypoints, atol=1e-5, rtol=1e-5)


def test_amplitude_can_only_be_matched_in_relative_motion():
    with pytest.raises(ControlsError, match="set relative as well"):
        DrivingOptions(match_amplitude=True)
