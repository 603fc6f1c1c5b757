"""Rows that cannot be used: whose fault that is, what is known of them, and when there are too many."""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import get_args

import torch

from mmdatasets.errors import (
    ConversationError,
    FeatureMismatchError,
    MaterialiseError,
    MediaError,
    MissingTemplateError,
    MMDatasetsError,
    RowTooLongError,
    TemplateError,
    TooManyBadRowsError,
)
from mmdatasets.media.container import is_ffmpeg_error
from mmdatasets.options import ErrorPolicy

_OF_ROWS = (MediaError, ConversationError, RowTooLongError, TemplateError, FeatureMismatchError)
_OF_THE_MACHINE = (MemoryError, ImportError, torch.OutOfMemoryError)
_MACHINE_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_REASONS_SHOWN = 3


def is_fault_of_row(error: MMDatasetsError) -> bool:
    """Whether an error is about the row alone, so that others may do better.

    Missing packages and templates, processors that take no materialised media, memory or file descriptors that run
    out are not: every row would be dropped, or those that happened to come at the wrong time.
    """
    if not isinstance(error, _OF_ROWS) or isinstance(error, MissingTemplateError | MaterialiseError):
        return False
    cause, seen = error.__cause__, {id(error)}
    while cause is not None and id(cause) not in seen:  # nothing keeps an error from being its own cause
        seen.add(id(cause))
        is_machine = isinstance(cause, _OF_THE_MACHINE) or getattr(cause, "errno", None) in _MACHINE_ERRNOS
        if is_machine and not is_ffmpeg_error(cause):
            return False
        cause = cause.__cause__
    return True


def reason_of(error: MMDatasetsError) -> str:
    """The reason that an error is counted under: its class's name in small letters, `media_decode`, say."""
    words = re.findall(r"[A-Z][a-z]*", type(error).__name__.removesuffix("Error"))
    return "_".join(words).lower()


class RowErrors:
    """What is wrong with rows of one batch.

    Args:
        names: What errors call each row.
        policy: `"raise"` raises the first error, the others collect them.

    Attributes:
        found: Position of a row in the batch -> its first error.
    """

    def __init__(self, names: Sequence[int | str], policy: ErrorPolicy = "raise") -> None:
        self.names = names
        self.found: dict[int, MMDatasetsError] = {}
        self._policy = policy

    @contextmanager
    def row(self, position: int) -> Iterator[None]:
        """Has errors that are raised within it be those of a row, and collected by the policy.

        Raises:
            MMDatasetsError: If the policy is `"raise"`, or it is no fault of the row. Names the row.
        """
        try:
            yield
        except MMDatasetsError as error:
            error.at(row=self.names[position])
            if self._policy == "raise" or not is_fault_of_row(error):
                raise
            self.found.setdefault(position, error)

    def for_parts(self, num_parts: int) -> RowErrors:
        """The same for the parts of rows, each of which has as many."""
        return RowErrors([name for name in self.names for _ in range(num_parts)], self._policy)

    def take_parts(self, parts: RowErrors, num_parts: int) -> None:
        """Adds what is wrong with parts to their rows."""
        for position, error in sorted(parts.found.items()):
            self.found.setdefault(position // num_parts, error)

    @property
    def kept(self) -> list[int]:
        """Positions of the rows without an error."""
        return [position for position in range(len(self.names)) if position not in self.found]


class BadRowTally:
    """Counts, in one process, rows that cannot be used, and says when there are too many.

    Args:
        max_bad_rows: How many there may be; any number when `None`.
        max_consecutive: How many may follow one another; any number when `None`.

    Attributes:
        num_rows: Rows seen.
        reasons: Reason -> number of rows that could not be used.
    """

    def __init__(self, max_bad_rows: int | None, max_consecutive: int | None) -> None:
        self._max_bad_rows = max_bad_rows
        self._max_consecutive = max_consecutive
        self._consecutive = 0
        self._examples: dict[str, str] = {}
        self.num_rows = 0
        self.reasons: Counter[str] = Counter()

    def add(self, num_rows: int, found: Mapping[int, MMDatasetsError]) -> None:
        """Counts the rows of a batch.

        Args:
            num_rows: How many it has.
            found: Position of a row in it -> what is wrong with it.

        Raises:
            TooManyBadRowsError: If there are more than there may be. Shows the commonest reasons with an example each.
        """
        for position in range(num_rows):
            self.num_rows += 1
            error = found.get(position)
            if error is None:
                self._consecutive = 0
                continue
            self._consecutive += 1
            reason = reason_of(error)
            self.reasons[reason] += 1
            self._examples.setdefault(reason, str(error))
            if self._max_consecutive is not None and self._consecutive > self._max_consecutive:
                raise self._too_many(f"{self._consecutive:,} rows, one after another,", "max_consecutive")
            if self._max_bad_rows is not None and self.reasons.total() > self._max_bad_rows:
                count = self.reasons.total()
                raise self._too_many(f"{count:,} of the first {self.num_rows:,} rows", "max_bad_rows")

    def _too_many(self, which: str, bound: str) -> TooManyBadRowsError:
        common = self.reasons.most_common(_REASONS_SHOWN)
        lines = "\n".join(f"  {count:,} {reason}, for example {self._examples[reason]}" for reason, count in common)
        return TooManyBadRowsError(
            f"{which} cannot be used in this process, more than {bound} allows:\n{lines}\n"
            f"Mend the data or the settings; {bound}=None goes on all the same"
        )


def check_policy(on_error: ErrorPolicy, row_log: object) -> None:
    """Checks a policy.

    Raises:
        ValueError: If there is no such policy, or it lacks a place for its table.
    """
    if on_error not in get_args(ErrorPolicy):
        raise ValueError(f"on_error={on_error!r} is none of {', '.join(map(repr, get_args(ErrorPolicy)))}")
    if on_error == "quarantine" and row_log is None:
        raise ValueError("on_error='quarantine' needs row_log, the directory that keeps which rows were left out")
