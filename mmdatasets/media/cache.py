"""The metadata cache: what probes found in media files, kept in a local directory between runs.

Tokenising a dataset again, for another model or another number of pixels, then opens no media file. Several processes,
plugins and machines with a common disk may use one directory at once: each writes whole files of its own, and one at a
time merges them. Nothing that a process writes is changed afterwards, so that one that is killed harms no other.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.compute as pc

from mmdatasets.errors import MMDatasetsError
from mmdatasets.media.segments import (
    SCHEMA,
    Entry,
    MediaInfo,
    Segment,
    SegmentFile,
    count_kinds,
    fits,
    list_segments,
    merge,
    now,
    remove_abandoned,
    to_table,
    write_segment,
)

_logger = logging.getLogger(__name__)

MAX_BYTES = 4 << 30  # 30,000 videos of ten minutes, or 20 million images
_MOST_SEGMENTS = 16  # of those that are merged further
_LARGEST_SEGMENT = 128 << 20
_PARTS = 8  # at least as many files as this hold the most bytes: a whole one is evicted at a time
_MOST_PENDING = 1024
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache holds, and what it was asked.

    Attributes:
        images: Entries of images; what is stored twice, until it is merged, counts once.
        videos: Entries of videos.
        audios: Entries of audio, sound tracks of videos included.
        num_bytes: Bytes of its files.
        num_files: How many they are.
        hits: How often this object found what it was asked for.
        misses: How often it did not.
        oldest: When the first one of the entries was probed; `None` without entries.
        newest: When the last one was.
    """

    images: int
    videos: int
    audios: int
    num_bytes: int
    num_files: int
    hits: int
    misses: int
    oldest: datetime | None
    newest: datetime | None

    @property
    def entries(self) -> int:
        """Entries of all kinds."""
        return self.images + self.videos + self.audios


class MetadataCache:
    """What probes found, by what was probed; see `mmdatasets.media.content.content_key`.

    Args:
        directory: Local directory; it is made.
        max_bytes: Upper bound on the bytes of its files. When they are merged, the oldest ones beyond it go. Other
            processes that use the directory keep their own bound.

    Raises:
        MMDatasetsError: If the directory cannot be made or read.
        ValueError: `max_bytes` is no positive number.
    """

    def __init__(self, directory: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive number of bytes, got {max_bytes!r}")
        self.directory = Path(directory).absolute()
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._has_warned = False
        self._pending: dict[bytes, Entry] = {}
        self._segments: dict[str, Segment] = {}
        self._ignored: dict[str, bool] = {}  # files that cannot be used -> whether they are known to be damaged
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._refresh()
        except OSError as error:
            raise self._unusable("used", error) from error
        # At the end of the process at the latest; not in a copy of it, which did not probe what waits here.
        weakref.finalize(self, _write_rest, self.directory, self._pending, os.getpid())

    def get(self, key: bytes) -> MediaInfo | None:
        """What was found of the content with a key; `None` where nothing is known of it."""
        pending = self._pending.get(key)
        found = pending.info if pending is not None else self._find(key)
        self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        return found

    def put(self, key: bytes, info: MediaInfo, source: str) -> None:
        """Keeps what was found, in memory first; see `flush`.

        Args:
            key: The key of what was probed.
            info: What was found.
            source: What was probed, for those who look into the cache.
        """
        if fits(info):
            self._pending[key] = Entry(key, info, source.encode("utf-8", "replace").decode(), now())
        if len(self._pending) >= _MOST_PENDING:
            self.flush()

    def flush(self) -> None:
        """Writes what was kept since the last time, for others to read, and reads what others wrote.

        Where the disk is full or fails, or the directory may only be read, the first time a warning tells, and what
        was found is forgotten: rows are the same without.
        """
        if not self._pending:
            return
        entries = [self._pending.pop(key) for key in list(self._pending)]
        try:
            write_segment(self.directory, to_table(entries))
            files = self._refresh()
            num_small = sum(file.num_bytes < self._largest for file in files)
            if num_small > _MOST_SEGMENTS or sum(file.num_bytes for file in files) > self.max_bytes:
                self._try_compact()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                _logger.warning(
                    "the metadata cache cannot be written (%s), the run goes on without: %s; media that it does not "
                    "know is probed again in the next one",
                    self.directory,
                    error,
                )

    def compact(self) -> None:
        """Merges files into fewer, and removes the oldest ones beyond `max_bytes`.

        Raises:
            MMDatasetsError: If the directory cannot be written.
        """
        self.flush()
        try:
            with filelock.FileLock(self.directory / _LOCK):
                self._compact()
        except OSError as error:
            raise self._unusable("written", error) from error

    def table(self, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
        """All entries, sorted by key.

        Args:
            columns: Which columns of `mmdatasets.media.segments.SCHEMA`, `key` among them.

        Raises:
            MMDatasetsError: If the directory cannot be read.
        """
        self.flush()
        try:
            self._refresh()
        except OSError as error:
            raise self._unusable("read", error) from error
        tables = [segment.table.select(columns) for _, segment in sorted(self._segments.items())]
        return merge(tables) if tables else SCHEMA.empty_table().select(columns)

    def counts(self) -> CacheCounts:
        """What the cache holds, and what it was asked."""
        table = self.table(["key", "kind", "probed_at"])
        kinds, times = count_kinds(table), pc.min_max(table["probed_at"]).as_py()
        files = list_segments(self.directory)
        return CacheCounts(
            kinds["image"],
            kinds["video"],
            kinds["audio"],
            sum(file.num_bytes for file in files),
            len(files),
            self.hits,
            self.misses,
            times["min"],
            times["max"],
        )

    def _unusable(self, how: str, error: OSError) -> MMDatasetsError:
        message = f"the metadata cache cannot be {how}: {error.strerror or error}"
        return MMDatasetsError(message, source=str(self.directory))

    # ------------------------------------------------------------------------------------------------------ files

    @property
    def _largest(self) -> int:
        """Bytes from which on a file is not merged any more."""
        return min(_LARGEST_SEGMENT, self.max_bytes // _PARTS)

    def _find(self, key: bytes) -> MediaInfo | None:
        for segment in self._segments.values():
            found = segment.find(key)
            if found is not None:
                return found
        return None

    def _refresh(self) -> list[SegmentFile]:
        """Opens the files that are new, and forgets those that are gone."""
        files = list_segments(self.directory)
        names = {file.name for file in files}
        self._segments = {name: segment for name, segment in self._segments.items() if name in names}
        for name in sorted(names - self._segments.keys() - self._ignored.keys(), reverse=True):
            try:
                self._segments[name] = Segment(self.directory / name)
            except FileNotFoundError:
                continue  # another process merged it into another one
            except (OSError, ValueError) as error:
                self._ignored[name] = isinstance(error, ValueError)
                _logger.warning(
                    "a file of the metadata cache is damaged and not used, its media is probed again: %s: %s",
                    self.directory / name,
                    error,
                )
        return files

    def _try_compact(self) -> None:
        lock = filelock.FileLock(self.directory / _LOCK, blocking=False)
        try:
            with lock:
                self._compact()
        except filelock.Timeout:
            return  # another process is at it

    def _compact(self) -> None:
        """Merges the small files into one and evicts; the lock is held."""
        remove_abandoned(self.directory)
        files = self._refresh()
        for file in files:
            if self._ignored.get(file.name):
                self._remove(file)
        merged = choose_to_merge([file for file in files if file.name in self._segments], self._largest)
        if len(merged) > 1:
            table = merge([self._segments[file.name].table for file in merged])
            path = write_segment(self.directory, table, written_ns=merged[-1].written_ns, sync=True)
            for file in merged:
                if file.name != path.name:
                    self._remove(file)
        files = list_segments(self.directory)
        total = sum(file.num_bytes for file in files)
        for file in files:
            if total <= self.max_bytes:
                break
            self._remove(file)
            total -= file.num_bytes
        self._refresh()

    def _remove(self, file: SegmentFile) -> None:
        try:
            (self.directory / file.name).unlink(missing_ok=True)
        except PermissionError:
            return  # where a file that another process reads cannot be removed, the next one to merge does it


def choose_to_merge(files: list[SegmentFile], largest: int) -> list[SegmentFile]:
    """Which files to merge into one, in the order of age: the smallest ones.

    A file joins only where the smaller ones are together at least half as large: so each entry is written anew but as
    often as the cache doubles.

    Args:
        files: The files.
        largest: Bytes from which on a file stays as it is.
    """
    chosen: list[SegmentFile] = []
    total = 0
    for file in sorted(files, key=lambda file: file.num_bytes):
        if file.num_bytes >= largest or total + file.num_bytes > 2 * largest:
            break
        if chosen and len(chosen) > _MOST_SEGMENTS // 2 and file.num_bytes > 2 * total:
            break
        chosen.append(file)
        total += file.num_bytes
    return sorted(chosen)


def _write_rest(directory: Path, pending: dict[bytes, Entry], process: int) -> None:
    if not pending or os.getpid() != process:
        return
    try:
        write_segment(directory, to_table(list(pending.values())))
    except OSError as error:
        _logger.warning("the metadata cache cannot be written (%s): %s", directory, error)
