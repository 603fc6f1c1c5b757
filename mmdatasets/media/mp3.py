"""The header of an MP3 file: whether it states how long the audio is.

The header is a frame of its own that plays as silence, written by Xing's encoder first and by LAME since. Its layout
is that of LAME's "Mp3 Info Tag revision 1"; that of the frames is ISO/IEC 11172-3, 2.4.1.3 and 13818-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

_READ = 4096  # the header lies in the first frame, and no frame is longer than 2,881 bytes
_HAS_FRAMES, _HAS_BYTES = 1, 2


@dataclass(frozen=True, slots=True)
class XingHeader:
    """What the header states.

    Attributes:
        num_frames: Frames of audio.
        end: Offset in the file behind the last frame; `None` where nothing is stated.
    """

    num_frames: int
    end: int | None


def read_xing_header(file: BinaryIO) -> XingHeader | None:
    """Reads the header; gives `None` where the file has none, or none that states the number of frames."""
    start = _skip_id3(file)
    file.seek(start)
    data = file.read(_READ)
    at = _side_info_end(data)
    if at is None or data[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags, at = _big(data[at + 4 : at + 8]), at + 8
    if not flags & _HAS_FRAMES:
        return None
    num_frames, at = _big(data[at : at + 4]), at + 4
    end = start + _big(data[at : at + 4]) if flags & _HAS_BYTES else None
    return XingHeader(num_frames, end) if num_frames else None


def _skip_id3(file: BinaryIO) -> int:
    """Offset of the first byte behind the ID3v2 tags."""
    offset = 0
    while True:
        file.seek(offset)
        header = file.read(10)
        if len(header) < 10 or header[:3] != b"ID3":
            return offset
        size = 0
        for byte in header[6:10]:
            size = size << 7 | byte & 0x7F
        footer = 10 if header[5] & 0x10 else 0
        offset += 10 + size + footer


def _side_info_end(data: bytes) -> int | None:
    """Where the side information of the first frame ends, if that is a layer III frame."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE6 != 0xE2:
        return None
    mpeg1, mono = data[1] & 0x18 == 0x18, data[3] & 0xC0 == 0xC0
    if mpeg1:
        return 4 + (17 if mono else 32)
    return 4 + (9 if mono else 17)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")
