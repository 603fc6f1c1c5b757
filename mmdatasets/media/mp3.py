"""The headers of an MP3 file: whether it states how long the audio is, and what its frames say of themselves.

The header is a frame of its own that plays as silence, written by Xing's encoder first and by LAME since. Its layout
is that of LAME's "Mp3 Info Tag revision 1"; that of the frames is ISO/IEC 11172-3, 2.4.1.3 and 13818-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

_READ = 4096  # the header lies in the first frame, and no frame is longer than 2,881 bytes
_HAS_FRAMES, _HAS_BYTES = 1, 2
_TAG_HEADER = 10
_MPEG1 = 0x18


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


def frame_format(frame: bytes) -> tuple[int, int, bool] | None:
    """What a frame's header says that is the same in all frames of a stream: version, rate, and whether it is mono.

    Args:
        frame: A frame, or what is taken for one.

    Returns:
        The header's bits; `None` where there is no frame of layer III.
    """
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return None
    return frame[1] & 0x18, frame[2] & 0x0C, frame[3] & 0xC0 == 0xC0


def id3_length(data: bytes) -> int:
    """Bytes of the ID3v2 tag that data begins with, 0 where there is none."""
    if len(data) < _TAG_HEADER or data[:3] != b"ID3":
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    footer = _TAG_HEADER if data[5] & 0x10 else 0
    return _TAG_HEADER + size + footer


def _skip_id3(file: BinaryIO) -> int:
    """Offset of the first byte behind the ID3v2 tags."""
    offset = 0
    while True:
        file.seek(offset)
        length = id3_length(file.read(_TAG_HEADER))
        if not length:
            return offset
        offset += length


def _side_info_end(data: bytes) -> int | None:
    """Where the side information of the first frame ends, if that is a layer III frame."""
    format = frame_format(data)
    if format is None:
        return None
    version, _, mono = format
    if version == _MPEG1:
        return 4 + (17 if mono else 32)
    return 4 + (9 if mono else 17)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")
