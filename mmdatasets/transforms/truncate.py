"""`on_overflow="truncate"`: a row's tokens up to the last place where its text can end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.chat.control_tokens import Piece
from mmdatasets.chat.traced import Span
from mmdatasets.errors import MediaProcessorError
from mmdatasets.types import MODALITIES, Modality

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.tokenise import RowOrigin, TokenisedRow

_MOST_TRIES = 64
"""Tokenizers agree on a text and its beginning within a word or two, if they ever do."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """The beginning of a row.

    Attributes:
        row: Its tokens, labels and media.
        kept_media: Of each modality, which of the row's references are still there.
    """

    row: TokenisedRow
    kept_media: dict[Modality, list[int]]


def truncate(plugin: BasePlugin, row: TokenisedRow, max_length: int) -> Truncated | None:
    """Cuts a row behind the last token where its text can end.

    That is a place that is not within a media item's tokens or what the template or the family puts around them, nor
    within a character; where the items before it become what they are also without those behind it; and where the
    text up to there, tokenised by itself, makes these very tokens.

    Args:
        plugin: The family's rules.
        row: The row, which is longer.
        max_length: Most tokens to keep.

    Returns:
        The beginning; `None` where there is no such place.
    """
    origin = row.origin
    edges = np.concatenate([[0], np.cumsum(origin.counts)])
    whole = _whole_items(plugin, origin)
    for end in _ends(origin, whole, int(np.searchsorted(edges, max_length, side="right")) - 1):
        num_items = sum(last <= end for _, last in whole)
        if _still_become(plugin, origin, num_items) and _tokenises_alike(plugin, origin, end):
            cut = int(edges[end])
            kept: dict[Modality, list[int]] = {modality: [] for modality in MODALITIES}
            for record in row.media[:num_items]:
                kept[record["modality"]].append(record["item"])  # type: ignore[index]
            kept = {modality: sorted(set(numbers)) for modality, numbers in kept.items()}
            media = row.media[:num_items]
            return Truncated(replace(row, input_ids=row.input_ids[:cut], labels=row.labels[:cut], media=media), kept)
    return None


def _ends(origin: RowOrigin, whole: Sequence[Span], most: int) -> Iterator[int]:
    """Numbers of tokens, from the most on down, behind which nothing is divided that belongs together."""
    tokens = origin.tokens
    reached = np.maximum.accumulate(tokens.ends) if len(tokens.ends) else tokens.ends
    divided = np.zeros(len(tokens.ids) + 1, dtype=bool)
    divided[1:-1] = (tokens.starts[1:] < reached[:-1]) & (tokens.starts[1:] < tokens.ends[1:])
    for first, last in whole:
        divided[first + 1 : last] = True
    safe = np.flatnonzero(~divided[1 : most + 1]) + 1
    yield from (int(end) for end in safe[::-1][:_MOST_TRIES])


def _whole_items(plugin: BasePlugin, origin: RowOrigin) -> list[Span]:
    """For each part of an item the tokens of the whole item, with all that the template writes around it.

    The chunks of long audio are one item: a row refers to all of it or to none.
    """
    spans: dict[tuple[Modality, int], Span] = {}
    written, media = origin.written, origin.written.media
    names = [(item.modality, number) for item, number in zip(media.items, media.positions, strict=True)]
    for name, characters, (first, last) in zip(names, written.item_spans, origin.item_tokens, strict=True):
        found = np.flatnonzero(origin.tokens.overlapping([_with_markup(plugin, written.text, characters, *name)]))
        before, after = spans.get(name, (first, last))
        spans[name] = min(before, first, int(found[0])), max(after, last, int(found[-1]) + 1)
    return [spans[name] for name in names]


def _with_markup(plugin: BasePlugin, text: str, span: Span, modality: Modality, number: int) -> Span:
    """The characters of an item with what the chat template writes around it, where that stands there."""
    start, end = span
    for index in (number, 0):
        before, after = plugin.engine.written_around(modality, index)
        if text.endswith(before, 0, start) and text.startswith(after, end):
            return start - len(before), end + len(after)
    return span


def _still_become(plugin: BasePlugin, origin: RowOrigin, num_items: int) -> bool:
    """Whether the first items of a row become the same without the others."""
    media = origin.written.media
    if num_items in (0, len(media.items)):
        return True
    try:
        alone = plugin.engine.media.expand(media.items[:num_items], media.plans[:num_items])
    except MediaProcessorError:
        return False
    if alone != media.expansions[:num_items]:
        return False
    if plugin.has_own_messages:
        return True
    numbered = plugin.number_expansions(plugin.engine, [item.modality for item in media.items[:num_items]], alone)
    return numbered == origin.written.expansions[:num_items]


def _tokenises_alike(plugin: BasePlugin, origin: RowOrigin, end: int) -> bool:
    """Whether the text of the first tokens, by itself, makes these tokens."""
    tokens = origin.tokens
    textless = int(np.argmax(tokens.starts < tokens.ends)) if origin.written.add_special_tokens else 0
    if end <= textless:
        return True
    until = int(tokens.ends[:end].max())
    begun = [_until(piece, until) for piece in origin.written.pieces if piece.start < until]
    again = plugin.engine.encoder.encode([begun], [False])[0].ids
    return bool(np.array_equal(again, tokens.ids[textless:end]))


def _until(piece: Piece, end: int) -> Piece:
    return Piece(piece.text[: end - piece.start], piece.start, piece.literal)
