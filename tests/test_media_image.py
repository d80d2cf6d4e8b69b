import io

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from loquent.errors import PhotoError
from loquent.media import limits, read_image, write_image


def card(height: int = 64, width: int = 96) -> np.ndarray:
    """Smooth RGB (H, W, 3) in which every corner differs, so that turns and flips show."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / (width - 1), 255 * y / (height - 1), 0 * x + 60], axis=-1).round().astype(np.uint8)


def encoded(image: PIL.Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_png_is_read_exactly_from_path_bytes_and_file(tmp_path):
    data = encoded(PIL.Image.fromarray(card()))
    path = tmp_path / "ö photo.png"
    path.write_bytes(data)
    photos = [read_image(path), read_image(str(path)), read_image(data), read_image(io.BytesIO(data))]
    for photo in photos:
        np.testing.assert_array_equal(photo.pixels, card())
        assert photo.alpha is None
        assert photo.sha256 == photos[0].sha256
    assert photos[0].name == "ö photo.png"


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "BMP", "TIFF"])
def test_common_formats(form):
    options = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    pixels = read_image(encoded(PIL.Image.fromarray(card()), form, **options)).pixels
    assert np.abs(pixels.astype(int) - card()).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation):
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    stored = PIL.Image.fromarray(np.ascontiguousarray(undo(card())))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read_image(encoded(stored, exif=exif)).pixels, card())


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb_of_the_same_brightness(mode):
    grey = np.full((40, 40), 180, np.uint8)
    if mode == "I;16":
        image = PIL.Image.fromarray(np.full((40, 40), 180 * 257, np.uint16))
    elif mode == "I":
        image = PIL.Image.fromarray(np.full((40, 40), 180 * 257, np.int32))
    elif mode == "1":
        image = PIL.Image.fromarray(np.full((40, 40), 255, np.uint8)).convert("1")
    elif mode == "PA":
        image = PIL.Image.fromarray(grey).convert("P").convert("PA")
    elif mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(PIL.Image.fromarray(grey).convert("RGB"), srgb, lab, outputMode="LAB")
        assert image is not None
    else:
        image = PIL.Image.fromarray(grey).convert("RGB" if mode in ("CMYK", "YCbCr") else mode).convert(mode)
    pixels = read_image(image).pixels
    assert pixels.shape == (40, 40, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (255 if mode == "1" else 180)).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_files_keep_their_range(form):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = read_image(encoded(PIL.Image.fromarray(ramp), form)).pixels
    assert np.abs(pixels[:, :, 0] - ramp / 257).max() <= 0.51


def test_cmyk_jpeg():
    red = PIL.Image.new("RGB", (64, 64), (220, 40, 40)).convert("CMYK")
    pixels = read_image(encoded(red, "JPEG", quality=95)).pixels
    assert np.abs(pixels.astype(int) - (220, 40, 40)).max() <= 4


def test_transparent_parts_show_grey_and_alpha_is_kept():
    image = np.dstack([card(), np.full((64, 96), 255, np.uint8)])
    image[:, :10, 3] = 0
    image[:, 10:20, 3] = 128
    photo = read_image(encoded(PIL.Image.fromarray(image)))
    np.testing.assert_array_equal(photo.alpha, image[:, :, 3])
    np.testing.assert_array_equal(photo.pixels[:, 20:], card()[:, 20:])
    assert len(np.unique(photo.pixels[:, :10])) == 1
    half = (card()[:, 10:20].astype(float) + photo.pixels[0, 0, 0]) / 2
    assert np.abs(photo.pixels[:, 10:20] - half).max() <= 1


def test_palette_with_transparent_index():
    image = PIL.Image.fromarray(card()).quantize(8)
    photo = read_image(encoded(image, transparency=0))
    assert photo.alpha is not None
    assert set(np.unique(photo.alpha)) == {0, 255}


def test_opaque_alpha_is_left_out():
    image = np.dstack([card(), np.full((64, 96), 255, np.uint8)])
    assert read_image(encoded(PIL.Image.fromarray(image))).alpha is None


def test_embedded_profile_is_converted_to_srgb():
    lab = ImageCms.createProfile("LAB")
    image = PIL.Image.new("LAB", (64, 64), (128, 128, 128))
    data = encoded(image, "TIFF", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert np.abs(read_image(data).pixels.astype(int) - 119).max() <= 3  # L* = 50 is 119 in sRGB


def test_broken_profile_is_ignored_with_a_warning(caplog):
    data = encoded(PIL.Image.fromarray(card()), icc_profile=b"no profile at all")
    np.testing.assert_array_equal(read_image(data).pixels, card())
    assert "colour profile" in caplog.text


def test_arrays_of_every_kind():
    np.testing.assert_array_equal(read_image(card()).pixels, card())
    np.testing.assert_array_equal(read_image(card().astype(np.uint16) * 257).pixels, card())
    np.testing.assert_array_equal(read_image(card().astype(np.float32) / 255).pixels, card())
    np.testing.assert_array_equal(read_image(card()[:, :, 0]).pixels[:, :, 2], card()[:, :, 0])
    rgba = np.dstack([card(), np.zeros((64, 96), np.uint8)])
    assert read_image(rgba).alpha is not None
    source = card()
    photo = read_image(source)
    source[:] = 0
    assert photo.pixels.any(), "the photo must not share memory with the caller's array"


def _png_header_claiming(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims a size that would not fit into memory."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(8001, 8000), (60_000, 60_000)])
def test_decompression_bombs_are_refused_undecoded(size):
    with pytest.raises(PhotoError, match="megapixels"):
        read_image(_png_header_claiming(*size))


def test_too_small():
    with pytest.raises(PhotoError, match=r"20 x 64 pixels; each side must have at least 32"):
        read_image(np.zeros((64, 20, 3), np.uint8))


def test_too_large_a_file(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PHOTO_BYTES", 100)
    with pytest.raises(PhotoError, match="larger than"):
        read_image(encoded(PIL.Image.fromarray(card())))


@pytest.mark.parametrize(
    "data", [b"just a text file\n" * 10, b"\x00\x00\x00\x18ftypheic" + bytes(100), b"%!PS-Adobe-3.0"]
)
def test_files_that_are_no_pictures(data):
    with pytest.raises(PhotoError, match="not a picture that can be read"):
        read_image(data)


def test_missing_empty_and_folder(tmp_path):
    with pytest.raises(PhotoError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(PhotoError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(PhotoError, match="empty"):
        read_image(b"")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_cut_off_files(form):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    data = encoded(PIL.Image.fromarray(noise), form)
    with pytest.raises(PhotoError, match=r"damaged|not a picture"):
        read_image(data[: len(data) // 2])


def test_write_image_round_trip(tmp_path):
    write_image(tmp_path / "a.png", card())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, card())
    for suffix in (".jpg", ".webp"):
        write_image(tmp_path / f"a{suffix}", card())
        assert np.abs(read_image(tmp_path / f"a{suffix}").pixels.astype(int) - card()).mean() < 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jpg", "a.png", "a.webp"]
    with pytest.raises(PhotoError, match="suffix"):
        write_image(tmp_path / "a.xyz", card())
    with pytest.raises(PhotoError, match="does not exist"):
        write_image(tmp_path / "none" / "a.png", card())
