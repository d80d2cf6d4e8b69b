import pytest
import torch

from loquent.diffusion.takes import full_windows, join_takes, keep_known


@pytest.mark.parametrize("num_frames", [1, 3, 8, 9, 12, 13, 14, 18, 19, 50])
def test_windows_cover_every_frame_once(num_frames):
    rows = torch.arange(num_frames, dtype=torch.float32)[:, None, None]
    windows = list(full_windows(rows.split(3), 8, 3))
    covered: list[float] = []
    for window in windows:
        assert len(window.rows) == 8
        values = window.rows[: window.num_real, 0, 0].tolist()
        assert covered[len(covered) - window.num_known :] == values[: window.num_known]
        covered += values[window.num_known :]
    assert covered == list(range(num_frames))
    assert [window.num_known for window in windows[:1]] == [0]
    assert all(3 <= window.num_known < 8 for window in windows[1:])


def test_a_short_sequence_is_completed_with_its_last_row():
    (window,) = full_windows([torch.tensor([1.0, 2.0])[:, None, None]], 8, 3)
    assert window.rows.flatten().tolist() == [1, *[2] * 7]
    assert (window.num_known, window.num_real) == (0, 2)
    assert list(full_windows([], 8, 3)) == []


@pytest.mark.parametrize("overlap", [0, 1, 3, 4])
@pytest.mark.parametrize("num_frames", [1, 2, 4, 8, 9, 16, 23])
def test_takes_that_agree_give_the_sequence(num_frames, overlap):
    rows = torch.arange(num_frames, dtype=torch.float32)[:, None]
    seen = []

    def make_take(window, known):
        seen.append(None if known is None else len(known))
        return window.rows if known is None else keep_known(window.rows, known, overlap)

    pieces = list(join_takes(full_windows(rows.split(5), 8, overlap), make_take, overlap))
    assert all(len(piece) for piece in pieces)
    torch.testing.assert_close(torch.cat(pieces), rows)
    assert seen[0] is None


def test_known_rows_stay_and_fade():
    joined = keep_known(torch.zeros(6, 2), torch.ones(4, 2), fade=2)
    assert joined[:, 0].tolist() == [1, 1, 1, 0.5, 0, 0]
    assert keep_known(torch.zeros(3, 1), torch.ones(2, 1), fade=0).flatten().tolist() == [1, 1, 0]
