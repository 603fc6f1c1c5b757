"""Checks the media of a mapped dataset: whether it is there, and, where asked for, whether it is what was planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import MediaError, MMDatasetsError
from mmdatasets.features import MEDIA_COLUMNS, MEDIA_INFO, plan_of
from mmdatasets.media.source import describe_source, local_path, open_source
from mmdatasets.report.decoding import RowMediaReader, decode_item, describe_item
from mmdatasets.report.problems import Problem
from mmdatasets.report.references import References, read_references

if TYPE_CHECKING:
    from datasets import Dataset

    from mmdatasets.features import MediaRecord
    from mmdatasets.options import MediaOptions
    from mmdatasets.types import MediaReference, Modality

_REMEMBERED = 100_000


class MediaChecker:
    """Checks references, and decodes what they refer to.

    Args:
        dataset: The mapped dataset.
        options: How media is read.
        sampling_rate: Samples per second that the model takes; `None` where nothing tells.

    Attributes:
        references: References that were looked at.
        decoded: Items that were decoded.
    """

    def __init__(self, dataset: Dataset, options: MediaOptions, sampling_rate: int | None) -> None:
        self._dataset = dataset
        self._options = options
        self._rate = sampling_rate
        self._remote = 0
        self._has_audio = False
        self.references = 0
        self.decoded = 0
        self._look = lru_cache(maxsize=_REMEMBERED)(self._look_at)

    def not_checked(self, *, deep: bool) -> list[str]:
        """What was not looked at, and why."""
        found = []
        if self._remote and not deep:
            found.append(f"whether {self._remote:,} remote file(s) can be read: that takes decoding them")
        if deep and self._has_audio and self._rate is None:
            found.append("the number of samples of audio: only the processor knows their rate")
        return found

    def check_references(self) -> Iterator[Problem]:
        """Yields the references that have no file and no bytes."""
        for references in read_references(self._dataset):
            self.references += len(references)
            for position in np.flatnonzero(references.num_bytes <= 0).tolist():
                problem = self._check_one(references, position)
                if problem is not None:
                    yield problem

    def _check_one(self, references: References, position: int) -> Problem | None:
        row, index = int(references.row[position]), int(references.index[position])
        path = references.paths[position]
        if references.num_bytes[position] == 0:
            return Problem("missing", "the row holds an empty file (0 bytes)", row, references.column, index, path)
        if not path:
            return Problem("missing", "the reference has neither path nor bytes", row, references.column, index)
        problem = self._look(path)
        if problem is None:
            return None
        return Problem("missing", problem, row, references.column, index, describe_source(path))

    def _look_at(self, path: str) -> str | None:
        """What is wrong with a path, if anything is: the file is opened, and nothing of it is read."""
        try:
            if local_path(path, self._options) is None:
                if path[:5].lower() != "data:":
                    self._remote += 1
                return None
            with open_source(path, self._options):
                return None
        except MediaError as error:
            return error.message

    def decode_rows(
        self, collate: Callable[[Sequence[Mapping[str, object]]], object] | None
    ) -> Iterator[Sequence[Problem]]:
        """Decodes the media of every row as planned, and yields what is wrong, row by row.

        Args:
            collate: A collator, to which the rows are given instead, one by one.
        """
        reader = RowMediaReader(self._dataset)
        rows = self._dataset.with_format(None)
        for row in range(len(self._dataset)):
            yield self._decode_row(reader, row) if collate is None else self._collate_row(rows[row], row, collate)

    def _collate_row(
        self,
        values: Mapping[str, object],
        row: int,
        collate: Callable[[Sequence[Mapping[str, object]]], object],
    ) -> Sequence[Problem]:
        records: Sequence[object] = values[MEDIA_INFO] or ()  # type: ignore[assignment]
        try:
            collate([values])
        except MMDatasetsError as error:
            return [Problem.of(error, "decode", row)]
        self.decoded += len(records)
        return []

    def _decode_row(self, reader: RowMediaReader, row: int) -> Sequence[Problem]:
        try:
            references, records = reader.items(row)
        except MediaError as error:
            return [Problem.of(error, "decode", row)]
        found = (self._decode_item(references, record, row) for record in records)
        return [problem for problem in found if problem is not None]

    def _decode_item(
        self, references: Mapping[Modality, Sequence[MediaReference]], record: MediaRecord, row: int
    ) -> Problem | None:
        plan, index = plan_of(record), record["item"]
        mine = references.get(plan.modality, ())
        if not 0 <= index < len(mine):
            return None  # which the counts have told
        self._has_audio |= plan.modality == "audio" or plan.num_samples is not None
        try:
            decode_item(mine[index], plan, self._options, self._rate)
        except MediaError as error:
            source = error.source or describe_item(mine[index])
            return Problem("decode", error.message, row, MEDIA_COLUMNS[plan.modality], index, source)
        self.decoded += 1
        return None
