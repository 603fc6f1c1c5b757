"""Turns rows of a source into one finished Parquet file."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mmdatasets.collate.materialise import Unsupported
from mmdatasets.disk import cannot_write
from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import MEDIA_INFO, PARQUET_OPTIONS
from mmdatasets.shards.counts import ShardCounts
from mmdatasets.shards.embed import embed_media
from mmdatasets.shards.layout import Shard, unfinished_name
from mmdatasets.shards.reading import read_batches
from mmdatasets.transforms.row_log import LoggedRow, collect_rows

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from mmdatasets.plugins.base import BasePlugin

STAMP = b"mmdatasets.shard"
"""Key of the footer's metadata under which a finished shard says what it is: run, number, rows, counts."""

_GROUP_BYTES = 2**24
_MATERIALISED_GROUP_BYTES = 2**28
_MATERIALISED_ROWS = 16
# The sizes that `datasets` writes: with boundaries that depend on the content, the Hub stores equal parts once.
_CHUNKING = {"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0}


@dataclass(frozen=True)
class ShardWriter:
    """What all shards of a run have in common. It can be pickled, and used in any process that sees the output.

    The bytes of a file depend on the rows and on these settings alone.

    Attributes:
        plugin: Its transform maps the rows.
        output: The output's folder.
        run: What tells the run's source and settings from others'.
        features: The types of the result.
        batch_size: Rows that are mapped at once.
        embed_media: Whether files hold the bytes of media.
        preference: Whether the rows are preference data.
        materialise: Whether files hold media as `plugin.materialise` makes them.
        quality: Of lossy ones; see there.
        unsupported: What becomes of items that cannot be materialised; see there.
    """

    plugin: BasePlugin
    output: Path
    run: str
    features: Features
    batch_size: int
    embed_media: bool = False
    preference: bool = False
    materialise: bool = False
    quality: int | None = None
    unsupported: Unsupported = "error"

    @cached_property
    def _schema(self) -> pa.Schema:
        schema: pa.Schema = self.features.arrow_schema  # made anew each time it is asked for
        return schema

    @cached_property
    def _settings(self) -> dict[str, object]:
        settings = _writer_settings(self._schema)
        # Media that rows have in common is written once for each row group.
        return {**settings, **PARQUET_OPTIONS} if self.materialise else settings

    def write(self, dataset: Dataset, shard: Shard, on_rows: Callable[[int], object] = lambda _: None) -> ShardCounts:
        """Maps the shard's rows of a dataset and writes its file.

        Args:
            dataset: The source, whole.
            shard: The shard.
            on_rows: Called with the number of rows that were mapped, batch after batch.

        Raises:
            MMDatasetsError: If a row cannot be used, which it names, or the file cannot be written.
        """
        return self.write_batches(read_batches(dataset, shard.start, shard.stop, self.batch_size), shard, on_rows)

    def write_batches(
        self,
        batches: Iterable[tuple[int, pa.Table]],
        shard: Shard,
        on_rows: Callable[[int], object] = lambda _: None,
    ) -> ShardCounts:
        """Maps rows and writes the shard's file, as a whole or not at all.

        Args:
            batches: The shard's rows, as `mmdatasets.shards.reading.read_batches` yields them.
            shard: The shard.
            on_rows: Called with the number of rows that were mapped, batch after batch.

        Raises:
            MMDatasetsError: If a row cannot be used, which it names, or the file cannot be written.
        """
        final = self.output / shard.name
        temporary = unfinished_name(final, secrets.token_hex(4))
        try:
            with self._open(temporary, final) as file:
                return self._write_file(file, batches, shard, on_rows)
        except OSError as error:
            then = "what is finished stays, and the same command goes on from there"
            raise cannot_write("the shard", error, final, then) from error

    @contextmanager
    def _open(self, temporary: Path, final: Path) -> Iterator[BinaryIO]:
        """A file that appears under its final name once it is complete and on the disk."""
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
            sync_folder(final.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _write_file(
        self,
        file: BinaryIO,
        batches: Iterable[tuple[int, pa.Table]],
        shard: Shard,
        on_rows: Callable[[int], object],
    ) -> ShardCounts:
        counts: list[ShardCounts] = []
        with pq.ParquetWriter(file, self._schema, **self._settings) as writer:
            group: list[pa.Table] = []
            for first, rows in batches:
                table, logged = self._map(first, rows)
                for piece, counted in self._pieces(table, first, rows.num_rows, logged):
                    counts.append(counted)
                    group.append(piece)
                    if sum(part.nbytes for part in group) >= self._group_bytes:
                        _write_group(writer, group)
                on_rows(rows.num_rows)
            _write_group(writer, group)
            total = ShardCounts.total(counts)
            writer.add_key_value_metadata({STAMP: stamp_of(self.run, shard, total)})
        return total

    @property
    def _group_bytes(self) -> int:
        return _MATERIALISED_GROUP_BYTES if self.materialise else _GROUP_BYTES

    def _map(self, first: int, rows: pa.Table) -> tuple[pa.Table, list[LoggedRow]]:
        """A batch's result, and what was said of rows that are not as they were."""
        transform = self.plugin.preference_transform if self.preference else self.plugin.transform
        with collect_rows() as logged:
            try:
                table = transform(rows, list(range(first, first + rows.num_rows)))
            except OSError as error:  # not the shard's file
                raise MMDatasetsError(f"the transform failed: {error}", row=first) from error
        schema = self._schema
        if not isinstance(table, pa.Table) or not table.schema.equals(schema):
            got = table.schema.to_string(show_schema_metadata=False) if isinstance(table, pa.Table) else type(table)
            raise MMDatasetsError(
                f"{type(self.plugin).__name__}.transform must return an Arrow table with the types of its features "
                f"for an Arrow table\nexpected: {schema.to_string(show_schema_metadata=False)}\ngot: {got}",
                row=first,
            )
        return table.replace_schema_metadata(schema.metadata), logged

    def _pieces(
        self, table: pa.Table, first: int, rows_read: int, logged: list[LoggedRow]
    ) -> Iterator[tuple[pa.Table, ShardCounts]]:
        """What the transform made of a batch, as it is stored, with counts that add up to those of the batch."""
        counts = ShardCounts.of(rows_read, table, logged)
        if not table.num_rows or not (self.embed_media or self.materialise):
            yield table, counts
            return
        dropped = {row.row for row in logged if row.outcome == "dropped"}
        names: list[int | str] = [row for row in range(first, first + rows_read) if row not in dropped]
        if len(names) != table.num_rows:
            names = [f"{index} of what became of the rows from {first} on" for index in range(table.num_rows)]
        if self.materialise:
            yield from self._materialised(
                table, names, ShardCounts(rows_read - table.num_rows, outcomes=counts.outcomes)
            )
            return
        for piece in embed_media(table, names, self.plugin.options):
            yield piece, counts
            counts = ShardCounts()

    def _materialised(
        self, table: pa.Table, names: Sequence[int | str], counts: ShardCounts
    ) -> Iterator[tuple[pa.Table, ShardCounts]]:
        """What is stored of mapped rows, with counts that add up to theirs and those of rows that are gone already."""
        for start in range(0, table.num_rows, _MATERIALISED_ROWS):
            piece = table.slice(start, _MATERIALISED_ROWS)
            indices = names[start : start + _MATERIALISED_ROWS]
            with collect_rows() as logged:
                stored = self.plugin.materialise(
                    piece,
                    indices,  # type: ignore[arg-type]
                    quality=self.quality,
                    unsupported=self.unsupported,
                )
            made = cast("pa.Table", stored).replace_schema_metadata(self._schema.metadata)
            yield made, ShardCounts.total([counts, ShardCounts.of(piece.num_rows, made, logged)])
            counts = ShardCounts()


def _write_group(writer: pq.ParquetWriter, group: list[pa.Table]) -> None:
    """Writes tables as one row group, and empties the list."""
    table = pa.concat_tables(group) if group else None
    group.clear()
    if table is not None and table.num_rows:
        writer.write_table(table, row_group_size=table.num_rows)


def _writer_settings(schema: pa.Schema) -> dict[str, object]:
    """Media is compressed already; it is stored as it is, everything else as Parquet usually has it."""
    empty = io.BytesIO()
    pq.write_table(schema.empty_table(), empty)
    columns = pq.ParquetFile(empty).schema
    leaves = [columns.column(index) for index in range(len(columns))]
    media = {leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path.endswith(".bytes")}
    others = [leaf.path for leaf in leaves if leaf.path not in media]
    return {
        "compression": {leaf.path: "none" if leaf.path in media else "snappy" for leaf in leaves},
        "use_dictionary": others,
        "write_statistics": [path for path in others if not path.startswith(f"{MEDIA_INFO}.")],
        "use_content_defined_chunking": _CHUNKING,
        "write_page_index": True,
    }


def stamp_of(run: str, shard: Shard, counts: ShardCounts) -> str:
    """What a finished shard says of itself."""
    rows = {"index": shard.index, "start": shard.start, "stop": shard.stop}
    return json.dumps({"run": run, **rows, "counts": counts.to_json()}, sort_keys=True)


def read_stamp(path: Path, run: str, shard: Shard) -> ShardCounts | None:
    """The counts of a shard that is finished.

    Args:
        path: Its file.
        run: The run that it must be of.
        shard: What it must be.

    Returns:
        `None` where there is no such file, or it is another one or damaged.
    """
    try:
        stamp = json.loads(pq.read_metadata(path).metadata[STAMP])
        expected = (run, shard.index, shard.start, shard.stop)
        if (stamp["run"], stamp["index"], stamp["start"], stamp["stop"]) != expected:
            return None
        return ShardCounts.from_json(stamp["counts"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def sync_folder(folder: Path) -> None:
    """Has the names of a folder's files on the disk, where the system can say so."""
    if os.name == "nt":  # which has no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
