"""Opening image files with Pillow: headers only, under our own pixel limit."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

import PIL.Image
import PIL.ImageFile

from mmdatasets.errors import MediaDecodeError, MediaError, MediaLimitError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    from mmdatasets.options import MediaOptions

_PREFIX_LENGTH = 64
_IMAGE_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_PLAYLIST = "a playlist, which would make this host open other files; name the video itself"
_OTHER_SIGNATURES = {
    b"#extm3u": _PLAYLIST,
    b"ffconcat": _PLAYLIST,
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"%PDF": "a PDF document",
    b"%!PS": "PostScript, a program that draws; render it to pixels first",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "gzip-compressed data",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"<svg": "an SVG drawing; render it to pixels first",
    b"<?xml": "an XML document",
    b"<!doctype html": "an HTML page, as servers send in place of a missing file",
    b"<html": "an HTML page, as servers send in place of a missing file",
}
_BY_OTHER_PROGRAMS = ("EPS",)  # Ghostscript would run what the file says
_pillow_limit_lock = threading.Lock()
_truncated_lock = threading.Lock()


def open_image(file: BinaryIO, options: MediaOptions, source: str) -> ImageFile:
    """Opens an image file and parses its header; no pixel is decoded.

    This does what `PIL.Image.open` does, except for Pillow's own pixel limit: that one warns from 89 megapixels on and
    is a setting of the whole process, whereas `MediaOptions.image_pixel_limit` is the caller's.

    Args:
        file: Binary file, seekable; it stays open.
        options: `image_pixel_limit` is used.
        source: Description for errors.

    Raises:
        MediaLimitError: The header announces more pixels than the limit.
        MediaDecodeError: The file is no image, or its header is damaged.
    """
    try:
        image = _identify(file)
    except PIL.Image.DecompressionBombError as error:
        # WebP alone asks Pillow's limit before it gives a size.
        if options.image_pixel_limit <= 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0):
            raise MediaLimitError(
                f"more pixels than MediaOptions.image_pixel_limit: {error}", source=source
            ) from error
        with without_pillow_limit():
            image = open_image(file, options, source)
    except (MemoryError, MediaError):  # of the latter, those of a remote file
        raise
    except Exception as error:  # plugins raise what their parsers raise
        raise MediaDecodeError(f"not a readable image: {describe_content(file)} ({error})", source=source) from error
    if image is None:
        raise MediaDecodeError(f"not a readable image: found {describe_content(file)}", source=source)
    check_pixels(image.size, options, source)
    return image


def check_pixels(size: tuple[int, int], options: MediaOptions, source: str, what: str = "image") -> None:
    """Refuses an image, or a frame of a video, of more pixels than the options allow.

    Raises:
        MediaLimitError: Naming the size and the limit.
    """
    width, height = size
    if width * height > options.image_pixel_limit:
        raise MediaLimitError(
            f"the {what} is {width}x{height} = {width * height:,} pixels, more than MediaOptions.image_pixel_limit = "
            f"{options.image_pixel_limit:,}; raise the limit or leave it out",
            source=source,
        )


@contextmanager
def without_pillow_limit(pixels: int | None = None) -> Iterator[None]:
    """Lifts Pillow's pixel limit, for images that our own limit lets pass.

    Pillow has one limit for the process, which some plugins ask while they decode (TIFF, GIF, MPO), so there is no
    other way. For images below it, it stays as it is.
    """
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is None or (pixels is not None and pixels <= limit):
        yield
        return
    with _pillow_limit_lock:
        limit = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


class _InThread:
    """What is true in one thread, and elsewhere what it was."""

    def __init__(self, before: object) -> None:
        self._before = before
        self._thread = threading.get_ident()

    def __bool__(self) -> bool:
        return threading.get_ident() == self._thread or bool(self._before)


@contextmanager
def with_truncated(options: MediaOptions) -> Iterator[None]:
    """Has Pillow take images that are cut off, where `allow_truncated`, in this thread and block alone.

    Pillow asks one variable of its module, all over its readers of formats; other threads find there what it was.
    """
    if not options.allow_truncated:
        yield
        return
    with _truncated_lock:
        before = PIL.ImageFile.LOAD_TRUNCATED_IMAGES
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES = cast("bool", _InThread(before))
        try:
            yield
        finally:
            PIL.ImageFile.LOAD_TRUNCATED_IMAGES = before


def describe_content(file: BinaryIO) -> str:  # noqa: PLR0911 - one for each kind
    """Says in words what a file that is no readable image seems to be."""
    try:
        file.seek(0)
        prefix = file.read(_PREFIX_LENGTH)
    except Exception:  # a connection may have broken
        return "data that cannot be read"
    if not prefix:
        return "an empty file (0 bytes)"
    for signature, name in _IMAGE_SIGNATURES.items():
        if prefix.startswith(signature):
            return f"a {name} file with a truncated or damaged header"
    if prefix[:4] == b"RIFF":
        name = prefix[8:12].decode("ascii", "replace").strip()
        return "a WebP file that is truncated or damaged" if name == "WEBP" else f"a RIFF file of type {name!r}"
    if prefix[4:8] == b"ftyp":
        brand = prefix[8:12].decode("ascii", "replace")
        return f"an ISO media file of brand {brand!r} that is truncated, damaged, or of no format that Pillow can read"
    text = prefix.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for signature, name in _OTHER_SIGNATURES.items():
        if text.startswith(signature) or prefix.startswith(signature):
            return name
    return f"data that begins with {prefix[:16]!r}"


def _identify(file: BinaryIO) -> ImageFile | None:
    """Finds the Pillow plugin that reads the file. Gives `None` where none does."""
    file.seek(0)
    prefix = file.read(16)
    tried: set[str] = set()
    for load_plugins in (PIL.Image.preinit, PIL.Image.init):  # the common formats first; the rest costs imports
        load_plugins()
        for name in PIL.Image.ID:
            if name in tried or name in _BY_OTHER_PROGRAMS:
                continue
            tried.add(name)
            factory, accept = PIL.Image.OPEN[name]
            try:
                if accept is not None and accept(prefix) is not True:
                    continue
                file.seek(0)
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # the prefix fits, the header does not: another plugin may take it
    return None
