"""Decoding the planned frames with a library other than PyAV, and refusing what it is known to get wrong.

Such libraries seek on their own and give whatever frame they find. So PyAV says what the video holds, the kinds of
files of which they give wrong frames without a word are refused, and of each frame the time is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
import torch

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.container import open_video
from mmdatasets.media.limits import check_video_pixels
from mmdatasets.media.packets import read_packets
from mmdatasets.media.timeline import check_plan, is_same_time
from mmdatasets.media.video_pyav import probe_file

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    from mmdatasets.media.container import OpenVideo
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import FloatArray, FramePlan, VideoInfo

_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_CODECS = frozenset({"h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d"})
_MOST_SURPLUS = 1 << 20  # frames that a header may state too many: a decoder that runs out of memory ends the process
_INSTANTANEOUS = {"h264": (5,), "hevc": (19, 20)}  # types of units, ITU-T H.264 table 7-1 and H.265 table 7-1


@dataclass(frozen=True, slots=True, eq=False)
class FoundFrames:
    """What a library found.

    Attributes:
        frames: `uint8` `(num_indices, height, width, 3)`, RGB.
        times_s: `(num_indices,)` seconds at which each is shown, by the file's clock.
        first_s: The same of the video's first frame.
        num_frames: How many frames the library takes the video to have.
    """

    frames: torch.Tensor
    times_s: FloatArray
    first_s: float
    num_frames: int


class FrameReader(Protocol):
    """Decodes frames of a file, which is at its first byte, by their increasing indices."""

    def __call__(self, file: BinaryIO, indices: Sequence[int], source: str) -> FoundFrames:
        """Decodes; raises `MediaDecodeError`."""
        ...


def decode_verified(
    read: FrameReader,
    backend: str,
    file: BinaryIO,
    plan: FramePlan,
    options: MediaOptions,
    source: str,
    *,
    needs_closed_groups: bool,
) -> torch.Tensor:
    """Decodes the planned frames with another library; see `mmdatasets.media.video.decode_frames`.

    Args:
        read: Decodes with the library.
        backend: Its name, for errors.
        file: Binary file, seekable.
        plan: The frames.
        options: The limits are used.
        source: Description for errors.
        needs_closed_groups: Whether it gives wrong frames where decoding cannot start at every keyframe.

    Raises:
        MediaLimitError: The file exceeds a limit.
        MediaDecodeError: The file is refused, cannot be decoded, or other frames came out than planned.
    """
    info = probe_file(file, options, source)
    if (info.stated_num_frames or 0) > info.num_frames + _MOST_SURPLUS:
        why = f"its header says that it has {info.stated_num_frames:,} frames where there are {info.num_frames:,}"
        raise refused(backend, f"{why}, for all of which decoders may reserve memory", source)
    check_plan(plan, info.num_frames, info.timestamps_s, source)
    _check_supported(file, options, source, backend, needs_closed_groups=needs_closed_groups)
    check_video_pixels(len(plan.indices), info.width, info.height, options, source)
    indices = sorted(set(plan.indices))
    file.seek(0)
    found = read(file, indices, source)
    _check_found(found, indices, info, backend, source)
    frames = found.frames
    if len(indices) < len(plan.indices):
        frames = frames[torch.as_tensor(np.searchsorted(indices, plan.indices))]
    return frames.permute(0, 3, 1, 2)


def refused(backend: str, why: str, source: str) -> MediaDecodeError:
    """The error of a file that a library would not decode rightly."""
    return MediaDecodeError(
        f"video_backend={backend!r} is refused: {why}; use video_backend='pyav', which is exact", source=source
    )


def _check_supported(
    file: BinaryIO, options: MediaOptions, source: str, backend: str, *, needs_closed_groups: bool
) -> None:
    with open_video(file, options, source) as video:
        format_name, codec = video.container.format.name, video.decoder.name
        if format_name not in _CONTAINERS:
            why = f"it gives wrong frames, or none, of other files than MP4, MOV, Matroska and WebM, not {format_name}"
            raise refused(backend, why, source)
        if codec not in _CODECS:
            raise refused(backend, f"it gives wrong frames of some codecs, and was not tried with {codec}", source)
        if needs_closed_groups and codec in _INSTANTANEOUS:
            for packet in read_packets(video):
                if packet.is_keyframe and not _is_instantaneous(packet, video):
                    why = "it gives wrong frames where a keyframe is none to start from (an open group of pictures)"
                    raise refused(backend, why, source)


def _is_instantaneous(packet: Packet[VideoStream], video: OpenVideo) -> bool:
    """Whether no picture after this one, in the order of decoding, needs one before; see ISO/IEC 14496-15."""
    extradata, is_hevc = video.decoder.extradata or b"", video.decoder.name == "hevc"
    if len(extradata) < 23 or extradata[0] != 1:
        return False
    length = (extradata[21 if is_hevc else 4] & 3) + 1
    data, start = memoryview(packet), 0
    while start + length < len(data):
        first_byte = data[start + length]
        kind = first_byte >> 1 & 63 if is_hevc else first_byte & 31
        if kind < 32 if is_hevc else kind in (1, 5):
            return kind in _INSTANTANEOUS[video.decoder.name]
        start += length + int.from_bytes(data[start : start + length], "big")
    return False


def _check_found(found: FoundFrames, indices: Sequence[int], info: VideoInfo, backend: str, source: str) -> None:
    if found.num_frames != info.num_frames:
        raise refused(backend, f"it finds {found.num_frames} frames where there are {info.num_frames}", source)
    if tuple(found.frames.shape) != (len(indices), info.height, info.width, 3):
        size = f"{found.frames.shape[2]}x{found.frames.shape[1]}"
        raise refused(backend, f"it gives frames of {size} pixels, not {info.width}x{info.height}", source)
    if info.timestamps_s is None:
        raise refused(backend, "the file does not say when frames are shown, by which they are checked", source)
    for index, time in zip(indices, found.times_s, strict=True):
        planned, shown = float(info.timestamps_s[index]), float(time) - found.first_s
        if not is_same_time(planned, shown):
            why = f"of frame {index}, shown at {planned:.6f} s, it gives the one at {shown:.6f} s"
            raise refused(backend, why, source)
