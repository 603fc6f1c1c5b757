"""Reads the rows of a shard in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Dataset

_MAX_BYTES = 2**26
"""Rows with embedded media may have megabytes each, and the transform makes Python objects of what it reads."""


def read_batches(dataset: Dataset, start: int, stop: int, batch_size: int) -> Iterator[tuple[int, pa.Table]]:
    """Yields rows as Arrow tables, media undecoded.

    Args:
        dataset: The source, in whatever format it is.
        start: The first row.
        stop: One past the last row.
        batch_size: Most rows of a batch. One of more than 64 MiB is halved until it is smaller, or one row.

    Yields:
        The number of the batch's first row, and the batch.
    """
    rows = dataset.with_format("arrow")
    for first in range(start, stop, batch_size):
        table: pa.Table = rows[first : min(first + batch_size, stop)]
        yield from _halved(first, table)


def _halved(first: int, table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    if table.num_rows < 2 or table.nbytes <= _MAX_BYTES:
        yield first, table
        return
    middle = table.num_rows // 2
    yield from _halved(first, table.slice(0, middle))
    yield from _halved(first + middle, table.slice(middle))
