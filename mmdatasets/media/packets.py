"""What the packets of a video track tell without decoding: how many frames, when each is shown, where to start.

FFmpeg gives one packet for each frame. Where that is in doubt, `PacketScan.doubt` says why, and only decoding tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av.error
import numpy as np

from mmdatasets.errors import MediaError
from mmdatasets.media.container import damaged, is_out_of_memory
from mmdatasets.media.limits import check_num_frames

if TYPE_CHECKING:
    import numpy.typing as npt
    from av.packet import Packet
    from av.video.stream import VideoStream

    from mmdatasets.media.container import OpenVideo

    Ticks = npt.NDArray[np.int64]

_LARGEST_NOT_CODED_VOP = 16  # bytes; MPEG-4 Part 2 repeats a frame with a header and nothing else


@dataclass(frozen=True, slots=True, eq=False)
class PacketScan:
    """The packets of a video track, in the order in which they are stored, which is that of decoding.

    Attributes:
        pts: Ticks at which each packet's frame is shown, as stored: `None` where the file does not say.
        dts: Ticks by which each packet must be decoded, likewise.
        durations: Ticks that each frame is shown, 0 where the file does not say.
        is_key: Whether decoding can start at the packet.
        is_shown: Whether its frame is shown. Edit lists hide frames that others need.
        time_base: Seconds of a tick.
        doubt: Why packets may not be frames, or not be in this order; `None` where there is no doubt.
    """

    pts: list[int | None]
    dts: list[int | None]
    durations: list[int]
    is_key: list[bool]
    is_shown: list[bool]
    time_base: Fraction
    doubt: str | None

    def presentation_order(self) -> Ticks:
        """`(num_frames,)` positions of the packets whose frames are shown, in the order in which they are."""
        shown = np.flatnonzero(np.asarray(self.is_shown, dtype=bool))
        pts = np.asarray([self.pts[position] for position in shown], dtype=np.int64)
        order: Ticks = shown[np.argsort(pts, kind="stable")]
        return order


class PacketScanner:
    """Gathers a `PacketScan` while the packets pass by."""

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._codec = video.decoder.name
        self._time_base = video.stream.time_base or Fraction(1, 1000)
        self._pts: list[int | None] = []
        self._dts: list[int | None] = []
        self._durations: list[int] = []
        self._is_key: list[bool] = []
        self._is_shown: list[bool] = []
        self._smallest = 1 << 62
        self._corrupt = False

    def add(self, packet: Packet[VideoStream]) -> None:
        """Takes a packet into account.

        Raises:
            MediaLimitError: There are more than `video_frame_limit`.
        """
        check_num_frames(len(self._pts) + 1, self._video.limits, self._video.source)
        self._pts.append(packet.pts)
        self._dts.append(packet.dts)
        self._durations.append(packet.duration or 0)
        self._is_key.append(packet.is_keyframe)
        self._is_shown.append(not packet.is_discard and not (self._codec == "vp8" and _is_hidden_vp8(packet)))
        self._smallest = min(self._smallest, packet.size)
        self._corrupt = self._corrupt or packet.is_corrupt

    def finish(self) -> PacketScan:
        """What was gathered."""
        return PacketScan(
            self._pts,
            self._dts,
            self._durations,
            self._is_key,
            self._is_shown,
            self._time_base,
            self._doubt(),
        )

    def _doubt(self) -> str | None:
        if self._corrupt:
            return "the file is damaged or cut off"
        if self._codec == "mpeg4" and self._smallest <= _LARGEST_NOT_CODED_VOP:
            return "MPEG-4 packets that may hold no frame"
        return find_doubt(self._pts, self._is_key, self._is_shown)


def find_doubt(pts: Sequence[int | None], is_key: Sequence[bool], is_shown: Sequence[bool]) -> str | None:
    """Why packets may not be frames, or not be in this order; `None` where there is no doubt. See `PacketScan`."""
    if not any(is_shown) or not is_key[0]:
        return "the first packet is no keyframe"
    known = [ticks for ticks in pts if ticks is not None]
    if len(known) < len(pts):
        return "not every packet says when its frame is shown"
    shown = [ticks for ticks, shows in zip(known, is_shown, strict=True) if shows]
    if min(shown) < known[0]:
        return "frames are shown before the first keyframe"  # they need one that is not in the file
    if len(set(shown)) < len(shown):
        return "two frames are to be shown at the same time"
    return None


def read_packets(video: OpenVideo) -> Iterator[Packet[VideoStream]]:
    """The packets of the video track, from where the container stands to its end.

    Raises:
        MediaDecodeError: The file is damaged.
    """
    try:
        for packet in video.container.demux(video.stream):
            if packet.size:  # PyAV adds an empty one at the end, and AVI has empty ones for frames that were dropped
                yield packet
    except MediaError:
        raise
    except Exception as error:  # FFmpeg's errors, and those of the file's own client
        if is_out_of_memory(error):
            raise
        if video.limits.allow_truncated and isinstance(error, av.error.FFmpegError):
            return
        raise damaged(error, "cannot be read to its end", video.source) from error


def scan_packets(video: OpenVideo) -> PacketScan:
    """Reads all packets of the video track; the container must stand at its beginning, and is at its end after."""
    scanner = PacketScanner(video)
    for packet in read_packets(video):
        scanner.add(packet)
    return scanner.finish()


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    # RFC 6386, section 9.1: bit 4 of the frame tag says whether the frame is shown.
    return not memoryview(packet)[0] & 0x10
