"""Decoding audio files and the sound tracks of videos with PyAV, which brings its own FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

import av
import av.stream
import numpy as np
from av.audio.fifo import AudioFifo

from mmdatasets.errors import MediaDecodeError, MediaError
from mmdatasets.media.audio_plan import no_samples, sample_bounds
from mmdatasets.media.audio_scan import count_decoded, count_samples, decode_frames, seek_near
from mmdatasets.media.container import describe_media, is_out_of_memory, open_container, reason_of
from mmdatasets.media.limits import check_num_samples
from mmdatasets.media.waveform import to_mono

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

    from mmdatasets.media.waveform import Waveform
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import AudioInfo

# Sample format of FFmpeg, packed or planar -> its type.
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_BLOCK = 2**15  # samples of each channel: few enough for the processor's cache
# Of integers the value of silence, and of full scale above it.
_SCALES = {"u8": (128.0, 128.0), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31), "s64": (0.0, 2.0**63)}


class PyAVReader:
    """Reads with PyAV.

    Args:
        options: `audio_sample_limit` and `video_frame_limit` are used.
        problem: Why another reader has given up, for errors.
        is_lenient: Whether what cannot be decoded is left out, as FFmpeg's own programs do it.
    """

    def __init__(self, options: MediaOptions, problem: str | None = None, *, is_lenient: bool = False) -> None:
        self._is_lenient = is_lenient
        self._options = options
        self._problem = problem

    def probe(self, file: BinaryIO, source: str) -> AudioInfo:
        """Counts what `read` gives; see `mmdatasets.media.audio_scan`."""
        with self.opened(file, source) as (container, stream):
            count = count_decoded if self._is_lenient else count_samples
            info = count(container, stream, self._options, source)
        if info is None:
            raise no_samples(source=source)
        return info

    def read(self, file: BinaryIO, source: str, start_s: float, end_s: float | None) -> tuple[Waveform, int]:
        """Decodes a range, all channels averaged: `(num_samples,)` and its sampling rate."""
        gathered = _Gatherer()
        first: AudioFrame | None = None
        begin: int | None = None  # position of the first sample that is gathered
        with self.opened(file, source) as (container, stream):
            origin = None if self._is_lenient else seek_near(container, stream, start_s)
            for frame in decode_frames(container, stream, is_lenient=self._is_lenient):
                if first is None:
                    first = frame
                    start, end = sample_bounds(first.sample_rate, start_s, end_s)
                    position = 0 if origin is None or first.pts is None else first.pts - origin
                    rate = first.sample_rate
                if end is not None and position >= end:
                    break
                count = frame.samples
                check_num_samples(position + count, self._options, source)
                if position + count > start:
                    begin = position if begin is None else begin
                    gathered.add(frame)
                position += count
        if first is None:
            raise no_samples(start_s, source)
        begin = begin or 0
        samples = gathered.finish()[max(0, start - begin) : None if end is None else max(0, end - begin)]
        return samples, rate

    @contextmanager
    def opened(self, file: BinaryIO, source: str) -> Iterator[tuple[InputContainer, AudioStream]]:
        """Opens a file and its best audio stream; FFmpeg's errors become ours, at opening and while it is open."""
        try:
            container = open_container(file, self._options, source)
        except MediaError as error:  # of a limit, or of a remote file
            raise error.at(source=source) from error.__cause__
        except Exception as error:  # FFmpeg's errors, and those of the file's own client
            if is_out_of_memory(error):
                raise
            raise self._not_readable(file, error, source) from error
        with container:
            stream = best_audio(container, source)
            try:
                yield container, stream
            except MediaError as error:
                raise error.at(source=source) from error.__cause__
            except av.FFmpegError as error:
                raise MediaDecodeError(
                    f"the audio is cut off or damaged: {reason_of(error)} ({container.format.name}, "
                    f"{stream.codec_context.name})",
                    source=source,
                ) from error

    def _not_readable(self, file: BinaryIO, error: Exception, source: str) -> MediaDecodeError:
        # FFmpeg calls a format that is not among those allowed an invalid argument.
        reason = "no format of sound or video" if isinstance(error, av.ArgumentError) else reason_of(error)
        tried = "; ".join(filter(None, [self._problem, f"FFmpeg: {reason}"]))
        return MediaDecodeError(
            f"not a readable audio or video file, or cut off or damaged: found {describe_media(file)} ({tried})",
            source=source,
        )


def best_audio(container: InputContainer, source: str) -> AudioStream:
    """The audio stream that FFmpeg takes for the best one; the other streams are not even read where possible.

    Raises:
        MediaDecodeError: There is none, or none that FFmpeg can decode.
    """
    stream = cast("AudioStream | None", container.streams.best("audio"))
    if stream is None:
        kinds = sorted({other.type for other in container.streams})
        raise MediaDecodeError(
            f"the file has no audio track, only: {', '.join(kinds) or 'nothing'} ({container.format.name})",
            source=source,
        )
    if stream.codec_context is None:
        raise MediaDecodeError("FFmpeg has no decoder for the file's audio track", source=source)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    return stream


def best_audio_index(file: BinaryIO, options: MediaOptions) -> int | None:
    """Position of the best audio stream among a file's streams; `None` for WAV, which has one, and for no audio."""
    if file.read(4) == b"RIFF":
        return None  # FFmpeg takes long to open it
    file.seek(0)
    with open_container(file, options, "") as container:
        stream = container.streams.best("audio")
        return None if stream is None else stream.index


class _Gatherer:
    """Averages the channels of many frames at a time: for each alone that takes nearly as long as decoding it."""

    def __init__(self) -> None:
        self._waiting = AudioFifo()
        self._pieces: list[Waveform] = []

    def add(self, frame: AudioFrame) -> None:
        """Takes the next frame, which loses its timestamp."""
        frame.pts = None  # it may leave a gap
        try:
            self._waiting.write(frame)
        except ValueError:  # the format of the samples changes
            self._average()
            self._waiting = AudioFifo()
            self._waiting.write(frame)
        if self._waiting.samples >= _BLOCK:
            self._average()

    def finish(self) -> Waveform:
        """All of them, `(num_samples,)`."""
        self._average()
        return np.concatenate(self._pieces or [np.empty(0, dtype=np.float32)])

    def _average(self) -> None:
        block = self._waiting.read()
        if block is not None:
            self._pieces.append(to_mono(_to_float(block)))


def _to_float(frame: AudioFrame) -> Waveform:
    """The samples of a frame, `(num_channels, num_samples)`, full scale being 1; not a view of the frame's memory."""
    kind = frame.format.name.removesuffix("p")
    dtype, count = _DTYPES[kind], frame.samples
    # Quicker than the frame's own `to_ndarray`, which takes as long as decoding. Planes are longer than the samples.
    if frame.format.is_planar:
        samples = np.stack([np.frombuffer(memoryview(plane), dtype)[:count] for plane in frame.planes])
    else:
        num_channels = frame.layout.nb_channels
        samples = (
            np.frombuffer(memoryview(frame.planes[0]), dtype)[: count * num_channels]
            .reshape(count, num_channels)
            .T.copy()
        )
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    silence, scale = _SCALES[kind]
    return ((samples.astype(np.float64) - silence) / scale).astype(np.float32)
