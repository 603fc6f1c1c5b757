"""Synthetic videos: each frame carries its number in its pixels, so that a decoded frame tells which one it is."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np

from mmdatasets.testing.mp4_boxes import turn_mp4

if TYPE_CHECKING:
    import os

    import numpy.typing as npt
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

    Pixels = npt.NDArray[np.uint8]

MAX_FRAMES = 1 << 12
_GRID = 4  # cells across and down: 12 carry the number, 4 a checksum
_DARK, _BRIGHT = 40, 215
_AUDIO_RATE = 48_000
_AUDIO_BLOCK = 960  # samples: a length that every encoder used here takes
_TICKS_PER_S = 1000  # of variable rates; MPEG-4 takes 65,535 at most


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """What video to make. The same specification gives the same frames.

    Attributes:
        num_frames: How many frames, the first of which has number `first_number`.
        width: Pixels.
        height: Pixels.
        format: FFmpeg's name of the container format.
        codec: FFmpeg's name of the encoder.
        pixel_format: FFmpeg's name of the pixel format.
        rate: Frames per second; the stated one where `times_s` are given.
        times_s: Seconds at which each frame is shown, increasing; evenly spaced when `None`.
        gop: Frames from one keyframe to the next, at most.
        b_frames: Most bidirectional frames in a row.
        codec_options: Further options of the encoder.
        container_options: Options of the container format.
        audio_codec: FFmpeg's name of the encoder of a sound track as long as the video; `None` for none.
        first_number: Number of the first frame.
        aspect_ratio: Width of a pixel over its height.
        turned: Degrees by which a player must turn the stored frames clockwise: 0, 90, 180 or 270; for MP4 only. Width
            and height are those after that.
    """

    num_frames: int = 40
    width: int = 112
    height: int = 64
    format: str = "mp4"
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    rate: Fraction = Fraction(25)
    times_s: Sequence[float] | None = None
    gop: int = 12
    b_frames: int = 2
    codec_options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    audio_codec: str | None = None
    first_number: int = 0
    aspect_ratio: Fraction | None = None
    turned: int = 0

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before turning."""
        return (self.height, self.width) if self.turned % 180 else (self.width, self.height)


def make_frame(number: int, width: int = 112, height: int = 64) -> Pixels:
    """Draws a frame, `uint8` `(height, width, 3)`, RGB, that carries its number.

    A grid of 4 x 4 bright and dark cells holds the number and a checksum, which lossy coding leaves readable. Colours
    and a texture move with the number, so that no two frames are alike and each depends on the ones before.

    Raises:
        ValueError: The number is out of range.
    """
    if not 0 <= number < MAX_FRAMES:
        raise ValueError(f"a frame's number must be from 0 to {MAX_FRAMES - 1}, got {number}")
    rows = (np.arange(height) * _GRID // height)[:, None]
    columns = (np.arange(width) * _GRID // width)[None, :]
    bits = np.array([_code(number) >> bit & 1 for bit in range(_GRID * _GRID)])
    luma = np.where(bits[rows * _GRID + columns] == 1, _BRIGHT, _DARK)
    y, x = np.mgrid[0:height, 0:width]
    texture = ((x + 2 * number) // 3 + (y + number) // 2) % 5 * 4
    # Integers only: the last bit of a sine may depend on where an array lies in memory.
    tint = [np.abs((2 * x + 3 * number + shift) % 96 - 48) // 2 - 12 for shift in (0, 32, 64)]
    return np.stack([luma + texture + colour for colour in tint], axis=-1).clip(0, 255).astype(np.uint8)


def read_frame_number(pixels: Pixels) -> int:
    """Reads the number of a frame that `make_frame` drew, after lossy coding.

    Args:
        pixels: `uint8` `(height, width, 3)`, RGB, upright.

    Raises:
        ValueError: There is no number: the picture is turned, damaged, or another one.
    """
    height, width = pixels.shape[:2]
    grey = pixels.astype(np.float64).mean(axis=-1)
    code = 0
    for bit in range(_GRID * _GRID):
        (top, bottom), (left, right) = _inner(bit // _GRID, height), _inner(bit % _GRID, width)
        level = grey[top:bottom, left:right].mean()
        if 100 < level < 160:
            raise ValueError(f"cell {bit} is neither bright nor dark: {level:.0f}")
        code |= int(level >= 160) << bit
    number = code & (MAX_FRAMES - 1)
    if _code(number) != code:
        raise ValueError(f"the checksum of number {number} is wrong")
    return number


def encode_video(spec: VideoSpec) -> bytes:
    """Makes a video and returns it as a file's bytes."""
    buffer = io.BytesIO()
    # Without "bitexact", Matroska files have random identifiers.
    options = {"fflags": "+bitexact", **spec.container_options}
    with av.open(buffer, "w", format=spec.format, options=options) as container:
        video = add_video_track(container, spec)
        audio = None if spec.audio_codec is None else add_audio_track(container, spec.audio_codec)
        container.start_encoding()  # else a video without frames would have no header
        encode_frames(container, video, spec)
        if audio is not None:
            encode_tone(container, audio, spec.num_frames / float(spec.rate))
    data = buffer.getvalue()
    return turn_mp4(data, spec.turned) if spec.turned else data


def write_video(path: str | os.PathLike[str], spec: VideoSpec) -> Path:
    """Writes a video file and returns its path; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_video(spec))
    return path


def add_video_track(container: OutputContainer, spec: VideoSpec) -> VideoStream:
    """Adds the track that a specification describes to a container that is being written."""
    options = {"g": str(spec.gop), "bf": str(spec.b_frames), **_quick(spec), **spec.codec_options}
    stream = cast("VideoStream", container.add_stream(spec.codec, rate=spec.rate, options=options))
    (stream.width, stream.height), stream.pix_fmt = spec.stored_size, spec.pixel_format
    stream.codec_context.time_base = Fraction(1, _TICKS_PER_S) if spec.times_s is not None else 1 / spec.rate
    stream.codec_context.thread_count = 1  # several threads do not always give the same bytes
    if spec.aspect_ratio is not None:
        stream.codec_context.sample_aspect_ratio = spec.aspect_ratio
    return stream


def encode_frames(container: OutputContainer, stream: VideoStream, spec: VideoSpec) -> None:
    """Encodes all frames of a specification into a track."""
    for index, ticks in enumerate(_frame_ticks(spec)):
        pixels = make_frame(spec.first_number + index, spec.width, spec.height)
        stored = np.ascontiguousarray(np.rot90(pixels, spec.turned // 90))
        frame = av.VideoFrame.from_ndarray(stored, "rgb24")
        frame.pts, frame.time_base = ticks, stream.codec_context.time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def add_audio_track(container: OutputContainer, codec: str) -> AudioStream:
    """Adds a mono sound track to a container that is being written."""
    return cast("AudioStream", container.add_stream(codec, rate=_AUDIO_RATE, layout="mono"))


def encode_tone(container: OutputContainer, stream: AudioStream, duration_s: float) -> None:
    """Encodes a sine tone into a sound track."""
    samples = np.sin(np.arange(round(duration_s * _AUDIO_RATE)) * 2 * np.pi * 440 / _AUDIO_RATE)
    pcm = (8000 * samples).astype(np.int16)
    for start in range(0, len(pcm), _AUDIO_BLOCK):
        frame = av.AudioFrame.from_ndarray(pcm[None, start : start + _AUDIO_BLOCK], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _AUDIO_RATE, start, Fraction(1, _AUDIO_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _code(number: int) -> int:
    checksum = (number ^ number >> 4 ^ number >> 8 ^ 0b0101) & 15
    return number | checksum << 12


def _inner(cell: int, length: int) -> tuple[int, int]:
    """Where a cell is, without its edges, which lossy coding blurs."""
    start, end = -(-cell * length // _GRID), -(-(cell + 1) * length // _GRID)
    margin = (end - start) // 4
    return start + margin, end - margin


def _frame_ticks(spec: VideoSpec) -> Iterator[int]:
    if spec.times_s is None:
        yield from range(spec.num_frames)
        return
    for time in spec.times_s:
        yield round(time * _TICKS_PER_S)


def _quick(spec: VideoSpec) -> dict[str, str]:
    """Options that make an encoder quick and quiet, and its keyframes fall where `gop` says."""
    gop, b_frames = spec.gop, spec.b_frames
    if spec.codec == "libx264":
        return {"preset": "veryfast", "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0"}
    if spec.codec == "libx265":
        params = f"log-level=none:keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:pools=1:frame-threads=1"
        return {"preset": "ultrafast", "x265-params": params}
    if spec.codec in ("libvpx", "libvpx-vp9"):
        return {"deadline": "realtime", "cpu-used": "8", "bf": "0"}
    if spec.codec == "libsvtav1":
        return {"preset": "8", "crf": "10", "bf": "0"}
    return {}
