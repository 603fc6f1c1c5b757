"""What the lengths of rows come to: quantiles, padding, packing, and what a `max_length` would do to them.

Everything here is computed from the lengths as they are, by exact counting or by a simulation with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mmdatasets.transforms.bins import plan_bins

if TYPE_CHECKING:
    from mmdatasets.report.columns import FloatArray, IntArray, MappedColumns

MULTIPLE = 64
"""A suggested `max_length` is a multiple of this: kernels of matrix products and attention work on tiles of 64."""

KEPT_SHARE = 0.99
"""The share of rows that a suggested `max_length` leaves whole."""

_LONGEST_TOO = 1.1
"""The longest row is taken in where that raises the suggested length by no more than this factor."""

BATCH_SIZES = (2, 4, 8, 16, 32, 64)
PACKED_ROWS = 100_000
"""Rows that packing is tried with: of more, so many are drawn."""

SEED = 0
_BINS = 40
_NICE = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_FEWEST_CHOICES, _MOST_CHOICES = 3, 6


class Quantiles(TypedDict):
    """A distribution in a few numbers."""

    count: int
    min: float
    mean: float
    median: float
    p90: float
    p99: float
    max: float


class Histogram(TypedDict):
    """Counts in bins of one width; the last bin also has what is above it, where `open_end` says so."""

    edges: list[float]
    counts: list[int]
    open_end: bool


class LengthHistogram(TypedDict):
    """Rows by their number of tokens, and the tokens that they have: of text, and of media."""

    edges: list[float]
    rows: list[int]
    text_tokens: list[int]
    media_tokens: list[int]
    open_end: bool


class PaddingWaste(TypedDict):
    """Share of a batch's tokens that is padding, over an epoch."""

    batch_size: int
    random: float
    sorted: float


class PackingFill(TypedDict):
    """How full packed rows of a length are."""

    max_length: int
    rows_packed: int
    rows_too_long: int
    packed_rows: int
    best_fit: float
    sequential: float


class OverflowCounts(TypedDict):
    """What each overflow policy would do at a length.

    Attributes:
        max_length: The length.
        rows_above: Rows that are longer: `"error"` stops at the first of them, the other policies change or drop them.
        share_above: The share of all rows that these are.
        tokens_above: All of their tokens, which `"drop"` loses.
        tokens_beyond: Tokens behind the length: what `"truncate"` loses at least, since it cuts where text can end.
        items_beyond: Media items that lie behind the length or across it, and leave with `"truncate"`; `None` where
            rows were shortened already, so that nothing tells.
        rows_of_text: Rows whose text alone is longer: `"shrink"` lowers what media takes, and has to drop these;
            likewise.
    """

    max_length: int
    rows_above: int
    share_above: float
    tokens_above: int
    tokens_beyond: int
    items_beyond: int | None
    rows_of_text: int | None


class Suggestion(TypedDict):
    """A `max_length`, the share of rows that it leaves whole, and why it is this one."""

    max_length: int
    rows_above: int
    share_kept: float
    reason: str


def quantiles(values: IntArray | FloatArray) -> Quantiles | None:
    """A distribution in a few numbers, `None` of no values. Quantiles are values that occur (the next one above)."""
    if not len(values):
        return None
    found = np.quantile(values, [0, 0.5, 0.9, 0.99, 1], method="inverted_cdf").tolist()
    low, median, p90, p99, high = found
    return {
        "count": len(values),
        "min": low,
        "mean": float(np.mean(values)),
        "median": median,
        "p90": p90,
        "p99": p99,
        "max": high,
    }


def bin_edges(values: IntArray | FloatArray) -> tuple[FloatArray, bool]:
    """Some 40 bins of one round width from 0 on, and whether the last one is open.

    It is where the largest value is far beyond the others.
    """
    top = float(np.max(values))
    usual = float(np.quantile(values, 0.995))
    open_end = top > 1.5 * usual > 0
    reach = (usual if open_end else top) or 1.0
    power = 10 ** math.floor(math.log10(reach / _BINS))
    width = next(power * nice for nice in _NICE if power * nice * _BINS >= reach * (1 - 1e-9))
    if np.issubdtype(np.asarray(values).dtype, np.integer):
        width = max(1.0, math.ceil(width))
    count = max(1, math.ceil(reach / width))
    if not open_end and count * width <= top:  # bins are closed below and open above
        count += 1
    return np.arange(count + 1) * width, open_end


def histogram(values: IntArray | FloatArray) -> Histogram | None:
    """How many values lie where, `None` of no values."""
    if not len(values):
        return None
    edges, open_end = bin_edges(values)
    counts = np.bincount(_bins_of(values, edges), minlength=len(edges) - 1)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "open_end": open_end}


def _bins_of(values: IntArray | FloatArray, edges: FloatArray) -> IntArray:
    bins: IntArray = np.minimum(np.searchsorted(edges, values, side="right") - 1, len(edges) - 2)
    return bins


def length_histogram(columns: MappedColumns) -> LengthHistogram | None:
    """Rows and tokens by the rows' length, `None` of no rows."""
    lengths, media = columns.lengths, columns.media_tokens
    if not len(lengths):
        return None
    edges, open_end = bin_edges(lengths)
    bins, count = _bins_of(lengths, edges), len(edges) - 1
    tokens = np.bincount(bins, lengths, count).astype(np.int64)
    of_media = np.bincount(bins, media, count).astype(np.int64)
    return {
        "edges": edges.tolist(),
        "rows": np.bincount(bins, minlength=count).tolist(),
        "text_tokens": (tokens - of_media).tolist(),
        "media_tokens": of_media.tolist(),
        "open_end": open_end,
    }


def padding_waste(sides: IntArray, batch_sizes: Sequence[int] = BATCH_SIZES) -> list[PaddingWaste]:
    """The padding of batches that are each padded to their longest sequence.

    Args:
        sides: `(num_rows, num_sides)` tokens of each sequence of each row.
        batch_sizes: Rows of a batch. Those of more rows than there are left out, but for the smallest.

    Returns:
        The share of padding among the tokens of an epoch, its last, smaller batch included: of rows in random order
        (one order, of a fixed seed) and of rows sorted by length.
    """
    if not len(sides):
        return []
    order = np.random.default_rng(SEED).permutation(len(sides))
    by_length = np.argsort(sides.max(axis=1), kind="stable")
    fitting = [size for size in batch_sizes if size <= len(sides)]
    return [
        {"batch_size": size, "random": _waste(sides[order], size), "sorted": _waste(sides[by_length], size)}
        for size in fitting or batch_sizes[:1]
    ]


def _waste(sides: IntArray, batch_size: int) -> float:
    starts = np.arange(0, len(sides), batch_size)
    longest = np.maximum.reduceat(sides.max(axis=1), starts)
    sizes = np.diff(np.append(starts, len(sides))) * sides.shape[1]
    padded = int((longest * sizes).sum())
    return 1 - int(sides.sum()) / padded if padded else 0.0


def packing_fill(lengths: IntArray, max_lengths: Sequence[int]) -> list[PackingFill]:
    """How full the packed rows of `plugin.packer` would be, with that packer's own bins.

    Args:
        lengths: `(num_rows,)` tokens of each row. Of more than `PACKED_ROWS`, so many are drawn with a fixed seed, in
            the dataset's order.
        max_lengths: The lengths to try. Rows that are longer are left out.
    """
    drawn = lengths
    if len(lengths) > PACKED_ROWS:
        picked = np.random.default_rng(SEED).choice(len(lengths), PACKED_ROWS, replace=False)
        drawn = lengths[np.sort(picked)]
    found: list[PackingFill] = []
    for limit in max_lengths:
        fitting = drawn[drawn <= limit]
        if not len(fitting):
            continue
        best, in_order = (plan_bins(fitting, limit, strategy) for strategy in ("best_fit", "sequential"))
        found.append(
            {
                "max_length": limit,
                "rows_packed": len(fitting),
                "rows_too_long": len(drawn) - len(fitting),
                "packed_rows": len(best),
                "best_fit": best.fill,
                "sequential": in_order.fill,
            }
        )
    return found


def overflow_counts(
    lengths: IntArray, max_lengths: Sequence[int], columns: MappedColumns | None
) -> list[OverflowCounts]:
    """What each overflow policy would do at some lengths.

    Args:
        lengths: `(num_rows,)` tokens of each row before any were shortened.
        max_lengths: The lengths.
        columns: What else is known of the rows; `None` where these are not as they were.
    """
    found: list[OverflowCounts] = []
    for limit in max_lengths:
        above = lengths > limit
        count = int(above.sum())
        found.append(
            {
                "max_length": limit,
                "rows_above": count,
                "share_above": count / len(lengths) if len(lengths) else 0.0,
                "tokens_above": int(lengths[above].sum()),
                "tokens_beyond": int((lengths[above] - limit).sum()),
                "items_beyond": None if columns is None else int((columns.media.end > limit).sum()),
                "rows_of_text": None if columns is None else int((lengths - columns.media_tokens > limit).sum()),
            }
        )
    return found


def suggest_max_length(lengths: IntArray) -> Suggestion | None:
    """The smallest multiple of 64 that leaves 99% of the rows whole; the longest row's, where that is little more.

    Args:
        lengths: `(num_rows,)` tokens of each row before any were shortened.
    """
    if not len(lengths):
        return None
    needed = int(np.quantile(lengths, KEPT_SHARE, method="inverted_cdf"))
    longest = int(lengths.max())
    usual, most = _rounded_up(needed), _rounded_up(longest)
    if most <= _LONGEST_TOO * usual:
        chosen = most
        reason = f"every row fits: the longest has {longest:,} tokens, rounded up to a multiple of {MULTIPLE}"
    else:
        chosen = usual
        reason = (
            f"{KEPT_SHARE:.0%} of the rows have at most {needed:,} tokens, rounded up to a multiple of {MULTIPLE}; "
            f"the longest row would take {most:,}"
        )
    above = int((lengths > chosen).sum())
    return {
        "max_length": chosen,
        "rows_above": above,
        "share_kept": 1 - above / len(lengths),
        "reason": reason,
    }


def _rounded_up(length: int) -> int:
    return max(1, -(-length // MULTIPLE)) * MULTIPLE


def choose_max_lengths(lengths: IntArray) -> list[int]:
    """A few lengths to compare: powers of two from about the median to the longest row, and the suggested one."""
    suggested = suggest_max_length(lengths)
    if suggested is None:
        return []
    median, longest = float(np.median(lengths)), int(lengths.max())
    powers = [2**exponent for exponent in range(5, 40)]
    last = next(power for power in powers if power >= longest)
    between = [power for power in powers if median / 2 <= power <= last]
    if len(between) < _FEWEST_CHOICES:
        between = [power for power in powers if power <= last][-_FEWEST_CHOICES:]
    return sorted({*between[:_MOST_CHOICES], suggested["max_length"]})
