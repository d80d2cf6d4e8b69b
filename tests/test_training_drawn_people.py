"""The caches of IF-MDM and MToV, made by their commands and read by their trainings."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from loquent.models.moditalker import get_autoencoder_preset
from loquent.training import ifmdm_data, moditalker_video_data
from loquent.training.ifmdm_batches import PairGroups
from loquent.training.ifmdm_data import FLOW_PX, FLOW_STEPS, MOUTH, MOVED, SLIDING, STILL
from loquent.training.moditalker_video_data import NUM_FRAMES, NetworkView, Windows
from tiny_people import write_material


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return [str(path) for path in write_material(tmp_path_factory.mktemp("material"), ("A1",))]


@pytest.fixture(scope="module")
def run(material):
    """Runs a module as a command on the material."""

    def run(module, *options: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["made", *material, *options])
            module.main()

    return run


@pytest.fixture(scope="module")
def person(run, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    run(ifmdm_data, str(cache))
    return PairGroups(cache, 1).person(0)


def test_flow_carries_the_photo_to_every_frame(person):
    """What the mesh renderer says of its flow is what it does."""
    photo = cv2.resize(person["frames"][0], (FLOW_PX, FLOW_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    own = np.stack(np.meshgrid(np.arange(FLOW_PX), np.arange(FLOW_PX)), axis=-1)
    assert len(person["frames"]) == 1 + ifmdm_data.FREE_FRAMES + ifmdm_data.SPEECH_FRAMES
    for frame, flow, kinds in zip(person["frames"][1:], person["flow"][1:], person["kinds"][1:], strict=True):
        places = (own + flow * (FLOW_PX / 2 / FLOW_STEPS)).astype(np.float32)
        drawn = cv2.resize(frame, (FLOW_PX, FLOW_PX), interpolation=cv2.INTER_AREA)
        away = np.abs(cv2.remap(photo, places[..., 0], places[..., 1], cv2.INTER_LINEAR) - drawn).mean(-1)
        inside = np.abs(places - FLOW_PX / 2).max(-1) < FLOW_PX / 2 - 2
        unmoved, moved = np.abs(photo - drawn).mean(-1), (kinds == MOVED) & inside
        assert away[moved].mean() < min(3, 0.6 * unmoved[moved].mean())
        assert unmoved[(kinds == STILL) & (person["kinds"][0] == STILL)].mean() < 0.1


def test_kinds_tell_mouth_and_eyes_by_the_landmarks(person):
    kinds, points = person["kinds"][3], person["landmarks"][3] / 2
    lips, eye, nose = (points[list(which)].mean(0).round().astype(int) for which in ((61, 291), (159, 145), (4,)))
    assert (person["kinds"][:, 2:6, 2:6] == STILL).all()
    assert kinds[eye[1], eye[0]] == SLIDING
    assert kinds[nose[1], nose[0]] == MOVED
    assert {SLIDING, MOUTH} & set(kinds[lips[1] - 2 : lips[1] + 3, lips[0]].tolist())


def test_the_moved_photo_of_a_window_is_nearer_its_frames_than_the_still_one(run, tmp_path):
    run(moditalker_video_data, "--out", str(tmp_path))
    windows = Windows(tmp_path)
    assert len(windows) == 3
    for window in (windows[number] for number in range(3)):
        assert np.ptp(window.landmarks, axis=0).max() > 0.01
        np.testing.assert_allclose(window.landmarks.mean((0, 1)), 0.5, atol=0.15)
        moved_photo = np.abs(window.base.astype(int) - window.frames).mean()
        held_still = np.abs(window.portrait.astype(int) - window.frames).mean()
        assert moved_photo < held_still
    view = NetworkView(windows[0], get_autoencoder_preset("starter"))
    assert view.clip().shape == (3, NUM_FRAMES, *view.dots().shape[-2:])
