"""Drawing people: who is drawn, where frames lie, and what is left out."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from loquent.data.movement import free_motion, photo_motion, spoken_motion
from loquent.data.people import People, Sitter, before_another_background, enlarge, is_test, read_rgb
from loquent.data.shards import CorpusError
from loquent.data.studio import Camera, Studio
from loquent.errors import FaceError
from loquent.face.crop import HEAD_MARGIN
from loquent.pipeline import average_portrait
from loquent.types import ARKIT_INDEX

SIZE = 96


class SpeechOfOneWeight:
    """A speech corpus of two utterances in which only the jaw moves."""

    folder = Path("speech")
    lengths = (4, 12)

    def __len__(self) -> int:
        return len(self.lengths)

    def num_frames(self, number: int) -> int:
        return self.lengths[number]

    def read(self, number, start, stop):
        motion = np.zeros((stop - start, 62), np.float32)
        motion[:, ARKIT_INDEX["jawOpen"]] = np.arange(start, stop) / 20
        return type("Read", (), {"motion": motion, "audio": np.arange(start * 640, stop * 640).astype(np.int16)})


@pytest.fixture(scope="module")
def portrait():
    """The average face with soft patches all over, so that every place is told from its neighbours."""
    landmarks = average_portrait(192).face.landmarks
    patches = np.random.default_rng(0).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    pixels = cv2.resize(patches, (192, 192), interpolation=cv2.INTER_CUBIC)
    return enlarge(Sitter("nobody", np.asarray(pixels, np.uint8), landmarks), SIZE, HEAD_MARGIN)


@pytest.fixture(scope="module")
def camera(portrait):
    return Camera(portrait, SIZE)


def test_the_photo_comes_from_itself_and_lies_in_the_middle(portrait, camera):
    still = photo_motion(portrait)
    (frame,) = camera.frames(still)
    room = (portrait.photo.pixels.shape[0] - SIZE) // 2
    middle = portrait.photo.pixels[room : room + SIZE, room : room + SIZE]
    assert np.abs(frame.astype(int) - middle).mean() < 1
    ((places, share),) = camera.origins(still)
    own = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1)
    assert np.abs(places - own)[share > 250].max() < 0.1
    points = camera.landmarks(still)[0, :, :2]
    np.testing.assert_allclose((points.max(0) + points.min(0)) / 2, (SIZE - 1) / 2, atol=1.5)


def test_a_shift_moves_frame_and_landmarks_alike_and_no_further_than_the_picture(portrait, camera):
    still = photo_motion(portrait)
    middle, shifted = (next(camera.frames(still, shift)) for shift in (np.zeros(2), np.array([2.0, -3.0])))
    np.testing.assert_array_equal(shifted[3:, :-2], middle[:-3, 2:])
    moved = camera.landmarks(still, np.array([2.0, -3.0])) - camera.landmarks(still)
    np.testing.assert_allclose(moved[0, :, :2], np.broadcast_to([-2, 3], (478, 2)), atol=1e-4)
    assert next(camera.frames(still, np.array([1000.0, -1000.0]))).shape == (SIZE, SIZE, 3)


def test_origins_follow_the_head(portrait, camera):
    """Where the person is opaque, the frame is the photo, read at the places that are told."""
    motion = free_motion(portrait, SpeechOfOneWeight(), 1, np.random.default_rng(3))
    motion.expression[:] = portrait.rest_expression
    motion.rotation[:] = [0, 0.2, 0.1]
    photo = next(camera.frames(photo_motion(portrait))).astype(np.float32)
    (frame,), ((places, share),) = camera.frames(motion), camera.origins(motion)
    read = cv2.remap(photo, places[..., 0], places[..., 1], cv2.INTER_LINEAR)
    inside = (share > 250) & (np.abs(places - (SIZE - 1) / 2).max(-1) < SIZE / 2 - 2)
    away = np.abs(read - frame).mean(-1)[inside]
    assert inside.mean() > 0.3
    assert np.abs(places - np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1))[inside].max() > 3
    assert np.median(away) < 3


def test_speech_is_picked_where_it_is_long_enough(portrait):
    rng = np.random.default_rng(0)
    for _ in range(5):
        spoken = spoken_motion(portrait, SpeechOfOneWeight(), 10, rng)
        assert spoken.recording == 1
        np.testing.assert_array_equal(spoken.audio[:1], [spoken.first_frame * 640])
        assert (np.diff(spoken.motion.expression[:, ARKIT_INDEX["jawOpen"]]) > 0).all()
    with pytest.raises(CorpusError, match="no utterance has 13 frames"):
        spoken_motion(portrait, SpeechOfOneWeight(), 13, rng)


def test_another_background_leaves_the_face(portrait):
    changed = before_another_background(portrait, np.random.default_rng(1)).photo.pixels
    away = np.abs(changed.astype(int) - portrait.photo.pixels).mean(-1)
    x, y = portrait.face.landmarks[4, :2].round().astype(int)
    assert away[y - 5 : y + 5, x - 5 : x + 5].max() == 0
    assert away[:4, :4].min() > 5


def draw_number(sitter, corpus, rng) -> tuple[str, float]:
    if sitter.name == "faceless":
        raise FaceError("no face")
    if sitter.name == "missing":
        raise CorpusError("no file")
    return sitter.name, rng.random()


NAMES = ("anna", "faceless", "ben")


def studio(names: tuple[str, ...] = NAMES, seed: int = 0) -> Studio:
    people = [Sitter(name, np.zeros((1, 1, 3), np.uint8), np.zeros((478, 3), np.float32)) for name in names]
    return Studio(people, None, draw_number, seed)  # type: ignore[arg-type]


def test_everyone_is_drawn_alike_by_any_number_of_workers(caplog):
    with caplog.at_level(logging.WARNING):
        alone = list(studio().everyone())
    assert "person 1 is left out: no face" in caplog.text
    assert alone[1] is None
    assert [drawn[0] for drawn in alone if drawn] == ["anna", "ben"]
    assert list(studio().everyone(workers=2)) == alone
    assert list(studio().everyone(order=[2, 0])) == [alone[2], alone[0]]
    assert next(studio(seed=1).everyone()) != alone[0]


def test_material_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="no file"):
        list(studio(("anna", "missing")).everyone())
    with pytest.raises(CorpusError, match=r"a\.jpg is missing or is no picture"):
        read_rgb(tmp_path / "a.jpg")
    labels = tmp_path / "labels.npz"
    with pytest.raises(CorpusError, match=r"labels\.npz is missing; .*face_data"):
        People(tmp_path, labels, False, 0, 0)
    train = next(name for name in "abcdefgh" if not is_test(name))
    np.savez(labels, ids=np.array([train]), landmarks=np.zeros((1, 478, 3)))
    assert len(People(tmp_path, labels, False, 0, 0)) == 1
    with pytest.raises(CorpusError, match="0 people of the test split"):
        People(tmp_path, labels, True, 0, 0)
    with pytest.raises(CorpusError, match="1 people of the training split"):
        People(tmp_path, labels, False, 2, 0)
