"""What the readers and writers accept. Everything beyond these figures is refused with an error that says so."""

MAX_PHOTO_PIXELS = 64_000_000  # decoded size is known from the header, so larger pictures are refused undecoded
MAX_PHOTO_BYTES = 512 * 2**20
MIN_PHOTO_SIDE_PX = 32  # below this no face has 478 distinguishable points

MIN_SPEECH_S = 0.2
MAX_SPEECH_S = 6 * 3600.0
MAX_SPEECH_BYTES_IN_MEMORY = 2 * 2**30  # for bytes, file objects and arrays; a path is read as a stream
SPEECH_IN_MEMORY_S = 60.0  # decoded speech beyond this goes to a temporary file

SILENT_PEAK = 1e-3  # -60 dB of full scale: a recording that never exceeds it is called silent
CLIPPED_LEVEL = 0.999
CLIPPED_SHARE = 1e-3  # of samples that lie in runs of at least three at full scale

MIN_FPS = 1
MAX_FPS = 240
MIN_VIDEO_SIDE_PX = 16
MAX_VIDEO_SIDE_PX = 8192
MAX_DRIVE_S = 600.0  # of a driving video; every frame of it is looked at
MAX_GIF_FPS = 50  # viewers slow down frames shorter than 20 ms
QUEUED_FRAMES = 8  # frames that wait for the encoder; more would only cost memory
