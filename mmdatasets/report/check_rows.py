"""Checks what the rows of a mapped dataset say of themselves: ids, labels, lengths, media spans, and their counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Features, List, Value

from mmdatasets.features import (
    CHOSEN_IDS,
    CHOSEN_LABELS,
    INPUT_IDS,
    LABELS,
    LENGTH,
    MADE_BY,
    MEDIA_COLUMNS,
    MEDIA_INFO,
    REJECTED_IDS,
    REJECTED_LABELS,
    SEQUENCE_LENGTHS,
    VIDEO_FRAMES,
    VIDEOS,
    media_columns,
    media_info_feature,
    preference_token_features,
    token_features,
)
from mmdatasets.report.columns import combined
from mmdatasets.report.media_tokens import MediaTokenGuess
from mmdatasets.report.problems import Problem, ProblemKind
from mmdatasets.report.references import media_columns_of
from mmdatasets.transforms.tokenise import IGNORE_INDEX
from mmdatasets.types import MODALITIES

if TYPE_CHECKING:
    import numpy.typing as npt
    from datasets import Dataset

    from mmdatasets.report.columns import BoolArray, IntArray, RowKind

_SIDES = {
    "pairs": ((CHOSEN_IDS, CHOSEN_LABELS), (REJECTED_IDS, REJECTED_LABELS)),
}
_ONE_SIDE = ((INPUT_IDS, LABELS),)


def check_types(features: Features, kind: RowKind) -> Iterator[Problem]:
    """Yields what is wrong with the types of the transform's own columns."""
    tokens = preference_token_features(paired=kind == "pairs") if kind in ("pairs", "answers") else token_features()
    expected: dict[str, object] = {**tokens, LENGTH: Value("int32"), MEDIA_INFO: media_info_feature()}
    if kind == "packed":
        expected[SEQUENCE_LENGTHS] = List(Value("int32"))
    for name, feature in expected.items():
        if name not in features:
            yield Problem("type", "the column is missing", column=name)
        elif features[name] != feature:
            yield Problem("type", f"its type is {features[name]}, expected {feature}", column=name)
    media = media_columns_of(features)
    if VIDEOS in media and VIDEO_FRAMES not in media:
        kind_of_frames = features.get(VIDEO_FRAMES)
        found = "the column is missing" if kind_of_frames is None else f"its type is {kind_of_frames}"
        yield Problem("type", f"{found}, expected {media_columns(['video'])[VIDEO_FRAMES]}", column=VIDEO_FRAMES)


def check_made_by(features: Features) -> Iterator[Problem]:
    """Yields what is wrong with the column that says what made the rows."""
    made_by = features.get(MADE_BY)
    if not isinstance(made_by, ClassLabel) or not made_by.id:
        yield Problem("type", "nothing says what made the rows: the column or its type is missing", column=MADE_BY)


class RowChecker:
    """Checks rows batch by batch.

    Args:
        kind: What the rows are.
        dataset: The mapped dataset.
        media_token_ids: Ids of the tokens that stand for one feature each; found out when `None`.
    """

    def __init__(self, kind: RowKind, dataset: Dataset, media_token_ids: Sequence[int] | None) -> None:
        self._kind = kind
        self._sides = _SIDES.get(kind, _ONE_SIDE)
        own = [name for side in self._sides for name in side]
        self._features = dataset.features
        media = media_columns_of(dataset.features)
        more = [SEQUENCE_LENGTHS] if kind == "packed" else []
        self.columns = [*own, LENGTH, MEDIA_INFO, *media, *more]
        self._tokens = MediaTokenGuess(media_token_ids)

    @property
    def not_checked(self) -> list[str]:
        """What nothing was known of, and why."""
        return self._tokens.not_checked

    def check(self, table: pa.Table, first: int) -> Iterator[Problem]:
        """Yields what is wrong with a batch's rows.

        Args:
            table: The batch.
            first: Number of its first row.
        """
        counts = [_lengths(table[ids]) for ids, _ in self._sides]
        wrong = list(self._check_lengths(table, counts, first))
        yield from wrong
        records = _Records(table)
        yield from self._check_references(table, records, first)
        bad_rows = {problem.row for problem in wrong}
        usable = np.array([row + first not in bad_rows for row in range(table.num_rows)], dtype=bool)
        for ids, labels in self._sides:
            yield from _check_labels(table, ids, labels, usable, first)
        spans = list(_check_spans(records, counts[0], first))
        yield from spans
        bad_rows |= {problem.row for problem in spans}
        sound = ~np.isin(records.row + first, [row for row in bad_rows if row is not None])
        yield from self._check_inside(table, records.only(sound), first)
        if self._kind == "packed":
            yield from _check_sequences(table, records.only(sound), counts[0], first)

    def _check_lengths(self, table: pa.Table, counts: Sequence[IntArray], first: int) -> Iterator[Problem]:
        stated = combined(table[LENGTH]).fill_null(-1).to_numpy(zero_copy_only=False)
        longest = np.max(np.stack(counts), axis=0)
        names = " and ".join(ids for ids, _ in self._sides)
        for row in np.flatnonzero(stated != longest).tolist():
            yield Problem("length", f"it is {stated[row]}, but {names} has {longest[row]} tokens", row + first, LENGTH)
        for (ids, labels), own in zip(self._sides, counts, strict=True):
            targets = _lengths(table[labels])
            for row in np.flatnonzero(targets != own).tolist():
                yield Problem("length", f"{targets[row]} labels for {own[row]} {ids}", row + first, labels)
            for row in np.flatnonzero(own == 0).tolist():
                yield Problem("length", "the row has no tokens", row + first, ids)

    def _check_references(self, table: pa.Table, records: _Records, first: int) -> Iterator[Problem]:
        """Each reference is described, and each description has its reference."""
        num_rows = table.num_rows
        for code, (modality, column) in enumerate(MEDIA_COLUMNS.items()):
            given = _lengths(table[column]) if column in table.column_names else np.zeros(num_rows, np.int64)
            mine = records.modality == code
            pairs = np.unique(np.stack([records.row[mine], records.item[mine]]), axis=1)
            described = np.bincount(pairs[0], minlength=num_rows)
            highest = np.full(num_rows, -1)
            np.maximum.at(highest, pairs[0], pairs[1])
            lowest = np.zeros(num_rows, np.int64)
            np.minimum.at(lowest, pairs[0], pairs[1])
            if column not in table.column_names and column in self._features and described.any():
                what = f"its type is {self._features[column]}, expected {media_columns([modality])[column]}"
                yield Problem("type", what, column=column)
                continue
            wrong = (described != given) | (highest != given - 1) | (lowest < 0)
            for row in np.flatnonzero(wrong).tolist():
                message = f"{given[row]} reference(s), but {MEDIA_INFO} describes {described[row]} {modality} item(s)"
                if described[row] == given[row]:
                    message = f"{MEDIA_INFO} numbers its {modality} items otherwise than from 0 on"
                yield Problem("references", message, row + first, column)
        for position in np.flatnonzero(records.modality < 0).tolist():
            yield Problem("references", "an item of no known modality", int(records.row[position]) + first, MEDIA_INFO)
        if VIDEO_FRAMES in table.column_names:
            frames, videos = _lengths(table[VIDEO_FRAMES]), _lengths(table[VIDEOS])
            for row in np.flatnonzero(frames != videos).tolist():
                message = f"{frames[row]} list(s) of frames for {videos[row]} video(s)"
                yield Problem("references", message, row + first, VIDEO_FRAMES)

    def _check_inside(self, table: pa.Table, records: _Records, first: int) -> Iterator[Problem]:
        """Nothing in a media span is trained, and it has as many media tokens as it says."""
        if not len(records.row):
            return
        ids, labels = self._sides[0]
        offsets = _offsets(_lengths(table[ids]))
        starts, ends = offsets[records.row] + records.start, offsets[records.row] + records.end
        # Rows of which ids and labels differ in number are not among the records, but are among the values.
        moved = (_offsets(_lengths(table[labels])) - offsets)[records.row]
        trained = _running(combined(table[labels]).flatten().to_numpy() != IGNORE_INDEX)
        inside = trained[ends + moved] - trained[starts + moved]
        for position in np.flatnonzero(inside).tolist():
            count = int(inside[position])
            yield records.problem("trained_media", f"{count} token(s) of its span are trained", position, first)
        flat = combined(table[ids]).flatten().to_numpy()
        for code, modality in enumerate(MODALITIES):
            mine = np.flatnonzero((records.modality == code) & (records.num_samples_of_video == 0))
            self._tokens.learn(modality, flat, starts[mine], ends[mine], records.num_tokens[mine])
            is_media = self._tokens.mask(modality, flat)
            if is_media is None:
                continue
            total = _running(is_media)
            found = total[ends[mine]] - total[starts[mine]]
            for place in np.flatnonzero(found != records.num_tokens[mine]).tolist():
                position = int(mine[place])
                message = f"{found[place]} media tokens in its span, but num_tokens is {records.num_tokens[position]}"
                yield records.problem("media_tokens", message, position, first)


class _Records:
    """The records of a batch's `media_info`, chunks of divided audio one by one.

    Attributes:
        row: `(num_records,)` row of the batch.
        modality: `(num_records,)` position in `MODALITIES`; -1 for none of them.
        item: `(num_records,)` which of the row's references it is.
        start: `(num_records,)` first token of the span.
        end: `(num_records,)` one past the last.
        num_tokens: `(num_records,)` media tokens.
        num_samples_of_video: `(num_records,)` samples of a video's sound, whose tokens are counted with it.
    """

    def __init__(self, table: pa.Table | None = None) -> None:
        if table is None:
            return
        lists = combined(table[MEDIA_INFO])
        records = lists.flatten()
        self.row = lists.value_parent_indices().to_numpy(zero_copy_only=False).astype(np.int64)
        codes = pa.compute.index_in(records.field("modality"), pa.array(MODALITIES))
        self.modality = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        numbers = {
            name: records.field(name).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            for name in ("item", "start", "end", "num_tokens")
        }
        self.item, self.start, self.end = numbers["item"], numbers["start"], numbers["end"]
        self.num_tokens = numbers["num_tokens"]
        samples = records.field("num_samples").fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        self.num_samples_of_video = np.where(self.modality == MODALITIES.index("video"), samples, 0)

    def only(self, mask: BoolArray) -> _Records:
        """Some of them."""
        chosen = _Records()
        for name, values in vars(self).items():
            setattr(chosen, name, values[mask])
        return chosen

    def problem(self, kind: ProblemKind, message: str, position: int, first: int) -> Problem:
        """A problem of one of them."""
        modality = int(self.modality[position])
        column = MEDIA_COLUMNS[MODALITIES[modality]] if modality >= 0 else MEDIA_INFO
        return Problem(kind, message, int(self.row[position]) + first, column, int(self.item[position]))


def _check_labels(table: pa.Table, ids: str, labels: str, usable: BoolArray, first: int) -> Iterator[Problem]:
    """A label is its token's own id, or -100."""
    own = _lengths(table[ids])
    chosen = table.select([ids, labels]).filter(pa.array(usable))
    tokens, targets = (combined(chosen[name]).flatten().fill_null(-1).to_numpy() for name in (ids, labels))
    wrong = np.flatnonzero((targets != IGNORE_INDEX) & (targets != tokens))
    if not len(wrong):
        return
    rows = np.flatnonzero(usable)[np.searchsorted(np.cumsum(own[usable]), wrong, side="right")]
    for row, count in zip(*np.unique(rows, return_counts=True), strict=True):
        yield Problem(
            "labels", f"{count} label(s) are neither {IGNORE_INDEX} nor the token's id", int(row) + first, labels
        )


def _check_spans(records: _Records, lengths: IntArray, first: int) -> Iterator[Problem]:
    """Spans lie within their rows, in order and apart, with room for their media tokens."""
    limits = lengths[records.row]
    spans = records.end - records.start
    outside = (records.start < 0) | (records.end > limits) | (spans <= 0)
    for position in np.flatnonzero(outside).tolist():
        span = f"[{records.start[position]}, {records.end[position]})"
        message = f"its span is {span}, but the row has {limits[position]} tokens"
        yield records.problem("span", message, position, first)
    same_row = np.diff(records.row) == 0
    for position in (np.flatnonzero(same_row & (records.start[1:] < records.end[:-1])) + 1).tolist():
        message = (
            f"its span begins at {records.start[position]}, before the one of the item before it ends, at "
            f"{records.end[position - 1]}"
        )
        yield records.problem("span", message, position, first)
    for position in np.flatnonzero(~outside & ((records.num_tokens < 1) | (records.num_tokens > spans))).tolist():
        message = f"num_tokens is {records.num_tokens[position]}, but its span has {spans[position]} tokens"
        yield records.problem("media_tokens", message, position, first)


def _check_sequences(table: pa.Table, records: _Records, lengths: IntArray, first: int) -> Iterator[Problem]:
    """The sequences of packed rows add up to them, and no media span lies across two of them."""
    lists = combined(table[SEQUENCE_LENGTHS])
    counts = _lengths(table[SEQUENCE_LENGTHS])
    sizes = lists.flatten().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    row_of = np.repeat(np.arange(len(counts)), counts)
    sums = np.bincount(row_of, sizes, len(counts)).astype(np.int64)
    bad = sums != lengths
    bad[row_of[sizes < 1]] = True
    for row in np.flatnonzero(bad).tolist():
        message = (
            f"{counts[row]} sequences of {sums[row]} tokens in all, each of 1 or more; the row has {lengths[row]}"
        )
        yield Problem("sequences", message, row + first, SEQUENCE_LENGTHS)
    kept = records.only(~bad[records.row])
    ends = np.cumsum(sizes)
    offsets = _offsets(sums)
    begins, lasts = offsets[kept.row] + kept.start, offsets[kept.row] + kept.end - 1
    across = np.searchsorted(ends, begins, side="right") != np.searchsorted(ends, lasts, side="right")
    for position in np.flatnonzero(across).tolist():
        yield kept.problem("sequences", "its span lies across two sequences of the packed row", position, first)


def _lengths(column: pa.ChunkedArray) -> IntArray:
    lengths = pa.compute.list_value_length(column).combine_chunks()
    return lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]


def _offsets(lengths: IntArray) -> IntArray:
    """Where each list begins in the flat values."""
    offsets: IntArray = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    return offsets


def _running(mask: npt.NDArray[np.bool_]) -> IntArray:
    """How many are set before each position, and in all."""
    return np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
