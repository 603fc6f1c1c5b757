"""What the rows of a mapped dataset cost, read off its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mmdatasets.errors import CollateError
from mmdatasets.features import LENGTH, MEDIA_INFO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    parts = [read(piece) for piece in column_of(dataset, column)]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def column_of(dataset: Dataset, column: str) -> Iterator[pa.Array]:
    """A column alone, piece by piece."""
    for table in dataset.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE):
        yield table[column].combine_chunks()


def check_limit(
    name: str, limit: int, sizes: npt.NDArray[np.int64], what: str, rows: Sequence[int | str], remedy: str
) -> None:
    """Checks that no row is larger than a limit.

    Args:
        name: The limit's name.
        limit: The limit.
        sizes: `(num_rows,)` what it is for.
        what: What these count.
        rows: What errors call the rows.
        remedy: What to do; `{raised}` stands for raising the limit.

    Raises:
        CollateError: If one is. Names the first.
    """
    over = np.flatnonzero(sizes > limit)
    if len(over):
        advice = remedy.format(raised=f"raise {name} to {sizes.max()} or more")
        raise CollateError(
            f"it has {sizes[over[0]]} {what}, more than {name}={limit}, as {len(over)} row(s) do: {advice}",
            row=rows[int(over[0])],
        )


def sum_media_tokens(column: pa.ListArray) -> npt.NDArray[np.int64]:
    """`(num_rows,)` media tokens by a `media_info` column; a row without items has none."""
    items = column.flatten().field("num_tokens").to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(column)), column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    sums: npt.NDArray[np.int64] = np.bincount(rows, weights=items, minlength=len(column)).astype(np.int64)
    return sums
