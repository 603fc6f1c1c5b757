"""Whether an audio file is as long as its header says.

Decoders take a file that is cut off for a shorter one where the format lets them: they do not complain about WAV and
MP3. Ogg, Matroska and MP3 without a Xing header do not tell.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.mp3 import read_xing_header

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions

_STREAMED_WAV = 0x7FFF0000  # programs that write WAV to a pipe put something above this for the size


def check_complete(file: BinaryIO, options: MediaOptions, source: str) -> None:
    """Refuses a file that is empty, or that ends before its header says so.

    Args:
        file: At any position; it is left at its start.
        options: `allow_truncated` is used, and the limits where samples are counted.
        source: Description for errors.

    Raises:
        MediaDecodeError: The file is empty, or cut off, which may be allowed.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if not head:
        raise MediaDecodeError("the file is empty", source=source)
    if options.allow_truncated:
        pass
    elif head[:4] == b"RIFF" and head[8:] == b"WAVE":
        _check_wav(file, size, source)
    elif head[:3] == b"ID3" or (head[0] == 0xFF and head[1:2] >= b"\xe0"):
        _check_mp3(file, size, options, source)
    file.seek(0)


def cut_off(problem: str, source: str) -> MediaDecodeError:
    """The error about a file that ends too early."""
    return MediaDecodeError(f"the audio file is cut off or damaged: {problem}", source=source)


def _check_wav(file: BinaryIO, size: int, source: str) -> None:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        position += 8
        if header[:4] == b"data":
            if length < _STREAMED_WAV and position + length > size:
                raise cut_off(
                    f"its header says that its samples are {length:,} bytes, and {size - position:,} follow", source
                )
            return
        position += length + length % 2


def _check_mp3(file: BinaryIO, size: int, options: MediaOptions, source: str) -> None:
    header = read_xing_header(file)
    if header is None or header.end is None or header.end <= size:
        return
    # Not proof enough, since some programs count a tag that is not there: count what there is.
    import soundfile

    from mmdatasets.media.audio_pyav import PyAVReader
    from mmdatasets.media.audio_soundfile import Nameless

    file.seek(0)
    shown = Nameless(file)
    try:
        with soundfile.SoundFile(shown) as sound:
            stated = sound.frames
    except soundfile.LibsndfileError:
        shown.check()
        return  # whatever decodes it has the last word
    file.seek(0)
    found = PyAVReader(options).probe(file, source).num_samples
    if found < stated:
        raise cut_off(f"its header says that it has {stated:,} samples, and {found:,} follow", source)
