"""References that lead nowhere, to something that is no file, or are no references; and files that never end."""

from __future__ import annotations

import io
import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mmdatasets.testing.damage.formats import MediaFormat, media_formats

PlaceDamage: TypeAlias = Callable[[MediaFormat, Path], object]
"""Makes a reference of a format, and of a path that is free."""

_WITHOUT_VALUES: dict[str, object] = {
    "None": None,
    "an empty text": "",
    "empty bytes": b"",
    "a number": 5,
    "NaN": float("nan"),
    "True": True,
    "an empty mapping": {},
    "a mapping of None": {"path": None, "bytes": None},
    "a mapping with other keys": {"src": "a.jpg"},
    "a mapping with a number for a path": {"path": 5, "bytes": None},
    "a mapping with text for bytes": {"path": None, "bytes": "a.jpg"},
    "a mapping with an array of nothing": {"array": np.empty(0, np.float32), "sampling_rate": 16_000},
    "a mapping with a rate of zero": {"array": np.zeros(9, np.float32), "sampling_rate": 0},
    "a mapping with frames of nothing": {"frames": [], "fps": 1.0},
    "a mapping with a rate of NaN": {"frames": [None], "fps": float("nan")},
    "a clip that ends before it begins": {"path": "a.mp4", "start": 2.0, "end": 1.0},
    "an empty list": [],
    "a list of None": [None],
    "a list of lists": [[["a.jpg"]]],
    "an object": object(),
    "an empty array": np.empty((0, 0, 3), np.uint8),
    "an array of texts": np.array([["a", "b"]]),
    "an array of NaN": np.full((4, 4, 3), np.nan, np.float32),
    "an array of complex numbers": np.zeros((4, 4, 3), np.complex64),
    "an array of six dimensions": np.zeros((1, 1, 1, 1, 1, 1), np.uint8),
    "a path with a null character": "a\0.jpg",
    "a path with half of a character": "a\udcff.jpg",
    "a path of 100,000 characters": "a" * 100_000,
    "a folder of 100,000 levels": "a/" * 50_000 + "a.jpg",
    "a data URI without data": "data:",
    "a data URI that is no base64": "data:image/png;base64,%%%",
    "a data URI of nothing": "data:image/png;base64,",
    "a URL without a host": "https:///a.jpg",
    "a URL of an unknown kind": "gopher://localhost/a.jpg",
    "a URL of another host's file": "file://example.org/a.jpg",
    "a URL within a URL": "zip://a.jpg::zip://b.zip::missing.zip",
}


def place_damage() -> dict[str, PlaceDamage]:
    """Name -> what makes the reference."""
    kinds: dict[str, PlaceDamage] = {
        "missing": lambda _, path: str(path),
        "permission denied": _denied,
        "a directory": _directory,
        "a file within a file": _within_file,
        "a FIFO": _fifo,
        "a socket": _socket,
        "a file of 1 TB, zeros behind the first bytes": _sparse,
        "a broken symlink": lambda _, path: _link(path, "nothing"),
        "a symlink to itself": lambda _, path: _link(path, path.name),
        "a symlink to an endless device": lambda _, path: _link(path, "/dev/zero"),
        "an endless device": lambda *_: "/dev/zero",
        "an empty device": lambda *_: "/dev/null",
        "a terminal": lambda *_: "/dev/tty",
        "a file of this process's memory": lambda *_: "/proc/self/mem",
        "a file object in text mode": lambda *_: io.StringIO("text"),
        "a file object that is closed": _closed,
        "a file object that fails": lambda format, _: FailingFile(format.valid),
        "a file object that gives one byte at a time": lambda format, _: SlowFile(format.valid),
        "a file object that gives more than asked for": lambda format, _: GenerousFile(format.valid),
        "a file object that gives None": lambda format, _: SilentFile(format.valid),
        "a file object that cannot be rewound": lambda format, _: OneWayFile(format.valid),
        "an endless file object of zeros": lambda *_: EndlessFile(b"", bytes(1 << 16)),
        "an endless file object": lambda format, _: EndlessFile(format.valid, format.valid),
    }
    return kinds | {name: partial(_value, value=value) for name, value in _WITHOUT_VALUES.items()} | _wrong_uses()


def _wrong_uses() -> dict[str, PlaceDamage]:
    """Good files, used as something else."""

    def other(name: str, format: MediaFormat, path: Path) -> object:
        found = next(own for own in media_formats() if own.modality == name)
        path.write_bytes(found.valid)
        return str(path)

    return {f"a file of {name}": partial(other, name) for name in ("image", "video", "audio")}


def _value(*_: object, value: object) -> object:
    return value


def _denied(format: MediaFormat, path: Path) -> str:
    path.write_bytes(format.valid)
    path.chmod(0)
    return str(path)


def _directory(_: MediaFormat, path: Path) -> str:
    path.mkdir(exist_ok=True)
    return str(path)


def _within_file(format: MediaFormat, path: Path) -> str:
    path.write_bytes(format.valid)
    return str(path / "media")


def _sparse(format: MediaFormat, path: Path) -> str:
    """A file that takes no more of the disk than its beginning does."""
    path.write_bytes(format.valid)
    os.truncate(path, 1 << 40)
    return str(path)


def _fifo(_: MediaFormat, path: Path) -> str:
    if not path.exists():
        os.mkfifo(path)
    return str(path)


def _socket(_: MediaFormat, path: Path) -> str:
    if not path.exists():
        # The path of a socket is 107 characters at most.
        os.mknod(path, stat.S_IFSOCK | 0o600) if hasattr(os, "mknod") else socket.socket(socket.AF_UNIX).bind(
            str(path)
        )
    return str(path)


def _link(path: Path, target: str) -> str:
    if not path.is_symlink():
        path.symlink_to(target)
    return str(path)


def _closed(format: MediaFormat, _: Path) -> object:
    file = io.BytesIO(format.valid)
    file.close()
    return file


class FailingFile(io.BytesIO):
    """A disk that fails after the first bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads, near the beginning."""
        if size is None or size < 0 or self.tell() > 200:
            raise OSError(5, "Input/output error")
        return super().read(min(200, size))


class SlowFile(io.BytesIO):
    """A connection that gives a byte at a time, which `io.RawIOBase.read` allows."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads a byte."""
        return super().read(size if size is None or size < 1 else 1)


class GenerousFile(io.BytesIO):
    """A file object that gives more than it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads more."""
        return super().read(size if size is None or size < 1 else size + 1000)


class SilentFile(io.BytesIO):
    """A connection that has nothing yet."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads nothing."""
        return None  # type: ignore[return-value] # what a non-blocking file gives


class OneWayFile(io.BytesIO):
    """A pipe."""

    def seekable(self) -> bool:
        """Says so."""
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Refuses."""
        raise io.UnsupportedOperation("seek")


class EndlessFile:
    """A file object that never comes to an end, and whose end therefore cannot be sought.

    Args:
        head: What it begins with.
        block: What it repeats for ever.
    """

    def __init__(self, head: bytes, block: bytes) -> None:
        self._head = head
        self._block = block
        self._at = 0

    def tell(self) -> int:
        """Where it stands."""
        return self._at

    def seekable(self) -> bool:
        """Says that it can be rewound."""
        return True

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes anywhere but to its end."""
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("it has no end")
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Reads as much as is asked for. Who asks for everything runs out of memory."""
        if size < 0:
            raise MemoryError("a file that never ends was read to its end")
        start, length = self._at, len(self._block)
        self._at += size
        head = self._head[start : start + size]
        offset = max(0, start - len(self._head)) % length
        repeats = (size - len(head) + offset) // length + 1
        return head + (self._block * repeats)[offset : offset + size - len(head)]
