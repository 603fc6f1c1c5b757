"""Decoding audio files and the sound tracks of videos with PyAV, which brings its own FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import av
import numpy as np

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.audio_plan import no_samples, sample_bounds
from mmdatasets.media.audio_scan import count_samples, seek_near
from mmdatasets.media.waveform import to_mono

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

    from mmdatasets.media.waveform import Waveform
    from mmdatasets.types import AudioInfo

# Containers of sound and video. Left out is what names other files or hosts to read: playlists, manifests, scripts.
_FORMATS = (
    "aac,ac3,adts,aiff,amr,ape,asf,au,avi,caf,dsf,eac3,flac,flv,iamf,latm,loas,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpc,mpc8,mpeg,mpegts,nut,ogg,oma,rm,tak,tta,w64,wav,wv"
)
# Sample format of FFmpeg, packed or planar -> the value of silence, and of full scale above it.
_SCALES = {"u8": (128.0, 128.0), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31), "s64": (0.0, 2.0**63)}


class PyAVReader:
    """Reads with PyAV.

    Args:
        problem: Why another reader has given up, for errors.
    """

    def __init__(self, problem: str | None = None) -> None:
        self._problem = problem

    def probe(self, file: BinaryIO, source: str) -> AudioInfo:
        """Counts what `read` gives; see `mmdatasets.media.audio_scan`."""
        with self.opened(file, source) as (container, stream):
            info = count_samples(container, stream)
        if info is None:
            raise no_samples(source=source)
        return info

    def read(self, file: BinaryIO, source: str, start_s: float, end_s: float | None) -> tuple[Waveform, int]:
        """Decodes a range, all channels averaged: `(num_samples,)` and its sampling rate."""
        pieces: list[Waveform] = []
        first: AudioFrame | None = None
        with self.opened(file, source) as (container, stream):
            origin = seek_near(container, stream, start_s)
            for frame in container.decode(stream):
                if first is None:
                    first = frame
                    start, end = sample_bounds(first.sample_rate, start_s, end_s)
                    position = 0 if origin is None or first.pts is None else first.pts - origin
                _check_alike(first, frame, source)
                if end is not None and position >= end:
                    break
                if position + frame.samples > start:
                    until = None if end is None else end - position
                    pieces.append(to_mono(_to_float(frame)[:, max(0, start - position) : until]))
                position += frame.samples
        if first is None:
            raise no_samples(start_s, source)
        return np.concatenate(pieces or [np.empty(0, dtype=np.float32)]), first.sample_rate

    @contextmanager
    def opened(self, file: BinaryIO, source: str) -> Iterator[tuple[InputContainer, AudioStream]]:
        """Opens a file and its best audio stream; FFmpeg's errors become ours, at opening and while it is open."""
        try:
            container = av.open(
                file, options={"format_whitelist": _FORMATS}, metadata_errors="replace", io_open=_refuse
            )
        except (av.FFmpegError, OSError) as error:
            # FFmpeg calls a format that is not in the list an invalid argument.
            refused = isinstance(error, av.ArgumentError)
            tried = "FFmpeg: " + ("no format of sound or video" if refused else f"{error.strerror}")
            if self._problem:
                tried = f"{self._problem}; {tried}"
            raise MediaDecodeError(
                f"not an audio or video file of a supported format, or cut off or damaged ({tried})", source=source
            ) from error
        with container:
            stream = container.streams.best("audio")
            if stream is None:
                kinds = sorted({other.type for other in container.streams})
                raise MediaDecodeError(
                    f"the file has no audio track, only: {', '.join(kinds) or 'nothing'} ({container.format.name})",
                    source=source,
                )
            if stream.codec_context is None:
                raise MediaDecodeError("FFmpeg has no decoder for the file's audio track", source=source)
            try:
                yield container, stream
            except av.FFmpegError as error:
                raise MediaDecodeError(
                    f"the audio is cut off or damaged: {error.strerror} ({container.format.name}, "
                    f"{stream.codec_context.name})",
                    source=source,
                ) from error


def check_container(file: BinaryIO, source: str) -> None:
    """Raises `MediaDecodeError` where a file is no container of sound that refers to nothing outside itself."""
    with PyAVReader().opened(file, source):
        pass


def _refuse(*_: object) -> NoReturn:
    raise PermissionError("a media file may not name another one to read")


def _check_alike(first: AudioFrame, frame: AudioFrame, source: str) -> None:
    if (frame.sample_rate, frame.layout.nb_channels) != (first.sample_rate, first.layout.nb_channels):
        raise MediaDecodeError(
            f"the audio changes from {first.layout.nb_channels} channels at {first.sample_rate} Hz to "
            f"{frame.layout.nb_channels} at {frame.sample_rate} Hz, {frame.time or 0:.2f} s from its start; convert "
            "it",
            source=source,
        )


def _to_float(frame: AudioFrame) -> Waveform:
    """The samples of a frame, `(num_channels, num_samples)`, full scale being 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    silence, scale = _SCALES[frame.format.name.removesuffix("p")]
    return ((samples.astype(np.float64) - silence) / scale).astype(np.float32)
