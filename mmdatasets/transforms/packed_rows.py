"""Concatenates mapped rows, by their Arrow buffers: a packed row is its rows' lists, one behind the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, List, Value

from mmdatasets.errors import CollateError
from mmdatasets.features import (
    INPUT_IDS,
    LABELS,
    LENGTH,
    MADE_BY,
    MEDIA_COLUMNS,
    MEDIA_INFO,
    SEQUENCE_LENGTHS,
    VIDEO_FRAMES,
    VIDEOS,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmdatasets.transforms.bins import IntArray

_LISTS = (INPUT_IDS, LABELS, MEDIA_INFO, *MEDIA_COLUMNS.values(), VIDEO_FRAMES)


def packed_features(source: Features) -> Features:
    """The types of packed rows: those of the columns that a plugin's transform made, and the sequences' lengths.

    Args:
        source: Features of the mapped dataset. Its other columns are dropped: several rows' values make no one value.

    Raises:
        CollateError: If it was not mapped.
    """
    missing = [name for name in (INPUT_IDS, LENGTH) if name not in source]
    if missing:
        raise CollateError(
            f"no {missing[0]!r} among the columns ({', '.join(source)}): pack a dataset that was mapped with "
            "plugin.transform"
        )
    kept = {name: feature for name, feature in source.items() if name in (*_LISTS, LENGTH, MADE_BY)}
    return Features({**kept, SEQUENCE_LENGTHS: List(Value("int32"))})


def concatenate_rows(table: pa.Table, rows: IntArray, starts: IntArray, names: Sequence[int | str]) -> pa.Table:
    """Makes packed rows.

    Args:
        table: Mapped rows.
        rows: `(num_rows,)` positions in the table, packed row by packed row.
        starts: `(num_packed + 1,)` where each packed row begins in `rows`.
        names: What errors call the table's rows.

    Returns:
        `num_packed` rows of `packed_features`. Media spans and item numbers of `media_info` count within them.

    Raises:
        CollateError: If a row's columns contradict one another. Names the row.
    """
    features = packed_features(Features.from_arrow_schema(table.schema))
    table = table.select([name for name in features if name in table.column_names]).take(pa.array(rows))
    columns = {name: _combined(table[name]) for name in table.column_names}
    named = [names[row] for row in rows.tolist()]
    _check(columns, named)
    tokens = _counts(columns[INPUT_IDS])
    own = _own_sequences(table, tokens)
    if MEDIA_INFO in columns:
        columns[MEDIA_INFO] = _shifted(columns, _within(tokens, starts), starts, named)
    made = {name: _regrouped(column, starts) for name, column in columns.items() if name not in (LENGTH, MADE_BY)}
    made[LENGTH] = pa.array(np.add.reduceat(tokens, starts[:-1]) if len(tokens) else tokens)
    made[SEQUENCE_LENGTHS] = _regrouped(own, starts)
    if MADE_BY in columns:
        made[MADE_BY] = columns[MADE_BY].take(pa.array(starts[:-1]))
    schema = features.arrow_schema
    arrays = [made[field.name].cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _combined(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined


def _own_sequences(table: pa.Table, tokens: IntArray) -> pa.Array:
    """The sequences of each row: itself, or those it was packed of before."""
    if SEQUENCE_LENGTHS in table.column_names:
        return _combined(table[SEQUENCE_LENGTHS])
    return pa.ListArray.from_arrays(pa.array(np.arange(len(tokens) + 1), pa.int32()), pa.array(tokens, pa.int32()))


def _counts(lists: pa.Array) -> IntArray:
    counts: IntArray = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return counts


def _regrouped(lists: pa.Array, starts: IntArray) -> pa.Array:
    """The lists of each group as one list: the values stay where they are."""
    ends = np.concatenate([[0], np.cumsum(_counts(lists))])
    return pa.LargeListArray.from_arrays(pa.array(ends[starts], pa.int64()), lists.flatten())


def _within(sizes: IntArray, starts: IntArray) -> IntArray:
    """What comes before each row within its group."""
    before = np.cumsum(sizes) - sizes
    firsts = np.repeat(starts[:-1], np.diff(starts))
    within: IntArray = before - before[firsts] if len(before) else before
    return within


def _shifted(
    columns: dict[str, pa.Array], token_offsets: IntArray, starts: IntArray, names: Sequence[int | str]
) -> pa.Array:
    """`media_info` whose spans count the packed row's tokens, and whose items its references."""
    lists = columns[MEDIA_INFO]
    records = lists.flatten()
    row_of = np.repeat(np.arange(len(lists)), _counts(lists))
    modality = records.field("modality").to_numpy(zero_copy_only=False)
    item = records.field("item").to_numpy(zero_copy_only=False).astype(np.int64)
    shifted = item.copy()
    for kind, column in MEDIA_COLUMNS.items():
        counts = _counts(columns[column]) if column in columns else np.zeros(len(lists), np.int64)
        mine = modality == kind
        _check_items(row_of[mine], item[mine], counts, column, names)
        shifted[mine] += _within(counts, starts)[row_of[mine]]
    moved = {"item": shifted}
    for bound in ("start", "end"):
        moved[bound] = records.field(bound).to_numpy(zero_copy_only=False) + token_offsets[row_of]
    fields = [
        pa.array(moved[field.name], field.type) if field.name in moved else records.field(field.name)
        for field in records.type
    ]
    offsets = pa.array(np.concatenate([[0], np.cumsum(_counts(lists))]), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(records.type)))


def _check(columns: dict[str, pa.Array], names: Sequence[int | str]) -> None:
    tokens = _counts(columns[INPUT_IDS])
    stated = columns[LENGTH].to_numpy(zero_copy_only=False)
    for name, counts in ((LENGTH, stated), (LABELS, _counts(columns[LABELS]) if LABELS in columns else tokens)):
        wrong = np.flatnonzero(counts != tokens)
        if len(wrong):
            raise CollateError(
                f"it has {tokens[wrong[0]]} input_ids but {name} {'is' if name == LENGTH else 'has'} "
                f"{counts[wrong[0]]}: do not change columns between the map and the packing",
                row=names[wrong[0]],
            )
    if VIDEO_FRAMES in columns and VIDEOS in columns:
        wrong = np.flatnonzero(_counts(columns[VIDEO_FRAMES]) != _counts(columns[VIDEOS]))
        if len(wrong):
            raise CollateError(
                f"{VIDEO_FRAMES} must have a list for each of its {_counts(columns[VIDEOS])[wrong[0]]} video(s)",
                row=names[wrong[0]],
                column=VIDEO_FRAMES,
            )


def _check_items(row_of: IntArray, item: IntArray, counts: IntArray, column: str, names: Sequence[int | str]) -> None:
    """Each reference must be named by a record: only then do a packed row's spans tell whose it is."""
    pairs = np.unique(np.stack([row_of, item]), axis=1)
    found = np.bincount(pairs[0], minlength=len(counts)) if len(row_of) else np.zeros_like(counts)
    wrong = np.flatnonzero(found != counts)
    if len(wrong):
        raise CollateError(
            f"it has {counts[wrong[0]]} item(s), but {MEDIA_INFO} describes {found[wrong[0]]}: pack rows as "
            "plugin.transform made them",
            row=names[wrong[0]],
            column=column,
        )
