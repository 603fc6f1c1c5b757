"""The pages of an Ogg file: whether one stream follows another. See RFC 3533, section 6."""

from __future__ import annotations

from typing import BinaryIO

_HEADER = 27  # bytes before the table of a page's segments
_FIRST, _LAST = 2, 4  # flags of a stream's first and last page


def is_chained(file: BinaryIO) -> bool:
    """Whether a stream begins where another has ended, as in recordings of radio and in files that were joined.

    Args:
        file: Ogg file, seekable; its position is kept.
    """
    position = file.tell()
    ended, start = False, 0
    while True:
        file.seek(start)
        page = file.read(_HEADER + 255)
        if len(page) < _HEADER or page[:4] != b"OggS":
            break
        if ended and page[5] & _FIRST:
            break
        ended = ended or bool(page[5] & _LAST)
        num_segments = page[26]
        start += _HEADER + num_segments + sum(page[_HEADER : _HEADER + num_segments])
    file.seek(position)
    return ended and len(page) >= _HEADER and page[:4] == b"OggS"
