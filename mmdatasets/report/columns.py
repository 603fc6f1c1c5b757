"""Reads the columns of a mapped dataset that a report is made of, batch by batch: numbers, and no media."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import (
    CHOSEN_IDS,
    CHOSEN_LABELS,
    FIT,
    INPUT_IDS,
    LABEL,
    LABELS,
    LENGTH,
    MEDIA_INFO,
    REJECTED_IDS,
    REJECTED_LABELS,
    SEQUENCE_LENGTHS,
)
from mmdatasets.transforms.tokenise import IGNORE_INDEX
from mmdatasets.types import MODALITIES

if TYPE_CHECKING:
    import numpy.typing as npt
    from datasets import Features

    from mmdatasets.types import Modality

    IntArray: TypeAlias = npt.NDArray[np.int64]
    FloatArray: TypeAlias = npt.NDArray[np.float64]
    BoolArray: TypeAlias = npt.NDArray[np.bool_]

RowKind: TypeAlias = Literal["chats", "packed", "answers", "pairs"]
"""What the rows are: chats, packed rows, chats whose answer is good or bad, or two answers to a prompt."""

_ROWS_AT_ONCE = 4096
_NUMBERS = ("width", "height", "num_source_frames", "num_samples", "start", "end", "num_tokens", "fps", "duration_s")


def kind_of_rows(features: Features) -> RowKind:
    """What the rows of a mapped dataset are.

    Raises:
        MMDatasetsError: If the dataset was not mapped.
    """
    if LENGTH in features and MEDIA_INFO in features:
        if CHOSEN_IDS in features and REJECTED_IDS in features:
            return "pairs"
        if INPUT_IDS in features:
            return "packed" if SEQUENCE_LENGTHS in features else "answers" if LABEL in features else "chats"
    raise MMDatasetsError(
        f"the dataset was not mapped: its columns are {', '.join(features)}; expected {INPUT_IDS!r}, {LENGTH!r} and "
        f"{MEDIA_INFO!r}, which plugin.transform makes"
    )


def is_mapped(dataset: Dataset) -> bool:
    """Whether a plugin's transform made the rows."""
    try:
        kind_of_rows(dataset.features)
    except MMDatasetsError:
        return False
    return True


def check_readable(dataset: object) -> Dataset:
    """Checks that it is a dataset whose rows can be read several times, and by number.

    Raises:
        MMDatasetsError: If it streams, or is several splits.
        TypeError: If it is no dataset.
    """
    if isinstance(dataset, Dataset):
        return dataset
    if isinstance(dataset, IterableDataset):
        raise MMDatasetsError(
            "the dataset streams, and its rows are read more than once: load it without streaming=True, or make one "
            "of its first rows with Dataset.from_list(list(dataset.take(10_000)), features=dataset.features)"
        )
    if isinstance(dataset, dict):
        raise MMDatasetsError(f"these are several splits: choose one of {', '.join(map(repr, dataset))}")
    raise TypeError(f"expected a datasets.Dataset, got {type(dataset).__name__}")


@dataclass(frozen=True, slots=True, eq=False)
class MediaTable:
    """The media items of a dataset, in the order of rows and text. The chunks of a divided audio file are one item.

    Attributes:
        row: `(num_items,)` number of the row.
        modality: `(num_items,)` position in `mmdatasets.types.MODALITIES`.
        item: `(num_items,)` which of the row's references of this modality it is.
        tokens: `(num_items,)` media tokens.
        width: `(num_items,)` pixels of the original, upright; 0 for audio.
        height: `(num_items,)` pixels likewise.
        frames: `(num_items,)` frames that are decoded; 0 but for videos.
        source_frames: `(num_items,)` frames that there were to choose from; likewise.
        samples: `(num_items,)` samples at the model's rate, of audio and of the sound of videos.
        fps: `(num_items,)` average frames per second; not a number where nothing tells.
        duration_s: `(num_items,)` seconds that the frames were chosen from; likewise.
        start: `(num_items,)` first token of the media span.
        end: `(num_items,)` one past its last token.
    """

    row: IntArray
    modality: npt.NDArray[np.int8]
    item: IntArray
    tokens: IntArray
    width: IntArray
    height: IntArray
    frames: IntArray
    source_frames: IntArray
    samples: IntArray
    fps: FloatArray
    duration_s: FloatArray
    start: IntArray
    end: IntArray

    def __len__(self) -> int:
        return len(self.row)

    def of(self, modality: Modality) -> BoolArray:
        """Mask of the items of a modality."""
        mask: BoolArray = self.modality == MODALITIES.index(modality)
        return mask

    @property
    def work(self) -> IntArray:
        """What decoding an item takes, roughly: pixels of all its frames, or samples."""
        pixels = self.width * self.height * np.maximum(self.frames, 1)
        work: IntArray = np.where(self.width > 0, pixels, self.samples)
        return work


@dataclass(frozen=True, slots=True, eq=False)
class FitColumn:
    """What the column `fit` says.

    Attributes:
        original_length: `(num_rows,)` tokens that each row had before it was fitted.
        outcomes: Outcome -> reason -> number of rows.
    """

    original_length: IntArray
    outcomes: dict[str, Counter[str]]


@dataclass(frozen=True, eq=False)
class MappedColumns:
    """The numbers of a mapped dataset.

    Attributes:
        kind: What the rows are.
        lengths: `(num_rows,)` tokens of each row; of pairs those of the longer side.
        sides: `(num_rows, num_sides)` tokens of each side of pairs; of other rows `lengths` again.
        trained: How many tokens are trained.
        media: The media items.
        sequences: `(num_sequences,)` tokens of each sequence of packed rows; of other rows `None`.
        fit: What became of the rows that were to fit into a length, where the dataset says so.
    """

    kind: RowKind
    lengths: IntArray
    sides: IntArray
    trained: int
    media: MediaTable
    sequences: IntArray | None = None
    fit: FitColumn | None = None

    @cached_property
    def media_tokens(self) -> IntArray:
        """`(num_rows,)` media tokens of each row; pairs have them once for each side."""
        sums: IntArray = np.bincount(self.media.row, self.media.tokens, len(self.lengths)).astype(np.int64)
        return sums

    @property
    def original_lengths(self) -> IntArray:
        """`(num_rows,)` tokens of each row before it was fitted into a length."""
        return self.lengths if self.fit is None else self.fit.original_length


def read_columns(dataset: Dataset) -> MappedColumns:
    """Reads what a report needs of a mapped dataset.

    What is kept takes some 24 bytes for each row and 100 for each media item, whatever the rows hold.

    Args:
        dataset: The mapped dataset, in any format.

    Raises:
        MMDatasetsError: If it was not mapped.
    """
    kind = kind_of_rows(dataset.features)
    labels = [CHOSEN_LABELS, REJECTED_LABELS] if kind == "pairs" else [LABELS]
    ids = [CHOSEN_IDS, REJECTED_IDS] if kind == "pairs" else []
    wanted = [LENGTH, MEDIA_INFO, *labels, *ids, FIT, SEQUENCE_LENGTHS]
    names = [name for name in wanted if name in dataset.column_names]
    parts = _Parts(ids or [LENGTH])
    first = 0
    for table in _batches(dataset, names):
        parts.add(table, first)
        first += table.num_rows
    return parts.joined(kind)


def _batches(dataset: Dataset, names: list[str]) -> Iterator[pa.Table]:
    yield from dataset.select_columns(names).with_format("arrow").iter(_ROWS_AT_ONCE)


@dataclass
class _Parts:
    """What was read of each batch so far."""

    side_columns: list[str]
    lengths: list[IntArray] = field(default_factory=list)
    sides: list[IntArray] = field(default_factory=list)
    media: list[dict[str, npt.NDArray[np.generic]]] = field(default_factory=list)
    sequences: list[IntArray] = field(default_factory=list)
    original: list[IntArray] = field(default_factory=list)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    trained: int = 0

    def add(self, table: pa.Table, first: int) -> None:
        """Adds a batch.

        Args:
            table: Its columns.
            first: Number of its first row.
        """
        self.lengths.append(_integers(combined(table[LENGTH])))
        sides = [
            _integers(combined(table[name]) if name == LENGTH else pc.list_value_length(table[name]).combine_chunks())
            for name in self.side_columns
        ]
        self.sides.append(np.stack(sides, axis=1))
        for name in (LABELS, CHOSEN_LABELS, REJECTED_LABELS):
            if name in table.column_names:
                self.trained += int(np.count_nonzero(combined(table[name]).flatten().to_numpy() != IGNORE_INDEX))
        self.media.append(_media_of(combined(table[MEDIA_INFO]), first))
        if SEQUENCE_LENGTHS in table.column_names:
            self.sequences.append(_integers(combined(table[SEQUENCE_LENGTHS]).flatten()))
        if FIT in table.column_names:
            self._add_fit(combined(table[FIT]))

    def _add_fit(self, fit: pa.StructArray) -> None:
        self.original.append(_integers(fit.field("original_length")))
        pairs = pa.table({"outcome": fit.field("outcome"), "reason": fit.field("reason")})
        counted = pairs.group_by(["outcome", "reason"]).aggregate([([], "count_all")]).to_pylist()
        for row in counted:
            self.outcomes.setdefault(row["outcome"], Counter())[row["reason"] or ""] += row["count_all"]

    def joined(self, kind: RowKind) -> MappedColumns:
        """All batches together."""
        names = list(self.media[0]) if self.media else []
        media = {name: np.concatenate([part[name] for part in self.media]) for name in names}
        return MappedColumns(
            kind,
            _joined(self.lengths),
            np.concatenate(self.sides) if self.sides else np.zeros((0, len(self.side_columns)), np.int64),
            self.trained,
            MediaTable(**media) if media else _media_of_nothing(),
            _joined(self.sequences) if kind == "packed" else None,
            FitColumn(_joined(self.original), self.outcomes) if self.original else None,
        )


def _joined(parts: list[IntArray]) -> IntArray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _integers(column: pa.Array) -> IntArray:
    return column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]


def combined(column: pa.ChunkedArray) -> pa.Array:
    """A column of a batch in one piece: datasets with videos are stored in pieces of ten rows."""
    whole = column.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def _media_of(lists: pa.ListArray, first: int) -> dict[str, npt.NDArray[np.generic]]:
    """The items of a batch's `media_info`."""
    records = lists.flatten()
    row = _integers(lists.value_parent_indices())
    kinds = pc.index_in(records.field("modality"), pa.array(MODALITIES))
    numbers = {name: records.field(name) for name in (*_NUMBERS, "item")}
    own = {name: _integers(column) for name, column in numbers.items() if name not in ("fps", "duration_s")}
    rates = {name: numbers[name].to_numpy(zero_copy_only=False) for name in ("fps", "duration_s")}
    frames = _integers(records.field("frame_indices").value_lengths())
    modality = _integers(kinds).astype(np.int8)
    starts = _first_records(row, modality, own["item"])
    if not len(starts):
        return _empty_media()
    lasts = np.append(starts[1:], len(row)) - 1
    return {
        "row": row[starts] + first,
        "modality": modality[starts],
        "item": own["item"][starts],
        "tokens": np.add.reduceat(own["num_tokens"], starts),
        "width": own["width"][starts],
        "height": own["height"][starts],
        "frames": frames[starts],
        "source_frames": own["num_source_frames"][starts],
        "samples": np.add.reduceat(own["num_samples"], starts),
        "fps": rates["fps"][starts],
        "duration_s": rates["duration_s"][starts],
        "start": own["start"][starts],
        "end": own["end"][lasts],
    }


def _first_records(row: IntArray, modality: npt.NDArray[np.int8], item: IntArray) -> IntArray:
    """Where the records of each item begin: those of one that is divided follow one another."""
    if not len(row):
        return np.zeros(0, np.int64)
    differs = (np.diff(row) != 0) | (np.diff(modality) != 0) | (np.diff(item) != 0)
    return np.flatnonzero(np.concatenate([[True], differs]))


def _empty_media() -> dict[str, npt.NDArray[np.generic]]:
    floats = ("fps", "duration_s")
    names = MediaTable.__dataclass_fields__
    kinds = {name: np.float64 if name in floats else np.int8 if name == "modality" else np.int64 for name in names}
    return {name: np.zeros(0, kind) for name, kind in kinds.items()}


def _media_of_nothing() -> MediaTable:
    return MediaTable(**_empty_media())  # type: ignore[arg-type]
