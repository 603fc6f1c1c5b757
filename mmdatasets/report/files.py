"""The sizes of media files, and the largest of them."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from mmdatasets.features import MEDIA_COLUMNS, VIDEO_FRAMES
from mmdatasets.media.source import describe_source
from mmdatasets.report.lengths import Quantiles, quantiles
from mmdatasets.report.references import References, file_sizer, read_references

if TYPE_CHECKING:
    from datasets import Dataset

    from mmdatasets.options import MediaOptions

MAX_SIZED = 20_000
"""Most files of each column whose size the filesystem is asked for; of more references, so many evenly spaced ones."""

LARGEST = 10


class LargeFile(TypedDict):
    """A media file and the first row that refers to it."""

    num_bytes: int
    row: int
    column: str
    index: int
    source: str


class FileFacts(TypedDict):
    """Sizes of the files of one column.

    Attributes:
        references: How many there are.
        in_rows: How many of them hold their bytes in the row.
        sized: References whose size is known: those with bytes, and the files that the filesystem was asked for.
        missing: Of the files that it was asked for, those that are no local files, or not there.
        sizes: Distribution of the sizes in bytes.
    """

    references: int
    in_rows: int
    sized: int
    missing: int
    sizes: Quantiles | None


@dataclass
class _Tally:
    """What was found of a column so far."""

    references: int = 0
    in_rows: int = 0
    missing: int = 0
    sizes: list[np.ndarray] = field(default_factory=list)


def file_facts(
    dataset: Dataset, options: MediaOptions, max_sized: int = MAX_SIZED
) -> tuple[dict[str, FileFacts], list[LargeFile]]:
    """Finds the sizes of media files.

    Args:
        dataset: The mapped dataset.
        options: `media_root` is used.
        max_sized: See `MAX_SIZED`.

    Returns:
        Column -> its files, of the columns that have some; and the largest files of all, largest first.
    """
    counts = _count(dataset)
    steps = {name: max(1, -(-count // max_sized)) for name, count in counts.items()}
    size_of = file_sizer(options)
    tallies = {name: _Tally() for name, count in counts.items() if count}
    largest = _Largest()
    for references in read_references(dataset):
        if not len(references):
            continue
        tally = tallies[references.column]
        sizes = references.num_bytes.copy()
        stored = sizes >= 0
        numbers = tally.references + np.arange(len(references))
        for position in np.flatnonzero(~stored & (numbers % steps[references.column] == 0)).tolist():
            path = references.paths[position]
            size = None if path is None else size_of(path)
            tally.missing += size is None
            sizes[position] = -1 if size is None else size
        tally.references += len(references)
        tally.in_rows += int(stored.sum())
        tally.sizes.append(sizes[sizes >= 0])
        largest.add(references, sizes)
    return {name: _facts(tally) for name, tally in tallies.items()}, largest.found


def _count(dataset: Dataset) -> dict[str, int]:
    counts = dict.fromkeys([*MEDIA_COLUMNS.values(), VIDEO_FRAMES], 0)
    for references in read_references(dataset):
        counts[references.column] += len(references)
    return counts


def _facts(tally: _Tally) -> FileFacts:
    sizes = np.concatenate(tally.sizes)
    return {
        "references": tally.references,
        "in_rows": tally.in_rows,
        "sized": len(sizes),
        "missing": tally.missing,
        "sizes": quantiles(sizes),
    }


class _Largest:
    """The largest files that were seen, each once."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str, int, str]] = []
        self._known: set[tuple[int, str]] = set()

    def add(self, references: References, sizes: np.ndarray) -> None:
        """Adds a batch's files."""
        least = self._heap[0][0] if len(self._heap) == LARGEST else 0
        for position in np.flatnonzero(sizes > least).tolist():
            size, path = int(sizes[position]), references.paths[position]
            source = describe_source(path) if path else f"bytes ({size:,} B)"
            if (size, source) in self._known:
                continue
            entry = (size, -int(references.row[position]), references.column, int(references.index[position]), source)
            if len(self._heap) < LARGEST:
                heapq.heappush(self._heap, entry)
                self._known.add((size, source))
            elif entry > self._heap[0]:
                self._known.add((size, source))
                gone = heapq.heapreplace(self._heap, entry)
                self._known.discard((gone[0], gone[4]))

    @property
    def found(self) -> list[LargeFile]:
        """Largest first."""
        return [
            {"num_bytes": size, "row": -row, "column": column, "index": index, "source": source}
            for size, row, column, index, source in sorted(self._heap, reverse=True)
        ]
