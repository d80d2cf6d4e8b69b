"""Files in and out: photos, speech, videos."""

from loquent.media.audio import read_audio
from loquent.media.image import read_image, write_image
from loquent.media.video import VideoInfo, VideoWriter, parse_fps, probe, read_video_frames

__all__ = [
    "VideoInfo",
    "VideoWriter",
    "parse_fps",
    "probe",
    "read_audio",
    "read_image",
    "read_video_frames",
    "write_image",
]
