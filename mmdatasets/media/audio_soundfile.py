"""Decoding audio files with libsndfile, and with PyAV those that it cannot read, or not wholly."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile

from mmdatasets.errors import MediaDecodeError, MediaError
from mmdatasets.media.audio_complete import cut_off
from mmdatasets.media.audio_plan import sample_bounds
from mmdatasets.media.audio_pyav import PyAVReader
from mmdatasets.media.limits import check_num_samples
from mmdatasets.media.mp3 import read_xing_header
from mmdatasets.media.ogg import is_chained
from mmdatasets.media.waveform import to_mono
from mmdatasets.types import AudioInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmdatasets.media.waveform import Waveform
    from mmdatasets.options import MediaOptions

_MOST_SAMPLES = 2**48  # libsndfile gives 2**63 - 1 for a FLAC whose header does not say how long it is
_RUN_UP_S = 0.5  # decoded before the point sought in Ogg: Opus takes a few frames to forget what it does not know
_SHORTEST_MP3_FRAME = 24  # bytes, at 8 kbit/s and 24 kHz
_ID3V1 = 128  # bytes of the tag that may stand at the end of an MP3 file
_BLOCK = 2**21  # samples of all channels read at a time: a header that lies cannot make us reserve terabytes


class SoundfileReader:
    """Reads with libsndfile what it reads right; see `mmdatasets.options.MediaOptions.audio_backend`.

    Of Ogg files it reads those that hold one stream: of several in a row, libsndfile reads the first alone.
    Of MP3 files it reads those whose header states the length of all of it. Without that, libsndfile guesses the
    length from the first frame's bit rate, and never reads beyond it; nor does it beyond what a header states, where
    another file was joined to the first.

    Args:
        options: `audio_sample_limit` and `video_frame_limit` are used.
    """

    def __init__(self, options: MediaOptions) -> None:
        self._options = options

    def probe(self, file: BinaryIO, source: str) -> AudioInfo:
        """Finds what `read` gives, from the header; of a FLAC the last sample is read, too."""
        with _opened(file, self._options, source) as sound:
            if isinstance(sound, PyAVReader):
                return sound.probe(file, source)
            check_num_samples(sound.frames, self._options, source)
            if sound.format == "FLAC" and sound.frames:
                sound.seek(sound.frames - 1)  # quick in this format
                if len(sound.read(1)) != 1:
                    raise cut_off(f"its header says that it has {sound.frames:,} samples", source)
            return AudioInfo(sound.samplerate, sound.channels, sound.frames, stated_num_samples=sound.frames)

    def read(self, file: BinaryIO, source: str, start_s: float, end_s: float | None) -> tuple[Waveform, int]:
        """Decodes a range, all channels averaged: `(num_samples,)` and its sampling rate."""
        with _opened(file, self._options, source) as sound:
            if isinstance(sound, PyAVReader):
                return sound.read(file, source, start_s, end_s)
            start, end = sample_bounds(sound.samplerate, start_s, end_s)
            end = sound.frames if end is None else min(end, sound.frames)
            check_num_samples(end, self._options, source)
            return _read(sound, min(start, end), end, source), sound.samplerate


def _read(sound: soundfile.SoundFile, start: int, end: int, source: str) -> Waveform:
    if sound.format == "MP3" or not sound.seekable():
        # Any seek, and soundfile seeks after every read, makes mpg123 forget bits that the frames to come refer to: a
        # single read from the very start is the only one that is right. GSM in WAV cannot be sought in at all.
        return to_mono(_read_block(sound, end, source).T)[start:]
    if start:
        run_up = min(start, round(_RUN_UP_S * sound.samplerate)) if sound.format == "OGG" else 0
        sound.seek(start - run_up)
        _read_block(sound, run_up, source)
    block = max(1, _BLOCK // sound.channels)
    blocks = [to_mono(_read_block(sound, min(block, end - at), source).T) for at in range(start, end, block)]
    return np.concatenate(blocks or [np.empty(0, dtype=np.float32)])


def _read_block(sound: soundfile.SoundFile, num_samples: int, source: str) -> Waveform:
    """The next samples, `(num_samples, num_channels)`."""
    block: Waveform = sound.read(num_samples, dtype="float32", always_2d=True)
    if len(block) != num_samples:
        raise cut_off(f"its header says that it has {sound.frames:,} samples, and it ends before", source)
    return block


@contextmanager
def _opened(file: BinaryIO, options: MediaOptions, source: str) -> Iterator[soundfile.SoundFile | PyAVReader]:
    """Opens a file with libsndfile; gives the other reader where that is the one to use, with the file rewound."""
    shown = Nameless(file)
    try:
        sound = soundfile.SoundFile(shown)
    except soundfile.LibsndfileError as error:
        shown.check()
        _check_version(source)
        file.seek(0)
        yield PyAVReader(options, f"libsndfile: {error.error_string}")
        return
    with sound:
        try:
            if _is_read_right(sound, file, options):
                yield sound
            else:
                file.seek(0)
                yield PyAVReader(options)
            shown.check()
        except soundfile.LibsndfileError as error:
            shown.check()
            raise cut_off(f"libsndfile: {error.error_string}", source) from error


def _check_version(source: str) -> None:
    """Keeps what decodes MP3 from depending on the system: the wheels of soundfile bring a libsndfile that does."""
    if "MP3" not in soundfile.available_formats():
        raise MediaDecodeError(
            f"libsndfile {soundfile.__libsndfile_version__} cannot read it, and is too old to read MP3: 1.1 or newer "
            "is needed (pip install --force-reinstall soundfile), or MediaOptions(audio_backend='pyav')",
            source=source,
        )


def _is_read_right(sound: soundfile.SoundFile, file: BinaryIO, options: MediaOptions) -> bool:
    if sound.format == "OGG" and is_chained(file):
        return False
    if sound.format != "MP3":
        return bool(sound.frames < _MOST_SAMPLES)
    position = file.tell()
    header = read_xing_header(file)
    size = file.seek(0, io.SEEK_END)
    is_right = header is not None and header.num_frames * _SHORTEST_MP3_FRAME <= size
    if header is not None and is_right and (header.end is None or size > header.end + _ID3V1):
        is_right = _count_mp3_frames(file, options) <= header.num_frames + 1  # what is no frame makes one packet
    file.seek(position)
    return is_right


def _count_mp3_frames(file: BinaryIO, options: MediaOptions) -> int:
    file.seek(0)
    with PyAVReader(options).opened(file, "") as (container, stream):
        return sum(packet.size > 0 for packet in container.demux(stream))


class Nameless:
    """A file as soundfile may see it: without a name, since it takes every `.raw` for samples without a header.

    What a remote file raises would be lost in libsndfile, which calls it; for that the file has ended there.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._read = file.read
        self._readinto: Callable[[memoryview], int] | None = getattr(file, "readinto", None)
        self._error: MediaError | None = None
        self.seek = file.seek
        self.tell = file.tell

    def readinto(self, buffer: memoryview) -> int:
        """Reads into memory; gives how many bytes."""
        try:
            if self._readinto is not None:
                return self._readinto(buffer)
            data = self._read(len(buffer))
        except MediaError as error:
            self._error = error
            return 0
        buffer[: len(data)] = data
        return len(data)

    def check(self) -> None:
        """Raises what the file raised while libsndfile read it."""
        if self._error is not None:
            raise self._error
