"""Packs mapped rows: several short rows become one of up to `max_length` tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value
from datasets.fingerprint import Hasher

from mmdatasets.errors import CollateError
from mmdatasets.features import (
    INPUT_IDS,
    LENGTH,
    MADE_BY,
    MEDIA_INFO,
    SCHEMA_VERSION,
    SEQUENCE_LENGTHS,
    tokenised_features,
)
from mmdatasets.transforms.batches import Batch, BatchReader, row_names
from mmdatasets.transforms.bins import STRATEGIES, PackingPlan, Strategy, plan_bins
from mmdatasets.transforms.packed_rows import concatenate_rows, packed_features
from mmdatasets.transforms.row_costs import check_limit, media_tokens_of, row_lengths_of, sum_media_tokens
from mmdatasets.types import MODALITIES

if TYPE_CHECKING:
    from mmdatasets.transforms.bins import IntArray

_BATCH = 100
"""Packed rows that are made at once."""


@dataclass(frozen=True)
class Packer:
    """Packs rows that a plugin's transform made, for `plugin.packed_collator`.

    `dataset.map(packer, batched=True, batch_size=...)` packs the rows of each batch, `packer.pack(dataset)` all rows.

    A packed row has the columns of its rows, one list behind the other: `input_ids`, `labels`, the references in
    `images`, `videos`, `video_frames` and `audios`, and `media_info`, whose spans and item numbers then count within
    the packed row. `sequence_lengths` says how many tokens each of its rows has, `length` how many all have. Other
    columns are dropped. Packing depends on the rows and the settings alone.

    Attributes:
        max_length: The most tokens of a packed row.
        strategy: Which rows go together. `"best_fit"` leaves the least room: longest rows first, each into the fullest
            packed row that has room. `"first_fit"` takes them as they come, each into the first that has room,
            `"sequential"` into the last one alone, which keeps the order of the rows.
        max_patches: The most media tokens of a packed row, `num_tokens` of `media_info`, which is what the model's
            encoders have to do; no limit when `None`.
    """

    max_length: int
    strategy: Strategy = "best_fit"
    max_patches: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy={self.strategy!r} is none of {', '.join(map(repr, STRATEGIES))}")
        for name in ("max_length", "max_patches"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be a positive number of tokens, got {limit}")

    def __call__(self, batch: Batch, indices: Sequence[int] | None = None) -> pa.Table | dict[str, list[object]]:
        """Packs the rows of a batch, for `dataset.map(packer, batched=True)`.

        A streaming dataset needs `remove_columns` for what a packed row does not have: it keeps its other columns.

        Args:
            batch: Columns of mapped rows.
            indices: Row numbers for error messages: `map(..., with_indices=True)` passes them.

        Returns:
            Fewer rows; a table where the batch is one, else a dict.

        Raises:
            CollateError: If rows were not mapped, or one does not fit. Names it.
        """
        reader = BatchReader(batch)
        table = reader.table
        given = _as_table(reader) if table is None else table
        packed_features(Features.from_arrow_schema(given.schema))  # says which column is missing
        names = row_names(indices, len(given))
        lengths = given[LENGTH].to_numpy().astype(np.int64)
        media = None
        if self.max_patches is not None and MEDIA_INFO in given.column_names:
            media = sum_media_tokens(given[MEDIA_INFO].combine_chunks())
        plan = self._plan(lengths, media, names)
        packed = concatenate_rows(given, plan.rows, plan.starts, names)
        return packed.to_pydict() if table is None else packed

    def features(self, source: Features) -> Features:
        """The types of packed rows, for `map(..., features=packer.features(dataset.features))`.

        Args:
            source: Features of the dataset that is packed.

        Raises:
            CollateError: If it was not mapped.
        """
        return packed_features(source)

    def plan(self, dataset: Dataset) -> PackingPlan:
        """Decides which rows go together, reading no column but `length` (and `media_info` for `max_patches`).

        A plan is a batch sampler as well: `DataLoader(dataset, batch_sampler=list(plan), collate_fn=collator)` has
        `plugin.packed_collator` make each batch of the rows that `pack` would put into one, and copies no row.

        Args:
            dataset: Mapped rows.

        Raises:
            CollateError: If rows were not mapped, or one does not fit. Names it.
        """
        lengths = row_lengths_of(dataset)
        media = None if self.max_patches is None else media_tokens_of(dataset)
        return self._plan(lengths, media, range(len(lengths)))

    def pack(self, dataset: Dataset, *, num_proc: int | None = None) -> Dataset:
        """Packs a whole dataset.

        The result is an ordinary dataset, cached as one that was mapped: it is saved, written to Parquet and pushed
        like any other. Media that is embedded is copied once.

        Args:
            dataset: Mapped rows.
            num_proc: Processes that copy rows.

        Raises:
            CollateError: If rows were not mapped, or one does not fit. Names it.
            TypeError: If it is a streaming dataset, whose lengths are not known; map the packer over its batches.
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"a whole {type(dataset).__name__} cannot be packed, as its lengths are not known: use "
                "dataset.map(packer, batched=True, batch_size=...), which packs within batches"
            )
        features = packed_features(dataset.features)
        plan = self.plan(dataset)
        # One row for each packed row, of which nothing but the number is used; `map` then writes, caches and shards.
        numbers = dataset.with_format(None).select_columns([LENGTH]).select(plan.rows[plan.starts[:-1]])
        return numbers.map(
            _Gather(dataset.with_format("arrow"), plan),
            with_indices=True,
            batched=True,
            batch_size=_BATCH,
            num_proc=num_proc,
            features=features,
            new_fingerprint=Hasher.hash([dataset._fingerprint, self, SCHEMA_VERSION]),
            desc="Packing",
        )

    def _plan(self, lengths: IntArray, media: IntArray | None, names: Sequence[int | str]) -> PackingPlan:
        limits = [("max_length", self.max_length, lengths, "tokens")]
        if self.max_patches is not None and media is not None:
            limits.append(("max_patches", self.max_patches, media, "media tokens"))
        remedy = (
            "have the map shorten such rows or leave them out (max_length and on_overflow of the plugin), or {raised}"
        )
        for name, limit, sizes, what in limits:
            check_limit(name, limit, sizes, what, names, remedy)
        return plan_bins(lengths, self.max_length, self.strategy, media, self.max_patches)


@dataclass(frozen=True)
class _Gather:
    """Makes the packed rows of some numbers. Holds the dataset, so `map` is told the fingerprint."""

    dataset: Dataset
    plan: PackingPlan

    def __call__(self, batch: Mapping[str, object], indices: Sequence[int]) -> pa.Table:
        first, last = indices[0], indices[-1] + 1
        starts = self.plan.starts[first : last + 1]
        rows = self.plan.rows[starts[0] : starts[-1]]
        table: pa.Table = self.dataset[rows.tolist()]
        return concatenate_rows(table, np.arange(len(rows)), starts - starts[0], rows.tolist())


def _as_table(reader: BatchReader) -> pa.Table:
    """A plain dict of columns, as streaming datasets pass it, as a table of the transform's columns."""
    names = reader.column_names
    types = tokenised_features(MODALITIES)
    types[SEQUENCE_LENGTHS] = types[INPUT_IDS]
    types[MADE_BY] = Value("int64")
    schema = Features({name: feature for name, feature in types.items() if name in names}).arrow_schema
    try:
        columns = {field.name: pa.array(list(reader.batch[field.name]), field.type) for field in schema}
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise CollateError(
            "the batch's columns are not what plugin.transform made, or come in a format of the dataset: map over "
            f"dataset.with_format(None) ({str(error).splitlines()[0][:200]})"
        ) from error
    return pa.Table.from_pydict(columns, schema=schema)
