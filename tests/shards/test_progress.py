"""The progress bar and the report."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from mmdatasets.shards.counts import ShardCounts
from mmdatasets.shards.progress import show_progress
from mmdatasets.shards.report import PreprocessReport


def shown(*, enabled=True, terminal=True):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with show_progress(100, 40, "train", enabled=enabled, console=console) as on_rows:
        on_rows(10)
        on_rows(25)
    return console.file.getvalue()


def test_the_bar_counts_what_was_done_before_and_shows_speed_and_time_left():
    last = shown().split("\r")[-1]  # each replaces the one before
    assert "train" in last
    assert "75/100" in last
    assert "rows/s" in last
    assert ":" in last


def test_there_is_no_bar_without_a_terminal_or_when_it_is_not_wanted():
    assert shown(terminal=False) == shown(enabled=False) == ""


def test_the_report_says_all():
    counts = ShardCounts.total(
        [
            ShardCounts(10, 8, 1000, 400, {"image": 5}, {"dropped": {"too_long": 2}}),
            ShardCounts(5, 5, 500, 100, {"image": 1, "audio": 2}, {"cut": {"truncated": 1}}),
        ]
    )
    assert ShardCounts.from_json(counts.to_json()) == counts
    report = PreprocessReport(Path("out"), "train", counts, 2, 1, 2_000_000, 5, 2.0)
    assert str(report).splitlines() == [
        "rows     15 read, 13 written",
        "dropped  2 (too_long: 2)",
        "cut      1 (truncated: 1)",
        "media    2 audio, 6 images",
        "tokens   1,500, 500 of them for media",
        "shards   2 in out (2.0 MB), 1 of them written now",
        "time     2.0 s, 2 rows/s",
    ]
    assert report.to_json()["rows_dropped"] == 2
