"""Counts what became of every row of a dataset that was fitted into a length."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from mmdatasets.errors import MMDatasetsError
from mmdatasets.features import FIT
from mmdatasets.transforms.row_costs import column_of
from mmdatasets.transforms.row_log import read_row_log

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)
NOT_RECORDED = "not_recorded"
"""Reason of rows that are missing without a word of them in a log."""


@dataclass(frozen=True, slots=True)
class FitReport:
    """How many rows had which outcome.

    Attributes:
        kept: Rows that are as they were.
        cut: Rows that lost turns or their end.
        shrunk: Rows whose media got a budget of its own.
        dropped: Rows that are not there any more; `None` where nothing tells: neither `row_log` nor the source.
        reasons: Outcome -> reason -> number of rows.
    """

    kept: int
    cut: int
    shrunk: int
    dropped: int | None
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = []
        for outcome in ("kept", "cut", "shrunk", "dropped"):
            count = getattr(self, outcome)
            reasons = self.reasons.get(outcome, {})
            why = ", ".join(f"{reason}: {number:,}" for reason, number in reasons.items())
            number = "unknown" if count is None else f"{count:,}"
            lines.append(f"{outcome}: {number}{f' ({why})' if why else ''}")
        return "\n".join(lines)


def make_report(
    mapped: Dataset, source: Dataset | int | None, row_log: str | os.PathLike[str] | None, run: str
) -> FitReport:
    """Counts outcomes; see `Fitting.fit_report`.

    Args:
        mapped: The mapped dataset.
        source: What was mapped, or its number of rows.
        row_log: Directory with what was written of dropped rows.
        run: The settings whose rows in there count.

    Raises:
        MMDatasetsError: If `mapped` has no column that says so, or more rows are logged than are missing.
    """
    outcomes = _outcomes(mapped)
    missing = None if source is None else (source if isinstance(source, int) else len(source)) - len(mapped)
    dropped: Counter[str] = Counter()
    if row_log is not None:
        log = read_row_log(row_log, run)
        dropped.update(log.filter(pc.equal(log["outcome"], "dropped"))["reason"].to_pylist())
    if missing is not None:
        if missing < dropped.total():
            raise MMDatasetsError(
                f"{missing} row(s) are missing, but {dropped.total()} are logged as dropped: the log has rows of "
                "another dataset too (give each its own row_log), or of a map of these rows with and without "
                "with_indices=True; or source is not what was mapped",
                source=None if row_log is None else str(row_log),
            )
        dropped[NOT_RECORDED] += missing - dropped.total()
    counts = {outcome: outcomes.get(outcome, Counter()).total() for outcome in ("kept", "cut", "shrunk")}
    known = missing is not None or row_log is not None
    report = FitReport(**counts, dropped=dropped.total() if known else None, reasons=_sorted(outcomes, dropped))
    _logger.info("%s", ", ".join(str(report).splitlines()))
    return report


def _outcomes(mapped: Dataset) -> dict[str, Counter[str]]:
    """Outcome -> reason -> number of rows, of the rows that are there."""
    if FIT not in (getattr(mapped, "column_names", None) or ()) or not hasattr(mapped, "__len__"):
        raise MMDatasetsError(
            f"this needs a Dataset (not one that streams) with the column {FIT!r}, which plugin.transform makes when "
            "the plugin has max_length"
        )
    outcomes: dict[str, Counter[str]] = {}
    for column in column_of(mapped, FIT):
        pairs = zip(column.field("outcome").to_pylist(), column.field("reason").to_pylist(), strict=True)
        for (outcome, reason), count in Counter(pairs).items():
            outcomes.setdefault(outcome, Counter())[reason or ""] += count
    return outcomes


def _sorted(outcomes: Mapping[str, Counter[str]], dropped: Counter[str]) -> dict[str, dict[str, int]]:
    """Outcomes with reasons, the most frequent first."""
    found = {**outcomes, "dropped": dropped}
    named = {
        outcome: {reason: count for reason, count in reasons.most_common() if reason and count}
        for outcome, reasons in found.items()
    }
    return {outcome: reasons for outcome, reasons in named.items() if reasons}
