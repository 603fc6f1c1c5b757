"""Checks that a mapped dataset is what a plugin's transform made: its columns, its media, and that both agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeAlias

from mmdatasets.features import MEDIA_COLUMNS, VIDEO_FRAMES
from mmdatasets.options import MediaOptions
from mmdatasets.report.check_media import MediaChecker
from mmdatasets.report.check_rows import RowChecker, check_made_by, check_types
from mmdatasets.report.columns import check_readable, kind_of_rows
from mmdatasets.report.data import made_by_of, sampling_rate_of

if TYPE_CHECKING:
    from datasets import Dataset

    from mmdatasets.report.problems import Problem

MAX_PROBLEMS = 1000
"""Problems that are kept; the others are counted."""

_ROWS_AT_ONCE = 1024
_MEDIA = (*MEDIA_COLUMNS.values(), VIDEO_FRAMES)

CollateRow: TypeAlias = "Callable[[Sequence[Mapping[str, object]]], object]"
"""A collator: makes a batch of rows, or raises."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found.

    Attributes:
        rows: Rows that were looked at.
        references: Media references of these.
        decoded: Media items that were decoded.
        problems: The first problems, in the order of checks and rows.
        counts: Kind of a problem -> how many there are.
        not_checked: What nothing was known of, and why.
    """

    rows: int
    references: int
    decoded: int
    problems: tuple[Problem, ...]
    counts: Mapping[str, int]
    not_checked: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether there are no problems."""
        return not self.counts

    @property
    def num_problems(self) -> int:
        """How many problems there are, those that were not kept included."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, object]:
        """The result as JSON has it."""
        return {
            "rows": self.rows,
            "references": self.references,
            "decoded": self.decoded,
            "num_problems": self.num_problems,
            "counts": dict(self.counts),
            "problems": [asdict(problem) for problem in self.problems],
            "not_checked": list(self.not_checked),
        }

    def __str__(self) -> str:
        media = f"{self.references:,} media references"
        decoded = f", {self.decoded:,} items decoded" if self.decoded else ""
        lines = [str(problem) for problem in self.problems]
        if self.num_problems > len(self.problems):
            lines.append(f"... and {self.num_problems - len(self.problems):,} more")
        kinds = ", ".join(f"{kind}: {number:,}" for kind, number in self.counts.items())
        found = f"{self.num_problems:,} problem(s) ({kinds})" if self.counts else "no problems"
        return "\n".join(
            [
                *lines,
                f"{self.rows:,} rows, {media}{decoded}: {found}",
                *(f"not checked: {one}" for one in self.not_checked),
            ]
        )


def check_dataset(
    dataset: Dataset,
    *,
    options: MediaOptions | None = None,
    deep: bool = False,
    collate: CollateRow | None = None,
    media_token_ids: Sequence[int] | None = None,
    max_problems: int = MAX_PROBLEMS,
    on_rows: Callable[[int], object] | None = None,
) -> CheckResult:
    """Checks a mapped dataset, for which no processor is needed.

    Of every row: `input_ids` and labels are as many as `length` says, a label is the token's own id or -100, media
    spans lie within the row, in order and apart, nothing in them is trained, and the row has the references that
    `media_info` describes. The media tokens in a span are counted where it is known which tokens these are: they are
    given, or one token explains the counts of nearly all items of a modality. Of every reference: the file is there,
    or the row has its bytes. What is remote is not asked for but with `deep`.

    Memory does not grow with the dataset.

    Args:
        dataset: Chats, packed rows or preference data, as a plugin's transforms made them.
        options: How media is read; the defaults when `None`.
        deep: Whether each media item is decoded as planned.
        collate: With `deep`, a collator, which is then run on every row alone: the model's inputs are made, and
            compared with the tokens.
        media_token_ids: Ids of the tokens that stand for one feature each.
        max_problems: How many problems are kept.
        on_rows: Called with numbers of rows that were checked.

    Raises:
        MMDatasetsError: If the dataset streams, or was not mapped.
    """
    rows = check_readable(dataset)
    kind = kind_of_rows(rows.features)
    found = _Collected(max_problems)
    found.add(check_types(rows.features, kind))
    unreadable = bool(found.counts)
    found.add(check_made_by(rows.features))
    if unreadable:  # nothing can be said of columns of other types
        return found.result(0, 0, 0, ())
    options = options or MediaOptions()
    rate = sampling_rate_of(made_by_of(rows.features))
    row_checker = RowChecker(kind, rows, media_token_ids)
    media_checker = MediaChecker(rows, options, rate)
    first = 0
    for table in rows.select_columns(row_checker.columns).with_format("arrow").iter(_ROWS_AT_ONCE):
        found.add(row_checker.check(table, first))
        first += table.num_rows
        if on_rows is not None and not deep:
            on_rows(table.num_rows)
    found.add(media_checker.check_references())
    if deep:
        found.add(_counting(media_checker.decode_rows(collate), on_rows))
    skipped = (*row_checker.not_checked, *media_checker.not_checked(deep=deep))
    return found.result(first, media_checker.references, media_checker.decoded, skipped)


def _counting(problems: Iterable[Sequence[Problem]], on_rows: Callable[[int], object] | None) -> Iterator[Problem]:
    """The problems of rows one by one, with word of each row."""
    for some in problems:
        yield from some
        if on_rows is not None:
            on_rows(1)


class _Collected:
    """Problems, of which the first are kept and all counted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._problems: list[Problem] = []
        self.counts: Counter[str] = Counter()

    def add(self, problems: Iterable[Problem]) -> None:
        """Adds problems."""
        for problem in problems:
            self.counts[problem.kind] += 1
            if len(self._problems) < self._most:
                self._problems.append(problem)

    def result(self, rows: int, references: int, decoded: int, not_checked: Sequence[str]) -> CheckResult:
        """What was found in all."""
        counts = dict(self.counts.most_common())
        return CheckResult(rows, references, decoded, tuple(self._problems), counts, tuple(not_checked))
