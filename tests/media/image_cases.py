"""Image files of every kind that Pillow can write, and the oracle for their pixels."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import torch
from transformers.image_utils import load_image

HEIGHT, WIDTH = 37, 53


def oracle(reference: bytes | str | PIL.Image.Image) -> torch.Tensor:
    """What transformers loads, as (3, height, width)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # load_image lets Pillow's remark on palettes through
        image = PIL.Image.open(io.BytesIO(reference)) if isinstance(reference, bytes) else reference
        return torch.from_numpy(np.array(load_image(image))).permute(2, 0, 1)


def pixels(height: int, width: int, channels: int, variant: int = 0) -> np.ndarray:
    """Gradients with noise: neither flat nor all noise, so that every step of a codec matters."""
    rows, columns = np.mgrid[:height, :width]
    base = np.stack([rows * (2 + k) + columns * 3 for k in range(channels)], axis=-1)
    noisy = (base + np.random.default_rng(variant).integers(0, 50, base.shape)) % 256
    return (noisy if channels > 1 else noisy[..., 0]).astype(np.uint8)


def photo(mode: str = "RGB", height: int = HEIGHT, width: int = WIDTH) -> PIL.Image.Image:
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
    if mode in channels:
        return PIL.Image.fromarray(pixels(height, width, channels[mode]), mode if mode == "LA" else None)
    if mode == "I;16":
        return PIL.Image.fromarray(pixels(height, width, 1).astype(np.uint16) * 257 + 3)
    if mode == "P":
        return photo("RGB", height, width).quantize(200)
    return photo("RGB", height, width).convert(mode)


def encode(image: PIL.Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = PIL.Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "camera"
    return block.tobytes()


def xmp(orientation: int, form: str = "attribute") -> bytes:
    if form == "attribute":
        return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    return f"<x:xmpmeta><tiff:Orientation>{orientation}</tiff:Orientation></x:xmpmeta>".encode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def png_with(data: bytes, kind: bytes, content: bytes, *, after_pixels: bool, idat_length: int = 500) -> bytes:
    """A PNG with one chunk more, before the pixels or at the end, and its pixels in many chunks as libpng has them."""
    parts: list[bytes] = []
    extra, added = chunk(kind, content), False
    for name, body in png_chunks(data):
        if not added and name == (b"IEND" if after_pixels else b"IDAT"):
            parts.append(extra)
            added = True
        pieces = [body[start : start + idat_length] for start in range(0, len(body), idat_length)]
        parts += [chunk(name, piece) for piece in (pieces if name == b"IDAT" else [body])]
    return data[:8] + b"".join(parts)


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_16_bit(colour: int, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A PNG of 16 bits a channel; Pillow can write the grey one only."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    samples = np.random.default_rng(colour).integers(0, 2**16, (height, width * channels)).astype(">u2")
    return raw_png(width, height, 16, colour, b"".join(b"\0" + row.tobytes() for row in samples))


def every_format() -> dict[str, bytes]:
    rgb, rgba, grey, grey_alpha = photo("RGB"), photo("RGBA"), photo("L"), photo("LA")
    palette = photo("P")
    cases = {
        "jpeg": encode(rgb, "JPEG", quality=90),
        "jpeg-grey": encode(grey, "JPEG"),
        "jpeg-cmyk": encode(photo("CMYK"), "JPEG"),
        "jpeg-rgb-coded": encode(rgb, "JPEG", keep_rgb=True),
        "jpeg-restart-markers": encode(rgb, "JPEG", restart_marker_blocks=2),
        "jpeg-trailing-bytes": encode(rgb, "JPEG") + b"appended by a camera",
        "mpo": encode(rgb, "MPO", save_all=True, append_images=[photo("RGB", 20, 30)]),
        "png": encode(rgb, "PNG"),
        "png-alpha": encode(rgba, "PNG"),
        "png-grey": encode(grey, "PNG"),
        "png-grey-alpha": encode(grey_alpha, "PNG"),
        "png-1-bit": encode(photo("1"), "PNG"),
        "png-palette": encode(palette, "PNG"),
        "png-palette-16": encode(rgb.quantize(16), "PNG"),
        "png-palette-2": encode(rgb.quantize(2), "PNG"),
        "png-palette-one-transparent": encode(palette, "PNG", transparency=3),
        "png-palette-alpha": encode(palette, "PNG", transparency=bytes(range(200))),
        "png-grey-transparent": encode(grey, "PNG", transparency=int(pixels(HEIGHT, WIDTH, 1)[0, 0])),
        "png-rgb-transparent": encode(rgb, "PNG", transparency=tuple(map(int, pixels(HEIGHT, WIDTH, 3)[0, 0]))),
        "png-16-bit-grey": encode(photo("I;16"), "PNG"),
        "png-16-bit-grey-alpha": png_16_bit(4),
        "png-16-bit-rgb": png_16_bit(2),
        "png-16-bit-rgba": png_16_bit(6),
        "png-2-bit-grey": raw_png(8, 3, 2, 0, b"\0\x1b\x1b\0\xe4\xe4\0\x00\xff"),
        "png-gamma": png_with(encode(rgb, "PNG"), b"gAMA", struct.pack(">I", 100000), after_pixels=False),
        "png-trailing-bytes": encode(rgb, "PNG") + b"trailer",
        "apng": encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "webp-lossy": encode(rgb, "WEBP", quality=80),
        "webp-lossless": encode(rgb, "WEBP", lossless=True),
        "webp-lossy-alpha": encode(rgba, "WEBP", quality=80),
        "webp-lossless-alpha": encode(rgba, "WEBP", lossless=True, exact=True),
        "webp-animated": encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)]),
        "gif": encode(palette, "GIF"),
        "gif-transparent": encode(palette, "GIF", transparency=3),
        "gif-animated": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "tiff": encode(rgb, "TIFF"),
        "tiff-lzw": encode(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff-cmyk": encode(photo("CMYK"), "TIFF"),
        "tiff-16-bit": encode(photo("I;16"), "TIFF"),
        "tiff-float": encode(photo("F"), "TIFF"),
        "bmp": encode(rgb, "BMP"),
        "bmp-palette": encode(palette, "BMP"),
        "ppm": encode(rgb, "PPM"),
        "ico": encode(rgba, "ICO", sizes=[(32, 32)]),
        "jpeg2000": encode(rgb, "JPEG2000"),
    }
    for quality in (30, 100):
        for subsampling in (0, 1, 2):
            for progressive in (False, True):
                cases[f"jpeg-q{quality}-s{subsampling}{'-progressive' * progressive}"] = encode(
                    rgb, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive
                )
    for subsampling in ("4:4:4", "4:2:0", "4:0:0"):
        cases[f"avif-{subsampling}"] = encode(rgb, "AVIF", subsampling=subsampling, speed=10)
    cases["avif-grey"] = encode(grey, "AVIF", speed=10)
    cases["avif-limited-range"] = encode(rgb, "AVIF", range="limited", speed=10)
    cases["avif-alpha"] = encode(rgba, "AVIF", speed=10)
    cases["avif-animated"] = encode(rgb, "AVIF", save_all=True, append_images=[rgb.rotate(180)], speed=10)
    return cases


def every_orientation(orientation: int) -> dict[str, bytes]:
    """Each way in which a file can say how it is to be turned."""
    rgb = photo("RGB")
    block, plain = exif(orientation), encode(rgb, "PNG")
    tiff_xmp = PIL.Image.Exif()
    tiff_xmp[0x02BC] = xmp(orientation)
    raw_profile = b"Raw profile type exif\0\0" + zlib.compress(
        b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    )
    xmp_chunk = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation)
    cases = {
        "jpeg": encode(rgb, "JPEG", exif=block),
        "jpeg-xmp": encode(rgb, "JPEG", xmp=xmp(orientation)),
        "jpeg-xmp-element": encode(rgb, "JPEG", xmp=xmp(orientation, "element")),
        "jpeg-exif-beats-xmp": encode(rgb, "JPEG", exif=block, xmp=xmp(9 - orientation)),
        "webp": encode(rgb, "WEBP", exif=block),
        "webp-lossless": encode(rgb, "WEBP", exif=block, lossless=True),
        "webp-xmp": encode(rgb, "WEBP", xmp=xmp(orientation)),
        "webp-animated": encode(rgb, "WEBP", exif=block, save_all=True, append_images=[rgb.rotate(180)]),
        "tiff": encode(rgb, "TIFF", exif=block),
        "tiff-lzw": encode(rgb, "TIFF", exif=block, compression="tiff_lzw"),
        "tiff-xmp": encode(rgb, "TIFF", exif=tiff_xmp),
        "avif": encode(rgb, "AVIF", exif=block, speed=10),
        "avif-xmp": encode(rgb, "AVIF", xmp=xmp(orientation), speed=10),
        "mpo": encode(rgb, "MPO", exif=block, save_all=True, append_images=[rgb]),
        "apng": encode(rgb, "PNG", exif=block, save_all=True, append_images=[rgb.rotate(180)]),
        "apng-late": png_with(
            encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]), b"eXIf", block[6:], after_pixels=True
        ),
    }
    for place, after in (("before", False), ("after", True)):
        cases[f"png-exif-{place}"] = png_with(plain, b"eXIf", block.removeprefix(b"Exif\0\0"), after_pixels=after)
        cases[f"png-raw-profile-{place}"] = png_with(plain, b"zTXt", raw_profile, after_pixels=after)
        cases[f"png-xmp-{place}"] = png_with(plain, b"iTXt", xmp_chunk, after_pixels=after)
    return cases
