"""What the rows of a mapped dataset cost, read off its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mmdatasets.errors import CollateError
from mmdatasets.features import LENGTH, MEDIA_INFO

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from datasets import Dataset

_ROWS_AT_ONCE = 10_000


def row_lengths_of(dataset: Dataset) -> npt.NDArray[np.int64]:
    """`(num_rows,)` tokens of each row.

    Raises:
        CollateError: If the dataset was not mapped.
    """
    return _read(dataset, LENGTH, lambda column: column.to_numpy(zero_copy_only=False))


def media_tokens_of(dataset: Dataset) -> npt.NDArray[np.int64]:
    """`(num_rows,)` media tokens of each row, those of all its items together.

    Raises:
        CollateError: If the dataset was not mapped.
    """
    return _read(dataset, MEDIA_INFO, sum_media_tokens)


def _read(dataset: Dataset, column: str, read: Callable[[pa.Array], npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    if column not in dataset.column_names:
        raise CollateError(
            f"no {column!r} among the dataset's columns ({', '.join(dataset.column_names)}): map it with "
            "plugin.transform first"
        )
    tables = dataset.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE)
    parts = [read(table[column].combine_chunks()) for table in tables]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def sum_media_tokens(column: pa.ListArray) -> npt.NDArray[np.int64]:
    """`(num_rows,)` media tokens by a `media_info` column; a row without items has none."""
    items = column.flatten().field("num_tokens").to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(column)), column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    sums: npt.NDArray[np.int64] = np.bincount(rows, weights=items, minlength=len(column)).astype(np.int64)
    return sums
