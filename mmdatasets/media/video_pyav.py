"""Probing and decoding video files with PyAV, whose wheels carry FFmpeg.

A frame is known by the time at which it is shown. Each planned one is decoded from the last keyframe that is shown no
later: frames that are shown before a keyframe but stored behind it (an open group of pictures) need the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import av.error

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.container import OpenVideo, check_frame_size, damaged, open_video
from mmdatasets.media.frame_writer import FrameWriter, size_differs, upright_size
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
    """Reads a video file's packets and decodes its first frame; see `mmdatasets.media.video.probe_video`."""
    with open_video(file, options, source) as video:
        scan, first = _scan_with_first_frame(video)
        has_audio = video.has_audio
        width, height = upright_size(first)
        timeline = scanned_timeline(scan, video) if scan.doubt is None else None
    if timeline is None or timeline.ticks is None or first.pts != timeline.ticks[0]:
        timeline = _decode_timeline(file, options, source, scan)
    return VideoInfo(
        width=width,
        height=height,
        num_frames=timeline.num_frames,
        timestamps_s=timeline.timestamps_s,
        fps=timeline.fps,
        duration_s=timeline.duration_s,
        has_audio=has_audio,
    )


def decode_file(file: BinaryIO, plan: FramePlan, options: MediaOptions, source: str) -> torch.Tensor:
    """Decodes the planned frames of a video file; see `mmdatasets.media.video.decode_frames`."""
    writer = FrameWriter(plan.indices, source)
    with open_video(file, options, source) as video:
        scan = scan_packets(video)
        if scan.doubt is None:
            timeline = scanned_timeline(scan, video)
            check_plan(plan, timeline.num_frames, timeline.timestamps_s, source)
            if has_index(video) and _decode_chosen(video, scan, writer, at_start=False):
                return writer.finish()
    if scan.doubt is None:
        with open_video(file, options, source) as video:
            if _decode_chosen(video, scan, writer, at_start=True):
                return writer.finish()
    with open_video(file, options, source) as video:
        _decode_all(video, scan, plan, writer)
    return writer.finish()


def decode_in_sequence(video: OpenVideo) -> Iterator[VideoFrame]:
    """Decodes all frames of a video, whose container stands at its beginning.

    Raises:
        MediaDecodeError: The file is damaged.
    """
    started = False
    for packet in read_packets(video):
        try:
            frames = video.decoder.decode(packet)
        except av.error.FFmpegError as error:
            if started or packet.is_keyframe:
                raise damaged(error, "a frame cannot be decoded", video.source) from error
            continue  # a recording that began between keyframes
        for frame in frames:
            started = True
            check_frame_size(video, frame.width, frame.height)
            yield frame
    try:
        yield from video.decoder.decode(None)
    except av.error.FFmpegError as error:
        raise damaged(error, "the last frames cannot be decoded", video.source) from error


def _scan_with_first_frame(video: OpenVideo) -> tuple[PacketScan, VideoFrame]:
    """Scans the packets, and decodes until there is a frame."""
    scanner = PacketScanner(video)
    first: VideoFrame | None = None
    for packet in read_packets(video):
        scanner.add(packet)
        if first is None:
            first = _decode_one(video, packet)
    if first is None:
        first = _decode_one(video, None)
    if first is None:
        raise MediaDecodeError(
            f"the video track ({video.decoder.name}) has no frame that can be decoded: empty, damaged or cut off",
            source=video.source,
        )
    return scanner.finish(), first


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
        return decoded_timeline(times, scan, video)


def _decode_all(video: OpenVideo, scan: PacketScan, plan: FramePlan, writer: FrameWriter) -> None:
    """Decodes the whole video, to find the planned frames by counting."""
    writer.restart()
    times: list[int | None] = []
    for index, frame in enumerate(decode_in_sequence(video)):
        times.append(frame.pts)
        if index in writer.missing:
            writer.write_frame(index, frame)
    timeline = decoded_timeline(times, scan, video)
    check_plan(plan, timeline.num_frames, timeline.timestamps_s, video.source)


def _decode_chosen(video: OpenVideo, scan: PacketScan, writer: FrameWriter, *, at_start: bool) -> bool:
    """Decodes the frames that are missing; tells whether none is any more."""
    try:
        decode_runs(video, scan, plan_runs(scan, sorted(writer.missing)), writer, at_start=at_start)
    except SeekFailed:
        return False
    return not writer.missing
