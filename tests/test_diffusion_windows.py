import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from loquent.diffusion.windows import count_windows, crossfade, cut_windows, smooth3, smooth3_stream

FIXTURE = Path(__file__).parent / "parity" / "moda" / "motion_sampling.safetensors"


@pytest.fixture(scope="module")
def recorded():
    with safe_open(FIXTURE, "pt") as file:
        assert json.loads(file.metadata()["config"])["overlap"] == 16
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def test_crossfade_is_the_published_one(recorded):
    previous, current = recorded["input.fuse_prev"][0], recorded["input.fuse_cur"][0]
    fused = torch.cat([previous[:-16], crossfade(previous[-16:], current[:16])])
    torch.testing.assert_close(fused, recorded["output.fuse_out"][0], rtol=1e-4, atol=1e-4)


def test_smooth_crossfade_does_not_jerk_where_it_begins():
    old, new = torch.zeros(16, 1), torch.ones(16, 1)
    jumps = [
        torch.diff(torch.cat([old[:2], crossfade(old, new, smooth), new[:2]]), n=2, dim=0).abs().max().item()
        for smooth in (False, True)
    ]
    assert jumps[1] < 0.5 * jumps[0]


def test_smoothing_is_the_published_one(recorded):
    smoothed = smooth3(recorded["input.smooth_in"][0], slice(63, 70))
    torch.testing.assert_close(smoothed, recorded["output.smooth_out"][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [[1], [2], [1, 1, 1], [5, 1, 1, 4], [3, 8], [1, 9]])
def test_smoothing_a_stream_equals_smoothing_the_whole(sizes):
    x = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(1))
    pieces = list(smooth3_stream(x.split(sizes), slice(1, 3)))
    torch.testing.assert_close(torch.cat(pieces), smooth3(x, slice(1, 3)))


@pytest.mark.parametrize("num_frames", [1, 5, 20, 21, 36, 37, 52, 53, 200])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_windows_cover_a_stream_of_any_length(num_frames, block):
    x = torch.arange(1.0, num_frames + 1)[:, None]
    windows = list(cut_windows(x.split(block), window=20, overlap=4))
    assert len(windows) == count_windows(num_frames, 20, 4)
    assert all(real == 20 for _, real in windows[:-1])
    for index, (rows, real) in enumerate(windows):
        torch.testing.assert_close(rows[:real], x[16 * index : 16 * index + real])
        assert not rows[real:].any()
    assert 16 * (len(windows) - 1) + windows[-1][1] == num_frames


def test_an_empty_stream_has_no_window():
    assert list(cut_windows([], 20, 4)) == []
