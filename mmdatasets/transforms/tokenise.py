"""From conversations to token ids, labels and media plans: headers are read, no pixel is decoded."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mmdatasets.chat.control_tokens import Piece, blank_marked, split_marked
from mmdatasets.chat.formats import Conversation, as_string
from mmdatasets.chat.template import Rendered
from mmdatasets.chat.tokenise import Encoded, IntArray
from mmdatasets.chat.traced import Span
from mmdatasets.chat.values import check_encodable
from mmdatasets.errors import TemplateError
from mmdatasets.features import MediaRecord, record_of
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.own_messages import find_runs, render_own_messages, share_runs
from mmdatasets.transforms.planned import PlannedMedia, numbered, plan_media
from mmdatasets.types import Expansion, MediaItem, Modality

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.engine import Engine

IGNORE_INDEX = -100
"""Label of a token that is not trained, as PyTorch's cross entropy and transformers take it."""


@dataclass(frozen=True, slots=True)
class RowText:
    """What is tokenised: a row's text with each run of a media token as one token.

    Attributes:
        text: The text, with markers around control tokens that users typed.
        pieces: The text without them.
        add_special_tokens: Whether the tokenizer puts its own bos and eos around it.
        trained_spans: The characters that are trained.
        item_spans: The characters of each item's expansion, in the order of the text.
        media: The items.
        expansions: What each became, numbered where the family does that.
    """

    text: str
    pieces: list[Piece]
    add_special_tokens: bool
    trained_spans: list[Span]
    item_spans: list[Span]
    media: PlannedMedia
    expansions: list[Expansion]


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """What a row's token ids were made of.

    Attributes:
        written: The text.
        tokens: Its tokens.
        counts: `(num_tokens,)` how often each of them stands in the row.
        item_tokens: The tokens of each item's expansion, with the family's delimiters.
    """

    written: RowText
    tokens: Encoded
    counts: npt.NDArray[np.int64]
    item_tokens: list[Span]


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """One row, ready for Arrow.

    Attributes:
        input_ids: `(length,)` token ids, media tokens expanded.
        labels: `(length,)` the ids of what is trained, `IGNORE_INDEX` elsewhere.
        media: The row's media items in the order of the text.
        origin: What it was made of.
    """

    input_ids: IntArray
    labels: IntArray
    media: list[MediaRecord]
    origin: RowOrigin


@dataclass(frozen=True, slots=True)
class Edit:
    """A change that a processor makes to the rendered text before it tokenises it: `text` replaces a range."""

    start: int
    end: int
    text: str


def tokenise_rows(
    plugin: BasePlugin,
    conversations: Sequence[Conversation],
    row_names: Sequence[int | str],
    engine: Engine | None = None,
) -> list[TokenisedRow]:
    """Tokenises a batch of rows.

    Args:
        plugin: The family's rules and settings.
        conversations: Normalised rows.
        row_names: What errors call each row.
        engine: The processor at work, where it is not the plugin's own engine.

    Raises:
        MMDatasetsError: If a row cannot be used. Names the row.
    """
    rows = tokenise_each(plugin, conversations, RowErrors(row_names), engine)
    return [row for row in rows if row is not None]


def tokenise_each(
    plugin: BasePlugin,
    conversations: Sequence[Conversation | None],
    errors: RowErrors,
    engine: Engine | None = None,
) -> list[TokenisedRow | None]:
    """Tokenises those rows of a batch that can be used.

    Args:
        plugin: The family's rules and settings.
        conversations: Normalised rows; `None` for those that cannot be used.
        errors: Takes what is wrong with further ones, or raises it.
        engine: The processor at work, where it is not the plugin's own engine.

    Returns:
        As many rows; `None` for those that cannot be used.

    Raises:
        MMDatasetsError: By the policy of `errors`. Names the row.
    """
    engine = engine or plugin.engine
    planned: dict[int, RowText] = {}
    try:
        for index, conversation in enumerate(conversations):
            if conversation is not None:
                with errors.row(index):
                    planned[index] = _plan_row(plugin, engine, conversation)
    finally:
        engine.media.keep_found()
    texts = planned.values()
    encoded = engine.encoder.encode([row.pieces for row in texts], [row.add_special_tokens for row in texts])
    rows: list[TokenisedRow | None] = [None] * len(conversations)
    for (index, row), tokens in zip(planned.items(), encoded, strict=True):
        with errors.row(index):
            rows[index] = _expand_row(engine, row, tokens)
    return rows


def _plan_row(plugin: BasePlugin, engine: Engine, conversation: Conversation) -> RowText:
    divided, media = plan_media(engine, conversation)
    if plugin.has_own_messages:
        rendered, special, item_spans, expansions = _place_own_messages(plugin, conversation, media)
    else:
        rendered, special, item_spans, expansions, order = _place_expansions(plugin, engine, divided, media)
        media = media.in_order(order)
    check_encodable(rendered.text)
    pieces = split_marked(rendered.text)
    return RowText(rendered.text, pieces, special, list(rendered.trained_spans), item_spans, media, expansions)


_Placed: TypeAlias = tuple[Rendered, bool, list[Span], list[Expansion]]


def _place_expansions(
    plugin: BasePlugin, engine: Engine, conversation: Conversation, media: PlannedMedia
) -> tuple[Rendered, bool, list[Span], list[Expansion], list[int]]:
    """Has the template write a placeholder for each item and puts the expansions there, in the order of the text."""
    expansions = numbered(plugin, engine, media)
    messages = [engine.guard.mark(message) for message in conversation.messages]
    if not conversation.is_plain and not engine.renders_parts(item.modality for item in media.items):
        messages = [as_string(message, engine.runner.placeholders) for message in messages]
    rendered = engine.template_for(conversation).render(messages)
    special = engine.adds_special_tokens(rendered.text)
    # The processor's own edits first, since they go by the text that the template wrote.
    rendered, _ = apply_edits(rendered, plugin.text_edits(engine, rendered.text))
    found = _find_placeholders(engine, rendered.text, media.items)
    order = [position for _, position in found]
    expansions = [expansions[position] for position in order]
    edits = [Edit(*span, expansion.text) for (span, _), expansion in zip(found, expansions, strict=True)]
    rendered, item_spans = apply_edits(rendered, edits)
    return rendered, special, item_spans, expansions, order


def _place_own_messages(plugin: BasePlugin, conversation: Conversation, media: PlannedMedia) -> _Placed:
    """Has the plugin's own `process_messages` write the expansions and shortens their runs."""
    engine = plugin.engine
    rendered = render_own_messages(plugin, conversation)
    special = engine.adds_special_tokens(rendered.text)
    rendered, _ = apply_edits(rendered, plugin.text_edits(engine, rendered.text))
    if not media.items:
        return rendered, special, [], []
    tokens = list(dict.fromkeys(engine.runner.feature_tokens.values()))
    shared = share_runs(find_runs(rendered.text, tokens), media.expansions)
    runs = [run for mine in shared for run in mine]
    rendered, places = apply_edits(rendered, [Edit(run.start, run.end, run.token) for run in runs])
    expansions = [Expansion("", tuple(run.length for run in mine)) for mine in shared]
    supply = iter(places)
    own = [[next(supply) for _ in mine] for mine in shared]
    return rendered, special, [(spans[0][0], spans[-1][1]) for spans in own], expansions


def apply_edits(rendered: Rendered, edits: Sequence[Edit]) -> tuple[Rendered, list[Span]]:
    """Applies edits, in order and without overlap, to a rendered text.

    Returns:
        The new text with the trained spans moved along, and where each edit's text stands in it.
    """
    if not edits:
        return rendered, []
    pieces: list[str] = []
    placed: list[Span] = []
    ends: list[int] = []
    shifts = [0]
    last = 0
    for edit in edits:
        pieces += [rendered.text[last : edit.start], edit.text]
        placed.append((edit.start + shifts[-1], edit.start + shifts[-1] + len(edit.text)))
        shifts.append(shifts[-1] + len(edit.text) - (edit.end - edit.start))
        ends.append(edit.end)
        last = edit.end
    pieces.append(rendered.text[last:])

    def moved(position: int) -> int:
        return position + shifts[bisect_right(ends, position)]

    spans = tuple((moved(start), moved(end)) for start, end in rendered.trained_spans)
    return Rendered("".join(pieces), spans), placed


def _find_placeholders(engine: Engine, text: str, items: Sequence[MediaItem]) -> list[tuple[Span, int]]:
    """Where the template wrote the placeholders, and for which item; those that a user typed stand between markers.

    Some templates write a turn's images before its videos, wherever they stand among its parts: items of one modality
    keep their order.
    """
    placeholders = engine.runner.placeholders
    if not placeholders:
        return []
    pattern = "|".join(re.escape(token) for token in dict.fromkeys(placeholders.values()))
    found = list(re.finditer(pattern, blank_marked(text)))
    waiting: dict[str, deque[int]] = {token: deque() for token in placeholders.values()}
    for position, item in enumerate(items):
        waiting[placeholders[item.modality]].append(position)
    for modality, token in placeholders.items():
        written, wanted = sum(match.group() == token for match in found), len(waiting[token])
        if written != wanted:
            raise TemplateError(
                f"the chat template wrote {written} {modality} token(s) for {wanted} {modality}(s). Templates leave "
                f"out media in turns that they do not expect it in (an answer, say), or that they do not know: move "
                f"it to a user turn, or pass a chat_template that renders it"
            )
    return [(match.span(), waiting[match.group()].popleft()) for match in found]


def _expand_row(engine: Engine, row: RowText, tokens: Encoded) -> TokenisedRow:
    runs = [run for expansion in row.expansions for run in expansion.runs]
    counts = engine.run_counts(tokens.ids, runs)
    modalities = [item.modality for item in row.media.items]
    ranges = [
        _token_range(engine, tokens, span, modality) for span, modality in zip(row.item_spans, modalities, strict=True)
    ]
    trained = tokens.written_in(row.trained_spans)
    for first, last in ranges:
        trained[first:last] = False
    labels = np.where(trained, tokens.ids, np.int32(IGNORE_INDEX))
    edges = np.concatenate([[0], np.cumsum(counts)])
    media = [
        record_of(plan, position, (int(edges[first]), int(edges[last])), expansion.num_media_tokens)
        for plan, position, expansion, (first, last) in zip(
            row.media.plans, row.media.positions, row.expansions, ranges, strict=True
        )
    ]
    origin = RowOrigin(row, tokens, counts, ranges)
    return TokenisedRow(np.repeat(tokens.ids, counts), np.repeat(labels, counts), media, origin)


def _token_range(engine: Engine, tokens: Encoded, span: Span, modality: Modality) -> Span:
    """The tokens of an expansion, with the family's delimiters where these stand beside it."""
    inside = np.flatnonzero(tokens.overlapping([span]))
    first, last = int(inside[0]), int(inside[-1]) + 1
    before, after = engine.delimiter_ids(modality)
    if len(before) and np.array_equal(tokens.ids[max(0, first - len(before)) : first], before):
        first -= len(before)
    if len(after) and np.array_equal(tokens.ids[last : last + len(after)], after):
        last += len(after)
    return first, last


def insert_bos(
    input_ids: list[int], labels: list[int] | None, at: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int] | None]:
    """Puts the tokenizer's bos at a position of a tokenised row, untrained, unless the row has one."""
    bos = tokenizer.bos_token_id
    if bos is None or bos in input_ids:
        return input_ids, labels
    ids = [*input_ids[:at], bos, *input_ids[at:]]
    return ids, None if labels is None else [*labels[:at], IGNORE_INDEX, *labels[at:]]
