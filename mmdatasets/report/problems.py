"""What can be wrong with a mapped dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mmdatasets.errors import MMDatasetsError

ProblemKind: TypeAlias = Literal[
    "type", "length", "labels", "span", "trained_media", "media_tokens", "references", "sequences", "missing", "decode"
]
"""What is wrong: the type of a column; the number of ids, labels or tokens; a label; a media span; that media is
trained; the media tokens in a span; the references beside what `media_info` says; the sequences of a packed row; a
file that is not there; an item that does not decode to what was planned."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: What kind of thing.
        message: What it is.
        row: Row of the dataset; `None` where it is the whole dataset's.
        column: The column.
        index: The media item within the row's column.
        source: What that is.
    """

    kind: ProblemKind
    message: str
    row: int | None = None
    column: str | None = None
    index: int | None = None
    source: str | None = None

    @classmethod
    def of(cls, error: MMDatasetsError, kind: ProblemKind, row: int) -> Problem:
        """A problem that an error tells of."""
        return cls(kind, error.message, row, error.column, error.index, error.source)

    def __str__(self) -> str:
        error = MMDatasetsError(self.message, row=self.row, column=self.column, index=self.index, source=self.source)
        return str(error)
