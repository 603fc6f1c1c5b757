"""Previews as text, for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmdatasets.preview.facts import Facts, Media, Row, Run, Tensor, TokenSequence
from mmdatasets.preview.pieces import visible
from mmdatasets.preview.words import frames_in_words, size_in_words, tokens_in_words

if TYPE_CHECKING:
    from mmdatasets.preview.facts import Turn

TRAINED_OPEN, TRAINED_CLOSE = "[[", "]]"


def facts_text(facts: Facts) -> RenderableType:
    """A preview as text: what is trained stands in `[[ ]]`, media is collapsed."""
    parts: list[RenderableType] = [Text(f"{facts.title}: {facts.family}, {facts.processor}", style="bold")]
    if facts.tensors:
        parts += [tensor_table(facts.tensors)]
        parts += [Text(f"padding: {facts.padding:.1%} of the tokens")] if facts.padding is not None else []
    if facts.has_labels:
        parts.append(legend())
    for row in facts.rows:
        parts += _row(row, is_only=len(facts.rows) == 1)
    if facts.omitted_rows:
        parts.append(Text(f"... {facts.omitted_rows:,} more rows", style="dim"))
    return Group(*parts)


def legend() -> Text:
    """What the marks of `sequence_text` mean."""
    text = Text("Text in ").append(f"{TRAINED_OPEN} {TRAINED_CLOSE}", style="bold green")
    text.append(" is trained; the rest has the label -100. ")
    return text.append("<image: ...>", style="cyan").append(" stands for the tokens of an item.")


def _row(row: Row, *, is_only: bool) -> Iterator[RenderableType]:
    for name, value in row.remarks:
        yield Text(f"{name}: {value}")
    for item in row.media:
        yield media_line(item)
    for sequence in row.sequences:
        yield Text("")
        name = "" if is_only and len(row.sequences) == 1 else f"{sequence.name}: "
        yield Text(f"{name}{tokens_in_words(sequence)}", style="bold")
        yield sequence_text(sequence)


def media_line(item: Media) -> Text:
    """A media item in one line."""
    facts = [size_in_words(item), frames_in_words(item)]
    if item.duration_s is not None:
        facts.append(f"{item.duration_s:.2f} s")
    facts.append("1 token" if item.num_tokens == 1 else f"{item.num_tokens:,} tokens")
    facts.append(item.layout.summary)
    text = Text(f"{item.modality} {item.number} ", style="cyan")
    text.append(visible(item.source).replace("\n", "\\n"), style="default")
    text.append(f"  {', '.join(fact for fact in facts if fact)}", style="default")
    if item.frames and item.frames[0].timestamp_s is not None:
        times = ", ".join(f"{frame.timestamp_s:.2f}" for frame in item.frames)
        text.append(f"; {'frames' if item.num_frames == len(item.frames) else 'some of them'} at {times} s")
    if item.error is not None:
        text.append(f"  cannot be shown: {visible(item.error)}", style="red")
    return text


def sequence_text(sequence: TokenSequence) -> Text:
    """A sequence as its text, media collapsed.

    Returns:
        The text. Trained tokens stand in `[[ ]]` and are green; media is cyan.
    """
    text = Text()
    shown: list[Turn | int] = list(sequence.shown_turns)
    for is_gap, some in groupby(shown, key=lambda turn: isinstance(turn, int)):
        if is_gap:
            text.append(f"\n... {sequence.omitted_turns:,} more turns ...\n", style="dim")
            continue
        runs = [run for turn in some if not isinstance(turn, int) for run in turn.runs]
        for trained, block in groupby(runs, key=lambda run: run.is_trained):
            if trained:
                text.append(TRAINED_OPEN, style="bold green")
            for run in block:
                _append(text, run)
            if trained:
                text.append(TRAINED_CLOSE, style="bold green")
    return text


def _append(text: Text, run: Run) -> None:
    if run.kind != "text":
        text.append(f"<{run.label}>", style="cyan" if run.kind == "media" else "dim")
        return
    style = "green" if run.is_trained else "default"
    first = len(run.pieces) if not run.omitted else run.omitted_after
    text.append(visible("".join(piece.text for piece in run.pieces[:first])), style=style)
    if run.omitted:
        text.append(f" ... {run.omitted:,} more tokens ... ", style="dim")
        text.append(visible("".join(piece.text for piece in run.pieces[first:])), style=style)


def tensor_table(tensors: Sequence[Tensor]) -> Table:
    """Lists the tensors of a batch: name, shape, dtype, size."""
    table = Table("name", "shape", "dtype", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("MiB", justify="right")
    for one in tensors:
        table.add_row(Text(one.name), Text(one.shape), one.dtype, one.mebibytes)
    return table
