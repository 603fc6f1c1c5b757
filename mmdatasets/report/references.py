"""The media references of a mapped dataset: where each item is and how large its file is, nothing of it read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Image, LargeList, List, Video

from mmdatasets.errors import MediaError
from mmdatasets.features import AUDIOS, IMAGES, VIDEO_FRAMES, VIDEOS
from mmdatasets.media.source import local_path

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from mmdatasets.options import MediaOptions
    from mmdatasets.report.columns import IntArray

_ROWS_AT_ONCE = 512
"""Of a dataset that was shuffled or selected from, a batch's media bytes are copied."""

_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """The references of a batch's rows in one column.

    Attributes:
        column: The column.
        row: `(num_references,)` number of the row of each.
        index: `(num_references,)` its position within the row's column; of a frame that of its video.
        paths: Each one's path or URL, if it has one.
        num_bytes: `(num_references,)` bytes that the row itself holds of it; -1 where it holds none.
    """

    column: str
    row: IntArray
    index: IntArray
    paths: Sequence[str | None]
    num_bytes: IntArray

    def __len__(self) -> int:
        return len(self.row)


def media_columns_of(features: Features) -> list[str]:
    """The columns of a mapped dataset that hold media references.

    A column of the same name that holds something else is one of the source's: it passed through, as the model does
    not take what it is for.
    """
    kinds: dict[str, type] = {IMAGES: Image, VIDEOS: Video, AUDIOS: Audio}
    found = [name for name, kind in kinds.items() if _is_list_of(features.get(name), kind)]
    frames = features.get(VIDEO_FRAMES)
    if VIDEOS in found and isinstance(frames, List | LargeList) and _is_list_of(frames.feature, Image):
        found.append(VIDEO_FRAMES)
    return found


def _is_list_of(feature: object, kind: type) -> bool:
    return isinstance(feature, List | LargeList) and isinstance(feature.feature, kind)


def read_references(dataset: Dataset) -> Iterator[References]:
    """Yields the references of a mapped dataset, batch by batch, each batch column by column.

    Bytes that rows hold are not copied, but where the dataset was shuffled or selected from.
    """
    names = media_columns_of(dataset.features)
    if not names:
        return
    first = 0
    for table in dataset.select_columns(names).with_format("arrow").iter(_ROWS_AT_ONCE):
        for name in names:
            yield references_of(table[name], name, first)
        first += table.num_rows


def references_of(column: pa.ChunkedArray, name: str, first: int = 0) -> References:
    """The references in a media column.

    Args:
        column: The column of a batch.
        name: Its name.
        first: Number of the batch's first row.
    """
    counts = _numbers(pc.list_value_length(column))
    row = np.repeat(np.arange(len(counts)), counts)
    index = _within(counts)
    items = pc.list_flatten(column)
    if name == VIDEO_FRAMES:
        frames = _numbers(pc.list_value_length(items))
        row, index, items = np.repeat(row, frames), np.repeat(index, frames), pc.list_flatten(items)
    data = pc.struct_field(items, "bytes")
    num_bytes = pc.fill_null(pc.binary_length(data), -1)
    # A list of frames stands as null among the videos.
    is_null = pc.is_null(items).to_numpy().astype(bool)
    paths = pc.struct_field(items, "path").to_pylist()
    if is_null.any():
        kept = np.flatnonzero(~is_null)
        row, index, paths = row[kept], index[kept], [paths[position] for position in kept]
        num_bytes = num_bytes.take(pa.array(kept))
    return References(name, row + first, index, paths, num_bytes.to_numpy().astype(np.int64))


def _numbers(column: pa.ChunkedArray) -> IntArray:
    return pc.fill_null(column, 0).to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _within(counts: IntArray) -> IntArray:
    """0, 1, ... for each row."""
    before = np.cumsum(counts) - counts
    within: IntArray = np.arange(int(counts.sum())) - np.repeat(before, counts)
    return within


def file_sizer(options: MediaOptions) -> Callable[[str], int | None]:
    """A function that gives the size of a local file in bytes, and asks the filesystem once for each path.

    It gives `None` for what is no local file, or is not there.

    Args:
        options: `media_root` is used.
    """

    @lru_cache(maxsize=_REMEMBERED)
    def size_of(path: str) -> int | None:
        try:
            place = local_path(path, options)
            return None if place is None else os.stat(place).st_size  # noqa: PTH116 - half the time of Path.stat
        except (OSError, ValueError, MediaError):
            return None

    return size_of
