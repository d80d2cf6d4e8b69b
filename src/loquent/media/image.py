"""Photos in: any common picture becomes an upright sRGB `Photo`. Pictures out: `write_image`."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import secrets
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import PIL.Image
from PIL import ImageCms, ImageOps

from loquent.errors import PhotoError
from loquent.media import limits
from loquent.types import Photo

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

# EPS, PDF and the like are left out: reading them starts other programs.
READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
BACKDROP_GREY = 160  # behind cut-out portraits: dark and light hair both stand out against it
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")  # ISO/IEC 23008-12
DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)

PictureSource = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | PIL.Image.Image


def read_image(source: PictureSource) -> Photo:
    """Decodes a photo: upright by its EXIF tag, sRGB by its colour profile, 8 bits, alpha kept apart.

    Where the picture is transparent, `Photo.pixels` shows it before a grey backdrop. Of animations and
    multi-page files the first picture is taken.

    Args:
        source: a path, the bytes of a file, an open binary file, a PIL image, or an array: (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), uint8, uint16, or floating in [0, 1], RGB order.

    Raises:
        PhotoError: no such file, not a picture, corrupt, too large (limits.MAX_PHOTO_PIXELS) or too small.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, PIL.Image.Image):
        _check_size(source.size, "photo")
        pixels, alpha = _decode(source, "photo")
        return Photo(pixels, alpha, "photo", hashlib.sha256(pixels.tobytes()).hexdigest())
    data, name = _read_bytes(source)
    pixels, alpha = _decode(_open(data, name), name)
    return Photo(pixels, alpha, name, hashlib.sha256(data).hexdigest())


def write_image(path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
    """Writes RGB (H, W, 3) or grey (H, W) uint8 pixels as PNG, JPEG or WebP by the path's suffix.

    Raises:
        PhotoError: the suffix is unknown or the folder does not exist.
    """
    path = Path(path)
    options: dict[str, dict[str, Any]] = {
        ".png": {"format": "PNG", "compress_level": 4},
        ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        ".webp": {"format": "WEBP", "quality": 95},
    }
    if path.suffix.lower() not in options:
        raise PhotoError(f"{path}: pictures are written as .png, .jpg or .webp; choose one of these suffixes")
    if not path.parent.is_dir():
        raise PhotoError(f"{path}: the folder {path.parent} does not exist; create it first")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        PIL.Image.fromarray(pixels).save(partial, **options[path.suffix.lower()])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_bytes(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "photo"
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        name = path.name
        if path.is_dir():
            raise PhotoError(f"{path} is a folder; give one picture file")
        try:
            with path.open("rb") as file:
                data = file.read(limits.MAX_PHOTO_BYTES + 1)
        except FileNotFoundError as error:
            raise PhotoError(f"{path}: no such file") from error
        except OSError as error:
            raise PhotoError(f"{path}: cannot be read ({error.strerror})") from error
    elif hasattr(source, "read"):
        name = Path(str(getattr(source, "name", "photo"))).name
        data = source.read(limits.MAX_PHOTO_BYTES + 1)
    else:
        raise PhotoError(f"a photo cannot be read from a {type(source).__name__}; give a path, bytes, file or array")
    if not data:
        raise PhotoError(f"{name}: the file is empty")
    if len(data) > limits.MAX_PHOTO_BYTES:
        raise PhotoError(f"{name}: larger than {limits.MAX_PHOTO_BYTES // 2**20} MiB; save it smaller")
    return data, name


def _open(data: bytes, name: str) -> PIL.Image.Image:
    """Reads the header only, and refuses what would be too large to decode."""
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=READABLE_FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise PhotoError(_too_large(name)) from error
    except DECODING_ERRORS as error:
        is_heic = data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS
        hint = "it is HEIC; convert it to JPEG" if is_heic else "give a JPEG, PNG or WebP file"
        raise PhotoError(f"{name}: not a picture that can be read; {hint}") from error
    _check_size(image.size, name)
    return image


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > limits.MAX_PHOTO_PIXELS:
        raise PhotoError(f"{_too_large(name)} (it is {width} x {height})")
    if min(width, height) < limits.MIN_PHOTO_SIDE_PX:
        raise PhotoError(
            f"{name}: {width} x {height} pixels; each side must have at least {limits.MIN_PHOTO_SIDE_PX} pixels"
        )


def _too_large(name: str) -> str:
    return f"{name}: more than {limits.MAX_PHOTO_PIXELS // 10**6} megapixels; save it smaller"


def _decode(image: PIL.Image.Image, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Upright sRGB pixels (H, W, 3) and alpha (H, W) or None where nothing is transparent."""
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        alpha = _alpha(image)
        colour = np.asarray(_to_srgb(image, name))
    except DECODING_ERRORS as error:
        raise PhotoError(f"{name}: the picture is damaged or cut off ({error}); give an intact file") from error
    if alpha is None or alpha.min() == 255:
        return colour.copy(), None
    return _composite(colour, alpha), alpha


def _alpha(image: PIL.Image.Image) -> NDArray[np.uint8] | None:
    if not image.has_transparency_data:
        return None
    return np.asarray(image.convert("RGBA").getchannel("A")).copy()


def _to_srgb(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Converts any mode to 8-bit RGB, through the embedded colour profile where there is one."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = PIL.Image.fromarray(_to_8_bits(np.asarray(image)))
    elif image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGBA").convert("RGB") if image.has_transparency_data else image.convert("RGB")
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(embedded):
            return image
        converted = ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        logger.warning("%s: its colour profile cannot be used (%s); colours may be slightly off", name, error)
        return image.convert("RGB")
    assert converted is not None  # only None when converting in place
    return converted


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of 16 or 32 bits, or floating, to 0..255."""
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite numbers")
        full_scale = 1.0 if values.max() <= 1.0 else 255.0
    else:
        full_scale = 65535.0 if values.dtype == np.uint16 or values.max() > 255 else 255.0
    return (np.clip(values / full_scale, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _composite(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lays the picture over the backdrop, strip by strip so that 64 megapixels need no float copy of the whole."""
    result = np.empty_like(colour)
    for top in range(0, len(colour), 256):
        opacity = alpha[top : top + 256, :, None].astype(np.uint16)
        mixed = colour[top : top + 256] * opacity + BACKDROP_GREY * (255 - opacity)
        result[top : top + 256] = (mixed + 127) // 255
    return result


def _from_array(array: NDArray[Any]) -> Photo:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype == bool:
        raise PhotoError(
            f"a picture array of shape {array.shape} and type {array.dtype}; wanted (height, width, 3) of uint8"
        )
    _check_size((array.shape[1], array.shape[0]), "photo")
    try:
        values = _to_8_bits(array)
    except ValueError as error:
        raise PhotoError(f"the picture array cannot be used: {error}") from error
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    colour = np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values[:, :, :3].copy()
    if values.shape[2] < 4 or values[:, :, 3].min() == 255:
        return Photo(colour, None, "photo", digest)
    alpha = values[:, :, 3].copy()
    return Photo(_composite(colour, alpha), alpha, "photo", digest)
