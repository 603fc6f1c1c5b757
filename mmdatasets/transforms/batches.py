"""Reads the batches that `map` and its relatives pass, and writes what they take back, with explicit types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
from datasets import Features
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
        """The chat column as Python objects.

        Raises:
            ConversationError: If there is no such column.
        """
        if column not in self.column_names:
            found = ", ".join(self.column_names) or "none"
            raise ConversationError(
                f"expected a column {column!r} with the messages of a chat, found {found}; name another with "
                "messages_column=..."
            )
        if isinstance(self.batch, pa.Table):
            values: list[object] = self.batch[column].to_pylist()
            return values
        return list(self.batch[column])

    def media(self, column: str, num_rows: int) -> list[list[ImageReference]] | list[None]:
        """The references in a media column: one list for each row, empty without value; `None` without column."""
        if column not in self.column_names:
            return [None] * num_rows
        table = self.table
        values = self.batch[column] if table is None else table[column].to_pylist()
        return [_as_list(value) for value in values]


def _as_list(value: object) -> list[ImageReference]:
    if value is None:
        return []
    # A row with one image may hold it without a list around it.
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


def write_batch(
    reader: BatchReader, rows: Sequence[TokenisedRow], images: Sequence[list[StoredMedia]], replaced: Sequence[str]
) -> pa.Table | dict[str, list[object]]:
    """The transform's result in the form that the batch came in.

    Arrow in, Arrow out: a table with explicit types, the columns that are not replaced passed through. `Dataset.map`
    takes it as it is, so that no type is inferred from whichever rows come first. Plain dict in, plain dict out.
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
    own = {
        INPUT_IDS: _list_array([row.input_ids for row in rows]),
        LABELS: _list_array([row.labels for row in rows]),
        LENGTH: pa.array([len(row.input_ids) for row in rows], pa.int32()),
        MEDIA_INFO: pa.array([row.media for row in rows], schema.field(MEDIA_INFO).type),
        IMAGES: pa.array(list(images), schema.field(IMAGES).type),
    }
    columns = [own[name] if name in own else table[name] for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def _list_array(values: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    flat = np.concatenate(values) if values else np.zeros(0, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, pa.int32()))
