import io
import struct

import numpy as np
import pytest
from PIL import Image

from mmdatasets.testing import cut_pixel_data, encode_image, make_image, write_image


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (320, 213)])
def test_images_have_the_size_asked_for_and_depend_on_the_seed_alone(size):
    image = make_image(*size)
    assert (image.size, image.mode) == (size, "RGB")
    np.random.seed(3)
    assert make_image(*size) == image
    assert len({make_image(*size, seed=seed).tobytes() for seed in range(5)}) == 5


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (-3, 4)])
def test_an_image_has_at_least_one_pixel(size):
    with pytest.raises(ValueError, match="1x1"):
        make_image(*size)


def test_images_compress_about_as_photos_do():
    bits_per_pixel = 8 * len(encode_image(800, 600, format="JPEG")) / (800 * 600)
    assert 0.7 < bits_per_pixel < 3.0


@pytest.mark.parametrize(
    ("suffix", "expected"), [(".jpg", "JPEG"), (".PNG", "PNG"), (".webp", "WEBP"), (".bmp", "BMP")]
)
def test_the_suffix_says_the_format(tmp_path, suffix, expected):
    path = write_image(tmp_path / "new" / f"a{suffix}", 40, 30, seed=2)
    assert path == tmp_path / "new" / f"a{suffix}"
    with Image.open(path) as image:
        assert (image.format, image.size) == (expected, (40, 30))
    if expected in ("PNG", "BMP"):
        assert Image.open(path).tobytes() == make_image(40, 30, seed=2).tobytes()


def test_a_format_overrides_the_suffix_and_options_are_passed_on(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write_image(str(tmp_path / "photo.dat"), 40, 30, format="JPEG", exif=exif)
    with Image.open(path) as image:
        assert (image.format, image.getexif()[0x0112]) == ("JPEG", 6)
    with pytest.raises(ValueError, match=r"\.dat"):
        write_image(tmp_path / "photo.dat", 40, 30)


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("PNG", {"compress_level": 0})],
)
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (1000, 700)])
def test_a_cut_file_opens_and_does_not_load(format, options, size):
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encode_image(*size, format=format, exif=exif, **options)
    cut = cut_pixel_data(data)
    assert data.startswith(cut)
    assert len(cut) < len(data)
    with Image.open(io.BytesIO(cut)) as image:
        assert (image.size, image.format) == (size, format)
        assert image.info.get("exif") == Image.open(io.BytesIO(data)).info.get("exif")
        with pytest.raises(OSError, match="truncated"):
            image.load()


def vp8_size(chunk):
    return tuple(side & 0x3FFF for side in struct.unpack("<HH", chunk[6:10]))


def vp8l_size(chunk):
    bits = int.from_bytes(chunk[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


@pytest.mark.parametrize("size", [(1, 1), (64, 48)])
@pytest.mark.parametrize(
    ("options", "chunk", "read_size"),
    [
        ({}, b"VP8 ", vp8_size),
        ({"lossless": True}, b"VP8L", vp8l_size),
        ({"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00"}, b"VP8 ", vp8_size),
    ],
    ids=["lossy", "lossless", "extended"],
)
def test_a_cut_webp_keeps_its_frame_header(options, chunk, read_size, size):
    data = encode_image(*size, format="WEBP", **options)
    cut = cut_pixel_data(data)
    assert data.startswith(cut)
    assert len(cut) < len(data)
    assert read_size(cut[cut.index(chunk) + 8 :]) == size
    with pytest.raises(OSError):  # noqa: PT011 (the message is libwebp's)
        Image.open(io.BytesIO(cut)).load()


def test_a_cut_animation_keeps_its_canvas_size():
    buffer = io.BytesIO()
    make_image(64, 48).save(buffer, format="WEBP", save_all=True, append_images=[make_image(64, 48, seed=1)])
    cut = cut_pixel_data(buffer.getvalue())
    assert cut[12:16] == b"VP8X"
    assert [int.from_bytes(cut[i : i + 3], "little") + 1 for i in (24, 27)] == [64, 48]
    assert b"ANMF" in cut
    assert b"VP8 " not in cut


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JPEG, PNG or WebP"),
        (b"GIF89a" + bytes(20), "GIF89a"),
        (b"\xff\xd8\xff\xd9", "no scan"),
        (encode_image(4, 4, format="PNG")[:33], "no IDAT"),
        (encode_image(4, 4, format="WEBP")[:12], "no frame"),
    ],
)
def test_what_has_no_pixel_data_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        cut_pixel_data(data)
