"""Reads the batches that `map` and its relatives pass, and writes what they take back, with explicit types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Features, Image, LargeList, List, Video
from datasets.formatting.formatting import LazyBatch

from mmdatasets.errors import ConversationError, MediaReferenceError
from mmdatasets.features import IMAGES, INPUT_IDS, LABELS, LENGTH, MEDIA_INFO, tokenised_features
from mmdatasets.media.source import resolve_stored, to_stored

if TYPE_CHECKING:
    from mmdatasets.transforms.tokenise import TokenisedRow
    from mmdatasets.types import ImageReference, StoredMedia

Batch: TypeAlias = "LazyBatch | Mapping[str, Sequence[object]] | pa.Table"
"""A batch of rows as columns: `Dataset.map` passes a `LazyBatch`, `IterableDataset.map` a dict, Ray a table."""


@dataclass(frozen=True, slots=True)
class BatchReader:
    """Uniform access to a batch. Media columns are read as stored, never decoded."""

    batch: Batch

    def __post_init__(self) -> None:
        if not isinstance(self.batch, Mapping | LazyBatch | pa.Table):
            raise ConversationError(
                f"expected a batch of columns, got {type(self.batch).__name__}: call map with batched=True, without "
                "input_columns, on a dataset whose format is None, 'arrow', 'numpy' or 'torch'"
            )

    @property
    def table(self) -> pa.Table | None:
        """The batch as an Arrow table, where it is one."""
        if isinstance(self.batch, LazyBatch):
            return self.batch.pa_table
        return self.batch if isinstance(self.batch, pa.Table) else None

    @property
    def column_names(self) -> list[str]:
        """Names of the batch's columns."""
        return list(self.batch.keys()) if isinstance(self.batch, Mapping | LazyBatch) else self.batch.column_names

    def conversations(self, column: str) -> list[object]:
        """The chat column as Python objects. Images inside of it stay references.

        Raises:
            ConversationError: If there is no such column.
        """
        if column not in self.column_names:
            found = ", ".join(self.column_names) or "none"
            raise ConversationError(
                f"expected a column {column!r} with the messages of a chat, found {found}; name another with "
                "messages_column=..."
            )
        table = self.table
        if table is None:
            return [value.tolist() if isinstance(value, np.ndarray) else value for value in self.batch[column]]
        feature = _undecoded(Features.from_arrow_schema(table.schema)[column])
        values: list[object] = Features({column: feature}).decode_column(table[column].to_pylist(), column)
        return values

    def media(self, column: str, num_rows: int) -> list[list[ImageReference] | None]:
        """The references in a media column: one list for each row, `None` without column or value."""
        if column not in self.column_names:
            return [None] * num_rows
        table = self.table
        values = self.batch[column] if table is None else table[column].to_pylist()
        return [None if value is None else as_references(value) for value in values]


def _undecoded(feature: object) -> object:
    """A feature whose images, videos and audio, however deep inside, are read as stored."""
    if isinstance(feature, Image | Audio | Video):
        return replace(feature, decode=False)
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_undecoded(feature.feature))
    if isinstance(feature, Mapping):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    return [_undecoded(inner) for inner in feature] if isinstance(feature, list) else feature


def as_references(value: object) -> list[ImageReference]:
    """A row's media as a list: a row with one item may hold it without a list around it."""
    if value is None:
        return []
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]


def store_images(images: Sequence[ImageReference], column: str, media_root: str | None = None) -> list[StoredMedia]:
    """A row's image references as Arrow keeps them.

    Args:
        images: The references.
        column: Their column, for errors.
        media_root: Directory that relative paths are resolved against. It becomes part of them, as `datasets` resolves
            relative paths against the working directory when it embeds files.

    Raises:
        MediaReferenceError: If one has no supported form. Names column and index.
    """
    stored = []
    for index, reference in enumerate(images):
        try:
            stored.append(resolve_stored(to_stored(reference), media_root))
        except MediaReferenceError as error:
            raise error.at(column=column, index=index) from error.__cause__
    return stored


OWN_COLUMNS = (INPUT_IDS, LABELS, LENGTH, MEDIA_INFO, IMAGES)


def check_columns(reader: BatchReader, replaced: Sequence[str]) -> None:
    """Checks that the transform overwrites no column that it does not read.

    Raises:
        ConversationError: If it would.
    """
    lost = sorted((set(reader.column_names) & set(OWN_COLUMNS)) - set(replaced))
    if lost:
        raise ConversationError(
            f"the transform would overwrite the column(s) {', '.join(lost)}; rename or remove them before the map"
        )


def write_batch(
    reader: BatchReader, rows: Sequence[TokenisedRow], images: Sequence[list[StoredMedia]], replaced: Sequence[str]
) -> pa.Table | dict[str, list[object]]:
    """The transform's result in the form that the batch came in.

    Arrow in, Arrow out: a table with explicit types, the columns that are not replaced passed through. `Dataset.map`
    takes it as it is, so that no type is inferred from whichever rows come first. Plain dict in, plain dict out, with
    the transform's own columns alone.
    """
    table = reader.table
    if table is None:
        return {
            INPUT_IDS: [row.input_ids.tolist() for row in rows],
            LABELS: [row.labels.tolist() for row in rows],
            LENGTH: [len(row.input_ids) for row in rows],
            MEDIA_INFO: [row.media for row in rows],
            IMAGES: list(images),
        }
    features = tokenised_features(Features.from_arrow_schema(table.schema), replaced)
    schema = features.arrow_schema
    unchanged = _unchanged_images(table, replaced[-1], images, schema)
    own: dict[str, pa.Array | pa.ChunkedArray] = {
        INPUT_IDS: _list_array([row.input_ids for row in rows]),
        LABELS: _list_array([row.labels for row in rows]),
        LENGTH: pa.array([len(row.input_ids) for row in rows], pa.int32()),
        MEDIA_INFO: pa.array([row.media for row in rows], schema.field(MEDIA_INFO).type),
        IMAGES: unchanged if unchanged is not None else pa.array(list(images), schema.field(IMAGES).type),
    }
    columns = [own[name] if name in own else table[name] for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def _unchanged_images(
    table: pa.Table, column: str, images: Sequence[list[StoredMedia]], schema: pa.Schema
) -> pa.ChunkedArray | None:
    """The source's image column where it is what would be written: embedded files are megabytes to copy."""
    if column not in table.column_names or table.schema.field(column).type != schema.field(IMAGES).type:
        return None
    values = table[column]
    if values.null_count or any(
        given is None or given["path"] != stored["path"] or (given["bytes"] is None) != (stored["bytes"] is None)
        for row, wanted in zip(_without_bytes(values), images, strict=True)
        for given, stored in zip_longest(row, wanted, fillvalue={"path": "", "bytes": None})
    ):
        return None
    return values


def _without_bytes(values: pa.ChunkedArray) -> list[list[StoredMedia | None]]:
    """The references of an image column with whether they have bytes, but not the bytes."""
    flat = values.combine_chunks().flatten()
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.combine_chunks()
    paths, present = flat.field("path").to_pylist(), flat.field("bytes").is_valid().to_pylist()
    items: Iterator[StoredMedia | None] = (
        {"path": path, "bytes": b"" if has_bytes else None} for path, has_bytes in zip(paths, present, strict=True)
    )
    return [list(islice(items, length)) for length in pc.list_value_length(values).to_pylist()]


def _list_array(values: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    flat = np.concatenate(values) if values else np.zeros(0, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, pa.int32()))
