"""Opening video and audio files with PyAV, so that FFmpeg reads nothing but the file that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NoReturn, cast

import av
import av.container
import av.error
import av.stream

from mmdatasets.errors import MediaDecodeError, MediaError, MediaLimitError
from mmdatasets.media.header import check_pixels, describe_content
from mmdatasets.media.mp4_counts import check_sample_counts
from mmdatasets.media.whole import check_whole

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

    from mmdatasets.options import MediaOptions

# FFmpeg's names of the demuxers that may parse a file. Those that open further files or addresses (playlists, lists of
# files, devices) are not among them, nor are still images.
CONTAINER_FORMATS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "nut", "ivf"),
    *("gif", "apng", "rm", "wtv", "dv", "yuv4mpegpipe", "mpegvideo", "m4v", "h264", "hevc", "vvc", "obu", "av1"),
    *("mp3", "wav", "w64", "flac", "aac", "loas", "aiff", "au", "caf", "amr", "ac3", "eac3", "dts", "dsf", "ape"),
    *("mpc", "mpc8", "tak", "tta", "wv", "oma"),
)
_NO_PROTOCOL = "none"
_STILL_IMAGE = "a still image"
_PADDING = 64 << 16  # FFmpeg counts pixels after padding each line to a multiple of 64
_GENERATE_TIMES = av.container.Flags.gen_pts.value
_WITHOUT_PROBING = {"codec_whitelist": "none", "probesize": "32", "analyzeduration": "0", "fpsprobesize": "0"}
_NOT_MOVING = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


@dataclass(frozen=True, slots=True)
class OpenVideo:
    """A container that is open, and its video track.

    Attributes:
        container: The demuxer.
        stream: The track that FFmpeg deems the best one.
        has_audio: Whether there is a sound track.
        source: Description for errors.
        limits: No frame of more pixels is decoded, and no more frames are read, than these allow.
    """

    container: InputContainer
    stream: VideoStream
    has_audio: bool
    source: str
    limits: MediaOptions

    @property
    def is_only_track(self) -> bool:
        """Whether there is no other video track, but for still pictures."""
        return sum(not stream.disposition & _NOT_MOVING for stream in self.container.streams.video) == 1

    @property
    def stated_num_frames(self) -> int | None:
        """How many frames the header states."""
        return self.stream.frames or None

    @property
    def stated_duration_s(self) -> float | None:
        """Seconds that the header states for the track."""
        duration, time_base = self.stream.duration, self.stream.time_base
        return float(duration * time_base) if duration and time_base else None

    @property
    def decoder(self) -> VideoCodecContext:
        """The track's decoder."""
        return self.stream.codec_context


def open_container(
    file: BinaryIO,
    limits: MediaOptions,
    source: str,
    *,
    options: dict[str, str] | None = None,
    quick: bool = False,
) -> InputContainer:
    """Opens a file of one of `CONTAINER_FORMATS`, so that nothing in it can make FFmpeg read anything else.

    Args:
        file: Binary file, seekable; read from where it stands. It is not closed with the container.
        limits: `video_frame_limit` and `audio_sample_limit` are used, for files that claim more.
        source: Description for errors.
        options: Options of the demuxer and the decoders.
        quick: Whether to trust the header, and not let FFmpeg decode the first frames to learn more about the tracks.

    Raises:
        av.FFmpegError: The file is of no such format, or damaged.
        MediaLimitError: It claims more frames or samples than allowed.
        Exception: Whatever the file raises.
    """
    check_sample_counts(file, limits, source)
    container: InputContainer = av.open(
        _Reader(file),
        mode="r",
        options=options,
        container_options={
            "format_whitelist": ",".join(CONTAINER_FORMATS),
            "protocol_whitelist": _NO_PROTOCOL,
            **(_WITHOUT_PROBING if quick else {}),
        },
        metadata_errors="replace",
        io_open=_refuse_to_open,
    )
    return container


@contextmanager
def open_video(
    file: BinaryIO, options: MediaOptions, source: str, *, threads: int = 1, quick: bool = False
) -> Iterator[OpenVideo]:
    """Opens a video file; closes the container, not the file.

    Args:
        file: Binary file, seekable; read from its first byte.
        options: `allow_truncated`, `image_pixel_limit`, `video_frame_limit` and `audio_sample_limit` are used.
        source: Description for errors.
        threads: How many threads decode.
        quick: Whether to trust the header, and not let FFmpeg decode the first frames to learn more about the tracks.
            Of several video tracks, FFmpeg's best one is then not to be known.

    Yields:
        The open container.

    Raises:
        MediaDecodeError: The file is no video, is damaged, cut off, or has no video track.
        MediaLimitError: The header announces frames of more pixels, or more frames, than the limit.
    """
    file.seek(0)
    limit = {"max_pixels": str(2 * options.image_pixel_limit + _PADDING)}  # the exact one is `check_frame_size`
    try:
        container = open_container(file, options, source, options=limit, quick=quick)
    except MediaError as error:  # of a limit, or of a remote file
        raise error.at(source=source) from error.__cause__
    except Exception as error:  # FFmpeg's errors, and those of the file's own client
        if is_out_of_memory(error):
            raise
        raise _not_readable(file, error, source) from error
    with container:
        check_whole(file, options, source)
        # PyAV has FFmpeg invent missing times, which it does wrongly for frames that are not stored in order (AVI).
        container.flags &= ~_GENERATE_TIMES
        stream = _video_track(container, source)
        decoder = stream.codec_context
        check_pixels((decoder.width, decoder.height), options, source, what="frame")
        decoder.options = limit
        decoder.thread_count = threads
        decoder.thread_type = "AUTO"
        yield OpenVideo(container, stream, bool(container.streams.audio), source, options)


def damaged(error: Exception, what: str, source: str) -> MediaDecodeError:
    """The error to raise for one that FFmpeg or the file raised while a video was read or decoded."""
    return MediaDecodeError(f"{what}: the file is damaged or cut off ({reason_of(error)})", source=source)


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python ran out of memory. FFmpeg says so of damaged files, too, whose sizes it does not believe."""
    return isinstance(error, MemoryError) and not is_ffmpeg_error(error)


def is_ffmpeg_error(error: BaseException) -> bool:
    """Whether FFmpeg raised an error, whatever else it is by its class: it opens no files, and says what it likes."""
    return isinstance(error, av.error.FFmpegError)


def check_frame_size(video: OpenVideo, width: int, height: int) -> None:
    """Refuses a decoded frame of more pixels than the options allow.

    Raises:
        MediaLimitError: Naming the size and the limit.
    """
    limit = video.limits.image_pixel_limit
    if width * height > limit:
        raise MediaLimitError(
            f"a frame is {width}x{height} pixels, more than MediaOptions.image_pixel_limit = {limit:,}",
            source=video.source,
        )


class _Reader:
    """What PyAV needs of a file. It has no name, which FFmpeg would take as a hint of the format."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        # PyAV copies whatever comes into a buffer of `size` bytes.
        data = self._file.read(size)
        if data is None or len(data) > size:
            raise OSError(f"the file object gave {None if data is None else len(data)} bytes when asked for {size}")
        return data if isinstance(data, bytes) else bytes(data)


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise MediaDecodeError("a media file that refers to other files is refused")


def _video_track(container: InputContainer, source: str) -> VideoStream:
    best = cast("VideoStream | None", container.streams.best("video"))
    if best is not None and best.disposition & _NOT_MOVING:
        best = next((stream for stream in container.streams.video if not stream.disposition & _NOT_MOVING), None)
    if best is None:
        raise MediaDecodeError(_without_video(container), source=source)
    if best.codec_context is None:
        raise MediaDecodeError("FFmpeg has no decoder for the video track", source=source)
    if best.codec_context.width < 1 or best.codec_context.height < 1:
        raise MediaDecodeError(
            f"the video track ({best.codec_context.name}) says no frame size: it is empty, damaged or cut off, or its "
            "frames have far more pixels than MediaOptions.image_pixel_limit",
            source=source,
        )
    for stream in container.streams:
        if stream.index != best.index:
            stream.discard = av.stream.Discard.all  # not even read from the file, where its format allows that
    return best


def _without_video(container: InputContainer) -> str:
    if container.streams.video:
        return "no video track: there is a cover picture only; as a video it cannot be used, as audio it can"
    if container.streams.audio:
        return "no video track: the file has sound only; use it as audio"
    return f"no video track: the file ({container.format.long_name}) is empty, damaged or cut off"


def _not_readable(file: BinaryIO, error: Exception, source: str) -> MediaDecodeError:
    found = describe_media(file)
    if found == _STILL_IMAGE:
        found += "; use it as an image, or as a video of one frame by giving a list: [image]"
    return MediaDecodeError(f"not a readable video: found {found} ({reason_of(error)})", source=source)


def describe_media(file: BinaryIO) -> str:
    """Says in words what a file that is no readable video or audio seems to be."""
    try:
        file.seek(0)
        prefix = file.read(12)
    except Exception:  # a connection may have broken
        return "data that cannot be read"
    if prefix[4:8] == b"ftyp":
        brand = prefix[8:12].decode("ascii", "replace")
        return f"an ISO media file of brand {brand!r} without its index, as a download that broke off leaves it"
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"AVI ":
        return "an AVI file that is damaged or cut off"
    if prefix.startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")) or prefix[8:12] == b"WEBP":
        return _STILL_IMAGE
    return describe_content(file)


def reason_of(error: Exception) -> str:
    """What an error says, without the numbers and file names that FFmpeg's errors add."""
    text = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    return text or type(error).__name__
