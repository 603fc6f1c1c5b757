"""How many samples the index of an MP4 or MOV file claims to have, before FFmpeg makes room for each of them.

A few bytes can claim billions: samples of one constant size (`stsz`, ISO/IEC 14496-12, section 8.7.3.2), or samples of
a fragment that all are as the fragment's header says (`trun`, section 8.8.8). FFmpeg keeps some 70 bytes of each.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, BinaryIO

from mmdatasets.errors import MediaError
from mmdatasets.media.limits import check_num_frames, check_num_samples, exceeded
from mmdatasets.media.mp4_tables import LARGEST_MOVIE, boxes, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmdatasets.options import MediaOptions

SHORTEST_PACKET = 120
"""Samples of sound in a packet, at least: Opus of 2.5 ms."""

_FIRST = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"junk", b"pnot", b"pict", b"udta"}
) | {b"uuid", b"prfl", b"sidx"}  # boxes that FFmpeg knows an MP4 or MOV file by
_INDEX = (b"moov", b"moof")
_NOTHING = memoryview(b"")
_ONE_TICK = 1
_BOXES_PER_FRAME, _FURTHER_BOXES = 4, 64  # where each frame is a fragment


def check_sample_counts(file: BinaryIO, options: MediaOptions, source: str) -> None:
    """Refuses an MP4 or MOV file that claims more samples than the limits allow; other files pass.

    Args:
        file: Binary file, seekable. Its position is kept.
        options: `video_frame_limit` and `audio_sample_limit` are used.
        source: Description for errors.

    Raises:
        MediaLimitError: Naming the number and the limit.
    """
    position = file.tell()
    in_fragments = 0
    try:
        for kind, content in _indices(file, options, source):
            if kind == b"moov":
                _check_movie(content, options, source)
            else:
                in_fragments += sum(_counts_of_fragment(content))
                most = options.video_frame_limit + options.audio_sample_limit // SHORTEST_PACKET
                if in_fragments > most:
                    what = f"the fragments of the file claim {in_fragments:,} samples"
                    raise exceeded(what, "video_frame_limit", options.video_frame_limit, source)
    except MediaError:
        raise
    except (struct.error, ValueError):  # no boxes, or cut off: FFmpeg says so
        return
    finally:
        file.seek(position)


def _indices(file: BinaryIO, options: MediaOptions, source: str) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes of a file that claim samples."""
    end = file.seek(0, io.SEEK_END)
    start, most = 0, _BOXES_PER_FRAME * options.video_frame_limit + _FURTHER_BOXES
    for _ in range(most):
        if start >= end:
            return
        file.seek(start)
        header = file.read(16)
        if len(header) < 8 or (not start and header[4:8] not in _FIRST):
            return
        size, kind = struct.unpack_from(">I4s", header)
        length = 8
        if size == 1:
            size, length = struct.unpack_from(">Q", header, 8)[0], 16
        if kind in _INDEX:
            if size > LARGEST_MOVIE:
                raise exceeded("the index of the file is too long", "video_frame_limit", LARGEST_MOVIE, source)
            file.seek(start + length)
            yield kind, memoryview(file.read(size - length) if size else file.read(LARGEST_MOVIE))
        if size < length:  # 0: up to the end of the file
            return
        start += size
    raise exceeded(f"the file has more than {most:,} boxes", "video_frame_limit", options.video_frame_limit, source)


def _check_movie(movie: memoryview, options: MediaOptions, source: str) -> None:
    for kind, track in boxes(movie):
        if kind != b"trak":
            continue
        media = dict(boxes(dict(boxes(track)).get(b"mdia", _NOTHING)))
        tables = dict(boxes(dict(boxes(media.get(b"minf", _NOTHING))).get(b"stbl", _NOTHING)))
        if b"stsz" not in tables:
            continue
        count = number(tables[b"stsz"], 8)
        if bytes(media.get(b"hdlr", _NOTHING)[8:12]) != b"soun":
            check_num_frames(count, options, source)
        else:  # uncompressed sound has a sample for each sample, and those FFmpeg does not keep
            check_num_samples(count * (1 if _is_uncompressed(tables) else SHORTEST_PACKET), options, source)


def _is_uncompressed(tables: dict[bytes, memoryview]) -> bool:
    times = tables.get(b"stts", _NOTHING)
    return len(times) >= 16 and number(times, 4) == 1 and number(times, 12) == _ONE_TICK


def _counts_of_fragment(fragment: memoryview) -> Iterator[int]:
    for kind, track in boxes(fragment):
        if kind == b"traf":
            yield from (number(run, 4) for name, run in boxes(track) if name == b"trun")
