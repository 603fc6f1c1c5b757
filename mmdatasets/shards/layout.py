"""Which rows of a source go to which file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmdatasets.errors import MMDatasetsError

DATA = "data"
"""Folder of the shards below the output."""

_MIN_DIGITS = 5  # what `datasets` and the Hub go by
_SPLIT = re.compile(r"\w+(?:\.\w+)*")


def check_split(name: str) -> None:
    """Checks that files can be named after a split.

    Raises:
        MMDatasetsError: If they cannot.
    """
    if not _SPLIT.fullmatch(name):
        raise MMDatasetsError(f"split={name!r} is no name of a split: letters, digits, '_' and '.'")


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the output.

    Attributes:
        index: Its number.
        start: The first row of the source that it is made of.
        stop: One past the last of these rows. Where rows are dropped, the file has fewer.
        name: The file's path below the output.
    """

    index: int
    start: int
    stop: int
    name: str


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """How a source is divided into shards.

    Attributes:
        split: Name of the split; the files begin with it.
        num_rows: Rows of the source.
        rows_per_shard: Rows of the source in each shard; the last one has what is left.
    """

    split: str
    num_rows: int
    rows_per_shard: int

    @property
    def num_shards(self) -> int:
        """How many files there will be."""
        return -(-self.num_rows // self.rows_per_shard)

    def shards(self) -> Iterator[Shard]:
        """Yields every shard, in order."""
        digits = max(_MIN_DIGITS, len(str(self.num_shards)))
        for index in range(self.num_shards):
            start = index * self.rows_per_shard
            stop = min(start + self.rows_per_shard, self.num_rows)
            name = f"{DATA}/{self.split}-{index:0{digits}d}-of-{self.num_shards:0{digits}d}.parquet"
            yield Shard(index, start, stop, name)


def finished_files(output: Path, split: str) -> list[Path]:
    """The shards of a split that lie in an output, of whatever run, sorted."""
    pattern = re.compile(rf"{re.escape(split)}-\d+-of-\d+\.parquet")
    return sorted(path for path in _files(output) if pattern.fullmatch(path.name))


def unfinished_files(output: Path, split: str) -> list[Path]:
    """The files that runs which were killed left behind, sorted."""
    pattern = re.compile(rf"\.{re.escape(split)}-\d+-of-\d+\.parquet\.[0-9a-f]+\.part")
    return sorted(path for path in _files(output) if pattern.fullmatch(path.name))


def unfinished_name(final: Path, token: str) -> Path:
    """Where a shard is written before it is renamed: hidden, so that nothing reads it.

    Args:
        final: Its own path.
        token: Hexadecimal digits that no other attempt at it has.
    """
    return final.with_name(f".{final.name}.{token}.part")


def _files(output: Path) -> list[Path]:
    folder = output / DATA
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
