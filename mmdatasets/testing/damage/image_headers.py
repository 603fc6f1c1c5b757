"""Images whose headers lie, whose parts are in disorder, or that are more than they seem."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from random import Random

from PIL import Image

from mmdatasets.testing.damage.contents import FileDamage
from mmdatasets.testing.damage.formats import SIZE, MediaFormat
from mmdatasets.testing.media import encode_image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_FRAMES = (b"\xff\xc0", b"\xff\xc2")
_WIDEST = (65_535, 65_500, 16_383, 256)  # of PNG, JPEG, WebP, ICO


def image_damage() -> dict[str, FileDamage]:
    """Name -> damage; `None` of it where a format has no such field."""
    sizes = {
        "a header of no size": (0, 0),
        "a header of no height": (SIZE[0], 0),
        "a header that is one pixel larger": (SIZE[0] + 1, SIZE[1] + 1),
        "a header of half the size": (SIZE[0] // 2, SIZE[1] // 2),
        "a header of twice the height": (SIZE[0], 2 * SIZE[1]),
        "a header of 16383 x 16383": (16_383, 16_383),
        "a header of 65535 x 65535": (65_535, 65_535),
        "a header of 2000 x 2000": (2_000, 2_000),
        "a header of the largest size": (2**31 - 1, 2**31 - 1),
        "a header of a negative size": (-SIZE[0], -SIZE[1]),
    }
    kinds: dict[str, FileDamage] = {name: partial(_resized, size=size) for name, size in sizes.items()}
    return kinds | {
        "one pixel": partial(_of_size, sizes=[(1, 1)]),
        "one line as wide as can be": partial(_of_size, sizes=[(width, 1) for width in _WIDEST]),
        "one column as high as can be": partial(_of_size, sizes=[(1, width) for width in _WIDEST]),
        "no pixel data": _without_pixels,
        "chunks in disorder": _disordered,
        "chunks of wrong checksums": _wrong_checksums,
        "chunks that say they are 2 GB long": _long_chunks,
        "a text that is inflated to 100 MB": _text_bomb,
        "pixels that are inflated to 1 GB": _pixel_bomb,
        "pixels that are inflated to more than there are": _surplus,
        "an orientation of 99": partial(_with_exif, value=99),
        "EXIF that refers to itself": _exif_loop,
        "a color profile of noise": _noisy_profile,
        "a directory that follows itself": _directory_loop,
        "1,000 scans": _scans,
        "1,000 frames": _frames,
    }


def _resized(data: bytes, format: MediaFormat, _: Random, *, size: tuple[int, int]) -> bytes | None:
    for prefix, resize in _RESIZERS.items():
        if format.name.startswith(prefix):
            return resize(data, *size)
    return None


def _put(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    """The file with integers in place of others, cut to the bits that there are."""
    bits = {"B": 8, "H": 16, "I": 32, "Q": 64}
    kept = [value & (1 << bits[code]) - 1 for code, value in zip(layout[1:], values, strict=True)]
    piece = struct.pack(layout, *kept)
    return data[:offset] + piece + data[offset + len(piece) :]


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = len(_SIGNATURE)
    while offset + 12 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        yield data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        offset += 12 + length


def _png(data: bytes, change: Callable[[bytes, bytes], bytes]) -> bytes:
    return _SIGNATURE + b"".join(change(name, content) for name, content in _chunks(data))


def _resize_png(data: bytes, width: int, height: int) -> bytes:
    return _png(
        data,
        lambda name, content: png_chunk(name, _put(content, 0, ">II", width, height) if name == b"IHDR" else content),
    )


def _resize_jpeg(data: bytes, width: int, height: int) -> bytes:
    return _put(data, _jpeg_frame(data) + 5, ">HH", height, width)


def _jpeg_frame(data: bytes) -> int:
    return min(at for at in map(data.find, _JPEG_FRAMES) if at >= 0)


def _resize_webp(data: bytes, width: int, height: int) -> bytes:
    kind, at = data[12:16], 20
    if kind == b"VP8 ":
        return _put(data, at + 6, "<HH", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        bits = int.from_bytes(data[at + 1 : at + 5], "little") & ~0xFFFFFFF
        return _put(data, at + 1, "<I", bits | (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14)
    sides = b"".join((side - 1 & 0xFFFFFF).to_bytes(3, "little") for side in (width, height))
    return data[: at + 4] + sides + data[at + 10 :]


def _resize_tiff(data: bytes, width: int, height: int) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    offset = struct.unpack_from(f"{order}I", data, 4)[0]
    for entry in range(struct.unpack_from(f"{order}H", data, offset)[0]):
        at = offset + 2 + 12 * entry
        tag = struct.unpack_from(f"{order}H", data, at)[0]
        if tag in (256, 257):  # ImageWidth, ImageLength; as numbers of 32 bits
            data = _put(data, at + 2, f"{order}HII", 4, 1, width if tag == 256 else height)
    return data


def _resize_ppm(data: bytes, width: int, height: int) -> bytes:
    return data.replace(b"%d %d" % SIZE, b"%d %d" % (width, height), 1)


def _resize_avif(data: bytes, width: int, height: int) -> bytes:
    return _put(data, data.index(b"ispe") + 8, ">II", width, height)


def _resize_jpeg2000(data: bytes, width: int, height: int) -> bytes:
    data = _put(data, data.index(b"ihdr") + 4, ">II", height, width)
    return _put(data, data.index(b"\xff\x51") + 6, ">II", width, height)  # SIZ: Xsiz, Ysiz


_RESIZERS: Mapping[str, Callable[[bytes, int, int], bytes]] = {
    "jpeg2000": _resize_jpeg2000,
    "jpeg": _resize_jpeg,
    "png": _resize_png,
    "gif_video": lambda data, width, height: _put(data, 6, "<HH", width, height),
    "gif": lambda data, width, height: _put(data, 6, "<HH", width, height),
    "bmp": lambda data, width, height: _put(data, 18, "<II", width, height),
    "tiff": _resize_tiff,
    "ico": lambda data, width, height: _put(data, 6, "<BB", width, height),
    "ppm": _resize_ppm,
    "tga": lambda data, width, height: _put(data, 12, "<HH", width, height),
    "webp": _resize_webp,
    "avif": _resize_avif,
}


def _of_size(_: bytes, format: MediaFormat, random: Random, *, sizes: list[tuple[int, int]]) -> bytes | None:
    """A valid image of the first of some sizes that the format takes."""
    kinds = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "ppm": "PPM", "tga": "TGA"}
    kinds |= {"ico": "ICO", "webp_lossless": "WEBP", "avif": "AVIF"}
    for size in sizes:
        if format.name in kinds and (format.name != "avif" or max(size) < 2**14):  # whose encoder takes its time
            try:
                return encode_image(*size, random.randrange(99), kinds[format.name])
            except (OSError, ValueError, struct.error):
                continue
    return None


def _without_pixels(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name.startswith("png"):
        return _png(data, lambda name, content: b"" if name == b"IDAT" else png_chunk(name, content))
    if format.name.startswith("gif"):
        return data[: data.index(b"\x2c")] + b"\x3b"
    if format.name.startswith("jpeg") and format.name != "jpeg2000":
        return data[: data.index(b"\xff\xda")] + b"\xff\xd9"
    return None


def _disordered(data: bytes, format: MediaFormat, random: Random) -> bytes | None:
    if not format.name.startswith("png"):
        return None
    chunks = [png_chunk(*chunk) for chunk in _chunks(data)]
    first, *rest = chunks
    random.shuffle(rest)
    return _SIGNATURE + b"".join([*rest, first])


def _wrong_checksums(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    return _png(data, lambda *chunk: png_chunk(*chunk)[:-4] + b"\0\0\0\0") if format.name.startswith("png") else None


def _long_chunks(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name.startswith("png"):
        return _png(data, lambda *chunk: b"\x7f\xff\xff\xff" + png_chunk(*chunk)[4:])
    if format.name.startswith("webp"):
        return data[:4] + b"\xff" * 4 + data[8:16] + b"\xff\xff\xff\x7f" + data[20:]
    return None


def _text_bomb(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if not format.name.startswith("png"):
        return None
    text = png_chunk(b"zTXt", b"Comment\0\0" + _zeros(100))
    profile = png_chunk(b"iCCP", b"icc\0\0" + _zeros(100))
    return _png(data, lambda name, content: png_chunk(name, content) + (text + profile if name == b"IHDR" else b""))


@cache
def _zeros(megabytes: int) -> bytes:
    deflate = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join([*(deflate.compress(block) for _ in range(megabytes)), deflate.flush()])


def _pixel_bomb(_: bytes, format: MediaFormat, __: Random) -> bytes | None:
    if format.name != "png":
        return None
    header = struct.pack(">IIBBBBB", 18_500, 18_500, 8, 2, 0, 0, 0)
    return _SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", _zeros(64)) + png_chunk(b"IEND", b"")


def _surplus(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name != "png":
        return None
    bomb = png_chunk(b"IDAT", _zeros(64))
    return _png(data, lambda name, content: bomb if name == b"IDAT" else png_chunk(name, content))


def _with_exif(data: bytes, format: MediaFormat, _: Random, *, value: int) -> bytes | None:
    if format.name not in ("jpeg", "png", "webp_lossy"):
        return None
    exif = Image.Exif()
    exif[0x0112] = value
    return encode_image(*SIZE, 0, format.name.partition("_")[0].upper(), exif=exif.tobytes())


def _exif_loop(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name != "jpeg_turned":
        return None
    at = data.index(b"Exif\0\0") + 6
    order = "<" if data[at : at + 2] == b"II" else ">"
    return _put(data, at + 8 + 2, f"{order}HHII", 0x8769, 4, 1, 8)  # the EXIF directory is the first one


def _noisy_profile(_: bytes, format: MediaFormat, random: Random) -> bytes | None:
    if format.name not in ("jpeg", "png", "webp_lossy", "tiff"):
        return None
    return encode_image(*SIZE, 0, format.name.partition("_")[0].upper(), icc_profile=random.randbytes(500))


def _directory_loop(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if not format.name.startswith("tiff"):
        return None
    order = "<" if data[:2] == b"II" else ">"
    offset = struct.unpack_from(f"{order}I", data, 4)[0]
    entries = struct.unpack_from(f"{order}H", data, offset)[0]
    return _put(data, offset + 2 + 12 * entries, f"{order}I", offset)


def _scans(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    """A progressive JPEG whose last scan comes again and again: each takes the time of a whole image."""
    if format.name != "jpeg_progressive":
        return None
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 1000 + data[-2:]


def _frames(data: bytes, format: MediaFormat, _: Random) -> bytes | None:
    if format.name not in ("gif", "gif_animated", "webp_animated"):
        return None
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (number % 256, number // 256, 0)) for number in range(1000)]
    kind = format.name.partition("_")[0].upper()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=10)
    return buffer.getvalue()
