"""Decoding chosen frames of a video: a seek for each group of pictures that holds one, and nothing decoded in vain."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av.error

from mmdatasets.media.container import OpenVideo, check_frame_size
from mmdatasets.media.packets import PacketScan, read_packets

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from mmdatasets.media.frame_writer import FrameWriter

# Demuxers that search for a time by bytes and land somewhere: there, packets are read and dropped instead.
_WITHOUT_INDEX = frozenset({"mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "vvc", "obu", "av1", "dv"})
_SKIPS_UNREFERENCED = frozenset({"h264", "hevc"})
_CHEAPER_THAN_A_SEEK = 64  # packets that are read and dropped rather than sought over


class SeekFailed(Exception):  # noqa: N818 - it never leaves the package
    """Packets or frames are not those that the scan found: the video must be decoded in sequence."""


@dataclass(slots=True)
class Run:
    """Frames that are decoded one after the other from the same keyframe.

    Attributes:
        start: Position of the keyframe's packet.
        end: Position of the last packet that is needed.
        wanted: Ticks at which a frame is shown -> its index.
        needed: Positions of the packets that hold the wanted frames.
    """

    start: int
    end: int
    wanted: dict[int, int] = field(default_factory=dict)
    needed: set[int] = field(default_factory=set)


def plan_runs(scan: PacketScan, indices: Sequence[int]) -> list[Run]:
    """Groups frames by the keyframe that decoding starts from.

    Args:
        scan: A scan without doubt.
        indices: Positions in the video's frames, none negative or beyond the end.
    """
    order = scan.presentation_order()
    keys = [position for position, is_key in enumerate(scan.is_key) if is_key]
    runs: list[Run] = []
    for index in sorted(set(indices)):
        position = int(order[index])
        shown_at = _ticks(scan, position)
        start = _start(scan, keys, position)
        if not runs or start > runs[-1].end + 1:
            runs.append(Run(start, position))
        runs[-1].end = max(runs[-1].end, position)
        runs[-1].wanted[shown_at] = index
        runs[-1].needed.add(position)
    return runs


def has_index(video: OpenVideo) -> bool:
    """Whether the demuxer seeks by an index."""
    return video.container.format.name not in _WITHOUT_INDEX


def decode_runs(
    video: OpenVideo, scan: PacketScan, runs: Sequence[Run], writer: FrameWriter, *, at_start: bool
) -> None:
    """Decodes the frames of all runs.

    Args:
        video: The video that was scanned.
        scan: The scan.
        runs: What to decode; what was decoded is removed from them.
        writer: Takes the frames.
        at_start: Whether the container stands at its beginning, to be read without seeking; else it stands at its end.

    Raises:
        SeekFailed: A frame did not come out as the scan has it.
        MediaDecodeError: The file is damaged.
    """
    cursor = _Cursor(video, scan, at_start=at_start)
    skips = video.decoder.name in _SKIPS_UNREFERENCED and not has_temporal_layers(video)
    try:
        for run in runs:
            cursor.go_to(run.start)
            for packet, position in cursor.read_until(run.end):
                video.decoder.skip_frame = "NONREF" if skips and position not in run.needed else "DEFAULT"
                _write(video.decoder.decode(packet), run, video, writer)
            _write(video.decoder.decode(None), run, video, writer)
            video.decoder.flush_buffers()
            if run.wanted:
                raise SeekFailed
    except av.error.FFmpegError as error:
        raise SeekFailed from error


def has_temporal_layers(video: OpenVideo) -> bool:
    """Whether an HEVC stream has temporal sub-layers.

    A picture that its own layer does not refer to may then be one that a higher layer does. See ITU-T H.265, section
    7.3.2.1: `vps_max_sub_layers_minus1` ends in the second-lowest bit of the second byte behind the NAL unit's header.
    """
    if video.decoder.name != "hevc":
        return False
    data = video.decoder.extradata or b""
    # Where it begins with 1, it is a record of ISO/IEC 14496-15, section 8.3.3, whose own fields take 23 bytes.
    start = data.find(b"\x40\x01", 23 if data[:1] == b"\1" else 0)  # the header of a video parameter set
    return start < 0 or len(data) < start + 4 or data[start + 3] >> 1 & 7 != 0


def _write(frames: Sequence[VideoFrame], run: Run, video: OpenVideo, writer: FrameWriter) -> None:
    for frame in frames:
        index = run.wanted.pop(frame.pts, None) if frame.pts is not None else None
        if index is None:
            continue
        if frame.is_corrupt:  # something that it refers to was not decoded
            raise SeekFailed
        check_frame_size(video, frame.width, frame.height)
        writer.write_frame(index, frame)


def _start(scan: PacketScan, keys: Sequence[int], position: int) -> int:
    """Position of the last keyframe that is stored no later than a packet, and shown no later than its frame."""
    shown_at = _ticks(scan, position)
    for number in range(bisect.bisect_right(keys, position) - 1, -1, -1):
        if _ticks(scan, keys[number]) <= shown_at:
            return keys[number]
    return 0


def _ticks(scan: PacketScan, position: int) -> int:
    ticks = scan.pts[position]
    if ticks is None:
        raise SeekFailed
    return ticks


class _Cursor:
    """Reads the packets of a scanned video from chosen positions."""

    def __init__(self, video: OpenVideo, scan: PacketScan, *, at_start: bool) -> None:
        self._video = video
        self._scan = scan
        self._may_seek = not at_start
        self._next = 0 if at_start else len(scan.pts)
        self._packets = read_packets(video)
        counts = Counter(scan.pts)  # hidden packets of edit lists may share their times with others
        self._positions = {time: position for position, time in enumerate(scan.pts) if counts[time] == 1}

    def go_to(self, position: int) -> None:
        """Makes a packet, of which decoding can start, the next one that is read."""
        if self._may_seek and not self._next <= position <= self._next + _CHEAPER_THAN_A_SEEK:
            self._seek(position)
        for _ in self.read_until(position - 1):
            pass

    def read_until(self, position: int) -> Iterator[tuple[Packet[VideoStream], int]]:
        """Yields packets, and the position of each, up to the one at a position."""
        while self._next <= position:
            packet = next(self._packets, None)
            if packet is None or packet.pts != self._scan.pts[self._next]:
                raise SeekFailed
            self._next += 1
            yield packet, self._next - 1

    def _seek(self, position: int) -> None:
        """Seeks to a packet or one before it."""
        pts, dts = _ticks(self._scan, position), self._scan.dts[position]
        target = pts if dts is None else min(pts, dts)  # some demuxers search by the one, some by the other
        self._video.container.seek(target, stream=self._video.stream)
        self._packets = read_packets(self._video)
        landed = next(self._packets, None)
        found = self._positions.get(landed.pts) if landed is not None else None
        if landed is None or found is None or found > position:
            raise SeekFailed
        self._packets = itertools.chain([landed], self._packets)
        self._next = found
