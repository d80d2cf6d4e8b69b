"""Cutting a person out and completing the background."""

from __future__ import annotations

import cv2
import numpy as np

from loquent.motion.face_model import face_tables
from loquent.render.matte import split_layers

HEAD, HAIR = (200, 160, 140), (60, 40, 30)


def _scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture with a shaded background, its landmarks (478, 3), and where the person is (H, W)."""
    landmarks = (face_tables().neutral * 80 + np.array([130, 110, 0])).astype(np.float32)
    y, x = np.mgrid[:280, :260].astype(np.float32)
    picture = np.dstack([70 + y / 6, 110 + x / 9, 150 - y / 9]).astype(np.uint8)
    person = np.zeros(picture.shape[:2], np.uint8)
    cv2.ellipse(person, (130, 120), (68, 95), 0, 0, 360, (1,), -1)
    cv2.ellipse(person, (130, 300), (110, 85), 0, 0, 360, (2,), -1)
    picture[person == 1], picture[person == 2] = HEAD, HAIR
    noise = np.random.default_rng(0).normal(0, 2, picture.shape)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.7) + noise, 0, 255).astype(np.uint8), landmarks, person > 0


def test_layers_give_the_photo_back():
    picture, landmarks, _ = _scene()
    layers = split_layers(picture, landmarks)
    assert layers.reliable
    rest = cv2.merge([255 - layers.person[..., 3]] * 3)
    again = cv2.add(layers.person[..., :3].copy(), cv2.multiply(layers.background, rest, scale=1 / 255))
    assert np.abs(again.astype(int) - picture).max() <= 1


def test_the_cut_finds_head_and_shoulders():
    picture, landmarks, person = _scene()
    alpha = split_layers(picture, landmarks).person[..., 3] / 255
    assert np.abs(alpha - person).mean() < 0.03
    assert alpha[cv2.erode(person.astype(np.uint8), np.ones((7, 7))) > 0].min() > 0.9


def test_the_background_is_completed_without_the_person():
    picture, landmarks, person = _scene()
    background = split_layers(picture, landmarks).background.astype(int)
    beside = cv2.dilate(person.astype(np.uint8), np.ones((9, 9))).astype(bool) & (np.indices(person.shape)[0] < 150)
    y = np.indices(person.shape)[0]
    assert np.abs(background[..., 0] - (70 + y / 6))[beside].mean() < 12
    far = ~cv2.dilate(person.astype(np.uint8), np.ones((41, 41))).astype(bool)
    assert np.array_equal(background[far], picture[far])
