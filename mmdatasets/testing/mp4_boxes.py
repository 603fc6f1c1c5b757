"""Changing what an MP4 file says about its tracks, where a muxer has no option for it. See ISO/IEC 14496-12."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

_CONTAINERS = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_MATRICES = {
    # (a, b, u, c, d, v, x, y, w) of section 8.3.2, as 16.16 numbers but for u, v and w: turned clockwise by degrees.
    0: (1, 0, 0, 0, 1, 0, 0, 0, 1),
    90: (0, 1, 0, -1, 0, 0, 0, 0, 1),
    180: (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    270: (0, -1, 0, 1, 0, 0, 0, 0, 1),
}


def turn_mp4(data: bytes, degrees: int) -> bytes:
    """Has an MP4 file's first track displayed turned clockwise by 0, 90, 180 or 270 degrees."""
    matrix = [value << (30 if index % 3 == 2 else 16) for index, value in enumerate(_MATRICES[degrees])]
    start, _ = find_box(data, b"tkhd")
    offset = start + (52 if data[start] == 1 else 40)  # version 1 has times of 64 bits
    return _replaced(data, offset, struct.pack(">9i", *matrix))


def edit_mp4(data: bytes, edits: Sequence[tuple[int, int]]) -> bytes:
    """Replaces the edit list of an MP4 file's first track.

    Args:
        data: The file, with its movie box behind the media data, as FFmpeg writes it unless told otherwise.
        edits: Of each part that is shown, its length in ticks of the movie and the time at which it begins, in ticks
            of the track; -1 shows nothing.
    """
    start, end = find_box(data, b"elst")
    content = bytes(4) + struct.pack(">I", len(edits))
    content += b"".join(struct.pack(">Ii2H", length, begin, 1, 0) for length, begin in edits)
    growth = len(content) - (end - start)
    for kind in (b"moov", b"trak", b"edts", b"elst"):
        offset = find_box(data, kind)[0] - 8
        size = int.from_bytes(data[offset : offset + 4], "big")
        data = _replaced(data, offset, (size + growth).to_bytes(4, "big"))
    return data[:start] + content + data[end:]


def find_box(data: bytes, name: bytes) -> tuple[int, int]:
    """Where the content of the first box of a name begins and ends.

    Raises:
        ValueError: There is no such box in the movie box.
    """
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == name:
            return start, end
    raise ValueError(f"the file has no box {name.decode()!r}")


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        stop = end if size == 0 else start + size
        yield kind, start + header, stop
        if kind in _CONTAINERS:
            yield from _boxes(data, start + header, stop)
        start = stop


def _replaced(data: bytes, offset: int, piece: bytes) -> bytes:
    return data[:offset] + piece + data[offset + len(piece) :]
