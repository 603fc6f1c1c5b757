"""Remote media through fsspec: opening a URL so that little of it is read, and telling its version without reading."""

from __future__ import annotations

import re
import tempfile
import weakref
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import fsspec
from fsspec.spec import AbstractBufferedFile

from mmdatasets.errors import MediaNotFoundError, MediaReferenceError, MissingExtraError
from mmdatasets.media.ranges import RangeCache
from mmdatasets.media.source import describe_source

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from mmdatasets.errors import MMDatasetsError
    from mmdatasets.options import MediaOptions

_HTTP = re.compile(r"(?:^|::)(https?)(?:://|::|$)", re.IGNORECASE)
_EXTRAS = {"http": ("aiohttp", "http"), "https": ("aiohttp", "http"), "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}
_LONGEST_REQUEST_S = 300.0
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
        options: `allow_http` and `http_timeout_s` are used.

    Returns:
        A seekable binary file. Its reads raise `MediaNotFoundError` where the server fails or gives something else
        than what was asked for.

    Raises:
        MediaNotFoundError: Nothing can be opened under the URL.
        MediaReferenceError: The URL is of a kind that is unknown, or that the options refuse.
        MissingExtraError: What opens this kind of URL is not installed.
    """
    source = describe_source(url)
    _check_allowed(url, options, source)
    try:
        remote = _find(url, options)
        file = remote.filesystem.open(remote.path, "rb")
        if not isinstance(file, AbstractBufferedFile):
            return _seekable(cast("BinaryIO", file), remote.filesystem)
        if file.size is None:  # nor does it give ranges
            with file:
                return _spooled(file)
    except Exception as error:  # each filesystem raises its client's own errors
        raise _cannot_open(url, error, source) from error
    file.cache = RangeCache(_Fetcher(remote, file, source).fetch, file.size)
    return _seekable(cast("BinaryIO", file), remote.filesystem)


def remote_version(url: str, options: MediaOptions) -> str | None:
    """Tells the version of a remote file from others of the same URL, by one request that reads nothing of it.

    Args:
        url: As for `open_url`.
        options: Likewise.

    Returns:
        What the server says of the version: its ETag, checksums, times and size. `None` where it says too little, or
        the URL cannot be opened, which `open_url` says why.
    """
    try:
        _check_allowed(url, options, "")
        remote = _find(url, options)
        info = remote.filesystem.info(remote.path)
    except Exception:
        return None
    said = [f"{name}={info[name]}" for name in _VERSION_FIELDS if info.get(name) not in (None, "")]
    return " ".join([*said, f"size={info.get('size')}"]) if said and info.get("type") != "directory" else None


def _check_allowed(url: str, options: MediaOptions, source: str) -> None:
    if not options.allow_http and _HTTP.search(url):
        raise MediaReferenceError(
            "http(s) references are refused, since a dataset could make this host fetch any address; download the "
            "file, or set MediaOptions(allow_http=True)",
            source=source,
        )


def _find(url: str, options: MediaOptions) -> _Remote:
    protocols = {found.lower() for found in _HTTP.findall(url)}
    settings: dict[str, object] = {}
    if protocols:
        client = {"client_kwargs": _client_settings(options)}
        settings = dict.fromkeys(protocols, client) if "::" in url else dict(client)
    filesystem, path = fsspec.core.url_to_fs(url, **settings)
    return _Remote(filesystem, path)


def _client_settings(options: MediaOptions) -> dict[str, object]:
    """Arguments of `aiohttp.ClientSession`."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=_LONGEST_REQUEST_S, sock_connect=options.http_timeout_s, sock_read=options.http_timeout_s
    )
    # Ranges are those of the file itself, whose size is that without compression.
    return {"timeout": timeout, "headers": {"Accept-Encoding": "identity"}}


def _cannot_open(url: str, error: Exception, source: str) -> MMDatasetsError:
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


def _reason(error: BaseException) -> str:
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    if isinstance(status, int):
        return f"the server answers {status} {message or ''}".rstrip()
    if isinstance(error, TimeoutError):
        return "the server does not answer in time (MediaOptions.http_timeout_s)"
    # Not str(error) of a client's errors with the URL: signed ones are credentials.
    return f"{type(error).__name__}: {error}".split("?", 1)[0]


class _Fetcher:
    """Asks for ranges of an open file, and checks that they are what was asked for."""

    def __init__(self, remote: _Remote, file: AbstractBufferedFile, source: str) -> None:
        self._remote = remote
        self._fetch_range = file._fetch_range  # how fsspec files read; `read` alone would go through a cache
        self._source = source
        self._whole: BinaryIO | None = None

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`."""
        try:
            data = self._read(start, end)
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
            try:
                data: bytes = self._fetch_range(start, end)
                return data
            except ValueError:
                if not start:
                    raise
                # The server gives the whole file whatever it is asked for.
                with self._remote.filesystem.open(self._remote.path, "rb", block_size=0) as file:
                    self._whole = _spooled(file)
        self._whole.seek(start)
        return self._whole.read(end - start)


def _spooled(file: AbstractBufferedFile) -> BinaryIO:
    """A copy of a file that can only be read from beginning to end."""
    copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    for chunk in iter(partial(file.read, _CHUNK), b""):
        copy.write(chunk)
    copy.seek(0)
    return cast("BinaryIO", copy)


def _seekable(file: BinaryIO, filesystem: AbstractFileSystem) -> BinaryIO:
    if file.seekable():
        # An archive is closed with the filesystem made for it, and not every file keeps its filesystem alive.
        weakref.finalize(file, lambda _: None, filesystem).atexit = False
        return file
    with file:
        return _spooled(file)
