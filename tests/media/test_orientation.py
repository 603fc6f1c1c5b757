from __future__ import annotations

import io

import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdatasets.media.image import decode_image
from mmdatasets.media.orientation import read_orientation
from mmdatasets.media.probe import probe_image
from mmdatasets.media.webp import read_webp_header
from mmdatasets.options import MediaOptions
from tests.media.image_cases import encode, every_orientation, exif, oracle, photo, png_with, xmp

ORIENTED = {
    (orientation, name): data for orientation in range(1, 9) for name, data in every_orientation(orientation).items()
}


@pytest.mark.parametrize(("orientation", "name"), ORIENTED)
@pytest.mark.parametrize("backend", ["pillow", "torchcodec"])
def test_turned_as_transformers_turns_it(orientation, name, backend, tmp_path):
    data = ORIENTED[orientation, name]
    options = MediaOptions(image_backend=backend)
    expected = oracle(data)
    path = tmp_path / "image"
    path.write_bytes(data)
    for reference in (data, str(path)):
        decoded, info = decode_image(reference, options), probe_image(reference, options)
        assert torch.equal(decoded, expected)
        assert (3, info.height, info.width) == expected.shape


def test_the_cases_do_turn():
    # Otherwise the test above would prove little. Chunks behind the pixels of an animation's first frame do not count.
    for (orientation, name), data in ORIENTED.items():
        assert (oracle(data).shape[1] == photo().width) == (orientation >= 5 and name != "apng-late"), name


@pytest.mark.parametrize(("orientation", "name"), [key for key in ORIENTED if key[0] in (1, 6)])
@pytest.mark.parametrize("loaded", [False, True])
def test_pil_images_are_turned(orientation, name, loaded):
    data = ORIENTED[orientation, name]
    image = PIL.Image.open(io.BytesIO(data))
    if loaded:
        image.load()
    info = probe_image(image, MediaOptions())
    decoded = decode_image(image, MediaOptions())
    assert torch.equal(decoded, oracle(data))
    assert (info.height, info.width) == decoded.shape[1:]


def test_probing_a_pil_png_loads_nothing():
    image = PIL.Image.open(io.BytesIO(ORIENTED[6, "png-exif-after"]))
    assert probe_image(image, MediaOptions()).width == photo().height
    assert image.tile
    assert torch.equal(decode_image(image, MediaOptions()), oracle(ORIENTED[6, "png-exif-after"]))


def test_the_position_of_the_file_is_kept(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(ORIENTED[6, "png-exif-after"])
    for file in (path.open("rb"), io.BytesIO(path.read_bytes())):
        with file:
            image = PIL.Image.open(file)
            before = file.tell()
            assert read_orientation(image, file) == 6
            assert file.tell() == before


def test_orientation_set_in_memory_counts():
    image = photo()
    image.getexif()[0x0112] = 6
    expected = oracle(image)
    assert expected.shape[1] == image.width
    assert torch.equal(decode_image(image, MediaOptions()), expected)


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_meaningless_orientations_are_ignored(value, format_name):
    data = encode(photo(), format_name, exif=exif(value))
    assert torch.equal(decode_image(data, MediaOptions()), oracle(data))
    assert probe_image(data, MediaOptions()).width == photo().width


@pytest.mark.parametrize("place", [False, True])
@pytest.mark.parametrize("block", [b"garbage", b"MM\0*\0\0", b"II*\0\xff\xff\xff\x7f", exif(6)[6:30]])
def test_a_damaged_exif_block_counts_as_none(block, place):
    plain = encode(photo(), "PNG")
    for data in (png_with(plain, b"eXIf", block, after_pixels=place), encode(photo(), "WEBP", exif=block)):
        info = probe_image(data, MediaOptions())
        decoded = decode_image(data, MediaOptions(image_backend="pillow"))
        assert (info.height, info.width) == decoded.shape[1:]
        assert decoded.shape == oracle(plain).shape


def test_metadata_behind_the_pixels_replaces_what_stands_before():
    early = png_with(encode(photo(), "PNG"), b"eXIf", exif(3)[6:], after_pixels=False)
    data = png_with(early, b"eXIf", exif(6)[6:], after_pixels=True)
    assert torch.equal(decode_image(data, MediaOptions()), oracle(data))
    assert probe_image(data, MediaOptions()).width == oracle(data).shape[2]


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    orientation=st.sampled_from([None, 1, 6]),
    source=st.sampled_from(["exif", "xmp"]),
    lossless=st.booleans(),
    alpha=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_webp_headers_are_read_as_pillow_reads_them(width, height, orientation, source, lossless, alpha):
    block = (
        {} if orientation is None else {"exif": {"exif": exif(orientation)}, "xmp": {"xmp": xmp(orientation)}}[source]
    )
    image = PIL.Image.new("RGBA" if alpha else "RGB", (width, height), (9, 9, 9, 9)[: 4 if alpha else 3])
    data = encode(image, "WEBP", lossless=lossless, method=0, **block)
    pillow = PIL.Image.open(io.BytesIO(data))
    header = read_webp_header(io.BytesIO(data))
    assert header is not None
    assert (header.width, header.height) == pillow.size
    assert header.info == {key: pillow.info[key] for key in ("exif", "xmp") if key in pillow.info}


@pytest.mark.parametrize("announced", [False, True])
def test_webp_metadata_counts_only_where_the_header_announces_it(announced):
    data = bytearray(encode(photo(), "WEBP", exif=exif(6)))
    if not announced:
        data[20] &= ~0x08
    expected = oracle(bytes(data))
    assert probe_image(bytes(data), MediaOptions()).width == expected.shape[2]
    assert read_webp_header(io.BytesIO(bytes(data))) is not None
    assert (expected.shape[2] == photo().height) == announced


def test_every_tag_of_a_png_counts_that_pillow_honours():
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif(8)):8}\n{exif(8).hex()}\n", zip=True)
    info.add_itxt("XML:com.adobe.xmp", xmp(3).decode())
    data = encode(photo(), "PNG", pnginfo=info)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    assert (probe_image(data, MediaOptions()).width, probe_image(data, MediaOptions()).height) == upright.size
    assert torch.equal(decode_image(data, MediaOptions()), oracle(data))


def test_webp_whose_announced_metadata_is_cut_off_is_left_to_pillow():
    data = encode(photo(), "WEBP", exif=exif(6))
    assert read_webp_header(io.BytesIO(data)) is not None
    assert read_webp_header(io.BytesIO(data[: data.index(b"EXIF")])) is None
