"""What a report says, as JSON has it; and how it is gathered from a mapped dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow.compute as pc

from mmdatasets._version import __version__
from mmdatasets.features import MADE_BY
from mmdatasets.report.columns import MappedColumns, read_columns
from mmdatasets.report.decoding import TimedItem, TokenItem, items_with_most_tokens, time_largest
from mmdatasets.report.files import FileFacts, LargeFile, file_facts
from mmdatasets.report.lengths import (
    LengthHistogram,
    OverflowCounts,
    PackingFill,
    PaddingWaste,
    Quantiles,
    Suggestion,
    choose_max_lengths,
    length_histogram,
    overflow_counts,
    packing_fill,
    padding_waste,
    quantiles,
    suggest_max_length,
)
from mmdatasets.report.media import MediaFacts, media_facts
from mmdatasets.transforms.fit_report import NOT_RECORDED

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

    from mmdatasets.options import MediaOptions
    from mmdatasets.report.columns import IntArray, RowKind
    from mmdatasets.types import Modality

_EXAMPLES = 3


class LoggedExample(TypedDict):
    """A row that cannot be used, or was changed."""

    row: int | None
    column: str | None
    index: int | None
    source: str | None
    message: str | None


class Outcome(TypedDict):
    """Rows that are missing, or are not as they were."""

    outcome: str
    reason: str
    rows: int
    examples: list[LoggedExample]


class MadeBy(TypedDict):
    """The part of a report about the plugin that made the rows; see `ReportData`."""

    family: str | None
    processor: str | None
    settings: dict[str, object]


class Simulated(TypedDict):
    """The part of a report about what batches and lengths would come to; see `ReportData`."""

    padding: list[PaddingWaste]
    packing: list[PackingFill]
    packing_rows: int
    overflow: list[OverflowCounts]
    suggestion: Suggestion | None


class ReportData(MadeBy, Simulated):
    """A report, as JSON has it.

    Attributes:
        mmdatasets: The version that wrote it.
        title: What the dataset is called.
        kind: What its rows are; see `mmdatasets.report.columns.RowKind`.
        family: The plugin that made it, `None` where the dataset does not say.
        processor: Name or class of the processor that made it.
        settings: Options and settings of that plugin that are not the default.
        rows: How many rows it has.
        tokens: Tokens of all rows; of pairs those of the longer sides.
        media_tokens: How many of them stand for media.
        trained_tokens: How many tokens are trained; of pairs those of both sides.
        lengths: Distribution of the rows' lengths.
        length_histogram: Rows and tokens by length.
        original_lengths: Distribution of what the rows had before they were fitted into a length, rows that were
            dropped for their length included as far as a log tells; `None` where they were not.
        sequences: Distribution of the lengths of the sequences of packed rows.
        padding: Padding waste by batch size; none for packed rows.
        packing: Fill of packed rows by `max_length`; for chats alone.
        packing_rows: Rows that packing was tried with.
        overflow: What each policy would do, by `max_length`; none for packed rows.
        suggestion: A `max_length`; `None` for packed rows.
        media: Modality -> what is known of its items.
        files: Column -> sizes of its files.
        largest_files: The largest files.
        most_tokens: The items that become most tokens.
        slowest: The items that were decoded for their time, slowest first.
        outcomes: Rows that are missing or changed, by reason.
    """

    mmdatasets: str
    title: str
    kind: RowKind
    rows: int
    tokens: int
    media_tokens: int
    trained_tokens: int
    lengths: Quantiles | None
    length_histogram: LengthHistogram | None
    original_lengths: Quantiles | None
    sequences: Quantiles | None
    media: dict[Modality, MediaFacts]
    files: dict[str, FileFacts]
    largest_files: list[LargeFile]
    most_tokens: list[TokenItem]
    slowest: list[TimedItem]
    outcomes: list[Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """What a report is to have.

    Attributes:
        title: What the dataset is called.
        options: How media is read: `media_root` is used for the sizes of files, all of it where items are decoded.
        sampling_rate: Samples per second that the model takes; what the dataset says of it when `None`.
        max_lengths: Lengths to compare; chosen by the rows' lengths when `None`.
        time_media: How many of the largest items are decoded, to see how long that takes.
    """

    title: str
    options: MediaOptions
    sampling_rate: int | None = None
    max_lengths: Sequence[int] | None = None
    time_media: int = 0


def gather(
    dataset: Dataset, settings: ReportSettings, log: pa.Table | None = None, missing: int | None = None
) -> ReportData:
    """Reads a mapped dataset and makes the report's numbers.

    Args:
        dataset: The mapped dataset.
        settings: What it is to have.
        log: Rows of `mmdatasets.transforms.row_log.SCHEMA`: what is known of rows that were dropped or changed.
        missing: How many rows the source had more; `None` where nobody says.

    Raises:
        MMDatasetsError: If the dataset was not mapped.
    """
    columns = read_columns(dataset)
    made = made_by_of(dataset.features)
    rate = settings.sampling_rate or sampling_rate_of(made)
    files, largest = file_facts(dataset, settings.options)
    original = _original_lengths(columns, log)
    slowest = time_largest(dataset, columns.media, settings.time_media, settings.options, rate)
    return {
        "mmdatasets": __version__,
        "title": settings.title,
        **_made(made),
        "kind": columns.kind,
        "rows": len(columns.lengths),
        "tokens": int(columns.lengths.sum()),
        "media_tokens": int(columns.media.tokens.sum()),
        "trained_tokens": columns.trained,
        "lengths": quantiles(columns.lengths),
        "length_histogram": length_histogram(columns),
        "original_lengths": None if columns.fit is None else quantiles(original),
        "sequences": None if columns.sequences is None else quantiles(columns.sequences),
        **_simulated(columns, original, settings.max_lengths),
        "media": media_facts(columns.media, rate),
        "files": files,
        "largest_files": largest,
        "most_tokens": items_with_most_tokens(dataset, columns.media),
        "slowest": slowest,
        "outcomes": _outcomes(columns, log, missing),
    }


def made_by_of(features: Features) -> Mapping[str, object]:
    """What the column `made_by` says of the plugin that made the rows; nothing where there is none."""
    told = getattr(features.get(MADE_BY), "id", None)
    try:
        record = json.loads(told or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def sampling_rate_of(made: Mapping[str, object]) -> int | None:
    """Samples per second that the model takes, by the settings of its processor that `made_by` has."""
    config = made.get("processor_config")
    extractor = config.get("feature_extractor") if isinstance(config, Mapping) else None
    rate = extractor.get("sampling_rate") if isinstance(extractor, Mapping) else None
    return rate if isinstance(rate, int) else None


def _made(made: Mapping[str, object]) -> MadeBy:
    settings: dict[str, object] = {}
    for name in ("options", "settings"):
        given = made.get(name)
        settings.update(given if isinstance(given, Mapping) else {})
    processor = made.get("processor_name") or made.get("processor_class")
    family = made.get("family")
    return {
        "family": None if family is None else str(family),
        "processor": None if processor is None else str(processor),
        "settings": settings,
    }


def _original_lengths(columns: MappedColumns, log: pa.Table | None) -> IntArray:
    """What rows had before they were fitted, and those that were dropped for their length where a log tells."""
    lengths = columns.original_lengths
    if log is None or columns.kind == "packed":
        return lengths
    dropped = log.filter(pc.and_(pc.equal(log["outcome"], "dropped"), pc.is_valid(log["length"])))
    return np.concatenate([lengths, dropped["length"].to_numpy().astype(np.int64)])


def _simulated(columns: MappedColumns, original: IntArray, max_lengths: Sequence[int] | None) -> Simulated:
    """What padding, packing and each length would come to."""
    if columns.kind == "packed":
        return {"padding": [], "packing": [], "packing_rows": 0, "overflow": [], "suggestion": None}
    limits = sorted(set(max_lengths)) if max_lengths is not None else choose_max_lengths(original)
    # Media spans are known of the rows as they are now: of rows that were fitted, they are not those of `original`.
    unchanged = len(original) == len(columns.lengths) and bool((original == columns.lengths).all())
    packs = columns.kind == "chats"
    packing = packing_fill(columns.lengths, limits) if packs else []
    return {
        "padding": padding_waste(columns.sides),
        "packing": packing,
        "packing_rows": max((one["rows_packed"] + one["rows_too_long"] for one in packing), default=0),
        "overflow": overflow_counts(original, limits, columns if unchanged else None),
        "suggestion": suggest_max_length(original),
    }


def _outcomes(columns: MappedColumns, log: pa.Table | None, missing: int | None) -> list[Outcome]:
    """Rows that are missing or changed, by outcome and reason, the most frequent first."""
    found: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[LoggedExample]] = {}
    if columns.fit is not None:
        for outcome, reasons in columns.fit.outcomes.items():
            found.update({(outcome, reason): count for reason, count in reasons.items() if outcome != "kept"})
    for key, count, shown in [] if log is None else _logged(log):
        examples[key] = shown
        if columns.fit is None or key[0] not in columns.fit.outcomes:
            found[key] += count
    if missing is not None:
        logged = sum(count for (outcome, _), count in found.items() if outcome == "dropped")
        if missing > logged:
            found["dropped", NOT_RECORDED] += missing - logged
    return [
        {"outcome": outcome, "reason": reason, "rows": count, "examples": examples.get((outcome, reason), [])}
        for (outcome, reason), count in found.most_common()
    ]


def _logged(log: pa.Table) -> Iterator[tuple[tuple[str, str], int, list[LoggedExample]]]:
    """The outcomes and reasons of a log, how many rows have them, and some of these."""
    log = log.set_column(log.column_names.index("reason"), "reason", pc.fill_null(log["reason"], NOT_RECORDED))
    counted = log.group_by(["outcome", "reason"], use_threads=False).aggregate([([], "count_all")])
    for group in counted.to_pylist():
        key = group["outcome"], group["reason"]
        mine = log.filter(pc.and_(pc.equal(log["outcome"], key[0]), pc.equal(log["reason"], key[1])))
        names = list(LoggedExample.__annotations__)
        yield key, group["count_all"], mine.select(names).slice(0, _EXAMPLES).to_pylist()
