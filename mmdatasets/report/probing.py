"""Finds out what a media file is, and what its headers say, reading as little of it as that takes."""

from __future__ import annotations

import importlib
import io
import mimetypes
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from mmdatasets.errors import MediaDecodeError, MediaError, MediaLimitError
from mmdatasets.media.audio import probe_audio
from mmdatasets.media.container import describe_media
from mmdatasets.media.header import open_image
from mmdatasets.media.orientation import read_orientation
from mmdatasets.media.probe import probe_image
from mmdatasets.media.source import describe_source, open_source
from mmdatasets.media.video import probe_video
from mmdatasets.types import AudioInfo, ImageInfo, VideoInfo

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import Modality

# What opens videos and audio is loaded when a file is no image; that is not part of the time that probing takes.
_READERS = ("mmdatasets.media.video_pyav", "mmdatasets.media.audio_soundfile", "mmdatasets.media.audio_pyav")
_STILL_IMAGE = "a still image"
_SOUND = (b"fLaC", b"FORM", b"caff", b"ID3")
_MEDIA_TYPES = ("image/", "video/", "audio/")


@dataclass(frozen=True, slots=True)
class ProbedFile:
    """What a media file is.

    Attributes:
        modality: What it is, by its content.
        info: What its headers, or its packets, say.
        num_bytes: Size of the file.
        bytes_read: How many bytes were read of it, what was read twice counted twice.
        seconds: How long it took to tell what it is and to read that.
        orientation: Of an image, how it must be turned: 1 (upright) to 8, as EXIF numbers them.
    """

    modality: Modality
    info: ImageInfo | VideoInfo | AudioInfo
    num_bytes: int
    bytes_read: int
    seconds: float
    orientation: int | None = None


def probe_file(path: str | os.PathLike[str], options: MediaOptions) -> ProbedFile:
    """Finds out what a file is, whatever its name says.

    Args:
        path: The file; a local one.
        options: `image_pixel_limit`, `audio_backend` and `media_root` are used.

    Raises:
        MediaNotFoundError: There is no such file.
        MediaLimitError: An image, or a frame, has more pixels than `image_pixel_limit`.
        MediaDecodeError: It is no image, video or audio that can be read. Says what it seems to be.
    """
    source = describe_source(path)
    with open_source(path, options) as file:
        size = file.seek(0, io.SEEK_END)
        counting = cast("BinaryIO", _CountingFile(file))
        try:
            return _probe(counting, options, size)
        except MediaError as error:
            error.source = source
            raise error from error.__cause__


def _probe(file: BinaryIO, options: MediaOptions, size: int) -> ProbedFile:
    start = time.perf_counter()
    try:
        info: ImageInfo | VideoInfo | AudioInfo = probe_image(file, options)
    except MediaLimitError:
        raise
    except MediaDecodeError as error:
        image_error = error
    else:
        seconds, read = time.perf_counter() - start, _bytes_read(file)
        return ProbedFile("image", info, size, read, seconds, _orientation(file, options))
    if describe_media(file) == _STILL_IMAGE or size == 0:
        raise image_error
    seconds = time.perf_counter() - start
    for name in _READERS:
        importlib.import_module(name)
    start = time.perf_counter()
    modality, info = _probe_moving(file, options)
    return ProbedFile(modality, info, size, _bytes_read(file), seconds + time.perf_counter() - start)


def _probe_moving(file: BinaryIO, options: MediaOptions) -> tuple[Modality, VideoInfo | AudioInfo]:
    """Probes what is no image. Where the first bytes say that it is sound, no video is looked for in it."""
    file.seek(0)
    prefix = file.read(12)
    if prefix.startswith(_SOUND) or (prefix[:4] == b"RIFF" and prefix[8:] == b"WAVE"):
        return "audio", probe_audio(file, options)
    try:
        return "video", probe_video(file, options)
    except MediaLimitError:
        raise
    except MediaDecodeError as error:
        video_error = error
    try:
        return "audio", probe_audio(file, options)
    except MediaDecodeError as error:
        if video_error.message.startswith("no video track"):  # it is sound, and this is what is wrong with it
            raise
        found = describe_media(file)
        if not found.startswith("data that"):  # a kind of file is known, and so is what is wrong with it
            raise video_error from error
        raise MediaDecodeError(f"no image, video or audio that can be read: found {found}") from error


def _orientation(file: BinaryIO, options: MediaOptions) -> int:
    """How an image must be turned. Reads its header again, which is not counted."""
    file.seek(0)
    return read_orientation(open_image(file, options, ""), file)


def _bytes_read(file: BinaryIO) -> int:
    return cast("_CountingFile", file).bytes_read


class _CountingFile:
    """A file that counts what is read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0
        self.closed = False
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.bytes_read += len(data)
        return data

    def readline(self, size: int = -1) -> bytes:
        data = self._file.readline(size)
        self.bytes_read += len(data)
        return data

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def media_files(paths: list[Path]) -> list[Path]:
    """Files, and those in folders that are among them, sorted.

    Of a folder those are left out that are hidden, or whose name has a suffix that is none of a media file.
    """
    found: list[Path] = []
    for path in paths:
        found += sorted(one for one in path.rglob("*") if _may_be_media(one, path)) if path.is_dir() else [path]
    return found


def _may_be_media(path: Path, folder: Path) -> bool:
    if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    kind, _ = mimetypes.guess_type(path.name)
    return not path.suffix or (kind is not None and kind.startswith(_MEDIA_TYPES))
