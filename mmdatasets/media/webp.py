"""The header of a WebP file, read without the pixels.

Pillow reads a WebP whole and sets its decoder up before it tells the size. The container is simple enough to walk: see
RFC 9649, sections 2.5 to 2.7.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04


@dataclass(frozen=True, slots=True)
class WebPHeader:
    """Size as stored, in pixels, and the metadata under the names that Pillow gives it."""

    width: int
    height: int
    info: dict[str | tuple[int, int], object]


def read_webp_header(file: BinaryIO) -> WebPHeader | None:
    """Reads a WebP header; gives `None` for other files and for whatever is unusual, which is left to Pillow."""
    try:
        return _read(file)
    except OSError:  # of a disk, say: where Pillow cannot read it either, the error says why
        return None


def _read(file: BinaryIO) -> WebPHeader | None:
    file.seek(0)
    start = file.read(30)
    if not start or len(start) < 30 or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return None
    kind = start[12:16]
    if kind == b"VP8X":
        width, height = _little(start[24:27]) + 1, _little(start[27:30]) + 1
        info = _metadata(file, start)
        return None if info is None else WebPHeader(width, height, info)
    if kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        width, height = _little(start[26:28]) & 0x3FFF, _little(start[28:30]) & 0x3FFF
        return WebPHeader(width, height, {}) if width and height else None
    if kind == b"VP8L" and start[20] == 0x2F:
        bits = _little(start[21:25])
        return WebPHeader((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, {})
    return None


def _metadata(file: BinaryIO, start: bytes) -> dict[str | tuple[int, int], object] | None:
    """The first EXIF and XMP chunk, where the flags of the extended header announce them.

    Gives `None` where one is announced and missing.
    """
    flags = start[20]
    wanted = {b"EXIF": "exif"} if flags & _EXIF_FLAG else {}
    if flags & _XMP_FLAG:
        wanted[b"XMP "] = "xmp"
    found: dict[str | tuple[int, int], object] = {}
    position, end = 12, 8 + _little(start[4:8])
    while wanted and position + 8 <= end:
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        length = _little(header[4:])
        if name := wanted.pop(header[:4], None):
            left = file.seek(0, io.SEEK_END) - position - 8  # memory for what a header states is asked for at once
            file.seek(position + 8)
            found[name] = file.read(max(0, min(length, left)))
        position += 8 + length + length % 2
    return None if wanted else found


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
