"""The sample tables of MP4 and MOV files, which say of each frame how long it lasts and by how much it is shown late.

See ISO/IEC 14496-12: sections 8.6.1.2 (`stts`), 8.6.1.3 (`ctts`), 8.6.6 (`elst`), 8.7.3 (`stsz`) and 8.5.2 (`stsd`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ticks = npt.NDArray[np.int64]

LARGEST_MOVIE = 256 << 20  # bytes; a day of 60 frames a second takes 80 MiB
_LARGEST_OFFSET = 1 << 28  # ticks; FFmpeg takes greater ones for damage
_RATE_OF_ONE = 1 << 16
_NOTHING = memoryview(b"")


@dataclass(frozen=True, slots=True, eq=False)
class SampleTables:
    """What the tables of one track say of its samples, in the order in which they are stored.

    Attributes:
        durations: `(num_samples,)` ticks from the time at which a sample is decoded to that of the next one.
        offsets: `(num_samples,)` ticks from the time at which it is decoded to that at which it is shown.
    """

    durations: Ticks
    offsets: Ticks


def is_iso_media(file: BinaryIO) -> bool:
    """Whether a file says to be MP4, MOV or of their kin."""
    position = file.tell()
    file.seek(0)
    prefix = file.read(8)
    file.seek(position)
    return prefix[4:] == b"ftyp"


def read_sample_tables(file: BinaryIO, track_id: int) -> SampleTables | None:
    """Reads the sample tables of a track. The file's position is kept.

    Args:
        file: Binary file, seekable.
        track_id: The track's identifier, as in its `tkhd` box.

    Returns:
        The tables; `None` where they do not tell everything: fragmented files, several edits or sample descriptions,
        tables that do not fit together, or that cannot be parsed.
    """
    position = file.tell()
    try:
        movie = _read_movie(file)
        return None if movie is None else _track_tables(movie, track_id)
    except (struct.error, ValueError):  # cut off, or no boxes at all
        return None
    finally:
        file.seek(position)


def _read_movie(file: BinaryIO) -> memoryview | None:
    """The content of the file's movie box."""
    start = 0
    while True:
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return None
        size, kind = struct.unpack_from(">I4s", header)
        length = 8
        if size == 1:
            size, length = struct.unpack_from(">Q", header, 8)[0], 16
        if kind == b"moov":
            if not length <= size <= LARGEST_MOVIE:
                return None
            file.seek(start + length)
            return memoryview(file.read(size - length))
        if size < length:  # 0: up to the end of the file
            return None
        start += size


def _track_tables(movie: memoryview, track_id: int) -> SampleTables | None:
    found = list(boxes(movie))
    if any(kind == b"mvex" for kind, _ in found):
        return None
    for kind, content in found:
        if kind == b"trak":
            track = dict(boxes(content))
            header = track.get(b"tkhd", _NOTHING)
            if len(header) >= 24 and number(header, 20 if header[0] == 1 else 12) == track_id:
                return _sample_tables(track)
    return None


def _sample_tables(track: dict[bytes, memoryview]) -> SampleTables | None:
    if b"edts" in track and not _is_one_edit(dict(boxes(track[b"edts"])).get(b"elst")):
        return None
    tables = track
    for kind in (b"mdia", b"minf", b"stbl"):
        tables = dict(boxes(tables.get(kind, _NOTHING)))
    if not {b"stsd", b"stts", b"stsz"} <= tables.keys() or number(tables[b"stsd"], 4) != 1:
        return None
    num_samples = number(tables[b"stsz"], 8)
    durations = _expand(tables[b"stts"], num_samples)
    offsets = _expand(tables[b"ctts"], num_samples) if b"ctts" in tables else np.zeros(num_samples, np.int64)
    if durations is None or offsets is None or not num_samples:
        return None
    if durations.min() < 0 or np.abs(offsets).max() > _LARGEST_OFFSET:
        return None
    return SampleTables(durations, offsets)


def _is_one_edit(content: memoryview | None) -> bool:
    """Whether an edit list shows one part, in its own speed, maybe later than the file begins."""
    if content is None:
        return True
    layout = ">QqI" if content[0] == 1 else ">IiI"
    size = struct.calcsize(layout)
    count = number(content, 4)
    if count > 2 or len(content) < 8 + count * size:
        return False
    edits = [struct.unpack_from(layout, content, 8 + index * size) for index in range(count)]
    if len(edits) == 2 and edits[0][1] != -1:
        return False
    return bool(edits) and edits[-1][1] >= 0 and all(rate == _RATE_OF_ONE for _, _, rate in edits)


def _expand(content: memoryview, num_samples: int) -> Ticks | None:
    """Values of a table of (how many samples, value); `None` where they are not as many as the samples."""
    count = number(content, 4)
    if count * 8 > len(content) - 8:
        return None
    pairs = np.frombuffer(content, dtype=">i4", count=2 * count, offset=8).reshape(-1, 2).astype(np.int64)
    if (pairs[:, 0] < 0).any() or pairs[:, 0].sum() != num_samples:
        return None
    values: Ticks = np.repeat(pairs[:, 1], pairs[:, 0])
    return values


def number(content: memoryview, offset: int) -> int:
    """The unsigned number of 32 bits at an offset.

    Raises:
        struct.error: It is cut off.
    """
    value: int = struct.unpack_from(">I", content, offset)[0]
    return value


def boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of the boxes that lie in one.

    Raises:
        ValueError: One is longer than what it lies in.
    """
    start = 0
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        length = 8
        if size == 1:
            size, length = struct.unpack_from(">Q", content, start + 8)[0], 16
        end = start + size if size else len(content)
        if size and (size < length or end > len(content)):
            raise ValueError("a box that is longer than what it lies in")
        yield kind, content[start + length : end]
        start = end
