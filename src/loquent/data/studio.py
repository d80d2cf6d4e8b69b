"""Draws people one after another: what the video corpus and the caches of the trainings have in common.

Each of them says what it wants of one person by a function of the sitter, the speech corpus and a random generator.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import cv2
import numpy as np

from loquent.data.people import People
from loquent.data.shards import Corpus, CorpusError
from loquent.errors import LoquentError
from loquent.render.mesh import MeshRenderer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loquent.data.people import Sitter
    from loquent.types import Motion, Portrait

T = TypeVar("T")
Draw = Callable[["Sitter", Corpus, np.random.Generator], T]
logger = logging.getLogger(__name__)
_here: Studio  # of a worker process


class Camera:
    """Sees a portrait of `data.people.enlarge` through a square of `size_px`, in its middle or a little beside it.

    Args:
        shift_px: how far beside the middle, x and y; no further than the picture goes.
    """

    def __init__(self, portrait: Portrait, size_px: int) -> None:
        self.renderer = MeshRenderer(portrait)
        self._size_px = size_px

    def frames(self, motion: Motion, shift_px: NDArray | float = 0.0) -> Iterator[NDArray[np.uint8]]:
        """RGB (S, S, 3) for each row of `motion`."""
        left, top = self._corner(shift_px)
        for picture in self.renderer.render(motion):
            yield picture[top : top + self._size_px, left : left + self._size_px]

    def landmarks(self, motion: Motion, shift_px: NDArray | float = 0.0) -> NDArray[np.float32]:
        """(T, 478, 3) in frame pixels."""
        return self.renderer.landmarks(motion) - np.array([*self._corner(shift_px), 0], np.float32)

    def origins(self, motion: Motion) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """For each frame where its pixels come from in the frame that shows the photo, (S, S, 2), x and y in pixels, and
        the share of the person in them, (S, S) of 255; lips and lids apart."""
        left, top = self._corner(0.0)
        square = slice(top, top + self._size_px), slice(left, left + self._size_px)
        for places, share in self.renderer.shown(motion):
            yield places[square] - np.array([left, top], np.float32), share[square]

    def _corner(self, shift_px: NDArray | float) -> tuple[int, int]:
        room = self.renderer.size_px[0] - self._size_px
        left, top = np.clip(np.round(room / 2 + np.broadcast_to(shift_px, 2)), 0, room).astype(int)
        return int(left), int(top)


@dataclass(frozen=True, eq=False)
class Studio(Generic[T]):
    """Draws people by number. What is drawn of somebody depends on the seed and the number alone.

    Raises:
        CorpusError: a portrait is missing, or the speech corpus is too short.
    """

    people: People
    corpus: Corpus
    draw: Draw[T]
    seed: int = 0

    def person(self, number: int) -> T | None:
        """What is wanted of a person; None for a face that cannot be drawn."""
        try:
            return self.draw(self.people[number], self.corpus, np.random.default_rng((self.seed, number)))
        except CorpusError:
            raise
        except LoquentError as error:
            logger.warning("person %d is left out: %s", number, error)
            return None

    def everyone(self, workers: int = 1, order: Iterable[int] | None = None) -> Iterator[T | None]:
        """All people, or those of `order`, one after another; several workers are processes."""
        numbers = range(len(self.people)) if order is None else order
        if workers == 1:
            yield from map(self.person, numbers)
            return
        with get_context("spawn").Pool(workers, _enter, (self,)) as pool:
            yield from pool.imap(_draw_here, numbers)


def _enter(studio: Studio) -> None:
    """A worker process keeps the studio, so that numbers are all that is sent to it."""
    global _here
    _here = studio
    cv2.setNumThreads(1)


def _draw_here(number: int) -> Any:
    return _here.person(number)


def people_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what every command that draws people is told; `read_arguments` makes use of it."""
    parser.add_argument("portraits", type=Path, help="folder of ID.jpg, one face each")
    parser.add_argument("labels", type=Path, help="npz with ids and landmarks (N, 478, 3) in pixels")
    parser.add_argument("corpus", type=Path, help="folder made by loquent.data.corpus")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--new-people", type=int, default=0, help="people blended of two portraits, besides them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")


def read_arguments(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, People]:
    """Reads the command line of a program that draws people, and begins to log."""
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    is_test = arguments.split == "test"
    people = People(arguments.portraits, arguments.labels, is_test, arguments.new_people, arguments.seed)
    return arguments, people
