"""Says which rows of a batch are not as they were: in the plugin's log of rows, to the caller, or in a warning."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mmdatasets.errors import MMDatasetsError
from mmdatasets.transforms.bad_rows import BadRowTally, RowErrors, reason_of
from mmdatasets.transforms.row_log import LoggedRow, offer_rows, row_digest, write_row_log

if TYPE_CHECKING:
    from mmdatasets.chat.tokenise import IntArray
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.batches import BatchReader

_logger = logging.getLogger(__name__)


def report_rows(
    plugin: BasePlugin,
    reader: BatchReader,
    errors: RowErrors,
    token_ids: Sequence[IntArray | None],
    changed: Sequence[LoggedRow] = (),
    tally: BadRowTally | None = None,
) -> None:
    """Reports on a batch.

    Args:
        plugin: Says where rows are logged, and counts those that cannot be used.
        reader: The batch, whole.
        errors: What is wrong with its rows.
        token_ids: What its rows became; `None` for those with an error.
        changed: What is to be said of others.
        tally: Counts what cannot be used; the transforms' own when `None`.

    Raises:
        TooManyBadRowsError: If more rows cannot be used than the plugin allows. What is to be said is said before.
    """
    bad = [
        logged_error(error, errors.names[position], "dropped", reader.row(position))
        for position, error in sorted(errors.found.items())
    ]
    logged = [*changed, *bad]
    is_collected = offer_rows(logged)
    if plugin.row_log is not None:
        contents = [ids.tobytes() for ids in token_ids if ids is not None]
        contents += [(row.digest or "").encode() for row in bad]
        write_row_log(plugin.row_log, plugin.settings_digest, contents, logged)
    elif not is_collected:
        warn_of_dropped(logged, len(errors.names))
    if plugin.on_error != "raise":
        (tally or plugin.bad_rows).add(len(errors.names), errors.found)


def logged_error(error: MMDatasetsError, name: int | str, outcome: str, row: Mapping[str, object]) -> LoggedRow:
    """What is kept of a row that cannot be used.

    Args:
        error: What is wrong with it.
        name: Its number, or what else errors call it.
        outcome: What became of it.
        row: What it holds.
    """
    number = name if isinstance(name, int) else None
    return LoggedRow(
        number,
        outcome,
        reason_of(error),
        error.column,
        error.index,
        error.source,
        message=error.message,
        digest=row_digest(row),
    )


def warn_of_dropped(logged: Sequence[LoggedRow], num_rows: int) -> None:
    """Warns of what was dropped of a batch, by reason."""
    reasons = Counter(row.reason for row in logged if row.outcome == "dropped")
    if reasons:
        counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
        _logger.warning(
            "dropped %d of %d rows (%s); row_log='a directory' of the plugin keeps which",
            sum(reasons.values()),
            num_rows,
            counts,
        )
