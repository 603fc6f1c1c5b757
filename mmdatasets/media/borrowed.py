"""Reading file objects that belong to the caller."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, cast

from mmdatasets.errors import MediaError, MediaNotFoundError, MediaReferenceError

if TYPE_CHECKING:
    from types import TracebackType


class _BorrowedFile:
    """A caller's file object, read from its start; closing gives it back open, at the position it was found."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._found_at = file.tell()
        self.closed = False
        file.seek(0, os.SEEK_END)  # a stream without an end would be read for ever
        file.seek(0)
        if not isinstance(file.read(1), bytes | bytearray | memoryview):  # text, or nothing yet
            raise ValueError("it gives no bytes")
        file.seek(0)
        # Bound methods of the file itself: readers make thousands of small calls.
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell
        for name in ("fileno", "readline"):  # the latter is for Pillow's readers of formats that begin with text
            if hasattr(file, name):
                setattr(self, name, getattr(file, name))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._file.seek(self._found_at)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def __enter__(self) -> _BorrowedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def borrow(file: BinaryIO, source: str) -> BinaryIO:
    """Takes a caller's file object for reading, from its first byte.

    Args:
        file: Seekable, in binary mode, and with an end. Closing what is returned gives it back at its position.
        source: Description for errors.

    Raises:
        MediaReferenceError: It is no such file.
    """
    if isinstance(file, io.TextIOBase):
        raise MediaReferenceError("the file object is in text mode; open it in mode 'rb'", source=source)
    try:
        # The wrapper has what readers of images, video and audio call; it is not a whole BinaryIO.
        return cast("BinaryIO", _BorrowedFile(file))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MediaReferenceError(
            f"the file object cannot be read, or be rewound ({error}); read it and pass the bytes",
            source=source,
        ) from error


def read_whole(file: BinaryIO, source: str) -> bytes:
    """All bytes of a caller's file object; it is given back at its position.

    Args:
        file: As for `borrow`.
        source: Description for errors.

    Raises:
        MediaNotFoundError: It cannot be read to its end.
        MediaReferenceError: It is no such file.
    """
    try:
        with borrow(file, source) as borrowed:
            data = borrowed.read()
    except MediaError:
        raise
    except Exception as error:  # a connection's client raises its own errors
        raise MediaNotFoundError(f"the file object cannot be read: {error}", source=source) from error
    return bytes(data)
