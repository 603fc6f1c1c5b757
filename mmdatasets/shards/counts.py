"""What became of a shard's rows, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from mmdatasets.features import LENGTH, MEDIA_COLUMNS, MEDIA_INFO
from mmdatasets.transforms.fit_report import NOT_RECORDED
from mmdatasets.transforms.row_log import LoggedRow


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """Counts of rows that were mapped; they add up.

    Attributes:
        rows_read: Rows of the source.
        rows_written: Rows of the result.
        tokens: Tokens in these; of preference data those of the longer side.
        media_tokens: How many of them stand for media.
        media: Modality -> number of items that the rows refer to.
        outcomes: `"dropped"`, `"cut"` or `"shrunk"` -> reason -> number of rows.
    """

    rows_read: int = 0
    rows_written: int = 0
    tokens: int = 0
    media_tokens: int = 0
    media: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows_read: int, table: pa.Table, logged: Sequence[LoggedRow]) -> Self:
        """Counts one batch.

        Args:
            rows_read: Its rows before the transform.
            table: What the transform made of them.
            logged: What it said of rows that are not as they were.
        """
        outcomes: dict[str, Counter[str]] = {}
        for row in logged:
            outcomes.setdefault(row.outcome, Counter())[row.reason or NOT_RECORDED] += 1
        unexplained = rows_read - table.num_rows - outcomes.get("dropped", Counter()).total()
        if unexplained > 0:
            outcomes.setdefault("dropped", Counter())[NOT_RECORDED] += unexplained
        items = {
            modality: _sum(pc.list_value_length(table[column]))
            for modality, column in MEDIA_COLUMNS.items()
            if column in table.column_names
        }
        info = table[MEDIA_INFO].combine_chunks().flatten()
        return cls(
            rows_read,
            table.num_rows,
            _sum(table[LENGTH]),
            _sum(pc.struct_field(info, "num_tokens")),
            {modality: count for modality, count in items.items() if count},
            {outcome: dict(reasons) for outcome, reasons in outcomes.items()},
        )

    @classmethod
    def total(cls, parts: Iterable[ShardCounts]) -> Self:
        """Adds counts up."""
        rows_read = rows_written = tokens = media_tokens = 0
        media: Counter[str] = Counter()
        outcomes: dict[str, Counter[str]] = {}
        for part in parts:
            rows_read += part.rows_read
            rows_written += part.rows_written
            tokens += part.tokens
            media_tokens += part.media_tokens
            media.update(part.media)
            for outcome, reasons in part.outcomes.items():
                outcomes.setdefault(outcome, Counter()).update(reasons)
        found = {outcome: dict(sorted(reasons.items())) for outcome, reasons in sorted(outcomes.items())}
        return cls(rows_read, rows_written, tokens, media_tokens, dict(sorted(media.items())), found)

    def to_json(self) -> dict[str, object]:
        """The counts as JSON has them."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """The counts that `to_json` wrote.

        Raises:
            TypeError: If they are not such.
        """
        return cls(**value)  # type: ignore[arg-type]


def _sum(values: pa.Array | pa.ChunkedArray) -> int:
    return int(pc.sum(values).as_py() or 0)
