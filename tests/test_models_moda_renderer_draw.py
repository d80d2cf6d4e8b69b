import cv2
import numpy as np
import pytest
import torch

from loquent.errors import ControlsError
from loquent.models.moda.keypoints import KeypointMotion, driven_motion
from loquent.models.moda.renderer import TINY
from loquent.models.moda.renderer.draw import WarpingRenderer
from loquent.models.moda.renderer.networks import RendererNetworks
from loquent.pipeline import average_portrait

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
    return renderer.read_faces(frames)


def test_frames_come_one_for_each_motion_and_only_the_face_changes(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    targets = renderer.targets(source, wiggle(renderer, photo, 3))
    frames = list(renderer.draw(source, targets))
    assert len(frames) == 3
    assert all(frame.shape == photo.shape for frame in frames)
    np.testing.assert_array_equal(frames[0][:4, -4:], photo[:4, -4:])
    assert np.abs(frames[0].astype(int) - photo).max() > 0
    faces = list(renderer.draw(source, targets, whole=False))
    assert faces[0].shape == (512, 512, 3)


def test_batches_do_not_change_a_frame(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    targets = renderer.targets(source, wiggle(renderer, photo, 2))
    together = list(renderer.draw(source, targets, whole=False))
    alone = [next(renderer.draw(source, targets[i : i + 1], whole=False)) for i in range(2)]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_without_strength_nothing_moves(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    targets = renderer.targets(source, wiggle(renderer, photo, 2), strength=0.0)
    torch.testing.assert_close(targets, source.keypoints.expand(2, -1, -1))


def test_relative_motion_without_stitching_starts_at_the_source(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    moved = driven_motion(source.face.motion, wiggle(renderer, photo, 3), relative=True)
    targets = renderer.targets(source, moved, stitching=False)
    torch.testing.assert_close(targets[:1], source.keypoints, atol=1e-5, rtol=1e-5)


def test_openings_change_only_the_frames_that_ask_for_one(renderer, photo):
    landmarks = average_portrait(240).face.landmarks
    source = renderer.prepare(photo[:240, :240], landmarks)
    still = driven_motion(source.face.motion, wiggle(renderer, photo, 2), relative=True)
    plain = renderer.targets(source, still)
    for name in ("eye_opening", "lip_opening"):
        opened = renderer.targets(source, still, **{name: torch.tensor([1.0, 0.2])})
        torch.testing.assert_close(opened[0], plain[0])
        assert (opened[1] - plain[1]).abs().max() > 1e-3


def test_openings_need_landmarks_that_tell_them(renderer, photo):
    source = renderer.prepare(photo, POINTS)
    motion = wiggle(renderer, photo, 1)
    renderer.targets(source, motion, eye_opening=torch.ones(1))
    with pytest.raises(ControlsError, match="give 203 or 478"):
        renderer.targets(source, motion, eye_opening=torch.zeros(1))
