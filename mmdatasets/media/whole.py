"""Whether a file is as long as its own headers say, by what they say of the length of what they introduce.

Demuxers and decoders take a file that is cut off for a shorter one wherever the format lets them. What is made to be
sent while it is recorded does not tell: MPEG-TS, elementary streams, and files whose headers leave the length open.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from mmdatasets.errors import MediaDecodeError

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions

_MOST_CHUNKS, _MOST_BOXES = 2**16, 2**22  # what has more is not followed to its end
_OPEN_32 = (0, 0xFFFFFFFF)
_LARGEST_PAGE = 27 + 255 + 255 * 255  # RFC 3533, section 6
_SEGMENT = b"\x18\x53\x80\x67"
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_ISO = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")


def check_whole(file: BinaryIO, options: MediaOptions, source: str) -> None:
    """Refuses a file that ends before its headers say so, unless `allow_truncated`. The file's position is kept.

    Raises:
        MediaDecodeError: Saying how much is missing.
    """
    missing = 0 if options.allow_truncated else count_missing(file)
    if missing:
        raise MediaDecodeError(
            f"the file is cut off or damaged: by its headers {missing:,} bytes are missing at its end; fetch it again "
            "or set MediaOptions(allow_truncated=True) to use what there is",
            source=source,
        )


def count_missing(file: BinaryIO) -> int:
    """How many bytes are missing at a file's end, as far as its headers tell. The file's position is kept."""
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(64)
    try:
        end = _stated_end(file, head, size)
    except struct.error:  # cut off within a header
        end = size + 1
    finally:
        file.seek(position)
    return max(0, end - size)


def _stated_end(file: BinaryIO, head: bytes, size: int) -> int:
    for signature, find_end in _FORMATS.items():
        if head.startswith(signature):
            return find_end(file, head, size)
    return _iso_end(file, size) if head[4:8] in _ISO else 0


def _riff_end(file: BinaryIO, head: bytes, size: int) -> int:
    """AVI: one list after the other, each as long as it says. WAV is left to `mmdatasets.media.audio_complete`."""
    if head[8:12] != b"AVI ":
        return 0
    end = 0
    for _ in range(_MOST_CHUNKS):
        if end >= size:
            break
        file.seek(end)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in _OPEN_32:
            return 0
        end += 8 + length + length % 2
    return end - 1 if end == size + 1 else end  # the last one's padding may be left out


def _rf64_end(file: BinaryIO, head: bytes, size: int) -> int:
    # EBU Tech 3306: the chunk ds64 has the length of 64 bits.
    length: int = struct.unpack_from("<Q", head, 20)[0] if head[12:16] == b"ds64" else 0
    return 8 + length if length else 0


def _w64_end(file: BinaryIO, head: bytes, size: int) -> int:
    length: int = struct.unpack_from("<Q", head, 16)[0]
    return length if length < 1 << 62 else 0


def _form_end(file: BinaryIO, head: bytes, size: int) -> int:
    length: int = struct.unpack_from(">I", head, 4)[0]
    return 0 if head[8:12] not in (b"AIFF", b"AIFC") or length in _OPEN_32 else 8 + length


def _au_end(file: BinaryIO, head: bytes, size: int) -> int:
    start, length = struct.unpack_from(">II", head, 4)
    return 0 if length in _OPEN_32 else int(start + length)


def _caf_end(file: BinaryIO, head: bytes, size: int) -> int:
    position = 8
    for _ in range(_MOST_CHUNKS):
        if position >= size:
            break
        file.seek(position)
        length = struct.unpack(">4sq", file.read(12))[1]
        if length < 0:  # up to the end of the file
            return 0
        position += 12 + length
    return position


def _matroska_end(file: BinaryIO, head: bytes, size: int) -> int:
    header = _ebml_size(head[4:12])
    if header is None:
        return 0
    start = 4 + header[0] + header[1]
    file.seek(start)
    segment = file.read(12)
    found = _ebml_size(segment[4:]) if segment[:4] == _SEGMENT else None
    return 0 if found is None else start + 4 + found[0] + found[1]


def _ebml_size(data: bytes) -> tuple[int, int] | None:
    """Length and value of a size of RFC 8794, section 6; `None` where it is open."""
    if not data or not data[0]:
        return None
    length = 9 - data[0].bit_length()
    value = int.from_bytes(data[:length], "big") & ((1 << 7 * length) - 1)
    return None if len(data) < length or value == (1 << 7 * length) - 1 else (length, value)


def _ogg_end(file: BinaryIO, head: bytes, size: int) -> int:
    """Where the last page ends."""
    start = max(0, size - _LARGEST_PAGE)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS\0")
    if at < 0:
        return 0
    count = tail[at + 26] if len(tail) > at + 26 else 1
    sizes = tail[at + 27 : at + 27 + count]
    return start + at + 27 + count + sum(sizes)


def _flv_end(file: BinaryIO, head: bytes, size: int) -> int:
    """A tag is followed by its length: where the file's last four bytes are none, it is cut off."""
    file.seek(max(0, size - 4))
    length = struct.unpack(">I", file.read(4))[0]
    if not 11 <= length <= size - 13:
        return size + 1
    file.seek(size - 4 - length)
    return 0 if int.from_bytes(file.read(4)[1:], "big") == length - 11 else size + 1


def _iso_end(file: BinaryIO, size: int) -> int:
    end = 0
    for _ in range(_MOST_BOXES):
        if end >= size:
            break
        file.seek(end)
        header = file.read(16)
        if len(header) < 8:
            return end + 8
        length = struct.unpack_from(">I", header)[0]
        length = struct.unpack_from(">Q", header, 8)[0] if length == 1 else length
        if length < 8 or not header[4:8].isalnum():  # up to the end of the file, or what follows is no box
            return 0
        end += length
    return end


_FORMATS: dict[bytes, Callable[[BinaryIO, bytes, int], int]] = {
    b"RIFF": _riff_end,
    b"RF64": _rf64_end,
    _W64_RIFF: _w64_end,
    b"FORM": _form_end,
    b".snd": _au_end,
    b"caff": _caf_end,
    b"\x1a\x45\xdf\xa3": _matroska_end,
    b"OggS": _ogg_end,
    b"FLV": _flv_end,
}
