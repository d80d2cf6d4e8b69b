"""Finding faces and their 478 landmarks, cropping them, and pasting them back."""

from loquent.face.analyze import BACKENDS, FaceBackend, analyze, choose_face, describe, find_faces

__all__ = ["BACKENDS", "FaceBackend", "analyze", "choose_face", "describe", "find_faces"]
