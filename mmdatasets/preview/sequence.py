"""Token sequences by turns and runs: who speaks, what is media, what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import MMDatasetsError
from mmdatasets.preview.facts import Kind, Media, Piece, Run, TokenSequence, Turn
from mmdatasets.preview.pieces import TokenText
from mmdatasets.preview.roles import TurnMarks, TurnSpan

if TYPE_CHECKING:
    from mmdatasets.transforms.engine import Engine

TEXT_TOKENS = 1500
"""Text tokens that the sequences of a preview show in all; the middle of longer runs is left out."""
TURNS = 60
"""Turns that a sequence shows; those in the middle are left out."""
_FIRST = 2 / 3  # of what is shown of a run, this much is its beginning


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """Where a row's media item stands in a sequence.

    Attributes:
        start: The first token of its span.
        end: One past the last one.
        media: Which of the row's media it is.
    """

    start: int
    end: int
    media: int


class SequenceReader:
    """Reads token sequences for one tokenizer and chat template.

    Args:
        engine: Knows both, and the media tokens.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._text = TokenText(engine.tokenizer)

    @cached_property
    def _marks(self) -> TurnMarks | None:
        try:
            return TurnMarks(self._engine.template, self._text.control.values())
        except MMDatasetsError:  # no template
            return None

    def read(
        self,
        name: str,
        ids: Sequence[int],
        trained: Sequence[bool] | None,
        spans: Sequence[MediaSpan] = (),
        media: Sequence[Media] = (),
        padding: Sequence[bool] | None = None,
    ) -> TokenSequence:
        """Reads a sequence.

        Args:
            name: What it is.
            ids: Its tokens.
            trained: Which of them have labels; `None` where there are no labels.
            spans: Where its media stands, in order; without, media tokens tell.
            media: What the spans refer to.
            padding: Which tokens are padding.
        """
        tokens = np.asarray(ids, dtype=np.int64)
        is_media = self._engine.is_media_token(tokens) if len(self._engine.runner.placeholders) else tokens < 0
        padded = np.zeros(len(tokens), bool) if padding is None else np.asarray(padding, bool)
        labelled = np.zeros(len(tokens), bool) if trained is None else np.asarray(trained, bool)
        blocks = list(self._blocks(tokens, is_media & ~padded, padded, spans, media))
        turns = self._turns(blocks, labelled)
        cut = max(0, len(turns) - TURNS)
        return TokenSequence(
            name,
            tuple(turns),
            int((~padded).sum()),
            None if trained is None else int(labelled.sum()),
            int((is_media & ~padded).sum()),
            int(padded.sum()),
            cut,
            TURNS * 2 // 3 if cut else 0,
        )

    def _blocks(
        self,
        tokens: np.ndarray,
        is_media: np.ndarray,
        padded: np.ndarray,
        spans: Sequence[MediaSpan],
        media: Sequence[Media],
    ) -> Iterator[Run]:
        """The sequence as runs of one kind, whoever speaks and whatever is trained."""
        kinds = np.where(padded, 2, 0)
        owners = np.full(len(tokens), -1)
        for number, span in enumerate(spans):
            kinds[span.start : span.end] = 1
            owners[span.start : span.end] = number
        if not spans:
            kinds[is_media] = 1
        names: tuple[Kind, ...] = ("text", "media", "padding")
        for (kind, owner), places in groupby(
            range(len(tokens)), key=lambda place: (int(kinds[place]), int(owners[place]))
        ):
            block = list(places)
            start, end = block[0], block[-1] + 1
            run = Run(names[kind], start, end, is_trained=False)
            if kind == 0:
                run = replace(run, pieces=tuple(self._text.pieces(tokens[start:end].tolist())))
            elif kind == 1 and owner >= 0:
                item = spans[owner].media
                run = replace(run, media=item, label=media[item].label)
            elif kind == 1:
                run = replace(run, label=self._token_label(int(tokens[start]), end - start))
            else:
                run = replace(run, label=f"padding: {end - start:,}")
            yield run

    def _token_label(self, token: int, count: int) -> str:
        named = self._engine.runner.feature_tokens
        own = [
            modality for modality, text in named.items() if self._engine.tokenizer.convert_tokens_to_ids(text) == token
        ]
        return f"{' or '.join(own)}: {'1 token' if count == 1 else f'{count:,} tokens'}"

    # ------------------------------------------------------------------------------------------------------- turns

    def _turns(self, blocks: Sequence[Run], trained: np.ndarray) -> list[Turn]:
        spans = self._find_turns(blocks)
        if not spans:
            runs = [part for block in blocks for part in _parts(block, [], trained)]
            return [Turn(None, tuple(runs))] if runs else []
        turns: list[list[Run]] = [[] for _ in spans]
        at = owner = 0
        for block in blocks:
            for part, length in _with_lengths(block, trained, spans, at):
                while owner < len(spans) - 1 and at >= spans[owner].end:
                    owner += 1
                span = spans[owner]
                says = span.role is not None and at < span.content_end and at + length > span.content_start
                turns[owner].append(replace(part, is_content=says and part.kind != "padding"))
                at += length
        return [turn for span, runs in zip(spans, turns, strict=True) for turn in _without_padding(span.role, runs)]

    def _find_turns(self, blocks: Sequence[Run]) -> list[TurnSpan]:
        if self._marks is None:
            return []
        return self._marks.find("".join(self._sealed(block) for block in blocks))

    def _sealed(self, block: Run) -> str:
        if block.kind != "text":
            return _NO_TEXT
        seal = self._marks.seal if self._marks else str
        return "".join(seal(piece.text) if piece.is_control else piece.text for piece in block.pieces)


def _without_padding(role: str | None, runs: Sequence[Run]) -> Iterator[Turn]:
    """The runs of a turn, padding apart: nobody says that."""
    for is_padding, some in groupby(runs, key=lambda run: run.kind == "padding"):
        yield Turn(None if is_padding else role, tuple(some))


_NO_TEXT = "\N{OBJECT REPLACEMENT CHARACTER}"


def _with_lengths(block: Run, trained: np.ndarray, spans: Sequence[TurnSpan], at: int) -> Iterator[tuple[Run, int]]:
    """The parts of a block between the edges of turns, each with its length as `TurnMarks.find` counts."""
    if block.kind != "text":
        yield replace(block, is_trained=bool(trained[block.start : block.end].any())), len(_NO_TEXT)
        return
    lengths = [1 if piece.is_control else len(piece.text) for piece in block.pieces]
    ends = np.cumsum([at, *lengths]).tolist()
    # A token across an edge belongs to what it begins in; to what is said, if any of it does.
    cuts = np.searchsorted(ends, [edge for span in spans for edge in (span.start, span.content_end)]).tolist()
    cuts += np.searchsorted(ends[1:], [span.content_start for span in spans], side="right").tolist()
    for part in _parts(block, cuts, trained):
        yield part, sum(1 if piece.is_control else len(piece.text) for piece in part.pieces)


def _parts(block: Run, cuts: Iterable[int], trained: np.ndarray) -> Iterator[Run]:
    """A block divided at some pieces, and where what is trained begins and ends."""
    if block.kind != "text":
        yield replace(block, is_trained=bool(trained[block.start : block.end].any()))
        return
    at, edges = block.start, set(cuts)
    pieces: list[Piece] = []
    start, was = at, bool(trained[at])
    for number, piece in enumerate(block.pieces):
        if pieces and (number in edges or bool(trained[at]) != was):
            yield replace(block, start=start, end=at, is_trained=was, pieces=tuple(pieces))
            pieces, start = [], at
        was = bool(trained[at])
        pieces.append(piece)
        at += len(piece.token_ids)
    yield replace(block, start=start, end=at, is_trained=was, pieces=tuple(pieces))


# ---------------------------------------------------------------------------------------------------------- cutting


def shorten(sequences: Sequence[TokenSequence], most: int = TEXT_TOKENS) -> list[TokenSequence]:
    """The sequences with no more than about so many pieces of text in all: of long runs the middle is left out."""
    runs = [run for one in sequences for turn in one.shown_turns if isinstance(turn, Turn) for run in turn.runs]
    limit = _limit([len(run.pieces) for run in runs], most)
    return [_with_runs(one, limit) for one in sequences]


def _with_runs(sequence: TokenSequence, limit: int) -> TokenSequence:
    turns = tuple(replace(turn, runs=tuple(_shortened(run, limit) for run in turn.runs)) for turn in sequence.turns)
    return replace(sequence, turns=turns)


def _shortened(run: Run, limit: int) -> Run:
    if len(run.pieces) <= limit:
        return run
    first = max(1, round(limit * _FIRST))
    last = limit - first
    gone = run.pieces[first : len(run.pieces) - last]
    kept = (*run.pieces[:first], *run.pieces[len(run.pieces) - last :])
    return replace(run, pieces=kept, omitted=sum(len(piece.token_ids) for piece in gone), omitted_after=first)


def _limit(counts: Sequence[int], most: int) -> int:
    """The largest bound with which the sum of numbers stays within another; 8 at least."""
    left, waiting = most, sorted(counts)
    for number, count in enumerate(waiting):
        share = left // (len(waiting) - number)
        if count > share:
            return max(8, share)
        left -= count
    return max(waiting, default=8)
