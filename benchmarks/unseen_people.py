"""What a system makes of people that no training saw: one sheet, a person a row; the photo, frames, their mouths.

    python benchmarks/unseen_people.py ../shared/data/portraits speech.wav -o sheet.png --system ifmdm
    python benchmarks/unseen_people.py photo.jpg other.jpg speech.wav -o sheet.png --system ifmdm

Of a folder, the people are blended of two portraits of the test split, so that nobody in the sheet exists; --real takes the portraits
themselves. Frames lie evenly over the video, for every person a little later, or are those of --frames.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import cv2
import numpy as np

from loquent import Controls, TalkingHead
from loquent.data.people import Sitter, blend
from loquent.errors import LoquentError
from loquent.face.analyze import analyze
from loquent.media.image import read_image
from loquent.training.face_data import is_test, read_rgb
from loquent.types import Photo, Portrait

PERSON_PX = 512
BORDER_PX = 3  # scanned photos end in a light line


def read_sitter(path: Path) -> Sitter:
    pixels = np.ascontiguousarray(read_rgb(path)[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX])
    return Sitter(path.stem, pixels, analyze(Photo(pixels, name=path.stem)).face.landmarks)


def read_people(paths: list[Path], arguments: argparse.Namespace) -> list[Portrait]:
    """The people in some photos, or some of a folder."""
    if len(paths) == 1 and paths[0].is_dir():
        return choose_people(paths[0], arguments.people, arguments.real, arguments.seed)
    return [analyze(read_image(path)) for path in paths]


def choose_people(folder: Path, count: int, real: bool, seed: int) -> list[Portrait]:
    """Portraits of the test split, or blends of two of them."""
    rng = np.random.default_rng(seed)
    paths = [path for path in sorted(folder.glob("*.jpg")) if is_test(path.stem)]
    people = []
    while len(people) < count:
        try:
            sitters = [read_sitter(paths[number]) for number in rng.choice(len(paths), 1 if real else 2, replace=False)]
            person = sitters[0] if real else blend(sitters[0], sitters[1], 0.5, 0.5, PERSON_PX)
            people.append(analyze(Photo(person.pixels, name=person.name)))
        except LoquentError as error:
            print(error)
    return people


def show_person(
    head: TalkingHead, portrait: Portrait, speech: Path, arguments: argparse.Namespace, number: int
) -> np.ndarray:
    """The photo and frames of the video, and below them their mouths at twice the size."""
    clip = head.animate(portrait, speech, Controls(seed=number), size=arguments.size)
    assert clip.frames is not None
    shown = arguments.frames or spread(len(clip.frames), arguments.columns, number)
    pictures = [portrait.photo.pixels, *clip.frames[shown]]
    rows = [], []
    for picture in pictures:
        scale = picture.shape[1] / portrait.photo.pixels.shape[1]
        points = portrait.face.landmarks[:, :2] * scale
        face = points.mean(0)
        side = float(np.ptp(points[:, 1]))
        mouth = mouth_of(picture, points)
        rows[0].append(tile(picture, face - (0, 0.05 * side), 0.95 * side, arguments.tile, 1.0))
        rows[1].append(tile(picture, mouth, 0.95 * side / 4, arguments.tile, 0.55))
    return np.vstack([np.hstack(row) for row in rows])


def spread(num_frames: int, columns: int, number: int) -> list[int]:
    step = num_frames / columns
    return [min(num_frames - 1, int(step * (column + 0.3) + 3 * number % step)) for column in range(columns)]


def mouth_of(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where the mouth is in a frame; the photo's place where no face is found."""
    with contextlib.suppress(LoquentError):
        points = analyze(Photo(np.ascontiguousarray(picture))).face.landmarks[:, :2]
    return points[[61, 291, 13, 14]].mean(0)


def tile(picture: np.ndarray, centre: np.ndarray, half_px: float, tile_px: int, aspect: float) -> np.ndarray:
    """A part of the picture around a point, (tile_px * aspect, tile_px)."""
    zoom = tile_px / (2 * half_px)
    size = (tile_px, round(tile_px * aspect))
    matrix = np.array([[zoom, 0, size[0] / 2 - zoom * centre[0]], [0, zoom, size[1] / 2 - zoom * centre[1]]])
    if zoom < 1:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.4 / zoom)
    method = cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA
    return cv2.warpAffine(picture, matrix, size, flags=method, borderMode=cv2.BORDER_REPLICATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path, nargs="+", help="folder of ID.jpg, one face each; or photos")
    parser.add_argument("speech", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--system", default="starter")
    parser.add_argument("--renderer", help="for a system that leaves the choice")
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--real", action="store_true", help="the portraits themselves")
    parser.add_argument("--size", type=int, help="longer side of the videos in pixels")
    parser.add_argument("--columns", type=int, default=7, help="frames of each video")
    parser.add_argument("--frames", type=int, nargs="*", help="numbers of the frames to show")
    parser.add_argument("--tile", type=int, default=200, help="width of a tile in the sheet")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    options = {"renderer": arguments.renderer} if arguments.renderer else None
    head = TalkingHead.from_pretrained(arguments.system, options=options)
    people = read_people(arguments.portraits, arguments)
    blocks = [show_person(head, person, arguments.speech, arguments, number) for number, person in enumerate(people)]
    cv2.imwrite(str(arguments.out), cv2.cvtColor(np.vstack(blocks), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
