"""Errors raised on purpose. Each message says what was given, what is wanted and what to do."""


class LoquentError(ValueError):
    """Base of every error that loquent raises on purpose; the command line turns it into exit code 2."""


class PhotoError(LoquentError):
    """A picture cannot be used."""


class FaceError(LoquentError):
    """No face, or not the wanted face, was found in a photo."""


class SpeechError(LoquentError):
    """A recording cannot be used."""


class MotionError(LoquentError):
    """A motion file or array cannot be used."""


class VideoError(LoquentError):
    """A video cannot be written as asked."""


class ControlsError(LoquentError):
    """A control value is out of its range."""


class WeightsError(LoquentError):
    """Weights are missing or do not fit the network."""


class MissingExtraError(LoquentError):
    """An optional package is needed; the message names the extra that brings it."""
