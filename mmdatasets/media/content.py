"""What tells the content of one media file from that of another without reading it: the key of the metadata cache.

A local file is known by its path, size and time of modification, as `make` and `rsync` know files; bytes by their
hash; a remote file by its URL and what its server says of the version (an ETag, a checksum, a time).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, cast

import xxhash

from mmdatasets.errors import MediaError
from mmdatasets.media.bounded import is_bounded, run_bounded
from mmdatasets.media.source import local_path, mapped_reference, url_of

if TYPE_CHECKING:
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import Modality

PROBE_VERSION = 1
"""Raised whenever a probe finds something else, or more, in the same file."""

KEY_BYTES = 16
_NO_FILE = ("array", "frames")  # what a mapping may have in the place of a file

# The packages that decide on the findings beside our own code: of images and videos, and of audio by its backend.
_DECODERS = {
    "image": ("pillow",),
    "video": ("av",),
    "soundfile": ("av", "soundfile"),
    "pyav": ("av",),
    "torchcodec": ("av", "torchcodec"),
}


def content_key(reference: object, options: MediaOptions, modality: Modality) -> bytes | None:
    """Tells what a probe of this modality finds in this content from whatever else is remembered.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.MediaReference`.
        options: What says where media may be read from and, for audio, `audio_backend` are used, and
            `allow_truncated`. Limits are not: what exceeds them is refused whether remembered or not.
        modality: As what the content is probed.

    Returns:
        16 bytes. `None` where nothing tells one content from another without reading it: open files, arrays and other
        objects; files that cannot be found; servers that say nothing of a file's version.
    """
    content = _content(reference, options)
    if content is None:
        return None
    reader = options.audio_backend if modality == "audio" else modality
    truncated = " truncated" if options.allow_truncated else ""
    return _digest(f"{PROBE_VERSION} {modality} {reader} {_versions(reader)}{truncated}".encode(), *content)


def _content(reference: object, options: MediaOptions) -> tuple[bytes, ...] | None:
    try:
        if isinstance(reference, Mapping):
            if any(reference.get(name) is not None for name in _NO_FILE):
                return None
            return _content(mapped_reference(reference), options)
        if isinstance(reference, str | os.PathLike):
            return _content_at(reference, options)
    except MediaError:
        return None  # probing it says what is wrong
    if isinstance(reference, bytes | bytearray | memoryview):
        data = reference if isinstance(reference, bytes) else bytes(reference)
        return b"bytes", xxhash.xxh3_128_digest(data), str(len(data)).encode()
    return None


def _content_at(reference: str | os.PathLike[str], options: MediaOptions) -> tuple[bytes, ...] | None:
    path = local_path(reference, options)
    if path is not None:
        return _local_content(path)
    url = url_of(reference)
    if url is None:  # data:
        return b"data", xxhash.xxh3_128_digest(os.fsencode(os.fspath(reference)))
    if is_bounded(url, options):
        found = cast("str | None", run_bounded("remote_version", url, options=options))
    else:
        from mmdatasets.media.remote import remote_version

        found = remote_version(url, options)
    return None if found is None else (b"url", url.encode("utf-8", "surrogatepass"), found.encode())


def _local_content(path: str) -> tuple[bytes, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, once for each item of a dataset
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return b"file", os.fsencode(os.path.abspath(path)), f"{found.st_size} {found.st_mtime_ns}".encode()  # noqa: PTH100


@cache
def _versions(reader: str) -> str:
    return " ".join(f"{package}={_version(package)}" for package in _DECODERS[reader])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _digest(*parts: bytes) -> bytes:
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
