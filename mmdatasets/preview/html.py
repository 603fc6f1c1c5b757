"""Previews as HTML: self-contained, without a script, everything that is data escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmdatasets.preview.facts import Facts, Layout, Piece, Row, Run, Tile, TokenSequence, Turn
from mmdatasets.preview.pieces import visible
from mmdatasets.preview.words import frames_in_words, share, size_in_words, tokens_in_words

_SAID_CHARS = 20_000
"""Characters of text that the conversations of a page show in all."""
_LEAST_SAID = 200
_SPACES = {"\n": "\u21b5", "\t": "\u21e5", " ": "\u00b7", "\r": "\u240d", "\u00a0": "\u237d"}


def fragment(facts: Facts) -> str:
    """The preview as an element, with its style, for a notebook."""
    return _environment().get_template("preview.html.jinja").render(_variables(facts))


def page(facts: Facts) -> str:
    """The preview as a page. Its policy forbids scripts, and whatever is loaded from elsewhere."""
    body = Markup(fragment(facts))  # rendered with autoescape
    return _environment().get_template("page.html.jinja").render(title=visible(facts.title), body=body)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mmdatasets.preview", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"visible": visible, "tokens": token_spans, "thousands": lambda number: f"{number:,}"}
    made.globals |= {
        "share": share,
        "tokens_in_words": tokens_in_words,
        "size_in_words": size_in_words,
        "frames_in_words": frames_in_words,
        "grid_path": grid_path,
        "tile_path": tile_path,
        "outside_path": outside_path,
        "bar": bar,
    }
    return made


def _variables(facts: Facts) -> dict[str, object]:
    sequences = [sequence for row in facts.rows for sequence in row.sequences]
    said = list(_conversations(facts.rows))
    return {
        "facts": facts,
        "said": said,
        "roles": list(dict.fromkeys(turn.role for one in sequences for turn in one.turns if turn.role)),
        "has_media": any(one.num_media for one in sequences),
        "has_padding": any(one.num_padding for one in sequences),
        "has_omitted": any(run.omitted for one in sequences for run in one.runs),
    }


# ---------------------------------------------------------------------------------------------------- conversations


@dataclass(frozen=True, slots=True)
class Said:
    """A part of a turn: text, or a media item.

    Attributes:
        text: What is said; empty for media.
        media: Which of the row's media it is.
        is_trained: Whether it is trained.
        omitted: How many characters of its end are not shown.
        is_repeated: Whether an earlier sequence of the row shows the same media, as the answers of a preference do.
    """

    text: str
    media: int | None
    is_trained: bool
    omitted: int = 0
    is_repeated: bool = False


def _conversations(rows: Sequence[Row]) -> Iterator[list[list[list[Said]]]]:
    """For each row, sequence and turn what is said."""
    made = [[[list(_said(turn)) for turn in sequence.turns] for sequence in row.sequences] for row in rows]
    lengths = sorted(len(one.text) for row in made for sequence in row for turn in sequence for one in turn)
    limit = _fair_share(lengths, _SAID_CHARS)
    for row in made:
        seen: set[int] = set()
        yield [[[_shown(one, limit, seen) for one in turn] for turn in sequence] for sequence in row]


def _said(turn: Turn) -> Iterator[Said]:
    runs = [run for run in turn.runs if run.is_content or turn.role is None]
    text, trained = "", False
    for run in runs:
        if run.kind == "media" and run.media is not None:
            if text.strip():
                yield Said(text.strip(), None, trained)
            text, trained = "", False
            yield Said("", run.media, run.is_trained)
        elif run.kind == "text":
            text += _plain_text(run)
            trained = trained or run.is_trained
    if text.strip():
        yield Said(text.strip(), None, trained)


def _plain_text(run: Run) -> str:
    first = run.omitted_after if run.omitted else len(run.pieces)
    gap = f" \u2026 {run.omitted:,} more tokens \u2026 " if run.omitted else ""
    return _joined(run.pieces[:first]) + gap + _joined(run.pieces[first:])


def _joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if not piece.is_control)


def _shown(said: Said, limit: int, seen: set[int]) -> Said:
    """A part as it is shown: text cut to a length, media once."""
    if said.media is not None:
        is_repeated = said.media in seen
        seen.add(said.media)
        return replace(said, is_repeated=is_repeated)
    if len(said.text) <= limit:
        return said
    return replace(said, text=said.text[:limit], omitted=len(said.text) - limit)


def _fair_share(lengths: Sequence[int], most: int) -> int:
    left = most
    for number, length in enumerate(lengths):
        if length > left // (len(lengths) - number):
            return max(_LEAST_SAID, left // (len(lengths) - number))
        left -= length
    return most


# ------------------------------------------------------------------------------------------------------------ tokens


def token_spans(run: Run) -> Markup:
    """The tokens of a run of text, each an element; their ids are shown where one points at them."""
    first = run.omitted_after if run.omitted else len(run.pieces)
    spans = [_token(piece) for piece in run.pieces[:first]]
    if run.omitted:
        spans.append(Markup('<em class="mmp-cut">\u2026 {} more tokens \u2026</em>').format(f"{run.omitted:,}"))
        spans += [_token(piece) for piece in run.pieces[first:]]
    return Markup("").join(spans)


def _token(piece: Piece) -> Markup:
    ids = " ".join(map(str, piece.token_ids))
    text = visible(piece.text)
    if piece.is_control:
        return Markup('<b title="{}">{}</b>').format(ids, text)
    if text and not text.strip(" \n\t\r\u00a0"):
        shown = "".join(_SPACES[character] for character in text)
        breaks = Markup("\n") * text.count("\n")
        return Markup('<i title="{}"><u>{}</u></i>{}').format(ids, shown, breaks)
    newlines = text.replace("\n", "\u21b5\n")
    return Markup('<i title="{}">{}</i>').format(ids, newlines)


# ---------------------------------------------------------------------------------------------------------- drawings


def bar(sequence: TokenSequence) -> list[dict[str, object]]:
    """A sequence as stretches of a bar: where each starts, and how long it is, in thousandths, and what it is."""
    total = max(1, sequence.num_tokens + sequence.num_padding)
    stretches: list[dict[str, object]] = []
    for turn in sequence.turns:
        for run in turn.runs:
            kind = run.kind if run.kind != "text" else turn.role or "other"
            last = stretches[-1] if stretches else None
            if last and (last["kind"], last["trained"]) == (kind, run.is_trained) and last["end"] == run.start:
                last["end"] = run.end
                last["width"] = _thousandths(run.end - int(str(last["start"])), total)
                continue
            stretches.append(
                {
                    "kind": kind,
                    "trained": run.is_trained,
                    "start": run.start,
                    "end": run.end,
                    "x": _thousandths(run.start, total),
                    "width": _thousandths(run.end - run.start, total),
                }
            )
    return stretches


def _thousandths(count: int, total: int) -> float:
    return round(1000 * count / total, 2)


def grid_path(layout: Layout) -> str:
    """The lines between the cells of a grid, in a box of 1000 x 1000; of a part of the picture, where that is one."""
    if layout.rows is None or layout.columns is None:
        return ""
    tile = layout.tiles[0] if len(layout.tiles) == 1 else Tile(0, 0, 1, 1, 1, 1)
    left, top, right, bottom = _box(tile)
    down = [left + (right - left) * place / layout.columns for place in range(1, layout.columns)]
    across = [top + (bottom - top) * place / layout.rows for place in range(1, layout.rows)]
    lines = [f"M{_number(x)} {_number(top)}V{_number(bottom)}" for x in down]
    return "".join([*lines, *(f"M{_number(left)} {_number(y)}H{_number(right)}" for y in across)])


def tile_path(layout: Layout) -> str:
    """The outlines of a picture's tiles."""
    return "".join(_outline(tile) for tile in layout.parts)


def outside_path(layout: Layout) -> str:
    """What of a picture no tile shows: all of it around its only tile."""
    if len(layout.tiles) != 1 or not layout.parts:
        return ""
    return f"M0 0H1000V1000H0Z{_outline(layout.parts[0])}"


def _outline(tile: Tile) -> str:
    left, top, right, bottom = map(_number, _box(tile))
    return f"M{left} {top}H{right}V{bottom}H{left}Z"


def _box(tile: Tile) -> tuple[float, float, float, float]:
    return 1000 * tile.left, 1000 * tile.top, 1000 * tile.right, 1000 * tile.bottom


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
