"""Fits tokenised rows into `max_length`: which of them stay, and as what. No policy divides a media item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdatasets.errors import RowTooLongError
from mmdatasets.features import FIT, FitRecord, Outcome, token_features
from mmdatasets.options import PixelBudget
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.batches import BatchReader, StoredColumns, row_columns, select_media, write_columns
from mmdatasets.transforms.drop_turns import shortened
from mmdatasets.transforms.report import report_rows
from mmdatasets.transforms.row_log import LoggedRow
from mmdatasets.transforms.shrink import shrink
from mmdatasets.transforms.tokenise import IGNORE_INDEX, TokenisedRow, tokenise_rows
from mmdatasets.transforms.truncate import truncate

if TYPE_CHECKING:
    import pyarrow as pa

    from mmdatasets.chat.formats import Conversation
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.types import Modality

TOO_LONG = "too_long"
LAST_TURN_TOO_LONG = "last_turn_too_long"
NO_PLACE_TO_CUT = "no_place_to_cut"
NOTHING_TO_TRAIN = "nothing_to_train"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of a row.

    Attributes:
        outcome: The kind of it.
        original: The row as it was.
        row: The row as it is now; `None` where it is dropped.
        reason: Why it is not as it was.
        kept_media: Of each modality, which of the row's references are still there; `None` for all.
        turns_dropped: How many of its oldest turns are gone.
        budget: The budget it was shrunk to.
    """

    outcome: Outcome
    original: TokenisedRow
    row: TokenisedRow | None
    reason: str | None = None
    kept_media: Mapping[Modality, Sequence[int]] | None = None
    turns_dropped: int = 0
    budget: PixelBudget | None = None

    @property
    def original_length(self) -> int:
        """How many tokens it had."""
        return len(self.original.input_ids)

    @property
    def record(self) -> FitRecord:
        """What the `fit` column says of it."""
        budget = self.budget or PixelBudget()
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "original_length": self.original_length,
            "turns_dropped": self.turns_dropped,
            "image_max_pixels": budget.image_max_pixels,
            "video_max_pixels": budget.video_max_pixels,
            "video_max_frames": budget.video_max_frames,
        }


def fit_row(
    plugin: BasePlugin, conversation: Conversation, row: TokenisedRow, name: int | str, max_length: int
) -> Fitted:
    """Fits a row by the plugin's policy. A row of which nothing is trained then is dropped.

    Args:
        plugin: The family's rules and the policy.
        conversation: The row's chat, with what is planned of its media.
        row: What it became.
        name: What errors call the row.
        max_length: Most tokens of a row.

    Raises:
        RowTooLongError: If it is longer, and the policy is `"error"`. Names the row.
        MMDatasetsError: If the plugin cannot do what the policy asks for.
    """
    if len(row.input_ids) <= max_length:
        fitted = Fitted("kept", row, row)
    else:
        fitted = _shorten(plugin, conversation, row, name, max_length)
    if fitted.row is not None and not (fitted.row.labels != IGNORE_INDEX).any():
        return Fitted("dropped", row, None, NOTHING_TO_TRAIN)
    return fitted


def _shorten(
    plugin: BasePlugin, conversation: Conversation, row: TokenisedRow, name: int | str, max_length: int
) -> Fitted:
    match plugin.on_overflow:
        case "drop":
            return Fitted("dropped", row, None, TOO_LONG)
        case "drop_turns":
            return _drop_turns(plugin, conversation, row, name, max_length)
        case "truncate":
            beginning = truncate(plugin, row, max_length)
            if beginning is None:
                return Fitted("dropped", row, None, NO_PLACE_TO_CUT)
            return Fitted("cut", row, beginning.row, "truncated", beginning.kept_media)
        case "shrink":
            shrunk = shrink(plugin, conversation, row, name, max_length)
            if isinstance(shrunk, str):
                return Fitted("dropped", row, None, shrunk)
            return Fitted("shrunk", row, shrunk.row, "budget_lowered", budget=shrunk.budget)
        case "error":
            raise too_long(row, max_length, name)


def too_long(row: TokenisedRow, max_length: int, name: int | str, column: str | None = None) -> RowTooLongError:
    """The error that says so of a row."""
    in_media = sum(record["num_tokens"] for record in row.media)
    return RowTooLongError(
        f"it has {len(row.input_ids)} tokens, {in_media} of them of {len(row.media)} media item(s), but max_length is "
        f"{max_length}: raise that, lower what media takes (MediaOptions(image_max_pixels=...)), or choose what "
        "becomes of longer rows with on_overflow: 'drop', 'drop_turns', 'truncate' or 'shrink'",
        row=name,
        column=column,
    )


def _drop_turns(
    plugin: BasePlugin, conversation: Conversation, row: TokenisedRow, name: int | str, max_length: int
) -> Fitted:
    """Tokenises anew what is left: templates write a turn differently where others precede or follow it."""
    for left in shortened(conversation):
        made = tokenise_rows(plugin, [left.conversation], [name])[0]
        if len(made.input_ids) <= max_length:
            return Fitted("cut", row, made, "turns_dropped", left.kept_media, left.turns_dropped)
    return Fitted("dropped", row, None, LAST_TURN_TOO_LONG)


def write_fitted(
    plugin: BasePlugin,
    reader: BatchReader,
    fitted: Sequence[Fitted | None],
    media: Sequence[StoredColumns],
    sources: Mapping[Modality, str],
    replaced: Sequence[str],
    errors: RowErrors,
) -> pa.Table | dict[str, list[object]]:
    """The result of a transform that fits rows: those that are left, with a column that says what became of them.

    Args:
        plugin: Says where rows are logged.
        reader: The batch.
        fitted: What became of its rows; `None` for those with an error.
        media: The media columns of each row, from `store_media`.
        sources: The column that each modality came from; one for each that the model takes.
        replaced: Columns of the batch that the transform consumes.
        errors: What is wrong with rows, and what errors call each.
    """
    report_fitted(plugin, reader, fitted, errors)
    kept, rows, records, stored = [], [], [], []
    for index, one in enumerate(fitted):
        if one is None or one.row is None:
            continue
        kept.append(index)
        rows.append(one.row)
        records.append(one.record)
        stored.append(media[index] if one.kept_media is None else select_media(media[index], one.kept_media))
    if len(kept) < len(fitted):
        reader = reader.select(kept)
    own = {**row_columns(rows), FIT: records}
    return write_columns(reader, own, stored, sources, replaced, token_features(), plugin.made_by)


def report_fitted(plugin: BasePlugin, reader: BatchReader, fitted: Sequence[Fitted | None], errors: RowErrors) -> None:
    """Says which rows of a batch are not as they were; see `mmdatasets.transforms.report.report_rows`."""
    changed = [
        _logged(one, name)
        for one, name in zip(fitted, errors.names, strict=True)
        if one is not None and one.outcome != "kept"
    ]
    report_rows(plugin, reader, errors, [None if one is None else one.original.input_ids for one in fitted], changed)


def _logged(fitted: Fitted, name: int | str) -> LoggedRow:
    row = name if isinstance(name, int) else None
    return LoggedRow(row, fitted.outcome, fitted.reason or "", length=fitted.original_length)
