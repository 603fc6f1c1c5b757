"""Decoding audio files with libsndfile, and with PyAV those that it cannot read, or not wholly."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import soundfile

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.audio_plan import sample_bounds
from mmdatasets.media.audio_pyav import PyAVReader
from mmdatasets.media.mp3 import read_xing_header
from mmdatasets.media.waveform import to_mono
from mmdatasets.types import AudioInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmdatasets.media.waveform import Waveform

_MOST_SAMPLES = 2**48  # libsndfile gives 2**63 - 1 for a FLAC whose header does not say how long it is
_STREAMED_WAV = 0x7FFF0000  # programs that write WAV to a pipe put something above this for the size


class SoundfileReader:
    """Reads with libsndfile what it reads right; see `mmdatasets.options.MediaOptions.audio_backend`.

    Of MP3 files it reads those whose header states the length. Without that, libsndfile guesses the length from the
    first frame's bit rate, and never reads beyond it.
    """

    def probe(self, file: BinaryIO, source: str) -> AudioInfo:
        """Finds what `read` gives, from headers and the last sample."""
        with _opened(file, source) as sound:
            if not isinstance(sound, soundfile.SoundFile):
                return sound.probe(file, source)
            if sound.format == "FLAC":
                _check_end(sound, source)
            return AudioInfo(sound.samplerate, sound.channels, sound.frames)

    def read(self, file: BinaryIO, source: str, start_s: float, end_s: float | None) -> tuple[Waveform, int]:
        """Decodes a range, all channels averaged: `(num_samples,)` and its sampling rate."""
        with _opened(file, source) as sound:
            if not isinstance(sound, soundfile.SoundFile):
                return sound.read(file, source, start_s, end_s)
            start, end = sample_bounds(sound.samplerate, start_s, end_s)
            end = sound.frames if end is None else min(end, sound.frames)
            start = min(start, end)
            if start:
                sound.seek(start)
            samples = sound.read(end - start, dtype="float32", always_2d=True)
            if len(samples) != end - start:
                raise _cut_off(f"{end - start:,} samples should follow, and {len(samples):,} do", source)
            return to_mono(samples.T), sound.samplerate


@contextmanager
def _opened(file: BinaryIO, source: str) -> Iterator[soundfile.SoundFile | PyAVReader]:
    """Opens a file with libsndfile; gives the other reader where that is the one to use, with the file rewound."""
    _check_wav_size(file, source)
    file.seek(0)
    try:
        sound = soundfile.SoundFile(_Nameless(file))
    except soundfile.LibsndfileError as error:
        file.seek(0)
        yield PyAVReader(f"libsndfile: {error.error_string}")
        return
    try:
        if _is_read_right(sound, file, source):
            yield sound
        else:
            file.seek(0)
            yield PyAVReader()
    except soundfile.LibsndfileError as error:
        raise _cut_off(f"libsndfile: {error.error_string}", source) from error
    finally:
        sound.close()


def _is_read_right(sound: soundfile.SoundFile, file: BinaryIO, source: str) -> bool:
    if sound.format != "MP3":
        return bool(sound.frames < _MOST_SAMPLES)
    position = file.tell()
    header = read_xing_header(file)
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    if header is not None and (header.end is None or header.end > size):
        # Not proof enough: some programs count a tag that is not there. To seek in an MP3 is to read all of it.
        _check_end(sound, source)
    return header is not None


def _check_end(sound: soundfile.SoundFile, source: str) -> None:
    """Sees whether there are as many samples as the header says, by reading the last one."""
    if sound.frames == 0:
        return
    sound.seek(sound.frames - 1)
    if len(sound.read(1)) != 1:
        raise _cut_off(f"its header says that it has {sound.frames:,} samples, and it ends before", source)
    sound.seek(0)


def _check_wav_size(file: BinaryIO, source: str) -> None:
    """Refuses a WAV file that ends before its samples do, which libsndfile takes for a shorter one."""
    file.seek(0)
    header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return
    size = file.seek(0, io.SEEK_END)
    position = len(header)
    while position + 8 <= size:
        file.seek(position)
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            if length < _STREAMED_WAV and position + 8 + length > size:
                raise _cut_off(
                    f"its header says that its samples are {length:,} bytes, and {size - position - 8:,} follow",
                    source,
                )
            return
        position += 8 + length + length % 2


def _cut_off(problem: str, source: str) -> MediaDecodeError:
    return MediaDecodeError(f"the audio file is cut off or damaged: {problem}", source=source)


class _Nameless:
    """A file as soundfile may see it: without a name, since it takes every `.raw` for samples without a header."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self.read = file.read
        if hasattr(file, "readinto"):
            self.readinto = file.readinto
