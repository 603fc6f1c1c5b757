"""Opening media references: every form in which a row may refer to a media item becomes a binary file."""

from __future__ import annotations

import io
import os
import stat
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TypeGuard

from mmdatasets.errors import MediaNotFoundError, MediaReferenceError
from mmdatasets.media.borrowed import borrow, read_whole
from mmdatasets.media.limits import check_bytes
from mmdatasets.media.locations import URL, data_uri_bytes, describe_location, is_data_uri, shorten
from mmdatasets.media.places import check_opened, check_path, resolve
from mmdatasets.types import StoredMedia

if TYPE_CHECKING:
    import PIL.Image

    from mmdatasets.media.arrays import ImageArray
    from mmdatasets.options import MediaOptions

EXPECTED_FORMS = (
    "a path, a URL, a data: URI, bytes, a binary file object, a {'path', 'bytes'} mapping, a PIL image or an array"
)

# A FIFO without a writer blocks an ordinary open for ever, and a terminal would become that of this process.
_OPENING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def open_source(reference: object, options: MediaOptions) -> BinaryIO:
    """Opens a media reference for reading, at its first byte.

    A local file is opened, not read. A file object is rewound, and given back at its position on closing.

    Args:
        reference: A path, a URL, a `data:` URI, bytes, a seekable binary file object, or a `{"path", "bytes"}`
            mapping, of which the bytes win.
        options: What says where media may be read from, `byte_limit` and the timeouts of `http(s)` are used.

    Returns:
        A seekable binary file; use it as a context manager.

    Raises:
        MediaForbiddenError: The options do not allow the place that the reference leads to.
        MediaLimitError: It has more bytes than `byte_limit`. File objects, which the caller opened, are not measured.
        MediaNotFoundError: Nothing can be opened under the path or URL.
        MediaReferenceError: The value is no reference to a file, or is a kind that the options refuse.
    """
    if isinstance(reference, (str, os.PathLike)):
        return _open_location(_location(reference), options)
    if isinstance(reference, (bytes, bytearray, memoryview)):
        size = reference.nbytes if isinstance(reference, memoryview) else len(reference)
        check_bytes(size, options, describe_source(reference))
        return io.BytesIO(reference if isinstance(reference, bytes) else bytes(reference))
    if isinstance(reference, Mapping):
        return open_source(mapped_reference(reference), options)
    if is_file(reference):
        return borrow(reference, describe_source(reference))
    if is_pil_image(reference) or is_array(reference):
        raise MediaReferenceError(
            "an image that is decoded already has no file to open", source=describe_source(reference)
        )
    raise MediaReferenceError(f"not a media reference: expected {EXPECTED_FORMS}", source=describe_source(reference))


@contextmanager
def reading(reference: object, options: MediaOptions) -> Iterator[BinaryIO]:
    """Opens a media reference as `open_source` does, for as long as it is read.

    Yields:
        The file.

    Raises:
        MediaNotFoundError: Nothing can be opened, or what was opened fails while it is read: the disk, say.
        MediaReferenceError: As `open_source` raises it.
    """
    with open_source(reference, options) as file:
        try:
            yield file
        except OSError as error:
            raise MediaNotFoundError(
                f"cannot be read: {error.strerror or error}", source=describe_source(reference)
            ) from error


def describe_source(reference: object) -> str:  # noqa: PLR0911 - one for each form
    """Says in a few words what a media reference refers to, for error messages. Never shows content."""
    if isinstance(reference, (str, os.PathLike)):
        return describe_location(os.fspath(reference))
    if isinstance(reference, (bytes, bytearray)):
        return f"bytes ({len(reference):,} B)"
    if isinstance(reference, memoryview):
        return f"bytes ({reference.nbytes:,} B)"
    if isinstance(reference, Mapping):
        path, data = reference.get("path"), reference.get("bytes")
        inner = path if path is not None else data
        if inner is None or isinstance(inner, Mapping):
            return f"mapping with the keys {shorten(', '.join(map(str, reference)) or 'none')}"
        return describe_source(inner)
    if is_pil_image(reference):
        return f"PIL image {reference.width}x{reference.height}"
    if is_array(reference):
        kind = "array" if type(reference).__module__.startswith("numpy") else "tensor"
        return f"{kind} {tuple(reference.shape)} {str(reference.dtype).removeprefix('torch.')}"
    if is_file(reference):
        name = getattr(reference, "name", None)
        return f"file object {describe_location(name)}" if isinstance(name, str) else "file object"
    return "None" if reference is None else f"value of type {type(reference).__name__}"


def to_stored(reference: object) -> StoredMedia:  # noqa: PLR0911 - one for each form
    """Makes the struct in which Arrow stores a media reference: that of `datasets.Image(decode=False)`.

    Paths and URLs stay references. Bytes, file objects and `data:` URIs are stored as bytes. PIL images and arrays are
    stored as PNG, so that `decode_image` gives the same pixels for what is stored as for what was given; a PIL image
    that was opened from a file and not loaded yet is stored as that file. (`datasets.Image().encode_example` would
    drop the orientation of a PIL image, write a JPEG anew, and store changed pixels as their unchanged file.)

    Raises:
        MediaReferenceError: The value is no media reference.
    """
    from mmdatasets.media import encode

    if isinstance(reference, (str, os.PathLike)):
        location = _location(reference)
        if is_data_uri(location):
            return StoredMedia(bytes=data_uri_bytes(location), path=None)
        return StoredMedia(bytes=None, path=location)
    if isinstance(reference, (bytes, bytearray, memoryview)):
        return StoredMedia(bytes=bytes(reference), path=None)
    if isinstance(reference, Mapping):
        return _stored_mapping(reference)
    if is_pil_image(reference):
        return encode.store_pil_image(reference)
    if is_array(reference):
        return StoredMedia(bytes=encode.array_to_png(reference), path=None)
    if is_file(reference):
        return StoredMedia(bytes=read_whole(reference, describe_source(reference)), path=None)
    raise MediaReferenceError(f"not a media reference: expected {EXPECTED_FORMS}", source=describe_source(reference))


def resolve_stored(stored: StoredMedia, media_root: str | None) -> StoredMedia:
    """Makes a relative local path absolute by `MediaOptions.media_root`, which the reference then no longer needs."""
    path = stored["path"]
    if media_root is None or path is None or stored["bytes"] is not None or URL.match(path):
        return stored
    return StoredMedia(bytes=None, path=os.path.abspath(os.path.join(media_root, path)))  # noqa: PTH100, PTH118


def mapped_reference(reference: Mapping[str, object]) -> object:
    """What a `{"path", "bytes"}` mapping refers to: a path, a URL or bytes.

    Raises:
        MediaReferenceError: It has neither, or of another type.
    """
    data, path = reference.get("bytes"), reference.get("path")
    if data is not None:
        if isinstance(data, (bytes, bytearray, memoryview)):
            return data
        raise MediaReferenceError(
            f"'bytes' must be bytes, got {type(data).__name__}", source=describe_source(reference)
        )
    if path is None:
        raise MediaReferenceError(
            "a media mapping needs 'path' or 'bytes', and both are missing or None", source=describe_source(reference)
        )
    if isinstance(path, (str, os.PathLike)):
        return path
    raise MediaReferenceError(f"'path' must be a str, got {type(path).__name__}", source=describe_source(reference))


def local_path(reference: str | os.PathLike[str], options: MediaOptions) -> str | None:
    """The local path that a reference names; `None` for URLs of other places, and `data:` URIs.

    Args:
        reference: A path or URL.
        options: `media_root` and `media_roots` are used.

    Raises:
        MediaForbiddenError: It leads out of the `media_roots`.
        MediaReferenceError: It is no path, or a `file://` URL of another host.
    """
    location = _location(reference)
    if location[:7].lower() == "file://":
        parts = urllib.parse.urlsplit(location)
        if parts.netloc not in ("", "localhost"):
            raise MediaReferenceError(
                "a file:// URL must name a file of this host", source=describe_location(location)
            )
        path = urllib.request.url2pathname(location[7:].removeprefix(parts.netloc))
    elif is_data_uri(location) or URL.match(location):
        return None
    else:
        path = resolve(location, options)
    check_path(path, options, describe_location(location))
    return path


def url_of(reference: str | os.PathLike[str]) -> str | None:
    """The URL that a reference is, of whatever scheme but `data:`; `None` for others."""
    location = os.fspath(reference)
    return location if isinstance(location, str) and not is_data_uri(location) and URL.match(location) else None


def is_file(value: object) -> TypeGuard[BinaryIO]:
    """Whether a value is a file object, as far as reading goes."""
    return callable(getattr(value, "read", None))


def is_pil_image(value: object) -> TypeGuard[PIL.Image.Image]:
    """Whether a value is a PIL image."""
    import PIL.Image

    return isinstance(value, PIL.Image.Image)


def is_array(value: object) -> TypeGuard[ImageArray]:
    """Whether a value is a numpy array or a torch tensor, without importing torch."""
    module = type(value).__module__.partition(".")[0]
    return (
        module in ("numpy", "torch")
        and hasattr(value, "shape")
        and hasattr(value, "dtype")
        and not isinstance(value, (str, bytes))  # numpy's own are arrays of no dimension, too
    )


def _location(reference: str | os.PathLike[str]) -> str:
    location = os.fspath(reference)
    if not isinstance(location, str):
        raise MediaReferenceError(f"expected a path of type str, got {type(location).__name__}")
    if not location:
        raise MediaReferenceError("the path is empty")
    if "\0" in location:
        raise MediaReferenceError("the path contains a null character", source=describe_location(location))
    return location


def _stored_mapping(reference: Mapping[str, object]) -> StoredMedia:
    inner, path = mapped_reference(reference), reference.get("path")
    if isinstance(inner, (bytes, bytearray, memoryview)):
        name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
        return StoredMedia(bytes=bytes(inner), path=name)
    return to_stored(inner)


def _open_location(location: str, options: MediaOptions) -> BinaryIO:
    if is_data_uri(location):
        check_bytes(len(location), options, describe_location(location))
        return io.BytesIO(data_uri_bytes(location))
    path = local_path(location, options)
    if path is not None:
        return _open_local(path, describe_location(location if URL.match(location) else path), options)
    from mmdatasets.media.remote import open_url

    return open_url(location, options)


def _open_local(path: str, source: str, options: MediaOptions) -> BinaryIO:
    try:
        descriptor = os.open(path, _OPENING)
    except OSError as error:
        raise _not_found(error, source) from error
    except ValueError as error:  # characters that the file system's encoding lacks
        raise MediaReferenceError(f"not a path: {error}", source=source) from error
    try:
        check_opened(descriptor, path, options, source)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise MediaNotFoundError(f"expected a regular file, found {_kind_of_file(found.st_mode)}", source=source)
        check_bytes(found.st_size, options, source)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _kind_of_file(mode: int) -> str:
    kinds: dict[str, Callable[[int], bool]] = {
        "a directory": stat.S_ISDIR,
        "a named pipe (FIFO)": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    }
    return next((kind for kind, test in kinds.items() if test(mode)), "something else")


def _not_found(error: OSError, source: str) -> MediaNotFoundError:
    if isinstance(error, FileNotFoundError):
        return MediaNotFoundError(
            "no such file; relative paths are resolved against MediaOptions.media_root, or against the working "
            "directory where that is not set",
            source=source,
        )
    if isinstance(error, PermissionError):
        return MediaNotFoundError("permission denied: the file exists but may not be read", source=source)
    return MediaNotFoundError(f"cannot be opened: {error.strerror or error}", source=source)
