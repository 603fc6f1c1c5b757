"""How what a decoding process found travels to the process that asked: JSON and raw numbers, nothing that runs.

The other process reads what strangers wrote, so that nothing it says is unpickled.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import BinaryIO, TypeAlias, cast

import numpy as np
import torch

from mmdatasets import errors
from mmdatasets.errors import MMDatasetsError
from mmdatasets.media.container import is_ffmpeg_error
from mmdatasets.types import AudioInfo, ImageInfo, VideoInfo

Found: TypeAlias = "ImageInfo | VideoInfo | AudioInfo | torch.Tensor | np.ndarray | str | None"
"""What probing and decoding give, and the version of a remote file."""

_INFOS: dict[str, type[ImageInfo | VideoInfo | AudioInfo]] = {
    kind.__name__: kind for kind in (ImageInfo, VideoInfo, AudioInfo)
}
_LENGTH = struct.Struct("<Q")
_TIMES = "timestamps_s"
_PLACE = ("row", "column", "index", "source")


def write_found(file: BinaryIO, found: Found) -> None:
    """Writes a result.

    Args:
        file: Where to.
        found: `torch.uint8` pixels, `np.float32` samples, what a header says, or a version.
    """
    if isinstance(found, torch.Tensor):
        # Decoders store the channels of a pixel side by side; a copy in another order would take as long as decoding.
        inner = found.movedim(-3, -1)
        is_last = inner.is_contiguous()
        array = (inner if is_last else found.contiguous()).numpy()
        _write(file, {"kind": "pixels", "channels_last": is_last}, array)
    elif isinstance(found, np.ndarray):
        _write(file, {"kind": "samples"}, np.ascontiguousarray(found))
    elif found is None or isinstance(found, str):
        _write(file, {"kind": "version", "text": found})
    else:
        fields = {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}
        times = fields.pop(_TIMES, None)
        _write(file, {"kind": type(found).__name__, "fields": fields}, times)


def write_error(file: BinaryIO, error: BaseException) -> None:
    """Writes what went wrong."""
    cause = error.__cause__
    kind = "" if cause is None else "FFmpegError" if is_ffmpeg_error(cause) else type(cause).__name__
    number = None if kind == "FFmpegError" else getattr(cause, "errno", None)  # of the file, never of the machine
    _write(
        file,
        {
            "kind": "error",
            "class": type(error).__name__,
            "message": error.message if isinstance(error, MMDatasetsError) else str(error),
            "place": {name: getattr(error, name, None) for name in _PLACE},
            "cause": None if cause is None else [kind, number, str(cause)],
        },
    )


def read_answer(file: BinaryIO) -> Found | BaseException:
    """Reads a result, or an error.

    Raises:
        EOFError: If it ends before.
    """
    header = json.loads(read_exactly(file, _LENGTH.unpack(read_exactly(file, _LENGTH.size))[0]))
    array = None
    if header["shape"] is not None:
        array = np.frombuffer(read_exactly(file, header["num_bytes"]), header["dtype"]).reshape(header["shape"])
    kind = header["kind"]
    if kind == "error":
        return _error_of(header)
    if kind == "pixels":
        pixels = torch.from_numpy(array)
        return pixels.movedim(-1, -3) if header["channels_last"] else pixels
    if kind == "samples":
        return cast("np.ndarray", array)
    if kind == "version":
        return cast("str | None", header["text"])
    fields = dict(header["fields"])
    return _INFOS[kind](**fields | ({_TIMES: array} if _INFOS[kind] is VideoInfo else {}))


def write_message(file: BinaryIO, message: bytes) -> None:
    """Writes bytes and how many they are."""
    file.write(_LENGTH.pack(len(message)))
    file.write(message)
    file.flush()


def read_message(file: BinaryIO) -> bytearray:
    """Reads such bytes.

    Raises:
        EOFError: If it ends before.
    """
    return read_exactly(file, _LENGTH.unpack(read_exactly(file, _LENGTH.size))[0])


def read_exactly(file: BinaryIO, num_bytes: int) -> bytearray:
    """Reads so many bytes.

    Raises:
        EOFError: If it ends before.
    """
    data = bytearray(num_bytes)
    view, done = memoryview(data), 0
    while done < num_bytes:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    return data


def _write(file: BinaryIO, header: Mapping[str, object], array: np.ndarray | None = None) -> None:
    described: dict[str, object] = {**header, "shape": None}
    if array is not None:
        described |= {"shape": array.shape, "dtype": array.dtype.str, "num_bytes": array.nbytes}
    text = json.dumps(described, default=_plain_number).encode()
    file.write(_LENGTH.pack(len(text)))
    file.write(text)
    if array is not None:
        file.write(np.ascontiguousarray(array).data.cast("B"))
    file.flush()


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no number")


def _error_of(header: Mapping[str, object]) -> BaseException:
    name, message = str(header["class"]), str(header["message"])
    kind = getattr(errors, name, None)
    error: BaseException
    if isinstance(kind, type) and issubclass(kind, MMDatasetsError):
        error = kind(message, **cast("dict[str, None]", header["place"]))
    elif name in ("MemoryError", "ValueError", "TypeError"):
        error = getattr(builtins, name)(message)
    else:
        error = RuntimeError(f"the decoding process failed: {name}: {message}")
    if header["cause"] is not None:
        kind_of_cause, number, text = cast("tuple[str, int | None, str]", header["cause"])
        # What tells a fault of the machine from one of the file.
        if kind_of_cause == "MemoryError":
            error.__cause__ = MemoryError(text)
        else:
            error.__cause__ = Exception(f"{kind_of_cause}: {text}") if number is None else OSError(number, text)
    return error
