"""Decoding audio with torchcodec, which needs an FFmpeg of the system's."""

from __future__ import annotations

import functools
import importlib.util
import io
import re
from typing import TYPE_CHECKING, BinaryIO

from mmdatasets.errors import MediaDecodeError, MissingExtraError
from mmdatasets.media.audio_plan import no_samples, sample_bounds
from mmdatasets.media.audio_pyav import PyAVReader
from mmdatasets.media.waveform import to_mono
from mmdatasets.types import AudioInfo

if TYPE_CHECKING:
    from torchcodec import AudioSamples

    from mmdatasets.media.waveform import Waveform
    from mmdatasets.options import MediaOptions

_MOST_SAMPLES_OF_A_BYTE = 2**11  # three bytes of Opus may be 120 ms of silence


class TorchcodecReader:
    """Reads with torchcodec, every channel as it is stored, at the stored rate.

    Its own mixing down (`num_channels=1`) makes stereo a factor of 1.414 too loud, and its own resampling lets aliases
    through at -22 dB, so neither is used. It has no count of samples but by decoding.

    Args:
        options: `audio_sample_limit` and `video_frame_limit` are used.

    Raises:
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """

    def __init__(self, options: MediaOptions) -> None:
        self._options = options
        require_torchcodec("audio_backend='torchcodec'")

    def probe(self, file: BinaryIO, source: str) -> AudioInfo:
        """Counts what `read` gives, by decoding."""
        decoded = self._decode(file, source)
        num_channels, num_samples = decoded.data.shape
        return AudioInfo(decoded.sample_rate, num_channels, num_samples, decoded.pts_seconds)

    def read(self, file: BinaryIO, source: str, start_s: float, end_s: float | None) -> tuple[Waveform, int]:
        """Decodes everything and cuts a range, all channels averaged: `(num_samples,)` and its sampling rate."""
        decoded = self._decode(file, source)
        samples, rate = decoded.data, decoded.sample_rate
        start, end = sample_bounds(rate, start_s, end_s)
        return to_mono(samples[:, start:end].numpy()), rate

    def _decode(self, file: BinaryIO, source: str) -> AudioSamples:
        from torchcodec.decoders import AudioDecoder

        self._check(file, source)
        file.seek(0)
        try:
            return AudioDecoder(file).get_all_samples()
        except Exception as error:  # a RuntimeError mostly, but what FFmpeg says comes in other types, too
            if "No audio frames were decoded" in str(error):
                raise no_samples(source=source) from error
            raise MediaDecodeError(f"torchcodec cannot decode it: {_reason(error)}", source=source) from error

    def _check(self, file: BinaryIO, source: str) -> None:
        """Keeps what torchcodec cannot be kept from: reading what a playlist names, and decoding without end."""
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size * _MOST_SAMPLES_OF_A_BYTE > self._options.audio_sample_limit:
            PyAVReader(self._options).probe(file, source)
            return
        with PyAVReader(self._options).opened(file, source):
            pass


def require_torchcodec(purpose: str) -> None:
    """Raises an error that says what is missing where torchcodec cannot be used.

    Raises:
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
    """
    problem = _find_problem()
    if problem:
        error = MissingExtraError.for_package("torchcodec", "torchcodec", purpose)
        error.message = f"{error.message}, and FFmpeg ({problem})"
        raise error


def _reason(error: Exception) -> str:
    """What an error of torchcodec says, without the place in its sources and without the advice that may follow."""
    message = re.sub(r"^\w+, \S+:\d+, ", "", str(error).strip()) or type(error).__name__
    return message.splitlines()[0].removesuffix("Likely causes:").rstrip()


@functools.cache
def _find_problem() -> str:
    """Why torchcodec cannot be used, empty where it can. Its libraries are loaded at the first decoder only."""
    if importlib.util.find_spec("torchcodec") is None:
        return "torchcodec is not installed"
    try:
        from torchcodec.decoders import AudioDecoder

        AudioDecoder(io.BytesIO(_SILENT_WAV))
    except Exception as error:
        return f"torchcodec is installed, but cannot be used: {_reason(error)}"
    return ""


_SILENT_WAV = b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\x08\0\0\0" + b"\0" * 8
