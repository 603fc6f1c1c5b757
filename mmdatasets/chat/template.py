"""Renders a chat template and locates, in the rendered text, what the assistant writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jinja2 import TemplateError as JinjaError
from transformers.utils.chat_template_utils import render_jinja_template

from mmdatasets.chat.formats import Message
from mmdatasets.errors import TemplateError

Span: TypeAlias = tuple[int, int]
"""Half-open range of characters or tokens."""

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SENTINEL = "\U0010fff2"


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
        conversation before it ends with the generation prompt, and ends where the conversation up to it ends.

        Raises:
            TemplateError: If the template fails, or renders a conversation's beginning differently from the
                conversation, so that turns cannot be told apart.
        """
        text, tagged = self._render(messages)
        if self.has_generation_tags:
            return Rendered(text, tuple(tagged))
        spans: list[Span] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            spans.append((self._turn_start(messages, index, text), self._turn_end(messages, index, text)))
        return Rendered(text, tuple(spans))

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


def _cannot_locate(edge: str, index: int) -> str:
    return (
        f"cannot find the {edge} of assistant message {index} in the rendered conversation, because the chat template "
        "renders its beginning differently once more turns follow. Pass a chat_template with {% generation %} tags "
        "around what the assistant writes."
    )
