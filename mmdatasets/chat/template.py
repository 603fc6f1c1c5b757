"""Renders a chat template and locates, in the rendered text, what the assistant writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from jinja2 import TemplateError as JinjaError
from transformers.utils.chat_template_utils import render_jinja_template

from mmdatasets.chat.formats import Message
from mmdatasets.errors import TemplateError

Span: TypeAlias = tuple[int, int]
"""Half-open range of characters or tokens."""

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SENTINEL, _END_SENTINEL = "\U0010fff2", "\U0010fff5"
_SENTINELS = re.compile(f"[{_SENTINEL}{_END_SENTINEL}]")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: The text.
        assistant_spans: Character ranges that the assistant writes, each with its end-of-turn token and whatever
            else the template puts before the next turn.
    """

    text: str
    assistant_spans: tuple[Span, ...]


class ChatTemplate:
    """A chat template with the variables it is rendered with.

    Args:
        source: The Jinja template, rendered in transformers' sandbox.
        variables: Template variables besides the messages, for example `bos_token`.
    """

    def __init__(self, source: str, variables: Mapping[str, object] | None = None) -> None:
        self.source = source
        self.variables = dict(variables or {})
        self.has_generation_tags = bool(_GENERATION_TAG.search(source))

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Renders a conversation and finds the assistant's spans.

        Templates with `{% generation %}` tags state the spans themselves. For others, a turn starts where the
        conversation before it ends with the generation prompt, and ends where the conversation up to it ends. That is
        looked up for the first turn; what it shows to stand around a turn's text is then found around the others',
        which one rendering with marks around every text locates, so that long conversations take no longer.

        Raises:
            TemplateError: If the template fails, or renders a conversation's beginning differently from the
                conversation, so that turns cannot be told apart.
        """
        text, tagged = self._render(messages)
        if self.has_generation_tags:
            return Rendered(text, tuple(tagged))
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        known = self._spans_by_marks(messages, turns, text) if len(turns) > 2 else {}
        return Rendered(text, tuple(known.get(index) or self._span_of(messages, index, text) for index in turns))

    def _span_of(self, messages: Sequence[Message], index: int, text: str) -> Span:
        return self._turn_start(messages, index, text), self._turn_end(messages, index, text)

    def _spans_by_marks(self, messages: Sequence[Message], turns: Sequence[int], text: str) -> dict[int, Span]:
        """The spans of the turns that are written like the first one; others are left out."""
        marked, _ = self._render([_surround(m) if m["role"] == "assistant" else m for m in messages])
        pieces = _SENTINELS.split(marked)
        if len(pieces) != 2 * len(turns) + 1 or "".join(pieces) != text:
            return {}  # the template does something else with text than writing it
        edges = list(accumulate(map(len, pieces)))
        bodies = dict(zip(turns, zip(edges[0::2], edges[1::2], strict=False), strict=True))
        first_start, first_end = self._span_of(messages, turns[0], text)
        body_start, body_end = bodies[turns[0]]
        if not first_start <= body_start <= body_end <= first_end:
            return {}
        before, after = text[first_start:body_start], text[body_end:first_end]
        found = {}
        for index, (start, end) in bodies.items():
            if text.endswith(before, 0, start) and text.startswith(after, end):
                last = index == len(messages) - 1
                found[index] = (start - len(before), len(text) if last else end + len(after))
        return found

    def _render(self, messages: Sequence[Message], generation_prompt: bool = False) -> tuple[str, list[Span]]:
        try:
            texts, spans = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self.source,
                add_generation_prompt=generation_prompt,
                return_assistant_tokens_mask=self.has_generation_tags and not generation_prompt,
                **self.variables,
            )
        except (JinjaError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise TemplateError(
                f"the chat template fails on a conversation of {roles or 'no turns'}: {error}"
            ) from error
        return texts[0], [tuple(span) for span in spans[0]] if spans else []

    def _turn_start(self, messages: Sequence[Message], index: int, text: str) -> int:
        if index > 0:
            prompt, _ = self._render(messages[:index], generation_prompt=True)
            if text.startswith(prompt):
                return len(prompt)
        # The generation prompt is not what this turn begins with: look where the turn's content begins instead.
        marked, _ = self._render([*messages[:index], _with_sentinel(messages[index]), *messages[index + 1 :]])
        start = marked.find(_SENTINEL)
        if start < 0 or marked.replace(_SENTINEL, "") != text:
            raise TemplateError(_cannot_locate("start", index))
        return start

    def _turn_end(self, messages: Sequence[Message], index: int, text: str) -> int:
        if index == len(messages) - 1:
            return len(text)
        head, _ = self._render(messages[: index + 1])
        if not text.startswith(head):
            raise TemplateError(_cannot_locate("end", index))
        return len(head)


def _with_sentinel(message: Message) -> Message:
    """The message with a mark where its text begins."""
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": f"{_SENTINEL}{content or ''}"}
    first = next((index for index, part in enumerate(content) if part["type"] == "text"), len(content))
    text = content[first]["text"] if first < len(content) else ""
    marked = {"type": "text", "text": f"{_SENTINEL}{text}"}
    return {**message, "content": [*content[:first], marked, *content[first + 1 :]]}


def _surround(message: Message) -> Message:
    """The message with marks where its text begins and ends."""
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": f"{_SENTINEL}{content or ''}{_END_SENTINEL}"}
    texts = [index for index, part in enumerate(content) if part["type"] == "text"]
    if not texts or len(texts) < len(content):
        return message  # an image at an edge has no place for a mark
    parts = [dict(part) for part in content]
    parts[0]["text"] = f"{_SENTINEL}{parts[0]['text']}"
    parts[-1]["text"] = f"{parts[-1]['text']}{_END_SENTINEL}"
    return {**message, "content": parts}


def _cannot_locate(edge: str, index: int) -> str:
    return (
        f"cannot find the {edge} of assistant message {index} in the rendered conversation, because the chat template "
        "renders its beginning differently once more turns follow. Pass a chat_template with {% generation %} tags "
        "around what the assistant writes."
    )
