"""The packets of a track of an MP4 or MOV file, from its index: none but the first one is read.

FFmpeg makes an index of such a file when it opens it, in which edit lists are applied already. It lacks the times at
which frames are shown, which the sample tables have. `mmdatasets.media.packets` reads all packets instead, and finds
the same.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, cast

import av.error
import numpy as np
from av.packet import Packet

from mmdatasets.media.mp4_tables import read_sample_tables
from mmdatasets.media.packets import PacketScan, find_doubt, read_packets

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from mmdatasets.media.container import OpenVideo
    from mmdatasets.media.mp4_tables import SampleTables

# One packet, one frame: not so for VP8, which hides frames, and MPEG-4 Part 2, which packs and repeats them.
_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "libdav1d", "libvpx-vp9", "prores", "mjpeg"})
_BEGINNING_OF_SLICE = 96  # bytes, far more than a slice's header has


def index_packets(video: OpenVideo, file: BinaryIO) -> tuple[PacketScan, Packet[VideoStream]] | None:
    """Makes the scan of a track of its index, and reads its first packet.

    Args:
        video: An MP4 or MOV file, just opened.
        file: The same file.

    Returns:
        What `scan_packets` would give, without doubt; `None` where that is not sure.
    """
    if video.decoder.name not in _CODECS:
        return None
    tables = read_sample_tables(file, video.stream.id)
    if tables is None or not tables.durations[-1] or not _fits(video, tables, file):
        return None
    first = next(read_packets(video), None)
    return None if first is None else _complete_index(video, tables, first)


def _fits(video: OpenVideo, tables: SampleTables, file: BinaryIO) -> bool:
    """Whether the index has the samples of the tables, none of them empty or beyond the end of the file."""
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    entries = list(video.stream.index_entries)
    decoded_at = np.asarray([entry.timestamp for entry in entries], dtype=np.int64)
    return (
        len(entries) == len(tables.durations)
        and np.array_equal(np.diff(decoded_at), tables.durations[:-1])
        and all(entry.size and entry.pos + entry.size <= size for entry in entries)
    )


def _complete_index(
    video: OpenVideo, tables: SampleTables, first: Packet[VideoStream]
) -> tuple[PacketScan, Packet[VideoStream]] | None:
    """Adds to the index the times at which frames are shown."""
    entries, time_base = list(video.stream.index_entries), video.stream.time_base
    decoded_at = np.asarray([entry.timestamp for entry in entries], dtype=np.int64)
    if first.pts is None or first.dts is None or first.dts != decoded_at[0] or time_base is None:
        return None
    # FFmpeg moves all frames of a track by the same time, which its first one tells.
    shift = first.pts - first.dts - int(tables.offsets[0])
    pts = (decoded_at + tables.offsets + shift).tolist()
    is_key = [entry.is_keyframe for entry in entries]
    is_shown = [not entry.is_discard for entry in entries]
    if find_doubt(pts, is_key, is_shown) is not None:
        return None
    return PacketScan(pts, decoded_at.tolist(), tables.durations.tolist(), is_key, is_shown, time_base, None), first


def decode_header(video: OpenVideo, packet: Packet[VideoStream]) -> VideoFrame | None:
    """Has the decoder make a frame of a keyframe's header, which has its size and angle, but no picture.

    Args:
        video: The open video, whose decoder did not begin yet; it is of no use for pictures any more.
        packet: The keyframe.

    Returns:
        The frame; `None` where the decoder gives none.
    """
    video.decoder.options = {**video.decoder.options, "ec": "0"}  # nothing is put in place of what is missing
    for data in (_shortened(video, packet), packet):
        if data is None:
            continue
        data.pts = packet.pts
        try:
            frames = [*video.decoder.decode(data), *video.decoder.decode(None)]
        except av.error.FFmpegError:
            frames = []
        if frames:
            return frames[0]
        video.decoder.flush_buffers()
    return None


def _shortened(video: OpenVideo, packet: Packet[VideoStream]) -> Packet[VideoStream] | None:
    """A packet of H.264 or HEVC up to the header of its first slice; `None` where it is not of their usual form.

    See ISO/IEC 14496-15: each unit is preceded by its length. Sections 5.3.3.1 and 8.3.3.1 say in how many bytes.
    """
    extradata = video.decoder.extradata or b""
    is_hevc = video.decoder.name == "hevc"
    if video.decoder.name not in ("h264", "hevc") or len(extradata) < 23 or extradata[0] != 1:
        return None
    length = (extradata[21 if is_hevc else 4] & 3) + 1
    data, start = memoryview(packet), 0
    while start + length < len(data):
        end = start + length + int.from_bytes(data[start : start + length], "big")
        first_byte = data[start + length]
        if first_byte >> 1 & 63 < 32 if is_hevc else first_byte & 31 in (1, 5):
            unit = data[start + length : min(end, start + length + _BEGINNING_OF_SLICE)]
            content = b"".join([data[:start], len(unit).to_bytes(length, "big"), unit])
            return cast("Packet[VideoStream]", Packet(content))
        start = end
    return None
