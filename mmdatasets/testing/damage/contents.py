"""Damage that any file may take: cut off, overwritten, moved, translated, put into something else, replaced."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import TypeAlias

from mmdatasets.testing.damage.formats import MediaFormat, format_named

FileDamage: TypeAlias = Callable[[bytes, MediaFormat, Random], bytes | None]
"""Makes a damaged file of a valid one; `None` where that cannot be done to the format."""

_HEAD = 64  # bytes in which the header of most formats begins
_ATOM = 4096

_HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
_LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
_LAUGHS = b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a0 'ha'>%s]><svg><text>&a30;</text></svg>" % b"".join(
    b"<!ENTITY a%d '%s'>" % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 31)
)
_IN_PLACE: Mapping[str, bytes] = {
    "nothing": b"",
    "one zero byte": b"\0",
    "an HTML page": _HTML,
    "a JSON error": b'{"error": {"code": 403, "message": "Forbidden"}}',
    "a Git LFS pointer": _LFS,
    "a playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n#EXT-X-ENDLIST\n",
    "a list of files": b"ffconcat version 1.0\nfile /etc/hostname\n",
    "an SVG that grows": _LAUGHS,
    "a pickle": b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "a PDF": b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\ntrailer << /Root 1 0 R >>\n%%EOF\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\n{} loop\nshowpage\n",
}


def file_damage() -> dict[str, FileDamage]:
    """Name -> damage."""
    kinds: dict[str, FileDamage] = {f"cut off at {tenth} tenths": partial(_cut, tenth=tenth) for tenth in range(1, 10)}
    kinds |= {f"{name} in its place": partial(_replaced, content=content) for name, content in _IN_PLACE.items()}
    return kinds | {
        "last byte missing": lambda data, *_: data[:-1],
        "first byte missing": lambda data, *_: data[1:],
        "first 12 bytes only": lambda data, *_: data[:12],
        "1 bit flipped": partial(_flipped, count=1),
        "16 bits flipped": partial(_flipped, count=16),
        "256 bits flipped": partial(_flipped, count=256),
        "8 bits flipped in its head": partial(_flipped, count=8, within=_HEAD),
        "a block in the middle zeroed": lambda data, *_: _zeroed(
            data, len(data) // 2, len(data) // 2 + len(data) // 8
        ),
        "head zeroed": lambda data, *_: _zeroed(data, 0, _HEAD),
        "tail zeroed": lambda data, *_: _zeroed(data, len(data) * 3 // 4, len(data)),
        "zeros only": lambda data, *_: bytes(len(data)),
        "noise behind its signature": lambda data, _, random: data[:16] + random.randbytes(len(data)),
        "noise before it": lambda data, _, random: random.randbytes(100) + data,
        "noise behind it": lambda data, _, random: data + random.randbytes(_ATOM),
        "zeros behind it": lambda data, *_: data + bytes(_ATOM),
        "twice": lambda data, *_: data + data,
        "halves exchanged": lambda data, *_: data[len(data) // 2 :] + data[: len(data) // 2],
        "backwards": lambda data, *_: data[::-1],
        "a block missing": lambda data, *_: data[: len(data) // 3] + data[len(data) // 2 :],
        "a block repeated": lambda data, *_: data[: len(data) // 2] + data[len(data) // 3 :],
        "line ends translated": lambda data, *_: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        "line ends lost": lambda data, *_: data.replace(b"\r", b"").replace(b"\n", b""),
        "encoded as UTF-8": lambda data, *_: data.decode("latin-1").encode(),
        "decoded as UTF-8": lambda data, *_: data.decode("utf-8", "replace").encode(),
        "seventh bit lost": lambda data, *_: bytes(byte & 0x7F for byte in data),
        "as base64": lambda data, *_: base64.b64encode(data),
        "as a Python literal": lambda data, *_: repr(data).encode(),
        "compressed with gzip": lambda data, *_: gzip.compress(data, mtime=0),
        "in a ZIP archive": _zipped,
        "in a tar archive": _tarred,
        "behind a JPEG": lambda data, *_: format_named("jpeg").valid + data,
        "within a JPEG": _within_jpeg,
        "behind a PNG signature": lambda data, *_: b"\x89PNG\r\n\x1a\n" + data,
        "behind a RIFF header": lambda data, *_: b"RIFF\xff\xff\xff\xffWAVE" + data,
        "behind an MP4 brand": lambda data, *_: b"\0\0\0\x14ftypisom\0\0\0\0isom" + data,
        "behind an EBML header": lambda data, *_: b"\x1aE\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff" + data,
        "behind an ID3 tag of 256 MB": lambda data, *_: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + data,
    }


def _cut(data: bytes, *_: object, tenth: int) -> bytes:
    return data[: len(data) * tenth // 10]


def _replaced(*_: object, content: bytes) -> bytes:
    return content


def _flipped(data: bytes, _: MediaFormat, random: Random, *, count: int, within: int | None = None) -> bytes:
    changed = bytearray(data)
    for _place in range(count):
        bit = random.randrange(8 * min(len(data), within or len(data)))
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _zeroed(data: bytes, start: int, end: int) -> bytes:
    end = min(end, len(data))
    return data[:start] + bytes(end - start) + data[end:]


def _zipped(data: bytes, format: MediaFormat, _: Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"media{format.suffix}"), data)
    return buffer.getvalue()


def _tarred(data: bytes, format: MediaFormat, _: Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(f"media{format.suffix}")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _within_jpeg(data: bytes, *_: object) -> bytes:
    """A JPEG with the file in comments, as uploads hide what they are."""
    outer = format_named("jpeg").valid
    pieces = [data[start : start + 65_000] for start in range(0, len(data), 65_000)]
    comments = b"".join(b"\xff\xfe" + (len(piece) + 2).to_bytes(2, "big") + piece for piece in pieces)
    return outer[:2] + comments + outer[2:]
