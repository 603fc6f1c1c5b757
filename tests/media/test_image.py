from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from mmdatasets.errors import MediaDecodeError, MediaLimitError, MediaReferenceError, MissingExtraError
from mmdatasets.media import image as image_module
from mmdatasets.media.image import decode_image
from mmdatasets.media.probe import probe_image
from mmdatasets.options import MediaOptions
from tests.media.image_cases import chunk, encode, every_format, oracle, photo, pixels, png_with, raw_png

BACKENDS = ["pillow", "torchcodec", "auto"]
FORMATS = every_format()
CUT_AFTER_THE_HEADER = ["jpeg", "jpeg-q30-s2-progressive", "png", "png-palette", "webp-lossy", "webp-lossless-alpha"]
CUT_AFTER_THE_HEADER += ["gif", "tiff-lzw", "tiff", "bmp"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_are_those_of_transformers(name, backend):
    options = MediaOptions(image_backend=backend)
    expected = oracle(FORMATS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded, info = decode_image(FORMATS[name], options), probe_image(FORMATS[name], options)
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, expected)
    assert (3, info.height, info.width) == expected.shape


@pytest.mark.parametrize("name", ["jpeg", "png", "webp-lossy", "webp-lossless-alpha", "avif-4:2:0"])
def test_torchcodec_does_decode(name, monkeypatch):
    # Without this, the equality above could be Pillow's with itself.
    monkeypatch.setattr(image_module, "_decode_with_pillow", None)
    options = MediaOptions(image_backend="torchcodec")
    assert torch.equal(decode_image(FORMATS[name], options), oracle(FORMATS[name]))


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    kind=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    mode=st.sampled_from(["RGB", "L", "RGBA", "CMYK"]),
    quality=st.integers(1, 100),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_backends_agree_for_any_size(width, height, kind, mode, quality, subsampling, progressive):
    image = photo(mode, height, width)
    if (kind, mode) in (("JPEG", "RGBA"), ("PNG", "CMYK"), ("WEBP", "CMYK")):
        image = image.convert("RGB")
    if kind == "JPEG":
        more = {} if mode in ("L", "CMYK") else {"subsampling": subsampling}
        data = encode(image, kind, quality=quality, progressive=progressive, **more)
    else:
        data = encode(image, kind, **({"quality": quality, "lossless": progressive} if kind == "WEBP" else {}))
    expected = oracle(data)
    for backend in ("pillow", "torchcodec"):
        assert torch.equal(decode_image(data, MediaOptions(image_backend=backend)), expected)


def test_interlaced_png():
    # One pass holds all pixels of a 1x1 image; Pillow writes no interlaced PNG.
    data = raw_png(1, 1, 8, 2, b"\0\x01\x02\x03", interlace=1)
    assert torch.equal(decode_image(data, MediaOptions(image_backend="torchcodec")), oracle(data))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F", "I"])
def test_pil_images(mode):
    image = photo(mode)
    assert torch.equal(decode_image(image, MediaOptions()), oracle(image))
    assert (probe_image(image, MediaOptions()).width, probe_image(image, MediaOptions()).height) == image.size


# Arrays


def processor_rgb(array: np.ndarray | torch.Tensor) -> torch.Tensor:
    """What the torchvision-backed image processors make of an array."""
    return TorchvisionBackend.process_image(TorchvisionBackend(), array, do_convert_rgb=True)


@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=3), tensor=st.booleans(), variant=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_arrays_are_read_as_processors_read_them(shape, tensor, variant):
    array = np.random.default_rng(variant).integers(0, 256, shape, dtype=np.uint8)
    reference = torch.from_numpy(array) if tensor else array
    if len(shape) == 3 and not {shape[0], shape[2]} & {1, 3, 4}:
        for function in (decode_image, probe_image):
            with pytest.raises(MediaReferenceError, match="channels"):
                function(reference, MediaOptions())
        return
    expected = processor_rgb(reference)
    decoded, info = decode_image(reference, MediaOptions()), probe_image(reference, MediaOptions())
    assert torch.equal(decoded, expected)
    assert (3, info.height, info.width) == expected.shape
    if len(shape) == 3:
        first = infer_channel_dimension_format(array, num_channels=(1, 3, 4)) is ChannelDimension.FIRST
        assert (info.height, info.width) == (tuple(shape[1:]) if first else tuple(shape[:2]))


def test_arrays_are_copied():
    array = pixels(5, 6, 3)
    array.flags.writeable = False
    tensor = torch.from_numpy(pixels(5, 6, 3)).permute(2, 0, 1).contiguous()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(array[::-1], MediaOptions()).zero_()
        decode_image(tensor, MediaOptions()).zero_()
    assert array.any()
    assert tensor.any()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 3), np.uint16), "uint8"),
        (np.zeros((4, 4), bool), "uint8"),
        (torch.zeros(3, 4, 4), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "pixel"),
        (np.zeros((2, 3, 4, 4), np.uint8), "channels"),
        (np.zeros(4, np.uint8), "channels"),
    ],
)
def test_arrays_that_are_no_images(reference, message):
    for function in (decode_image, probe_image):
        with pytest.raises(MediaReferenceError, match=message):
            function(reference, MediaOptions())


def test_a_tensor_without_data_can_be_probed_only():
    tensor = torch.empty(3, 4, 5, dtype=torch.uint8, device="meta")
    assert probe_image(tensor, MediaOptions()).width == 5
    with pytest.raises(MediaReferenceError, match="meta"):
        decode_image(tensor, MediaOptions())


# Damage


@pytest.mark.parametrize("name", CUT_AFTER_THE_HEADER)
@pytest.mark.parametrize("backend", ["pillow", "torchcodec"])
def test_cut_pixel_data_is_probed_but_not_decoded(name, backend, tmp_path):
    whole = FORMATS[name]
    path = tmp_path / "cut.image"
    path.write_bytes(whole[: len(whole) * 7 // 10])
    options = MediaOptions(image_backend=backend)
    if name != "tiff-lzw" and name != "tiff":  # Pillow writes the directory of a TIFF, its header, behind the pixels
        assert probe_image(str(path), options) == probe_image(whole, options)
    with pytest.raises(MediaDecodeError) as caught:
        decode_image(str(path), options)
    assert "cut.image" in str(caught.value)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-q30-s2-progressive", "png", "webp-lossy", "avif-4:2:0"])
def test_the_outcome_of_any_cut_is_the_same_for_every_backend(name):
    whole = FORMATS[name]
    for end in [*range(1, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 20, len(whole))]:
        outcomes = []
        for backend in ("pillow", "torchcodec"):
            try:
                outcomes.append(decode_image(whole[:end], MediaOptions(image_backend=backend)))
            except MediaDecodeError:
                outcomes.append(None)
        assert (outcomes[0] is None) == (outcomes[1] is None), end
        assert outcomes[0] is None or torch.equal(outcomes[0], outcomes[1]), end


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_flipped_bytes_never_crash_and_never_depend_on_the_backend(data):
    name = data.draw(st.sampled_from(["jpeg", "png", "webp-lossy", "gif", "tiff", "bmp", "avif-4:2:0"]))
    damaged = bytearray(FORMATS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    outcomes = []
    for backend in ("pillow", "torchcodec"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes.append(decode_image(bytes(damaged), MediaOptions(image_backend=backend)))
        except (MediaDecodeError, MediaLimitError):
            outcomes.append(None)
    assert (outcomes[0] is None) == (outcomes[1] is None)
    assert outcomes[0] is None or torch.equal(outcomes[0], outcomes[1])


def test_pillows_setting_for_truncated_files_is_respected(monkeypatch):
    whole = FORMATS["jpeg"]
    cut = whole[: len(whole) // 2]
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for backend in ("pillow", "torchcodec"):
        assert torch.equal(decode_image(cut, MediaOptions(image_backend=backend)), oracle(cut))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<?xml version='1.0'?><svg/>", "XML"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"PK\x03\x04....", "ZIP"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "heic"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "WAVE"),
        (b"\x89PNG\r\n\x1a\n\0\0", "PNG file with a truncated"),
        (b"\xff\xd8\xff\xe0\0\x10JF", "JPEG file with a truncated"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"just some words", "just some words"),
        (raw_png(0, 5, 8, 2, b""), "PNG"),
        (raw_png(5, 0, 8, 2, b""), "PNG"),
    ],
)
def test_what_is_no_image_is_named(data, message):
    for function in (decode_image, probe_image):
        with pytest.raises(MediaDecodeError, match=message) as caught:
            function(data, MediaOptions())
        assert f"bytes ({len(data)} B)" in str(caught.value)


# Limits


def bomb(width: int, height: int) -> bytes:
    return raw_png(width, height, 8, 2, b"\0" * 100)


@pytest.mark.parametrize(
    "data",
    [
        bomb(50_000, 50_000),
        b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\x7f\xff\xff\x7f" + b"\0" * 80,
        encode(photo(), "GIF")[:6] + b"\xff\xff\xff\xff" + encode(photo(), "GIF")[10:],
        encode(photo(), "BMP")[:18] + b"\xff\xff\0\0\xff\xff\0\0" + encode(photo(), "BMP")[26:],
    ],
    ids=["png", "webp", "gif", "bmp"],
)
def test_bombs_are_refused_from_the_header(data):
    for function in (decode_image, probe_image):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(MediaLimitError, match="image_pixel_limit"):
                function(data, MediaOptions())


def test_arrays_and_pil_images_obey_the_limit():
    for reference in (np.zeros((11, 10), np.uint8), PIL.Image.new("L", (10, 11)), encode(photo("L", 11, 10), "PNG")):
        for function in (decode_image, probe_image):
            assert function(reference, MediaOptions(image_pixel_limit=110)) is not None
            with pytest.raises(MediaLimitError, match=r"10x11 = 110 pixels.* 109"):
                function(reference, MediaOptions(image_pixel_limit=109))


@pytest.mark.parametrize("divisor", [1.5, 10], ids=["would-warn", "would-raise"])
@pytest.mark.parametrize("name", ["jpeg", "png", "tiff", "tiff-lzw", "webp-lossy", "gif", "mpo", "avif-4:2:0", "bmp"])
def test_pillows_own_limit_does_not_show(name, divisor, monkeypatch):
    expected = oracle(FORMATS[name])
    limit = int(photo().width * photo().height / divisor)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for backend in ("pillow", "torchcodec"):
            assert torch.equal(decode_image(FORMATS[name], MediaOptions(image_backend=backend)), expected)
        assert probe_image(FORMATS[name], MediaOptions()).width == photo().width
    assert limit == PIL.Image.MAX_IMAGE_PIXELS


# Backends


def test_torchcodec_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    image_module._load_torchcodec.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"mmdatasets\[torchcodec\]"):
            decode_image(FORMATS["png"], MediaOptions(image_backend="torchcodec"))
        assert torch.equal(decode_image(FORMATS["png"], MediaOptions(image_backend="auto")), oracle(FORMATS["png"]))
    finally:
        image_module._load_torchcodec.cache_clear()


def test_torchcodec_that_fails_to_load_is_named(monkeypatch, tmp_path):
    package = tmp_path / "torchcodec"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libtorch: undefined symbol')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, module)
    image_module._load_torchcodec.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match="undefined symbol"):
            decode_image(FORMATS["png"], MediaOptions(image_backend="torchcodec"))
        assert torch.equal(decode_image(FORMATS["png"], MediaOptions(image_backend="auto")), oracle(FORMATS["png"]))
    finally:
        image_module._load_torchcodec.cache_clear()


def test_late_chunks_of_a_huge_length_are_not_allocated(tmp_path):
    data = png_with(encode(photo(), "PNG"), b"tEXt", b"key\0value", after_pixels=True)
    position = data.index(b"tEXt") - 4
    path = tmp_path / "late.png"
    path.write_bytes(data[:position] + b"\x7f\xff\xff\xff" + data[position + 4 :])
    assert probe_image(path, MediaOptions()).width == photo().width
    assert probe_image(io.BytesIO(path.read_bytes()), MediaOptions()).width == photo().width
    assert chunk(b"tEXt", b"key\0value") in data
