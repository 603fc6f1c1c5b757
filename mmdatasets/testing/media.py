"""Synthetic media: the same arguments give the same pixels, and files that compress much as photos do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import os

_GRAIN = 24  # brightness levels of noise: without it, files are a tenth of a photo's size
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WEBP_FRAME_HEADERS = {b"VP8 ": 10, b"VP8L": 5, b"ANMF": 16}  # bytes of the frame's own header, which hold its size


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Makes an RGB image of smooth gradients with a few shapes on them, as grainy as a photo.

    Args:
        width: Pixels.
        height: Pixels.
        seed: Each one gives another image.

    Raises:
        ValueError: A side is less than one pixel.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image must be at least 1x1 pixels, got {width}x{height}")
    random = np.random.default_rng(seed)
    bright = 256 - _GRAIN  # leaves room for the grain
    x = np.linspace(0.0, 1.0, width, dtype=np.float32)
    y = np.linspace(0.0, 1.0, height, dtype=np.float32)
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        start_x, end_x, start_y, end_y = random.uniform(0.0, bright / 2, size=4)
        row = start_x + (end_x - start_x) * x
        column = start_y + (end_y - start_y) * y
        pixels[:, :, channel] = np.add.outer(column, row).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for index in range(6):
        left, top = random.uniform(0.0, 0.8, size=2) * (width, height)
        right, bottom = (left, top) + random.uniform(0.1, 0.4, size=2) * (width, height)
        red, green, blue = (int(value) for value in random.integers(0, bright, size=3))
        shape = draw.ellipse if index % 2 else draw.rectangle
        shape((int(left), int(top), int(right), int(bottom)), fill=(red, green, blue))
    grain = random.integers(0, _GRAIN, size=(height, width, 1), dtype=np.uint8)
    return Image.fromarray(np.asarray(image) + grain)


def encode_image(width: int, height: int, seed: int = 0, format: str = "JPEG", **save_options: object) -> bytes:
    """Makes an image and returns it as a file's bytes.

    Args:
        width: Pixels, before any EXIF orientation among `save_options`.
        height: Pixels, likewise.
        seed: As for `make_image`.
        format: Pillow's name of the format: `"JPEG"`, `"PNG"`, `"WEBP"`, ...
        **save_options: Passed to `PIL.Image.Image.save`: `quality`, `exif`, `lossless`, ...
    """
    buffer = io.BytesIO()
    make_image(width, height, seed).save(buffer, format=format, **save_options)
    return buffer.getvalue()


def write_image(
    path: str | os.PathLike[str],
    width: int,
    height: int,
    seed: int = 0,
    format: str | None = None,
    **save_options: object,
) -> Path:
    """Writes an image file and returns its path; missing folders are made.

    Args:
        path: Where to.
        width: As for `encode_image`.
        height: As for `encode_image`.
        seed: As for `make_image`.
        format: As for `encode_image`; the path's suffix says it when `None`.
        **save_options: As for `encode_image`.

    Raises:
        ValueError: The suffix is no known image format and `format` is `None`.
    """
    path = Path(path)
    if format is None:
        format = Image.registered_extensions().get(path.suffix.lower())
        if format is None:
            raise ValueError(f"{path}: no image format has the suffix {path.suffix!r}; pass format=, such as 'JPEG'")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(width, height, seed, format, **save_options))
    return path


def cut_pixel_data(data: bytes) -> bytes:
    """Cuts an image file off where its pixel data starts.

    What says the size and the colour format stays whole, as in a download that broke off: who reads the header finds
    nothing wrong, who decodes must fail. (Pillow has no header-only path for WebP and refuses it at `open`.) An EXIF
    block stays where it precedes the pixels, which in WebP it never does.

    Args:
        data: A JPEG, PNG or WebP file.

    Raises:
        ValueError: `data` is none of the three, or has no pixel data.
    """
    if data.startswith(b"\xff\xd8"):
        return data[: _jpeg_header_end(data)]
    if data.startswith(_PNG_SIGNATURE):
        return data[: _png_header_end(data)]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data[: _webp_header_end(data)]
    raise ValueError(f"expected a JPEG, PNG or WebP file, got bytes that start with {data[:12]!r}")


def _jpeg_header_end(data: bytes) -> int:
    """Offset behind the header of the first scan (SOS), where its entropy-coded data starts."""
    offset = 2
    while offset + 4 <= len(data):
        marker = data[offset + 1]
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        if marker == 0xDA:
            return end
        offset = end
    raise ValueError("the JPEG file has no scan")


def _png_header_end(data: bytes) -> int:
    """Offset behind length and type of the first IDAT chunk."""
    offset = len(_PNG_SIGNATURE)
    while offset + 8 <= len(data):
        if data[offset + 4 : offset + 8] == b"IDAT":
            return offset + 8
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    raise ValueError("the PNG file has no IDAT chunk")


def _webp_header_end(data: bytes) -> int:
    """Offset behind the frame header in the first chunk that holds pixels."""
    offset = 12
    while offset + 8 <= len(data):
        header = _WEBP_FRAME_HEADERS.get(data[offset : offset + 4])
        if header is not None:
            return offset + 8 + header
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        offset += 8 + length + length % 2
    raise ValueError("the WebP file has no frame")
