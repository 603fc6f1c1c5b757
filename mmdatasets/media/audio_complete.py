"""Whether an audio file is as long as its header says.

What most formats say is `mmdatasets.media.whole`; WAV and MP3 need more than their headers. MP3 without a Xing header
does not tell.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from mmdatasets.errors import MediaDecodeError
from mmdatasets.media.mp3 import read_xing_header
from mmdatasets.media.whole import check_whole, count_missing

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
    check_whole(file, options, source)
    if options.allow_truncated:
        pass
    elif head[:4] == b"RIFF" and head[8:] == b"WAVE":
        _check_wav(file, size, source)
    elif head[:3] == b"ID3" or (head[0] == 0xFF and head[1:2] >= b"\xe0"):
        _check_mp3(file, size, options, source)
    file.seek(0)


def ends_early(file: BinaryIO) -> bool:
    """Whether a file ends before its header says so, or may do. The file is left at its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    early = bool(count_missing(file))
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        early = _missing_in_wav(file, size) is not None
    elif head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        header = read_xing_header(file)
        early = header is not None and header.end is not None and header.end > size
    file.seek(0)
    return early


def cut_off(problem: str, source: str) -> MediaDecodeError:
    """The error about a file that ends too early."""
    return MediaDecodeError(f"the audio file is cut off or damaged: {problem}", source=source)


def _check_wav(file: BinaryIO, size: int, source: str) -> None:
    missing = _missing_in_wav(file, size)
    if missing is not None:
        stated, found = missing
        raise cut_off(f"its header says that its samples are {stated:,} bytes, and {found:,} follow", source)


def _missing_in_wav(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """How many bytes of samples the header states and how many follow, where these are fewer."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        position += 8
        if header[:4] == b"data":
            is_short = length < _STREAMED_WAV and position + length > size
            return (length, size - position) if is_short else None
        position += length + length % 2
    return None


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
