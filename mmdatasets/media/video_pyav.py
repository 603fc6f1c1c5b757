"""Probing and decoding video files with PyAV, whose wheels carry FFmpeg.

A frame is known by the time at which it is shown. Each planned one is decoded from the last keyframe that is shown no
later: frames that are shown before a keyframe but stored behind it (an open group of pictures) need the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import av.error

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.container import OpenVideo, check_frame_size, damaged, open_video
from mmdatasets.media.frame_writer import FrameWriter, size_differs, upright_size
from mmdatasets.media.limits import check_num_frames
from mmdatasets.media.mp4_index import decode_header, index_packets
from mmdatasets.media.mp4_tables import is_iso_media
from mmdatasets.media.packets import PacketScan, PacketScanner, read_packets, scan_packets
from mmdatasets.media.seeking import SeekFailed, decode_runs, has_index, plan_runs
from mmdatasets.media.timeline import Timeline, check_plan, decoded_timeline, scanned_timeline
from mmdatasets.types import VideoInfo

if TYPE_CHECKING:
    import torch
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from mmdatasets.options import MediaOptions
    from mmdatasets.types import FramePlan


def probe_file(file: BinaryIO, options: MediaOptions, source: str) -> VideoInfo:
    """Finds out what a video file holds; see `mmdatasets.media.video.probe_video`."""
    info = _probe_index(file, options, source)
    if info is not None:
        return info
    with open_video(file, options, source) as video:
        scan, first = _scan_with_first_frame(video)
        header = _Header.of(video)
        timeline = scanned_timeline(scan, video) if scan.doubt is None else None
    if timeline is None or timeline.ticks is None or first.pts != timeline.ticks[0]:
        timeline = _decode_timeline(file, options, source, scan)
    return _info(timeline, upright_size(first), header)


def decode_file(file: BinaryIO, plan: FramePlan, options: MediaOptions, source: str) -> torch.Tensor:
    """Decodes the planned frames of a video file; see `mmdatasets.media.video.decode_frames`."""
    writer = FrameWriter(plan.indices, source, options)
    try:
        return _decode_planned(file, plan, options, writer, source)
    except MediaDecodeError:
        if not options.allow_truncated:
            raise
    with open_video(file, options, source) as video:
        _decode_all(video, scan_packets(video), plan, writer)
    return writer.finish()


def _decode_planned(
    file: BinaryIO, plan: FramePlan, options: MediaOptions, writer: FrameWriter, source: str
) -> torch.Tensor:
    if _decode_by_index(file, plan, options, writer, source):
        return writer.finish()
    with open_video(file, options, source) as video:
        scan = scan_packets(video)
        scan_fits = scan.doubt is None and _fits(plan, scanned_timeline(scan, video), source)
        if scan_fits and has_index(video) and _decode_chosen(video, scan, writer, at_start=False):
            return writer.finish()
    if scan_fits:
        with open_video(file, options, source) as video:
            if _decode_chosen(video, scan, writer, at_start=True):
                return writer.finish()
    with open_video(file, options, source) as video:
        _decode_all(video, scan, plan, writer)
    return writer.finish()


class _Header(NamedTuple):
    """What the header of an open video says, of which nothing can be asked once it is closed."""

    has_audio: bool
    num_frames: int | None
    duration_s: float | None

    @classmethod
    def of(cls, video: OpenVideo) -> _Header:
        return cls(video.has_audio, video.stated_num_frames, video.stated_duration_s)


def _info(timeline: Timeline, size: tuple[int, int], header: _Header) -> VideoInfo:
    return VideoInfo(
        width=size[0],
        height=size[1],
        num_frames=timeline.num_frames,
        timestamps_s=timeline.timestamps_s,
        fps=timeline.fps,
        duration_s=timeline.duration_s,
        has_audio=header.has_audio,
        starts_at_s=timeline.starts_at_s,
        stated_num_frames=header.num_frames,
        stated_duration_s=header.duration_s,
    )


def _probe_index(file: BinaryIO, options: MediaOptions, source: str) -> VideoInfo | None:
    """Finds out from the index of an MP4 or MOV file what it holds; `None` where that does not tell everything."""
    if not is_iso_media(file):
        return None
    try:
        with open_video(file, options, source, quick=True) as video:
            indexed = _index(video, file)
            if indexed is None:
                return None
            scan, packet = indexed
            first = decode_header(video, packet)
            timeline = scanned_timeline(scan, video)
            if first is None or timeline.ticks is None or first.pts != timeline.ticks[0]:
                return None
            check_frame_size(video, first.width, first.height)
            return _info(timeline, upright_size(first), _Header.of(video))
    except MediaDecodeError:
        return None  # reading the whole file says what is wrong


def _decode_by_index(file: BinaryIO, plan: FramePlan, options: MediaOptions, writer: FrameWriter, source: str) -> bool:
    """Decodes the planned frames by the index of an MP4 or MOV file; tells whether it has them all."""
    if not is_iso_media(file):
        return False
    try:
        with open_video(file, options, source, quick=True) as video:
            indexed = _index(video, file)
            if indexed is None:
                return False
            timeline = scanned_timeline(indexed[0], video)
            check_plan(plan, timeline.num_frames, timeline.timestamps_s, source)
            if video.decoder.name == "h264":  # where the header does not say how long frames wait for earlier ones
                video.decoder.options = {**video.decoder.options, "strict": "strict"}
            return _decode_chosen(video, indexed[0], writer, at_start=False)
    except MediaDecodeError:
        return False  # reading the whole file says what is wrong


def _index(video: OpenVideo, file: BinaryIO) -> tuple[PacketScan, Packet[VideoStream]] | None:
    if not video.is_only_track or "mp4" not in video.container.format.name:
        return None
    return index_packets(video, file)


def decode_in_sequence(video: OpenVideo) -> Iterator[VideoFrame]:
    """Decodes all frames of a video, whose container stands at its beginning.

    Raises:
        MediaDecodeError: The file is damaged.
    """
    count = 0
    for packet in read_packets(video):
        try:
            frames = video.decoder.decode(packet)
        except av.error.FFmpegError as error:
            if (count or packet.is_keyframe) and not video.limits.allow_truncated:
                raise damaged(error, f"decoding fails after {count} frames", video.source) from error
            continue  # a recording that began between keyframes
        for frame in frames:
            count += 1
            check_num_frames(count, video.limits, video.source)
            check_frame_size(video, frame.width, frame.height)
            yield frame
    try:
        yield from video.decoder.decode(None)
    except av.error.FFmpegError as error:
        if video.limits.allow_truncated:
            return
        raise damaged(error, f"decoding fails after {count} frames", video.source) from error


def _scan_with_first_frame(video: OpenVideo) -> tuple[PacketScan, VideoFrame]:
    """Scans the packets, and decodes until there is a frame."""
    scanner = PacketScanner(video)
    first: VideoFrame | None = None
    tail: list[Packet[VideoStream]] = []
    keeps_tail = not has_index(video)  # nothing else says that such a file is complete
    for packet in read_packets(video):
        scanner.add(packet)
        if keeps_tail:
            if packet.is_keyframe:
                tail.clear()
            tail.append(packet)
        if first is None:
            first = _decode_one(video, packet)
    if first is None:
        first = _decode_one(video, None)
    if first is None:
        raise _without_frame(video)
    scan = scanner.finish()
    if scan.doubt is None and not _is_complete(video, tail):
        scan = replace(scan, doubt="the last frames cannot all be decoded")
    return scan, first


def _is_complete(video: OpenVideo, tail: Sequence[Packet[VideoStream]]) -> bool:
    """Whether each packet of a last group of pictures gives a frame: where a file breaks off, the last may not."""
    video.decoder.flush_buffers()
    try:
        frames = [frame.pts for packet in [*tail, None] for frame in video.decoder.decode(packet)]
    except av.error.FFmpegError:
        return False
    # Those shown before the keyframe may need what is stored before it.
    return {packet.pts for packet in tail if _after(packet, tail[0])} <= set(frames)


def _after(packet: Packet[VideoStream], keyframe: Packet[VideoStream]) -> bool:
    return packet.pts is not None and keyframe.pts is not None and packet.pts >= keyframe.pts


def _without_frame(video: OpenVideo) -> MediaDecodeError:
    return MediaDecodeError(
        f"the video track ({video.decoder.name}) has no frame that can be decoded: empty, damaged or cut off",
        source=video.source,
    )


def _decode_one(video: OpenVideo, packet: Packet[VideoStream] | None) -> VideoFrame | None:
    try:
        frames = video.decoder.decode(packet)
    except av.error.FFmpegError:
        return None  # a recording that began between keyframes
    for frame in frames:
        check_frame_size(video, frame.width, frame.height)
        return frame
    return None


def _decode_timeline(file: BinaryIO, options: MediaOptions, source: str, scan: PacketScan) -> Timeline:
    """Decodes all frames to learn when each is shown."""
    times: list[int | None] = []
    with open_video(file, options, source) as video:
        for frame in decode_in_sequence(video):
            if not times:
                size = upright_size(frame)
            elif upright_size(frame) != size:
                raise size_differs(len(times), upright_size(frame), size, source)
            times.append(frame.pts)
        if not times:
            raise _without_frame(video)
        return decoded_timeline(times, scan, video)


def _decode_all(video: OpenVideo, scan: PacketScan, plan: FramePlan, writer: FrameWriter) -> None:
    """Decodes the whole video, to find the planned frames by counting."""
    writer.restart()
    times: list[int | None] = []
    for index, frame in enumerate(decode_in_sequence(video)):
        times.append(frame.pts)
        if index in writer.missing:
            writer.write_frame(index, frame)
    if not times:
        raise _without_frame(video)
    timeline = decoded_timeline(times, scan, video)
    check_plan(plan, timeline.num_frames, timeline.timestamps_s, video.source)


def _fits(plan: FramePlan, timeline: Timeline, source: str) -> bool:
    try:
        check_plan(plan, timeline.num_frames, timeline.timestamps_s, source)
    except MediaDecodeError:
        return False  # a full decode has the last word
    return True


def _decode_chosen(video: OpenVideo, scan: PacketScan, writer: FrameWriter, *, at_start: bool) -> bool:
    """Decodes the frames that are missing; tells whether none is any more."""
    try:
        decode_runs(video, scan, plan_runs(scan, sorted(writer.missing)), writer, at_start=at_start)
    except SeekFailed:
        return False
    return not writer.missing
