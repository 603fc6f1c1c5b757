"""The files of the metadata cache: what probes found, as Arrow tables that are sorted by key and never changed.

A file is written under another name first and then renamed, and its name has the digest of what it holds: one that a
killed process or a full disk left damaged is told from a whole one, and not used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from mmdatasets.media.content import KEY_BYTES
from mmdatasets.types import AudioInfo, ImageInfo, VideoInfo

if TYPE_CHECKING:
    import numpy.typing as npt

MediaInfo: TypeAlias = ImageInfo | VideoInfo | AudioInfo
"""What a probe finds."""

_KEY = "key"
SCHEMA = pa.schema(
    [
        (_KEY, pa.binary(KEY_BYTES)),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("probed_at", pa.timestamp("us", "UTC")),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("num_frames", pa.int64()),
        ("fps", pa.float64()),
        ("duration_s", pa.float64()),
        ("has_audio", pa.bool_()),
        ("is_frame_list", pa.bool_()),
        ("starts_at_s", pa.float64()),
        ("stated_num_frames", pa.int64()),
        ("stated_duration_s", pa.float64()),
        ("timestamps_s", pa.large_list(pa.float64())),
        ("sampling_rate", pa.int64()),
        ("num_channels", pa.int64()),
        ("num_samples", pa.int64()),
        ("stated_num_samples", pa.int64()),
    ]
)
"""The columns: `key`, `kind` (`"image"`, `"video"` or `"audio"`), `source`, `probed_at`, and the attributes of
`ImageInfo`, `VideoInfo` and `AudioInfo`, null where the kind has no such one."""

_TIMES = "timestamps_s"
_KINDS: dict[str, type[MediaInfo]] = {"image": ImageInfo, "video": VideoInfo, "audio": AudioInfo}
_SCALARS = {
    "image": ("width", "height"),
    "video": tuple(name for name in VideoInfo.__dataclass_fields__ if name != _TIMES),
    "audio": tuple(AudioInfo.__dataclass_fields__),
}
_LARGEST_INT = 2**63 - 1
# Of files of another layout, which other versions of the package write and read, nothing is known.
_NAME = re.compile(r"probes1-(\d{20})-([0-9a-f]{32})\.arrow")
_TEMPORARY = ".probes-"
_ABANDONED_S = 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What a probe found.

    Attributes:
        key: 16 bytes; see `mmdatasets.media.content.content_key`.
        info: What it found.
        source: What was probed, for people.
        probed_at: When.
    """

    key: bytes
    info: MediaInfo
    source: str
    probed_at: datetime


class SegmentFile(NamedTuple):
    """A file of the cache, as its directory tells it. In the order of age."""

    written_ns: int
    num_bytes: int
    name: str


class Segment:
    """A file of the cache, mapped into memory.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()
        named = _NAME.fullmatch(path.name)
        if named is None or xxhash.xxh3_128_hexdigest(content) != named[2]:
            raise ValueError("its content is not what it was written with")
        self.table: pa.Table = pa.ipc.open_file(content).read_all().combine_chunks()
        keys = self.table[_KEY].chunk(0)
        offset = keys.offset * KEY_BYTES
        # As strings of bytes, numpy compares them in the order in which they are sorted, without a copy.
        self._keys: npt.NDArray[np.bytes_] = np.frombuffer(
            keys.buffers()[1], dtype=f"S{KEY_BYTES}", count=len(keys), offset=offset
        )
        self._columns = {name: self.table[name].chunk(0) for name in SCHEMA.names}

    def find(self, key: bytes) -> MediaInfo | None:
        """What was found of the content with this key; `None` where the file has no such content."""
        position = int(np.searchsorted(self._keys, np.bytes_(key)))
        if position == len(self._keys) or self._columns[_KEY][position].as_py() != key:
            return None
        kind = self._columns["kind"][position].as_py()
        values = {name: self._columns[name][position].as_py() for name in _SCALARS[kind]}
        if kind == "video":
            times = self._columns[_TIMES][position]
            # A copy: what was found may outlive the file.
            values[_TIMES] = np.array(times.values, dtype=np.float64) if times.is_valid else None
        return _KINDS[kind](**values)


def fits(info: MediaInfo) -> bool:
    """Whether what was found can be stored: damaged headers state numbers that no column holds."""
    return all(
        not isinstance(value, int) or -_LARGEST_INT <= value <= _LARGEST_INT
        for value in (getattr(info, name) for name in _SCALARS[_kind_of(info)])
    )


def to_table(entries: Sequence[Entry]) -> pa.Table:
    """A table of entries, with the columns of `SCHEMA`, sorted by key."""
    rows = sorted(entries, key=lambda entry: entry.key)
    kinds = [_kind_of(row.info) for row in rows]
    columns: dict[str, list[object]] = {
        _KEY: [row.key for row in rows],
        "kind": list(kinds),
        "source": [row.source for row in rows],
        "probed_at": [row.probed_at for row in rows],
    }
    for name in SCHEMA.names[len(columns) :]:
        columns[name] = [getattr(row.info, name, None) for row in rows]
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def merge(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of several, sorted by key; of entries with the same key the last one."""
    joined = pa.concat_tables(tables)
    numbered = joined.select([_KEY]).append_column("row", pa.array(np.arange(len(joined), dtype=np.int64)))
    last = numbered.group_by(_KEY, use_threads=False).aggregate([("row", "max")])
    return joined.take(last.sort_by(_KEY)["row_max"])


def write_segment(directory: Path, table: pa.Table, *, written_ns: int | None = None, sync: bool = False) -> Path:
    """Writes a file of the cache, as a whole or not at all.

    Args:
        directory: Where.
        table: What it holds, sorted by key.
        written_ns: By which its age is told; now when `None`.
        sync: Whether to wait until the disk has it.

    Raises:
        OSError: If it cannot be written.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table.combine_chunks())
    content = sink.getvalue()
    stamp = time.time_ns() if written_ns is None else written_ns
    path = directory / f"probes1-{stamp:020d}-{xxhash.xxh3_128_hexdigest(content)}.arrow"
    temporary = directory / f"{_TEMPORARY}{os.getpid()}-{path.stem}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def list_segments(directory: Path) -> list[SegmentFile]:
    """The files of the cache in a directory, the oldest first.

    Raises:
        OSError: If the directory cannot be read.
    """
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            named = _NAME.fullmatch(entry.name)
            if named is not None:
                try:
                    found.append(SegmentFile(int(named[1]), entry.stat().st_size, entry.name))
                except FileNotFoundError:
                    continue  # another process merged it into another one
    return sorted(found)


def remove_abandoned(directory: Path) -> None:
    """Removes what processes that were killed while they wrote left behind."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()
        except OSError:
            continue


def now() -> datetime:
    """The time at which an entry is made."""
    return datetime.now(UTC)


def count_kinds(table: pa.Table) -> dict[str, int]:
    """How many entries of each kind a table has."""
    counts = {item["values"]: item["counts"] for item in pc.value_counts(table["kind"]).to_pylist()}
    return {kind: counts.get(kind, 0) for kind in _KINDS}


def _kind_of(info: MediaInfo) -> str:
    return next(kind for kind, made in _KINDS.items() if isinstance(info, made))
