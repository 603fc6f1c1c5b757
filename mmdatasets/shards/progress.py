"""The progress bar of a long run: rows, rows per second, and when it will be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_PERIOD_S = 60.0
"""Over which the speed is averaged: rows differ."""


class _RateColumn(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "- rows/s")


@contextmanager
def show_progress(
    total: int, done: int, what: str, *, enabled: bool, console: Console | None = None
) -> Iterator[Callable[[int], object]]:
    """Shows a progress bar on a terminal; where there is none, nothing.

    Args:
        total: Rows in all.
        done: Rows that were mapped before.
        what: What is written.
        enabled: Whether to show anything.
        console: Where; standard error when `None`.

    Yields:
        What is to be called with numbers of rows as they are done.
    """
    console = console or Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,  # by a thread, which processes that are forked later could not do without
        speed_estimate_period=_PERIOD_S,
        disable=not (enabled and console.is_terminal),
    )
    with progress:
        task = progress.add_task(what, total=total, completed=done)

        def advance(rows: int) -> None:
            progress.update(task, advance=rows, refresh=True)

        yield advance
