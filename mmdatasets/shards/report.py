"""What `preprocess` says at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmdatasets.shards.counts import ShardCounts

_OUTCOMES = ("dropped", "cut", "shrunk")


@dataclass(frozen=True, slots=True)
class PreprocessReport:
    """What became of the rows of a source.

    Attributes:
        output: Folder of the result.
        split: Name of the split.
        counts: Rows, tokens and media of the whole result, shards of earlier runs included.
        num_shards: Files of the result.
        shards_written: How many of them this run wrote; the others were there.
        num_bytes: Size of all files together.
        rows_mapped: Rows that this run mapped.
        seconds: How long this run took, from the opened source to the last shard.
    """

    output: Path
    split: str
    counts: ShardCounts
    num_shards: int
    shards_written: int
    num_bytes: int
    rows_mapped: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """Rows that this run mapped each second."""
        return self.rows_mapped / self.seconds if self.seconds else 0.0

    @property
    def rows_dropped(self) -> int:
        """Rows of the source that the result has not."""
        return self.counts.rows_read - self.counts.rows_written

    def to_json(self) -> dict[str, object]:
        """The report as JSON has it."""
        return {
            "output": str(self.output),
            "split": self.split,
            **self.counts.to_json(),
            "rows_dropped": self.rows_dropped,
            "num_shards": self.num_shards,
            "shards_written": self.shards_written,
            "num_bytes": self.num_bytes,
            "rows_mapped": self.rows_mapped,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(self.rows_per_s, 1),
        }

    def __str__(self) -> str:
        counts = self.counts
        media = ", ".join(f"{_counted(number, kind)}" for kind, number in counts.media.items()) or "none"
        lines = [
            f"rows     {counts.rows_read:,} read, {counts.rows_written:,} written",
            *(f"{name:8} {_reasons(counts, name)}" for name in _OUTCOMES if counts.outcomes.get(name)),
            f"media    {media}",
            f"tokens   {counts.tokens:,}, {counts.media_tokens:,} of them for media",
            f"shards   {self.num_shards:,} in {self.output} ({self.num_bytes / 1e6:,.1f} MB), "
            f"{self.shards_written:,} of them written now",
            f"time     {self.seconds:.1f} s, {self.rows_per_s:,.0f} rows/s",
        ]
        return "\n".join(lines)


def _counted(number: int, kind: str) -> str:
    return f"{number:,} {kind}" + ("s" if number != 1 and kind != "audio" else "")


def _reasons(counts: ShardCounts, outcome: str) -> str:
    reasons = counts.outcomes[outcome]
    return f"{sum(reasons.values()):,} (" + ", ".join(f"{why}: {number:,}" for why, number in reasons.items()) + ")"
