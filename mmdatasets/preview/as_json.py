"""Facts as JSON: what a preview shows, without the drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from mmdatasets.preview.facts import Facts, Piece, Row, Run, TokenSequence

_DRAWN = frozenset({"picture", "frames", "wave"})


def facts_to_json(facts: Facts) -> dict[str, object]:
    """All facts, as plain values."""
    return {
        "title": facts.title,
        "family": facts.family,
        "processor": facts.processor,
        "rows": [_row_to_json(row) for row in facts.rows],
        "omitted_rows": facts.omitted_rows,
        "tensors": [asdict(tensor) for tensor in facts.tensors],
        "padding": facts.padding,
    }


def _row_to_json(row: Row) -> dict[str, object]:
    media = [
        {
            **{name: value for name, value in asdict(item).items() if name not in _DRAWN},
            "shown_frames": [{"index": one.index, "timestamp_s": one.timestamp_s} for one in item.frames],
        }
        for item in row.media
    ]
    return {
        "name": row.name,
        "remarks": dict(row.remarks),
        "sequences": [_sequence_to_json(sequence) for sequence in row.sequences],
        "media": media,
    }


def _sequence_to_json(sequence: TokenSequence) -> dict[str, object]:
    turns = [
        {
            "role": turn.role,
            "start": turn.start,
            "end": turn.end,
            "trained": _stretches(turn.runs),
            "text": _text_of(turn.runs),
        }
        for turn in sequence.turns
    ]
    names = ("name", "num_tokens", "num_trained", "num_media", "num_padding")
    return {**{name: getattr(sequence, name) for name in names}, "turns": turns}


def _stretches(runs: Sequence[Run]) -> list[list[int]]:
    """Where what is trained starts and ends."""
    found: list[list[int]] = []
    for run in runs:
        if run.is_trained and found and found[-1][1] == run.start:
            found[-1][1] = run.end
        elif run.is_trained:
            found.append([run.start, run.end])
    return found


def _split(pieces: Sequence[Piece], first: int) -> tuple[Sequence[Piece], Sequence[Piece]]:
    return pieces[:first], pieces[first:]


def _text_of(runs: Sequence[Run]) -> str:
    """What is said in some runs, media as `<image: ...>`, without control tokens and what a template writes."""
    parts = []
    for run in runs:
        if not run.is_content:
            continue
        if run.kind == "media":
            parts.append(f"<{run.label}>")
        elif run.kind == "text":
            first = run.omitted_after if run.omitted else len(run.pieces)
            gap = [f" ... {run.omitted:,} more tokens ... "] if run.omitted else []
            shown = [[piece.text for piece in some if not piece.is_control] for some in _split(run.pieces, first)]
            parts += [*shown[0], *gap, *shown[1]]
    return "".join(parts).strip()
