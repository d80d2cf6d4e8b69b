"""Turns video files of people who speak into a video corpus, as `loquent.data.video` makes it of drawn ones.

    python -m loquent.data.footage VIDEO_OR_FOLDER... --out DIR [--size 256] [--margin 1.75]

Every file is one person, named after it. Frames are taken at 25 a second and cut by a square that stays where it is
for a whole clip, so that the head moves in it as in a video. A clip ends where the face is lost, jumps (another shot),
leaves its place in the square, or after ten seconds. Landmarks are loquent's own; motion is fitted to them and relative
to the clip's first frame. Use only footage whose people and owners agree to it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from loquent.data.video_shards import SAMPLES_PER_FRAME, VideoClip, VideoShardWriter, encode_picture
from loquent.errors import LoquentError, SpeechError, VideoError
from loquent.face import embedded
from loquent.face.crop import HEAD_MARGIN, Square, cut, head_square
from loquent.face.lip_line import refine_inner_lips
from loquent.media.audio import read_audio
from loquent.media.limits import MAX_VIDEO_SIDE_PX
from loquent.media.video import probe, read_video_frames
from loquent.motion.face_model import fit_face
from loquent.types import MOTION_RATE_HZ, Motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MAX_FILE_S = 20 * 60.0  # the clips of a file wait in memory until it is done
LEAST_CLIP_FRAMES, MOST_CLIP_FRAMES = 25, 250
MIN_FACE_SHARE = 0.5  # of the frames' side that the face's square must have in the file: smaller faces are blurred
_SHORTEST_SHOWN_S = 0.001  # of the last frame
_MOST_DRIFT = 0.12  # of the head from the middle of the square, in sides
_MOST_ZOOM = 1.25  # of the head's size within a clip
_JUMP = 0.35  # of a face from frame to frame, in its own sides: another shot


@dataclass(eq=False)
class _Take:
    """A clip in the making."""

    square: Square
    first_frame: int
    pictures: list[bytes] = field(default_factory=list)
    landmarks: list[NDArray[np.float32]] = field(default_factory=list)  # of the cut frames

    def holds(self, landmarks: NDArray[np.float32], margin: float) -> bool:
        """Whether a face still has its place in the square."""
        now = head_square(landmarks, margin)
        drift = np.hypot(now.centre_x - self.square.centre_x, now.centre_y - self.square.centre_y)
        zoom = now.side_px / self.square.side_px
        return drift < _MOST_DRIFT * self.square.side_px and 1 / _MOST_ZOOM < zoom < _MOST_ZOOM

    def add(self, pixels: NDArray[np.uint8], landmarks: NDArray[np.float32], size_px: int) -> None:
        self.pictures.append(encode_picture(cut(pixels, self.square, size_px).pixels))
        points = self.square.from_photo(landmarks) * size_px
        points[:, :2] += (size_px - 1) / 2
        self.landmarks.append(points)


def even_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The frames of a file as they are seen at 25 a second, from its start; each is shown until the next one's time.

    Raises:
        VideoError: no video, too large, or too long.
    """
    info = probe(path)
    if max(info.size_px) > MAX_VIDEO_SIDE_PX or info.duration_s > MAX_FILE_S:
        raise VideoError(
            f"{path}: {info.size_px[0]} x {info.size_px[1]} px and {info.duration_s:.0f} s; at most {MAX_VIDEO_SIDE_PX}"
            f" px and {MAX_FILE_S:.0f} s a file are read: cut or shrink it"
        )
    shown, number = None, 0
    for pixels, time_s in read_video_frames(path):
        while shown is not None and number / MOTION_RATE_HZ < time_s:
            yield shown
            number += 1
        shown = np.ascontiguousarray(pixels)
    while shown is not None and number / MOTION_RATE_HZ < info.duration_s - _SHORTEST_SHOWN_S:
        yield shown
        number += 1


def follow(frames: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32] | None]]:
    """Every frame with the landmarks of its largest face (478, 3), None where there is none or another shot begins."""
    before: NDArray[np.float32] | None = None
    for pixels in frames:
        found = None if before is None else embedded.follow_landmarks(pixels, before)
        if found is None:
            faces = embedded.find_landmarks(pixels)
            found = max((face.landmarks for face in faces), key=_side, default=None)
        jumped = before is not None and found is not None and _distance(before, found) > _JUMP
        before = found
        yield pixels, None if found is None or jumped else refine_inner_lips(pixels, found)


def cut_clips(path: Path, size_px: int, margin: float = HEAD_MARGIN) -> Iterator[VideoClip]:
    """The clips of one file, and before them the photo: the first frame of the first clip.

    Raises:
        VideoError: as in `even_frames`.
    """
    sound = _sound(path)
    is_first = True
    for take in _takes(path, size_px, margin):
        clip = _finish(take, path.stem, sound)
        if is_first:
            yield _photo_of(clip)
        is_first = False
        yield clip


def _takes(path: Path, size_px: int, margin: float) -> Iterator[_Take]:
    """Takes that are long enough."""
    take: _Take | None = None
    for number, (pixels, landmarks) in enumerate(follow(even_frames(path))):
        goes_on = take is not None and landmarks is not None and take.holds(landmarks, margin)
        if take is not None and (not goes_on or len(take.pictures) == MOST_CLIP_FRAMES):
            if len(take.pictures) >= LEAST_CLIP_FRAMES:
                yield take
            take = None
        if landmarks is None or head_square(landmarks, margin).side_px < MIN_FACE_SHARE * size_px:
            continue
        take = take or _Take(head_square(landmarks, margin), number)
        take.add(pixels, landmarks, size_px)
    if take is not None and len(take.pictures) >= LEAST_CLIP_FRAMES:
        yield take


def _finish(take: _Take, person: str, sound: NDArray[np.int16] | None) -> VideoClip:
    landmarks = np.stack(take.landmarks)
    length = len(landmarks) * SAMPLES_PER_FRAME
    heard = np.zeros(0, np.int16) if sound is None else sound[take.first_frame * SAMPLES_PER_FRAME :][:length]
    return VideoClip(
        pictures=take.pictures,
        landmarks=landmarks,
        motion=fitted_motion(landmarks).to_vector(),
        audio=np.pad(heard, (0, length - len(heard))),
        person=person,
        kind="free" if sound is None else "speech",
    )


def fitted_motion(landmarks: NDArray[np.float32]) -> Motion:
    """Weights and pose fitted to each frame's landmarks (T, 478, 3) on its own; pose is relative to the first frame's."""
    shapes = [fit_face(points) for points in landmarks]
    pose = np.array([shape.pose_rad for shape in shapes], np.float32)
    place = np.array([shape.origin_px for shape in shapes]) / shapes[0].scale_px
    motion = Motion.neutral(len(shapes))
    motion.expression[:] = [shape.rest_expression for shape in shapes]
    motion.rotation[:] = pose - pose[0]
    motion.translation[:, :2] = (place - place[0])[:, :2]
    return motion


def _photo_of(clip: VideoClip) -> VideoClip:
    """A clip's first frame alone."""
    return VideoClip(
        pictures=clip.pictures[:1],
        landmarks=clip.landmarks[:1],
        motion=clip.motion[:1],
        audio=np.zeros(SAMPLES_PER_FRAME, np.int16),
        person=clip.person,
        kind="photo",
    )


def _sound(path: Path) -> NDArray[np.int16] | None:
    """The sound of a file; None when it has none."""
    try:
        samples = read_audio(path).samples
    except SpeechError as error:
        logger.warning("%s: taken without sound (%s)", path, error)
        return None
    return np.clip(np.round(samples * 32767), -32767, 32767).astype(np.int16)


def _side(landmarks: NDArray[np.float32]) -> float:
    return float(np.ptp(landmarks[:, :2], axis=0).max())


def _distance(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """How far a face has gone, in its own sides."""
    return float(np.linalg.norm((now - before)[:, :2].mean(0))) / _side(now)


def build(paths: Iterable[Path], out: Path, size_px: int, margin: float = HEAD_MARGIN) -> int:
    """Writes a video corpus; returns the number of its frames. Files that cannot be used are logged and left out.

    Raises:
        VideoError: none of the files can be used.
    """
    num_frames = 0
    about = {"footage": True, "head_margin": margin}
    with VideoShardWriter(out, size_px, about=about) as writer:
        for path in paths:
            try:
                clips = list(cut_clips(path, size_px, margin))
            except LoquentError as error:
                logger.warning("left out: %s", error)
                continue
            writer.add(clips)
            found = sum(len(clip) for clip in clips)
            num_frames += found
            logger.info("%s: %d clips, %d frames", path, len(clips), found)
    if not num_frames:
        raise VideoError(
            f"no clip of a face was found; give videos in which one face is at least {MIN_FACE_SHARE * size_px:.0f} px"
            f" wide for a second"
        )
    return num_frames


def list_videos(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and the videos in the folders among them."""
    found: list[Path] = []
    for path in paths:
        inside = (
            sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        )
        found += inside
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+", help="files, or folders of them; one person a file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=256, help="side of the frames, pixels")
    parser.add_argument("--margin", type=float, default=HEAD_MARGIN, help="side of the square, over the landmarks' box")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    build(list_videos(arguments.videos), arguments.out, arguments.size, arguments.margin)


if __name__ == "__main__":
    main()
