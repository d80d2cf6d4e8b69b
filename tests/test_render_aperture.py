"""Openings: edges, masks, and the layers' presence."""

from __future__ import annotations

import numpy as np

from loquent.render.aperture import EdgeFrame, Opening, dense_edge, presence


def _edges(gap: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(10, 50, 11)
    bow = np.sin(np.linspace(0, np.pi, 11)) * gap / 2
    return dense_edge(np.stack([x, 30 - bow], -1)), dense_edge(np.stack([x, 30 + bow], -1))


def test_frame_coordinates_come_back():
    frame = EdgeFrame.of(np.array([3.0, 4.0]), np.array([33.0, 14.0]))
    points = np.random.default_rng(0).uniform(0, 50, (20, 2))
    np.testing.assert_allclose(frame.to_xy(frame.to_uv(points)), points, atol=1e-4)
    np.testing.assert_allclose(frame.to_uv(np.array([33.0, 14.0])), (frame.length_px, 0), atol=1e-4)


def test_masks_share_every_pixel():
    masks = Opening.of(*_edges(8)).masks((0, 20, 60, 40))
    gap = 1 - masks.upper - masks.lower
    assert masks.upper.min() >= 0
    assert gap.min() >= -1e-6
    assert gap[10, 30] == 1
    assert masks.upper[0].min() == 1
    assert masks.lower[-1].min() == 1
    assert gap[:, :5].max() < 0.01


def test_crossing_edges_meet_half_way():
    upper, lower = _edges(8)
    opening = Opening.of(lower, upper)
    assert opening.gap_px == 0
    masks = opening.masks((0, 20, 60, 40))
    np.testing.assert_allclose(masks.upper + masks.lower, 1, atol=1e-6)


def test_slack_closes_narrow_gaps_only():
    narrow, wide = Opening.of(*_edges(1.0), slack_px=2.0), Opening.of(*_edges(20.0), slack_px=2.0)
    assert narrow.gap_px < 0.3
    assert abs(wide.gap_px - 20) < 0.5


def test_presence_rises_with_movement():
    shift = np.zeros((3, 5, 3), np.float32)
    shift[1, 2, 0], shift[2, 2, 0] = 0.5, 5.0
    still, little, much = presence(shift, fade_px=1.0)
    assert still == 0
    assert 0.1 < little < 0.5
    assert much > 0.99
