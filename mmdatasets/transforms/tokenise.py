"""From conversations to token ids, labels and media plans: headers are read, no pixel is decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.chat.control_tokens import END, START, Piece, split_marked
from mmdatasets.chat.formats import Conversation
from mmdatasets.chat.template import Rendered, Span
from mmdatasets.chat.tokenise import Encoded, IntArray
from mmdatasets.errors import MMDatasetsError, TemplateError
from mmdatasets.features import MediaRecord
from mmdatasets.types import Expansion, ImageInfo

if TYPE_CHECKING:
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine

IGNORE_INDEX = -100
"""Label of a token that is not trained, as PyTorch's cross entropy and transformers take it."""


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """One row, ready for Arrow.

    Attributes:
        input_ids: `(length,)` token ids, media tokens expanded.
        labels: `(length,)` the ids of what the assistant writes, `IGNORE_INDEX` elsewhere.
        media: The row's media items in the order of the text.
    """

    input_ids: IntArray
    labels: IntArray
    media: list[MediaRecord]


@dataclass(frozen=True, slots=True)
class _PlannedRow:
    text: str
    pieces: list[Piece]
    assistant_spans: list[Span]
    item_spans: list[Span]
    infos: list[ImageInfo]
    expansions: list[Expansion]


def tokenise_rows(
    plugin: BasePlugin, conversations: Sequence[Conversation], row_names: Sequence[int | str]
) -> list[TokenisedRow]:
    """Tokenises a batch of rows.

    Args:
        plugin: The family's rules and settings.
        conversations: Normalised rows.
        row_names: What errors call each row.

    Raises:
        MMDatasetsError: If a row cannot be used. Names the row.
    """
    planned = []
    for conversation, name in zip(conversations, row_names, strict=True):
        try:
            planned.append(_plan_row(plugin, conversation))
        except MMDatasetsError as error:
            raise error.at(row=name) from error.__cause__
    encoded = plugin.engine.encoder.encode([row.pieces for row in planned])
    rows = []
    for row, tokens, name in zip(planned, encoded, row_names, strict=True):
        try:
            rows.append(_expand_row(plugin, row, tokens))
        except MMDatasetsError as error:
            raise error.at(row=name) from error.__cause__
    return rows


def _plan_row(plugin: BasePlugin, conversation: Conversation) -> _PlannedRow:
    engine = plugin.engine
    infos = engine.probe_images(conversation.images, plugin.images_column)
    expansions = engine.plan_images(conversation.images, infos, plugin.images_column)
    rendered = plugin.template.render([engine.guard.mark(message) for message in conversation.messages])
    text, assistant_spans, item_spans = _place(engine, rendered, expansions)
    return _PlannedRow(text, split_marked(text), assistant_spans, item_spans, infos, expansions)


def _place(engine: Engine, rendered: Rendered, expansions: Sequence[Expansion]) -> tuple[str, list[Span], list[Span]]:
    """Puts each item's shortened expansion where the template wrote the media token.

    Returns:
        The text, the assistant's spans in it, and the expansions' spans in it.
    """
    token = engine.runner.media_tokens.get("image")
    found = _find_media_tokens(rendered.text, token) if token is not None else []
    if len(found) != len(expansions):
        raise TemplateError(
            f"the chat template wrote {len(found)} image token(s) for {len(expansions)} image(s). Templates leave out "
            "images in turns that they do not expect them in (an answer, say): move them to a user turn, or pass a "
            "chat_template that renders them"
        )
    pieces: list[str] = []
    item_spans: list[Span] = []
    edges: list[tuple[int, int]] = []  # (end of a replaced token, how many characters were gained up to there)
    last = gained = 0
    for (start, end), expansion in zip(found, expansions, strict=True):
        pieces += [rendered.text[last:start], expansion.text]
        item_spans.append((start + gained, start + gained + len(expansion.text)))
        gained += len(expansion.text) - (end - start)
        edges.append((end, gained))
        last = end
    pieces.append(rendered.text[last:])

    def moved(position: int) -> int:
        return position + next((shift for edge, shift in reversed(edges) if edge <= position), 0)

    spans = [(moved(start), moved(end)) for start, end in rendered.assistant_spans]
    return "".join(pieces), spans, item_spans


def _find_media_tokens(text: str, token: str) -> list[Span]:
    """Where the template wrote the media token; the ones that a user typed stand between markers."""
    pattern = f"{START}.*?{END}|({re.escape(token)})"
    return [match.span() for match in re.finditer(pattern, text, re.DOTALL) if match.group(1)]


def _expand_row(plugin: BasePlugin, row: _PlannedRow, tokens: Encoded) -> TokenisedRow:
    is_media = plugin.engine.is_media_token(tokens.ids)
    runs = [run for expansion in row.expansions for run in expansion.runs]
    if int(is_media.sum()) != len(runs):
        raise TemplateError(
            f"the tokenizer made {int(is_media.sum())} media tokens of a text with {len(runs)}; the media tokens must "
            "be added tokens of the tokenizer"
        )
    counts = np.ones(len(tokens.ids), dtype=np.int64)
    counts[is_media] = runs
    trained = tokens.overlapping(row.assistant_spans) & ~is_media
    labels = np.where(trained, tokens.ids, np.int32(IGNORE_INDEX))
    edges = np.concatenate([[0], np.cumsum(counts)])
    media: list[MediaRecord] = []
    for info, expansion, span in zip(row.infos, row.expansions, row.item_spans, strict=True):
        first, last = _token_range(plugin, tokens, span)
        media.append(
            {
                "modality": "image",
                "width": info.width,
                "height": info.height,
                "start": int(edges[first]),
                "end": int(edges[last]),
                "num_tokens": expansion.num_media_tokens,
            }
        )
    return TokenisedRow(np.repeat(tokens.ids, counts), np.repeat(labels, counts), media)


def _token_range(plugin: BasePlugin, tokens: Encoded, span: Span) -> Span:
    """The tokens of an expansion, with the family's delimiters where these stand beside it."""
    inside = np.flatnonzero(tokens.overlapping([span]))
    first, last = int(inside[0]), int(inside[-1]) + 1
    before, after = plugin.delimiter_ids("image")
    if first > 0 and tokens.ids[first - 1] == before:
        first -= 1
    if last < len(tokens.ids) and tokens.ids[last] == after:
        last += 1
    return first, last
