"""Remote media through fsspec: opening a URL so that little of it is read, and telling its version without reading."""

from __future__ import annotations

import tempfile
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.spec import AbstractBufferedFile

from mmdatasets.errors import (
    MediaError,
    MediaForbiddenError,
    MediaNotFoundError,
    MediaReferenceError,
    MissingExtraError,
)
from mmdatasets.media.limits import check_bytes
from mmdatasets.media.places import HTTP, PrivateAddressError, check_url, protocols_of
from mmdatasets.media.ranges import RangeCache
from mmdatasets.media.source import describe_source

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from mmdatasets.errors import MMDatasetsError
    from mmdatasets.options import MediaOptions

_EXTRAS = {"http": ("aiohttp", "http"), "https": ("aiohttp", "http"), "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}
_CHUNK = 1 << 20
_IN_MEMORY = 32 << 20  # bytes of a file without ranges; what is longer goes to a temporary file

# What filesystems call the version of a file, or what stands for it. `ukey` will not do: that of http is the URL.
_VERSION_FIELDS = (
    *("ETag", "etag", "e_tag", "Content-MD5", "content_md5", "Digest", "md5Hash", "md5", "crc32c", "CRC", "checksum"),
    *("sha256", "blob_id", "generation", "version_id", "VersionId", "Last-Modified", "LastModified", "last_modified"),
    *("mtime", "updated", "modified", "created", "date_time"),
)


class _Remote(NamedTuple):
    filesystem: AbstractFileSystem
    path: str


def open_url(url: str, options: MediaOptions) -> BinaryIO:
    """Opens a URL for reading, at its first byte.

    Ranges of the file are asked for as they are read, see `mmdatasets.media.ranges`. A server that gives no ranges is
    read from beginning to end once.

    Args:
        url: Of any filesystem that fsspec knows, chains (`zip://a.png::s3://bucket/a.zip`) included.
        options: `allowed_protocols`, `media_roots`, those of `http` and `byte_limit` are used.

    Returns:
        A seekable binary file. Its reads raise `MediaNotFoundError` where the server fails or gives something else
        than what was asked for.

    Raises:
        MediaForbiddenError: The URL is of a kind, or leads to an address, that the options do not allow.
        MediaLimitError: The file says that it has more bytes than `byte_limit`, or is found to have more.
        MediaNotFoundError: Nothing can be opened under the URL.
        MediaReferenceError: The URL is of a kind that is unknown.
        MissingExtraError: What opens this kind of URL is not installed.
    """
    source = describe_source(url)
    check_url(url, options, source)
    deadline = _Deadline(options)
    try:
        remote = _find(url, options)
        file = remote.filesystem.open(remote.path, "rb")
        if not isinstance(file, AbstractBufferedFile):
            check_bytes(remote.filesystem.size(remote.path) or 0, options, source)
            return _seekable(cast("BinaryIO", file), remote.filesystem, options, source)
        if file.size is None:  # nor does it give ranges
            with file:
                return _spooled(file, options, source, deadline)
        check_bytes(file.size, options, source)
    except MediaError:
        raise
    except Exception as error:  # each filesystem raises its client's own errors
        raise _cannot_open(url, error, source) from error
    file.cache = RangeCache(_Fetcher(remote, file, source, options, deadline).fetch, file.size)
    return _seekable(cast("BinaryIO", file), remote.filesystem, options, source)


def remote_version(url: str, options: MediaOptions) -> str | None:
    """Tells the version of a remote file from others of the same URL, by one request that reads nothing of it.

    Args:
        url: As for `open_url`.
        options: Likewise. Servers, and whatever else fsspec asks asynchronously, have `http_timeout_s` to answer.

    Returns:
        What the server says of the version: its ETag, checksums, times and size. `None` where it says too little, or
        the URL cannot be opened, which `open_url` says why.
    """
    try:
        check_url(url, options, "")
        filesystem, path = _find(url, options)
        if isinstance(filesystem, AsyncFileSystem):
            info = sync(filesystem.loop, filesystem._info, path, timeout=options.http_timeout_s)
        else:
            info = filesystem.info(path)
    except Exception:
        return None
    said = [f"{name}={info[name]}" for name in _VERSION_FIELDS if info.get(name) not in (None, "")]
    return " ".join([*said, f"size={info.get('size')}"]) if said and info.get("type") != "directory" else None


def _find(url: str, options: MediaOptions) -> _Remote:
    protocols = [protocol for protocol in protocols_of(url) if protocol in HTTP]
    settings: dict[str, object] = {}
    if protocols:
        from mmdatasets.media.http_client import make_client

        client: dict[str, object] = {"get_client": make_client, "client_kwargs": _client_settings(options)}
        settings = dict.fromkeys(protocols, client) if "::" in url else client
    filesystem, path = fsspec.core.url_to_fs(url, **settings)
    return _Remote(filesystem, path)


def _client_settings(options: MediaOptions) -> dict[str, object]:
    """Arguments of `make_client`: plain values, by which fsspec knows equal clients."""
    return {
        "timeout_s": options.http_timeout_s,
        "total_timeout_s": options.http_total_timeout_s,
        "byte_limit": options.byte_limit,
        "allow_private_addresses": options.allow_private_addresses,
    }


class _Deadline:
    """Until when a file may be read, from when it was opened."""

    def __init__(self, options: MediaOptions) -> None:
        self._seconds = options.http_total_timeout_s
        self._end = time.monotonic() + self._seconds

    def remaining(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: If none are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"reading it takes longer than MediaOptions.http_total_timeout_s = {self._seconds:g} s")
        return left


def _cannot_open(url: str, error: Exception, source: str) -> MMDatasetsError:
    if _leads_to_private_address(error):
        return MediaForbiddenError(
            "the host leads to an address that is not of the public internet; set "
            "MediaOptions(allow_private_addresses=True) where rows may name servers of your own network",
            source=source,
        )
    if isinstance(error, ImportError):
        package, extra = _EXTRAS.get(url.partition(":")[0].lower(), (None, None))
        if package is not None and extra is not None:
            return MissingExtraError.for_package(package, extra, f"opening {source}")
    if isinstance(error, ImportError | ValueError):
        return MediaReferenceError(f"the URL cannot be used: {error}", source=source)
    if isinstance(error, FileNotFoundError):
        # Behind this, fsspec hides whatever a server answered.
        cause = error.__cause__
        if cause is None or getattr(cause, "status", None) == 404:
            return MediaNotFoundError("nothing is stored under the URL", source=source)
        error = cause if isinstance(cause, Exception) else error
    return MediaNotFoundError(f"cannot be opened: {_reason(error)}", source=source)


def _leads_to_private_address(error: BaseException) -> bool:
    causes = (error, error.__cause__, getattr(error, "os_error", None), getattr(error.__cause__, "os_error", None))
    return any(isinstance(cause, PrivateAddressError) for cause in causes)


def _reason(error: BaseException) -> str:
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    if isinstance(status, int):
        return f"the server answers {status} {message or ''}".rstrip()
    if isinstance(error, TimeoutError):
        return str(error) or "the server does not answer in time (MediaOptions.http_timeout_s)"
    # Not str(error) of a client's errors with the URL: signed ones are credentials.
    return f"{type(error).__name__}: {error}".split("?", 1)[0]


class _Fetcher:
    """Asks for ranges of an open file, and checks that they are what was asked for."""

    def __init__(
        self,
        remote: _Remote,
        file: AbstractBufferedFile,
        source: str,
        options: MediaOptions,
        deadline: _Deadline,
    ) -> None:
        self._remote = remote
        self._file = file
        self._options = options
        # Of other filesystems, clients have limits of time of their own.
        self._deadline = deadline if remote.filesystem.protocol == HTTP else None
        self._fetch_range = file._fetch_range  # how fsspec files read; `read` alone would go through a cache
        self._source = source
        self._whole: BinaryIO | None = None

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`."""
        try:
            data = self._read(start, end)
        except MediaError:
            raise
        except Exception as error:  # each filesystem raises its client's own errors
            raise MediaNotFoundError(f"cannot be read to its end: {_reason(error)}", source=self._source) from error
        if len(data) != end - start:
            raise MediaNotFoundError(
                f"the server gives {len(data):,} bytes when asked for those from {start:,} to {end - 1:,}: the file "
                "is not as long as it says",
                source=self._source,
            )
        return data

    def _read(self, start: int, end: int) -> bytes:
        if self._whole is None:
            if self._deadline is not None:
                from mmdatasets.media.http_client import request_timeout

                timeout = request_timeout(self._deadline.remaining(), self._options.http_timeout_s)
                self._file.kwargs["timeout"] = timeout
            try:
                data: bytes = self._fetch_range(start, end)
                return data
            except ValueError:
                if not start:
                    raise
                # The server gives the whole file whatever it is asked for.
                with self._remote.filesystem.open(self._remote.path, "rb", block_size=0) as file:
                    self._whole = _spooled(file, self._options, self._source, self._deadline)
        self._whole.seek(start)
        return self._whole.read(end - start)


def _spooled(file: BinaryIO, options: MediaOptions, source: str, deadline: _Deadline | None) -> BinaryIO:
    """A copy of a file that can only be read from beginning to end."""
    copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    num_bytes = 0
    for chunk in iter(partial(file.read, _CHUNK), b""):
        num_bytes += len(chunk)
        check_bytes(num_bytes, options, source)
        copy.write(chunk)
        if deadline is not None:
            deadline.remaining()
    copy.seek(0)
    return cast("BinaryIO", copy)


def _seekable(file: BinaryIO, filesystem: AbstractFileSystem, options: MediaOptions, source: str) -> BinaryIO:
    if file.seekable():
        # An archive is closed with the filesystem made for it, and not every file keeps its filesystem alive.
        weakref.finalize(file, lambda _: None, filesystem).atexit = False
        return file
    with file:
        return _spooled(file, options, source, None)
