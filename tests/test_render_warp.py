"""Fields, their inversion, and textures."""

from __future__ import annotations

import numpy as np

from loquent.render.warp import Lattice, SmoothInterpolator, Texture, inversion_start, invert, smoothstep, unfold


def test_pixel_map_is_exact_for_a_linear_field():
    lattice = Lattice.over((3, 5, 47, 40), 4)
    points = lattice.points()
    values = np.stack([2 * points[..., 0] - points[..., 1], 3 + 0.5 * points[..., 1]], -1).astype(np.float32)
    box = (3, 5, 47, 40)
    y, x = np.mgrid[5:40, 3:47]
    found = lattice.pixel_map(values, box)
    assert found.shape == (35, 44, 2)
    np.testing.assert_allclose(found[..., 0], 2 * x - y, atol=1e-3)
    np.testing.assert_allclose(found[..., 1], 3 + 0.5 * y, atol=1e-3)


def test_invert_undoes_a_strong_smooth_field():
    lattice = Lattice.over((0, 0, 100, 100), 3)
    points = lattice.points()
    bump = np.exp(-((points - 50) ** 2).sum(-1, keepdims=True) / 400)
    field = (np.array([6.0, 12.0]) * bump + np.array([20.0, -5.0])).astype(np.float32)
    targets = Lattice.over((20, -5, 120, 95), 5).points()
    source = invert(field, lattice, targets)
    missed = np.abs(source + lattice.sample(field, source) - targets)
    assert missed.max() < 0.2


def test_a_start_along_the_columns_inverts_a_field_that_tears_apart():
    lattice = Lattice.over((0, 0, 90, 90), 3)
    x, y = np.moveaxis(lattice.points(), -1, 0)
    tearing = 18 * np.tanh((y - 30 - 0.1 * x) / 4)  # up above the middle, down below: 5.5 times as high between
    field = np.stack([0.05 * x - 2, tearing], -1).astype(np.float32)
    targets = lattice.points()[4:-4, 4:-4]

    def error(start: np.ndarray | None) -> float:
        source = invert(field, lattice, targets, start)
        return float(np.abs(source + lattice.sample(field, source) - targets).max())

    assert error(inversion_start(field, lattice, targets)) < 0.5 < error(None)


def test_unfold_makes_a_folded_field_invertible():
    lattice = Lattice.over((0, 0, 60, 60), 2)
    points = lattice.points()
    field = np.zeros_like(points)
    field[..., 1] = -14 * smoothstep((points[..., 1] - 25) / 8)  # 8 pixels are to become -6
    smooth = unfold(field, 2)
    rows = points[..., 1] + smooth[..., 1]
    assert (np.diff(points[..., 1] + field[..., 1], axis=0) < 0).any()
    assert (np.diff(rows, axis=0) > 0).all()


def test_interpolator_meets_its_centres_and_fades_out():
    centres = np.random.default_rng(0).uniform(0, 50, (40, 2))
    values = np.sin(centres[:, :1] / 20)
    interpolator = SmoothInterpolator(centres, support_px=60, smoothing=1e-6)
    np.testing.assert_allclose(interpolator.matrix(centres) @ values, values, atol=1e-2)
    assert np.abs(interpolator.matrix(np.array([[300.0, 300.0]]))).max() < 1e-6


def test_texture_gives_its_own_pixels_back():
    pixels = np.random.default_rng(1).integers(0, 255, (40, 50, 3), np.uint8)
    texture = Texture(pixels, left_px=10, top_px=20)
    box = (15, 25, 45, 50)
    lattice = Lattice.over(box, 4)
    drawn = texture.draw(lattice.points(), lattice, box)
    assert np.array_equal(drawn, pixels[5:30, 5:35])
