"""Which rows are packed together: bins of a capacity in tokens, and of another one in media tokens."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from mmdatasets.transforms.complete_bins import LARGEST_CAPACITY, complete_bins

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray: TypeAlias = npt.NDArray[np.int64]

Strategy: TypeAlias = Literal["best_fit", "first_fit", "sequential"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


_GOOD_FILL = 0.995
_FREE_LOOKS, _PASSES = 2, 16
"""First fit of two sizes takes a bin for full that 16 rows looked at in vain, the first two looks of each not counted.

Bins that have room for tokens alone and bins that have it for media alone may alternate, and one row looks at all."""


@dataclass(frozen=True, slots=True, eq=False)
class PackingPlan:
    """Which rows go into which bin.

    Attributes:
        rows: `(num_rows,)` the row numbers, bin by bin, those of a bin in the dataset's order.
        starts: `(num_bins + 1,)` where each bin begins in `rows`; the last one is where they end.
        lengths: `(num_rows,)` tokens of each row, in the dataset's order.
        max_length: The capacity of a bin, in tokens.
    """

    rows: IntArray
    starts: IntArray
    lengths: IntArray
    max_length: int

    def __len__(self) -> int:
        """The number of bins."""
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        """The row numbers of each bin: with a plan for its `batch_sampler`, a `DataLoader` packs without a copy."""
        rows, bounds = self.rows.tolist(), self.starts.tolist()
        return (rows[start:end] for start, end in pairwise(bounds))

    @property
    def fill(self) -> float:
        """Which part of the bins' capacity is used."""
        return float(self.lengths.sum() / (self.max_length * len(self))) if len(self) else 1.0


def plan_bins(
    lengths: IntArray,
    max_length: int,
    strategy: Strategy,
    media: IntArray | None = None,
    max_media: int | None = None,
) -> PackingPlan:
    """Distributes rows over bins.

    The same arguments give the same bins, which are in the order of their first rows.

    Args:
        lengths: `(num_rows,)` tokens of each row, none of them more than `max_length`.
        max_length: The capacity of a bin, in tokens.
        strategy: `"best_fit"`: longest rows first, each into the fullest bin that has room; where that fills less than
            99.5%, as none of the rows is small, the bins of `mmdatasets.transforms.complete_bins` if they are fewer.
            `"first_fit"`: the
            dataset's order, each into the first bin that has room (of two capacities, a bin to which many rows would
            fit by one of them alone counts as full). `"sequential"`: the dataset's order, each into the
            last bin or a new one.
        media: `(num_rows,)` the second size of each row, none of them more than `max_media`.
        max_media: The second capacity of a bin.

    Returns:
        The plan, in which every row is exactly once.
    """
    bounded = max_media is not None and media is not None
    second = media if bounded and media is not None else np.zeros_like(lengths)
    capacity = max_media if bounded and max_media is not None else 0
    bin_of = _FILL[strategy](lengths, second, max_length, capacity)
    order = np.lexsort((np.arange(len(lengths)), bin_of))
    counts = np.bincount(bin_of, minlength=0) if len(lengths) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _in_order_of_first_rows(PackingPlan(order, starts, lengths, max_length))


def _in_order_of_first_rows(plan: PackingPlan) -> PackingPlan:
    order = np.argsort(plan.rows[plan.starts[:-1]], kind="stable")
    counts = np.diff(plan.starts)[order]
    starts = np.concatenate([[0], np.cumsum(counts)])
    # Where each row of the new order stands in the old one: its bin's old start, and its place in the bin.
    places = np.repeat(plan.starts[:-1][order] - starts[:-1], counts) + np.arange(len(plan.rows))
    return PackingPlan(plan.rows[places], starts, plan.lengths, plan.max_length)


def _best_fit(lengths: IntArray, media: IntArray, max_length: int, max_media: int) -> IntArray:
    if max_media:
        return _best_fit_of_two(lengths, media, max_length, max_media)
    bin_of = _best_fit_of_one(lengths, max_length)
    if len(lengths) and lengths.min() > 0 and max_length <= LARGEST_CAPACITY:
        least = math.ceil(lengths.sum() / max_length)
        if least < _GOOD_FILL * (bin_of.max() + 1):
            other = complete_bins(lengths, max_length)
            return other if other.max() < bin_of.max() else bin_of
    return bin_of


def _best_fit_of_one(lengths: IntArray, max_length: int) -> IntArray:
    order = np.argsort(-lengths, kind="stable")
    bins: list[int] = []
    rooms = _Rooms(max_length)
    sizes, counts = np.unique(lengths, return_counts=True)
    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            number, placed = rooms.place(size, left)
            bins += [number] * placed
            left -= placed
    bin_of = np.zeros(len(lengths), np.int64)
    bin_of[order] = bins
    return bin_of


class _Rooms:
    """Bins by their free tokens, for a search in few steps whatever the number of bins.

    `_stacks` has the bins of each number of free tokens, `_words` a bit for each stack that is not empty, `_summary`
    one for each word that is not zero: the fullest bin with room is found by lowest bits.
    """

    _BITS = 1024

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._stacks: list[list[int]] = [[] for _ in range(max_length + 1)]
        self._words = [0] * (max_length // self._BITS + 1)
        self._summary = 0
        self._num_bins = 0

    def place(self, length: int, count: int) -> tuple[int, int]:
        """Puts rows of one length into the fullest bin that has room for one, or a new one, until it is full.

        Best fit does that with them one by one: once it has one, it is the fullest bin with room for the next.

        Returns:
            The bin's number, and how many of the rows it took.
        """
        free = self._fullest(length)
        if free is None:
            free, number = self._max_length, self._num_bins
            self._num_bins += 1
        else:
            stack = self._stacks[free]
            number = stack.pop()
            if not stack:
                self._mark(free, empty=True)
        placed = min(count, free // length) if length else count
        rest = free - placed * length
        self._stacks[rest].append(number)
        if len(self._stacks[rest]) == 1:
            self._mark(rest, empty=False)
        return number, placed

    def _fullest(self, least: int) -> int | None:
        """The smallest number of free tokens from this one on that a bin has."""
        index, bit = divmod(least, self._BITS)
        word = self._words[index] >> bit
        if word:
            return least + _lowest_bit(word)
        later = self._summary >> (index + 1)
        if not later:
            return None
        index += 1 + _lowest_bit(later)
        return index * self._BITS + _lowest_bit(self._words[index])

    def _mark(self, free: int, *, empty: bool) -> None:
        index, bit = divmod(free, self._BITS)
        self._words[index] ^= 1 << bit
        if not self._words[index] or not empty:
            self._summary = self._summary & ~(1 << index) | (0 if empty else 1 << index)


def _lowest_bit(word: int) -> int:
    return (word & -word).bit_length() - 1


def _best_fit_of_two(lengths: IntArray, media: IntArray, max_length: int, max_media: int) -> IntArray:
    """Best fit by tokens among the bins with room for the media; first the rows that take most of either capacity."""
    order = np.lexsort((-lengths, -np.maximum(lengths / max_length, media / max_media)))
    bin_of = np.zeros(len(lengths), np.int64)
    rooms = _TwoRooms(max_length, max_media)
    for row, length, items in zip(order.tolist(), lengths[order].tolist(), media[order].tolist(), strict=True):
        bin_of[row] = rooms.place(length, items)
    return bin_of


class _TwoRooms:
    """Bins by the room they have, for a search in few steps whatever the number of bins.

    Bins lie in heaps, one for each number of free tokens, the one with most free media on top. The tree has, for each
    heap, that most free media plus one; 0 where there is no bin.
    """

    def __init__(self, max_length: int, max_media: int) -> None:
        self._full = (max_length, max_media)
        self._tree = _MaxTree(max_length + 1)
        self._heaps: list[list[tuple[int, int]]] = [[] for _ in range(max_length + 1)]  # (-free media, bin)
        self._num_bins = 0

    def place(self, length: int, media: int) -> int:
        """Puts a row into the fullest bin that has room for it, or a new one. Returns the bin's number."""
        free = self._tree.first(length, media + 1)
        if free is None:
            (free, room), number = self._full, self._num_bins
            self._num_bins += 1
        else:
            negative, number = heapq.heappop(self._heaps[free])
            room = -negative
            self._update(free)
        heapq.heappush(self._heaps[free - length], (media - room, number))
        self._update(free - length)
        return number

    def _update(self, free: int) -> None:
        heap = self._heaps[free]
        self._tree.set(free, 1 - heap[0][0] if heap else 0)


def _first_fit(lengths: IntArray, media: IntArray, max_length: int, max_media: int) -> IntArray:
    tokens, items = _MaxTree(len(lengths), max_length), _MaxTree(len(lengths), max_media)
    passed = [0] * len(lengths)
    bin_of = np.zeros(len(lengths), np.int64)
    for row, (length, own) in enumerate(zip(lengths.tolist(), media.tolist(), strict=True)):
        # As many bins as rows, empty at first: one has room.
        number, looks = tokens.first(0, length) or 0, 0
        while (other := items.first(number, own) or 0) != number:
            looks += 1
            if looks > _FREE_LOOKS:
                passed[number] += 1
                if passed[number] == _PASSES:
                    tokens.set(number, -1)
                    items.set(number, -1)
            number = tokens.first(other, length) or 0
        tokens.set(number, tokens.get(number) - length)
        items.set(number, items.get(number) - own)
        bin_of[row] = number
    return bin_of


def _sequential(lengths: IntArray, media: IntArray, max_length: int, max_media: int) -> IntArray:
    numbers = []
    number, tokens, items = -1, max_length, max_media
    for length, own in zip(lengths.tolist(), media.tolist(), strict=True):
        tokens, items = tokens + length, items + own
        if number < 0 or tokens > max_length or items > max_media:
            number, tokens, items = number + 1, length, own
        numbers.append(number)
    return np.asarray(numbers, np.int64)


class _MaxTree:
    """Numbers at places, with the first place from one on whose number is large enough found in few steps."""

    def __init__(self, size: int, value: int = 0) -> None:
        self._leaves = 1 << max(size - 1, 1).bit_length()
        self._nodes = [value] * (2 * self._leaves)  # the children of node n are 2n and 2n + 1; leaves come last

    def get(self, place: int) -> int:
        """The number at a place."""
        return self._nodes[self._leaves + place]

    def set(self, place: int, value: int) -> None:
        """Changes the number at a place."""
        nodes, node = self._nodes, self._leaves + place
        nodes[node] = value
        while node > 1:
            sibling = nodes[node ^ 1]
            node >>= 1
            value = max(value, sibling)
            if nodes[node] == value:
                return
            nodes[node] = value

    def first(self, place: int, least: int) -> int | None:
        """The first place from this one on with at least this number, if there is one."""
        nodes, node = self._nodes, self._leaves + place
        while nodes[node] < least:
            while node & 1:  # nothing is right of a right child but what is right of its parent
                node >>= 1
            if not node:
                return None
            node += 1
        while node < self._leaves:
            node *= 2
            if nodes[node] < least:
                node += 1
        return node - self._leaves


_FILL: Mapping[Strategy, Callable[[IntArray, IntArray, int, int], IntArray]] = {
    "best_fit": _best_fit,
    "first_fit": _first_fit,
    "sequential": _sequential,
}
