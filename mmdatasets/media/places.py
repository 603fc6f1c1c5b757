"""Where media may be read from: the directories and the filesystems that the options allow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmdatasets.errors import MediaForbiddenError

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions

HTTP = ("http", "https")
_LOCAL = ("file", "local")
# Those that take their bytes from where their own files say, or that ask servers by clients of their own.
_LEADING_ON = ("reference", "dir", "git", "github", "gist", "webhdfs", "jupyter", "jlab", "dask", "dbfs", "lakefs")
_OPENED = "/proc/self/fd/{}"


class PrivateAddressError(OSError):
    """A host leads to an address that is not of the public internet."""


def resolve(path: str, options: MediaOptions) -> str:
    """Resolves a relative path against the `media_root`, or the first of the `media_roots` that has the file."""
    if options.media_root is not None:
        return os.path.join(options.media_root, path)  # noqa: PTH118
    if not options.media_roots or os.path.isabs(path):  # noqa: PTH117
        return path
    candidates = [os.path.join(root, path) for root in options.media_roots]  # noqa: PTH118
    if len(candidates) == 1:
        return candidates[0]
    inside = (candidate for candidate in candidates if _is_inside(candidate, options.media_roots))
    return next((candidate for candidate in inside if os.path.exists(candidate)), candidates[0])  # noqa: PTH110


def check_path(path: str, options: MediaOptions, source: str) -> None:
    """Refuses a path that leads out of the `media_roots`, before anything is opened. Never says whether it exists.

    Raises:
        MediaForbiddenError: If it does, by itself or by a symbolic link.
    """
    if options.media_roots is not None and not _is_inside(path, options.media_roots):
        raise _outside(options, source)


def check_opened(descriptor: int, path: str, options: MediaOptions, source: str) -> None:
    """Refuses a file that lies outside of the `media_roots`, now that it is open and cannot be exchanged any more.

    Args:
        descriptor: The open file.
        path: What was opened.
        options: `media_roots` is used.
        source: Description for errors.

    Raises:
        MediaForbiddenError: If a link was put in the place of the file, or of a directory, since `check_path`.
    """
    if options.media_roots is None:
        return
    try:
        found = os.readlink(_OPENED.format(descriptor))  # noqa: PTH115
    except OSError:  # not Linux
        found = os.path.realpath(path)
        if not _is_same(descriptor, found):
            raise _outside(options, source) from None
    if not _is_inside(found, options.media_roots):
        raise _outside(options, source)


def check_url(url: str, options: MediaOptions, source: str) -> None:
    """Refuses a URL of which a part is of a filesystem that the options do not allow.

    Args:
        url: Of any scheme but `data:`, chains (`zip://a.png::s3://bucket/a.zip`) included.
        options: `allow_http`, `allowed_protocols` and `media_roots` are used.
        source: Description for errors.

    Raises:
        MediaForbiddenError: Naming the part and the option.
    """
    allowed = options.allowed_protocols
    if allowed is None and options.media_roots is not None:
        allowed = ()
    for protocol, path in _parts(url):
        if protocol in HTTP:
            if not options.allow_http:
                raise MediaForbiddenError(
                    "http(s) references are refused, since a dataset could make this host fetch any address; download "
                    "the file, or set MediaOptions(allow_http=True)",
                    source=source,
                )
            continue
        if protocol in _LEADING_ON and protocol not in (allowed or ()):
            raise MediaForbiddenError(
                f"references to {protocol}:// are refused, since they lead to files and servers that they name "
                f"themselves; add {protocol!r} to MediaOptions.allowed_protocols where the rows may name any",
                source=source,
            )
        if allowed is not None and protocol not in (*allowed, "" if "::" in url else None):
            raise MediaForbiddenError(
                f"references to {protocol or 'local'}:// are refused; add {protocol or 'file'!r} to "
                "MediaOptions.allowed_protocols where the rows may name such places",
                source=source,
            )
        if protocol in ("", *_LOCAL):
            check_path(path, options, source)


def protocols_of(url: str) -> list[str]:
    """The protocols of the parts of a URL; that of a path is empty."""
    return [protocol for protocol, _ in _parts(url)]


def _parts(url: str) -> Iterator[tuple[str, str]]:
    """The protocol of each part of a chain, as fsspec reads it, and what follows; the protocol of a path is empty."""
    for part in url.split("::"):
        protocol, separator, rest = part.partition("://")
        if separator and len(protocol) > 1:
            yield protocol.lower(), rest
        elif re.fullmatch("[A-Za-z]+", part):
            yield part.lower(), ""
        else:
            yield "", part


def _is_inside(path: str, roots: tuple[str, ...]) -> bool:
    found = _comparable(path)
    for root in roots:
        start = _comparable(root)
        if found == start or found.startswith(start if start.endswith(os.sep) else start + os.sep):
            return True
    return False


def _comparable(path: str) -> str:
    try:
        return os.path.normcase(os.path.realpath(path))
    except (OSError, ValueError):  # no path that there can be: opening it says why
        return os.path.normcase(os.path.abspath(path))  # noqa: PTH100


def _is_same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116
    except OSError:
        return False


def _outside(options: MediaOptions, source: str) -> MediaForbiddenError:
    roots = ", ".join(options.media_roots or ()) or "none: no local file may be read"
    return MediaForbiddenError(f"the path leads out of MediaOptions.media_roots ({roots})", source=source)
