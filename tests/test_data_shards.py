import json

import numpy as np
import pytest
import torch

from loquent.data.shards import Corpus, CorpusError, CorpusWindows, ShardWriter, Utterance


def _utterance(frames: int, seed: int) -> Utterance:
    rng = np.random.default_rng(seed)
    return Utterance(
        audio=rng.integers(-1000, 1000, frames * 640).astype(np.int16),
        motion=rng.uniform(0, 1, (frames, 62)).astype(np.float16).astype(np.float32),
        phones=rng.integers(0, 40, frames * 4).astype(np.uint8),
        emotion_id=seed % 8,
        intensity=0.5,
        style=rng.standard_normal(8).astype(np.float32),
        speaker=f"voice{seed}",
        language="en",
    )


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path, per_shard=2, about={"seed": 3}) as writer:
        for seed, frames in enumerate((40, 55, 30, 80, 20)):
            writer.add(_utterance(frames, seed))
    return tmp_path


def test_what_was_written_is_read(folder):
    corpus = Corpus(folder)
    assert len(corpus) == 5
    for seed, frames in enumerate((40, 55, 30, 80, 20)):
        item, wanted = corpus.read(seed), _utterance(frames, seed)
        for name in ("audio", "motion", "phones", "style"):
            np.testing.assert_array_equal(getattr(item, name), getattr(wanted, name))
        assert (item.emotion_id, item.speaker) == (wanted.emotion_id, wanted.speaker)
    assert corpus.index["about"] == {"seed": 3}


def test_a_part_is_cut_alike_from_sound_motion_and_phones(folder):
    part, whole = Corpus(folder).read(3, 10, 25), _utterance(80, 3)
    np.testing.assert_array_equal(part.audio, whole.audio[6400:16_000])
    np.testing.assert_array_equal(part.motion, whole.motion[10:25])
    np.testing.assert_array_equal(part.phones, whole.phones[40:100])


def test_windows_are_the_same_for_the_same_seed(folder):
    first, again = CorpusWindows(folder, 32, seed=1), CorpusWindows(folder, 32, seed=1)
    other = CorpusWindows(folder, 32, seed=2)
    for index in range(5):
        for name, value in first[index].items():
            torch.testing.assert_close(value, again[index][name])
    assert any(not torch.equal(first[i]["motion"], other[i]["motion"]) for i in range(5))


def test_short_utterances_are_padded_and_masked(folder):
    windows = CorpusWindows(folder, 64)
    padded = next(item for item in (windows[index] for index in range(50)) if not item["mask"].all())
    length = int(padded["mask"].sum())
    assert padded["audio"].shape == (64 * 640,)
    assert not padded["audio"][length * 640 :].any()
    assert not padded["phones"][length * 4 :].any()
    torch.testing.assert_close(padded["motion"][-1], padded["motion"][length - 1])


def test_arrays_that_disagree_are_refused(tmp_path):
    good = _utterance(10, 0)
    bad = Utterance(**{**good.__dict__, "audio": good.audio[:-1]})
    with ShardWriter(tmp_path) as writer, pytest.raises(CorpusError, match="same frames"):
        writer.add(bad)


def test_a_folder_without_corpus_says_how_to_build_one(tmp_path):
    with pytest.raises(CorpusError, match=r"loquent\.data\.corpus"):
        Corpus(tmp_path)


def test_an_older_format_is_named(folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format": "loquent-corpus/0"}))
    with pytest.raises(CorpusError, match="loquent-corpus/0"):
        Corpus(folder)
