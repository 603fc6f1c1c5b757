"""Bins that are completed exactly: for rows none of which is small, where best fit leaves room in every bin.

Best fit, longest rows first, ends with the shortest rows: where each has an image of many tokens, some seven of them
fill a bin, and what is left over takes no eighth. But of hundreds of sizes, some pair fills what is left exactly, as
long as there are rows of all sizes. So each bin begins with a row that is hard to place, goes on with rows as they
are on average, so that the others' sizes stay as they are spread, and is completed by a pair.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mmdatasets.transforms.bins import IntArray

LARGEST_CAPACITY = 32_768
"""In tokens. Sets of sizes are bits of one integer, whose length is the time that a step takes."""

_OFF = 3
"""A pair may leave up to two tokens."""
_LOOKS = 16


def complete_bins(lengths: IntArray, max_length: int) -> IntArray:
    """Distributes rows over bins.

    Args:
        lengths: `(num_rows,)` tokens of each row, from 1 to `max_length`.
        max_length: The capacity of a bin, in tokens.

    Returns:
        `(num_rows,)` the number of each row's bin.
    """
    sizes = _Sizes(lengths, max_length)
    # Rows of all sizes alternately: steps of the golden ratio through the sorted rows.
    typical = _Cycle(np.sort(lengths)[_spread(len(lengths))].tolist())
    taken: list[int] = []
    counts: list[int] = []
    while sizes.smallest:
        before = len(taken)
        _fill(sizes, typical, max_length, taken)
        counts.append(len(taken) - before)
    bin_of = np.zeros(len(lengths), np.int64)
    # Rows of one size are taken in the dataset's order.
    by_size = np.argsort(np.asarray(taken, np.int64), kind="stable")
    bin_of[np.argsort(lengths, kind="stable")] = np.repeat(np.arange(len(counts)), counts)[by_size]
    return bin_of


def _fill(sizes: _Sizes, typical: _Cycle, free: int, taken: list[int]) -> None:
    """Takes the rows of one bin, and adds their sizes."""
    first = True
    while 0 < sizes.smallest <= free:
        size = _next(sizes, typical, free, first=first)
        sizes.take(size)
        taken.append(size)
        free -= size
        first = False


def _next(sizes: _Sizes, typical: _Cycle, free: int, *, first: bool) -> int:
    """The size of the next row of a bin with so much room, which is enough for one."""
    smallest = sizes.smallest
    if first:
        largest = sizes.largest(free)
        return largest if largest > free - 3 * smallest else typical.next(sizes, free) or largest
    if free < 2 * smallest or sizes.counts[free]:
        return sizes.largest(free)
    if free < 4 * smallest:
        for off in range(_OFF):
            half = sizes.of_pair(free - off)
            if half is not None:
                return half
        if free < 3 * smallest:
            return sizes.largest(free)
    return typical.next(sizes, free - 2 * smallest) or sizes.largest(free - 2 * smallest)


class _Sizes:
    """The sizes of the rows that are left.

    Attributes:
        counts: How many rows there are of each size.
        smallest: The smallest size that there is; 0 where no row is left.
    """

    def __init__(self, lengths: IntArray, capacity: int) -> None:
        self.counts: list[int] = np.bincount(lengths, minlength=capacity + 1).tolist()
        self._capacity = capacity
        self._bits = self._mirrored = 0  # bit s, and bit capacity - s, for each size s that there is
        for size, count in enumerate(self.counts):
            if count:
                self._bits |= 1 << size
                self._mirrored |= 1 << (capacity - size)
        self.smallest = self._find_smallest()

    def _find_smallest(self) -> int:
        return max(0, (self._bits & -self._bits).bit_length() - 1)

    def largest(self, bound: int) -> int:
        """The largest of them up to a bound, which must be no less than the smallest."""
        if self.counts[bound]:
            return bound
        return (self._bits & ((1 << bound) - 1)).bit_length() - 1

    def of_pair(self, total: int) -> int | None:
        """One of two sizes with this sum, which are as similar as can be; `None` where there is no such pair."""
        both = self._bits & (self._mirrored >> (self._capacity - total))
        half = (both & ((1 << (total // 2 + 1)) - 1)).bit_length() - 1
        return None if half < 0 or (2 * half == total and self.counts[half] < 2) else half

    def take(self, size: int) -> None:
        """Takes one of the rows of a size."""
        self.counts[size] -= 1
        if not self.counts[size]:
            self._bits ^= 1 << size
            self._mirrored ^= 1 << (self._capacity - size)
            if size == self.smallest:
                self.smallest = self._find_smallest()


class _Cycle:
    """Sizes in an order that is gone through again and again."""

    def __init__(self, order: list[int]) -> None:
        self._order, self._place = order, 0

    def next(self, sizes: _Sizes, bound: int) -> int | None:
        """The next size up to a bound of which there still are rows; `None` where a few looks find none."""
        order, place, counts = self._order, self._place, sizes.counts
        for _ in range(_LOOKS):
            size = order[place]
            place = place + 1 if place + 1 < len(order) else 0
            if size <= bound and counts[size]:
                self._place = place
                return size
        self._place = place
        return None


def _spread(count: int) -> IntArray:
    """The numbers up to `count`, each once, neighbours far from one another."""
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) != 1:
        step += 1
    order: IntArray = np.arange(count, dtype=np.int64) * step % count
    return order
