"""The recipe `ifmdm-motion`, its material, and the writer of codes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loquent.data.video_shards import VideoClip, VideoCorpus, VideoShardWriter, encode_picture
from loquent.errors import LoquentError
from loquent.models.ifmdm import Autoencoder, get_autoencoder_preset, get_motion_preset
from loquent.models.ifmdm.code_space import CodeSpace, MoveParts
from loquent.training import ifmdm_motion_data as data
from loquent.training.ifmdm_motion_losses import draw_asked, split_window, varied
from loquent.types import ARKIT_INDEX, MOTION_DIM
from recipe_check import check_debug_recipe

TINY = get_motion_preset("tiny")


def test_debug_recipe(tmp_path):
    output = check_debug_recipe("ifmdm-motion", tmp_path)
    assert (output / "weights" / "model.safetensors").is_file()


@pytest.fixture
def windows(tmp_path):
    data.write_debug_moves(tmp_path)
    return data.CodeWindows(tmp_path, TINY.num_frames, TINY.vectors_per_frame, batch_size=5)


def test_windows_repeat_and_hold_the_conditions_of_the_specification(windows):
    batch, again = windows.batch(3), windows.batch(3)
    assert batch.motion.shape == (5, TINY.num_frames, TINY.motion_dim)
    assert batch.speech.shape == (5, TINY.num_frames, TINY.vectors_per_frame, TINY.audio_dim)
    torch.testing.assert_close(batch.motion, again.motion)
    whole = torch.cat([batch.hint[:, None], batch.motion], 1)
    torch.testing.assert_close(batch.mean, whole.mean(1))
    torch.testing.assert_close(batch.std, whole.std(1))


def test_speech_goes_with_its_codes(windows):
    # the debug moves are a rising function of the first feature
    batch = windows.batch(0)
    codes = windows.space.codes(batch.motion, torch.zeros(TINY.motion_dim))
    for heard, seen in zip(batch.speech[:, :, 0, 0], codes[:, :, 0], strict=True):
        inside = heard != 0  # zeros lie beyond an utterance's end
        assert torch.corrcoef(torch.stack([heard[inside], seen[inside]]))[0, 1] > 0.9


def test_windows_vary_only_where_the_statistics_say_so():
    random = torch.Generator().manual_seed(0)
    dim, count = 4, 400
    space = CodeSpace(torch.zeros(dim), torch.diag(torch.tensor([2.0, 4, 5, 10])))
    lips, head = (torch.diag(torch.tensor(row)) for row in ([1.0, 0, 0, 0], [0, 1.0, 1.0, 0]))
    parts = MoveParts(lips, head, 0.01 * torch.eye(dim))
    moves = 0.05 * torch.randn(count, 9, dim, generator=random)
    window = split_window(space.of_moves(moves), torch.zeros(count, 9, 1, 1), photo=torch.zeros(count, dim))
    drops = draw_asked(count, random)
    made = varied(window, drops, space, parts, random)
    whole = space.moves(torch.cat([made.hint[:, None], made.motion], 1))
    ratio = whole.std(1) / moves.std(1)
    shift = (whole - moves).mean(1)
    torch.testing.assert_close(ratio[drops.std], torch.ones_like(ratio[drops.std]), rtol=0.1, atol=0)  # but where bent
    assert not shift[drops.mean].abs().gt(0.05).any()
    told = ~drops.std & (ratio[:, 1] != 1)
    assert ratio[told, 1].max() > 4
    assert ratio[told, 1].min() < 0.5
    assert ratio[told, 0].min() > 0.95  # lips never less than in the corpus
    assert ratio[told, 0].max() < 2
    assert shift[~drops.mean][:, 1].abs().max() > 0.3
    assert shift[:, [0, 3]].abs().max() < 0.05
    assert whole.abs().max() < 1.4
    torch.testing.assert_close(made.std, space.of_moves(whole).std(1))
    # of the mean, the head's is always true, the lips' is in a third
    said, true = space.moves(made.mean), whole.mean(1)
    torch.testing.assert_close(said @ head, true @ head, atol=1e-4, rtol=1e-4)
    is_true, is_photo, is_hint = (
        torch.isclose(said[:, 0], others, atol=1e-4).float().mean()
        for others in (true[:, 0], 0 * true[:, 0], whole[:, 0, 0])
    )
    assert min(is_true, is_photo, is_hint) > 0.25


def test_conditions_are_dropped_as_they_will_be_missing():
    drawn = draw_asked(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.joint, drawn.speech)
    free = (drawn.mean & drawn.std).float().mean()
    one = (drawn.mean ^ drawn.std).float().mean()
    assert free > 0.35
    assert one > 0.45
    assert drawn.speech.float().mean() < 0.2


def test_parts_are_told_from_each_other():
    random = torch.Generator().manual_seed(0)
    lips, head, others = (torch.randn(3000, size, generator=random) for size in (2, 3, 1))
    mixing = torch.linalg.qr(torch.randn(6, 6, generator=random)).Q
    groups = [lips, head, others]
    each = [group @ mixing[start : start + group.shape[1]] for group, start in zip(groups, (0, 2, 5), strict=True)]
    moves = sum(each) + torch.zeros(6)
    parts = MoveParts.fitted(moves, lips, head, others, torch.eye(6))
    torch.testing.assert_close(moves @ parts.lips, each[0], atol=0.02, rtol=0.02)
    torch.testing.assert_close(moves @ parts.head, each[1], atol=0.02, rtol=0.02)


def test_a_folder_without_codes_is_refused(tmp_path):
    with pytest.raises(LoquentError, match="holds no motion codes"):
        data.CodeWindows(tmp_path, 8, 2, 4)


def _extracted(people: int = 30, frames: int = 40) -> data.Extracted:
    """Codes that jaw and head move, around each person's own."""
    random = torch.Generator().manual_seed(0)
    motion = torch.zeros(people * frames, MOTION_DIM)
    motion[:, ARKIT_INDEX["jawOpen"]] = torch.rand(len(motion), generator=random)
    motion[:, 52:55] = 0.2 * torch.randn(len(motion), 3, generator=random)
    own = torch.randn(people, 4, generator=random) * 0.2
    person = torch.arange(people).repeat_interleave(frames)
    change = torch.stack([motion[:, ARKIT_INDEX["jawOpen"]], *motion[:, 52:55].T], 1)
    return data.Extracted(torch.tanh(own[person] + change), motion, person, torch.tanh(own), torch.zeros(people, 52))


def test_the_writer_learns_codes_of_people_that_it_never_saw():
    extracted = _extracted()
    writer, explained = data.fit_writer(extracted, steps=400)
    assert explained > 0.9
    still = torch.zeros(3, MOTION_DIM)
    assert not writer(still, extracted.rest[:3]).any()


def test_performances_begin_as_the_photo_and_keep_the_lips():
    rng = np.random.default_rng(0)
    motion = np.zeros((60, MOTION_DIM), np.float32)
    jaw = ARKIT_INDEX["jawOpen"]
    motion[:, jaw] = 0.2 + 0.1 * np.sin(np.arange(60))
    rest = np.zeros(52, np.float32)
    rest[ARKIT_INDEX["mouthSmileLeft"]] = 0.6
    played = data.perform(motion, rest, rng)
    assert abs(played[0, ARKIT_INDEX["mouthSmileLeft"]] - 0.6) < 0.05
    assert played[0, jaw] < 0.02
    assert np.corrcoef(played[20:, jaw], motion[20:, jaw])[0, 1] > 0.999


def test_codes_come_from_frames_and_a_later_renderer_keeps_the_space(tmp_path):
    config = get_autoencoder_preset("tiny")
    rng = np.random.default_rng(0)
    with VideoShardWriter(tmp_path / "video", config.size_px) as writer:
        for person in "abc":
            clips = []
            for kind, length in (("photo", 1), ("free", 12)):
                pictures = [encode_picture(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(length)]
                motion = rng.uniform(0, 0.3, (length, MOTION_DIM)).astype(np.float32)
                points, sound = np.zeros((length, 478, 3), np.float32), np.zeros(length * 640, np.int16)
                clips.append(VideoClip(pictures, points, motion, sound, person, kind))
            writer.add(clips)
    features = tmp_path / "features"
    data.write_debug_moves(features)
    np.save(features / "motion.npy", np.zeros((150, MOTION_DIM), np.float16))
    torch.manual_seed(0)
    network, corpus = Autoencoder(config).eval(), VideoCorpus(tmp_path / "video")
    about = data.build(data.extract(network, corpus, 12), features, tmp_path / "first", copies=1)
    assert about["frames_read"] == 36
    wanted = data.read_codes(network, corpus.frames(1, 3, 5))
    extracted = load_file(tmp_path / "first" / "extracted.safetensors")
    torch.testing.assert_close(extracted["codes"][3:5], wanted, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # the same codes in another order and sign
        out = network.encoder.motion.out.weight
        out.copy_(-out.flip(0))
    data.build(data.extract(network, corpus, 12), features, tmp_path / "second", copies=1, like=tmp_path / "first")
    before, after = (load_file(tmp_path / name / "space.safetensors")["normal"] for name in ("first", "second"))
    away, unturned = (after - before).norm(), before.norm()
    assert away < 0.5 * unturned
    assert json.loads((tmp_path / "second" / "index.json").read_text())["people"] == 3


def test_a_space_is_turned_to_where_another_was():
    random = torch.Generator().manual_seed(0)
    moves = torch.randn(300, 4, generator=random) * torch.tensor([1.0, 0.6, 0.4, 0.3])
    first = CodeSpace.fitted(moves)
    mixed = moves @ torch.linalg.qr(torch.randn(4, 4, generator=random)).Q
    turned = data.turned(CodeSpace.fitted(mixed), mixed, first.of_moves(moves))
    torch.testing.assert_close(turned.of_moves(mixed), first.of_moves(moves), atol=1e-4, rtol=1e-3)
