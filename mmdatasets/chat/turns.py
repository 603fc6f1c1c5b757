"""Locates what the assistant writes in a rendered conversation, for chat templates that do not say so themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mmdatasets.chat.formats import Message
from mmdatasets.chat.traced import Span, Traced, TracedTemplate
from mmdatasets.chat.values import is_empty
from mmdatasets.errors import TemplateError

_MARK = "\U0010fff2"
# What a generation prompt may write of the reasoning that the model is to begin or to skip.
_REASONING = re.compile(r"<think(?:ing)?>|<reasoning>|\[THINK\]|<\|channel\|?>")
# A token that begins a message, such as `<|user|>`.
_OPENING_TOKEN = re.compile(r"<[|\uff5c][^<>|\uff5c\s]+[|\uff5c]>")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a template writes around an answer.

    Attributes:
        header: What it writes before one; `None` where a short conversation does not tell.
        separator: Spaces with which it separates an answer from the next message.
        ends_with_next: Whether the model ends its turn with the token that begins the next message.
    """

    header: str | None = None
    separator: str = ""
    ends_with_next: bool = False


class TurnFinder:
    """Finds what the assistant writes.

    A message of the assistant reaches from behind the generation prompt, which the model is given, to the beginning
    of the next message: with the end-of-turn token and, as in the published templates with generation tags, the
    newline that follows it. Three things are not as they look:

    - Where a generation prompt begins or skips the reasoning (`<think>`), that part is the assistant's, as in those
      templates: turns of a conversation come with it and without.
    - A space between an end-of-turn token and the next message is the next message's: it is part of its first token.
    - Where a template writes no end-of-turn token (GLM), the token that begins the next message is the assistant's,
      since that is what the model stops with.

    Args:
        template: The template.
    """

    def __init__(self, template: TracedTemplate) -> None:
        self._template = template

    def spans(self, messages: Sequence[Message], index: int, traced: Traced) -> list[Span]:
        """The character ranges that the assistant writes of message `index`.

        Args:
            messages: The conversation.
            index: Position of a message of the assistant.
            traced: The conversation, rendered.

        Raises:
            TemplateError: If they cannot be located.
        """
        regions = self.regions(messages, index, traced)
        if not regions:
            return []
        (start, end), *rest = regions
        spans = [(self._start(messages, index, traced.text, (start, end)), end), *rest]
        start, end = spans[-1]
        spans[-1] = start, max(start, self._end(traced.text, end))
        return [(start, end) for start, end in spans if start < end]

    def regions(self, messages: Sequence[Message], index: int, traced: Traced) -> list[Span]:
        """The character ranges that the template writes for message `index`, whoever's it is.

        Where its loop does not tell, that is what it adds to the conversation before the message.

        Raises:
            TemplateError: If this does not tell either.
        """
        found = list(traced.regions.get(index, ()))
        says_nothing = all(is_empty(value) for key, value in messages[index].items() if key != "role")
        if found or (traced.regions and says_nothing):
            return found
        before = self._template.render(messages[:index]).text
        upto = self._template.render(messages[: index + 1]).text if index + 1 < len(messages) else traced.text
        if not upto.startswith(before) or not traced.text.startswith(upto):
            raise self._cannot_locate(index)
        return [(len(before), len(upto))] if len(before) < len(upto) else []

    def _start(self, messages: Sequence[Message], index: int, text: str, region: Span) -> int:
        """Where the message begins, its header left out."""
        start, end = region
        usual = self._shape.header
        if usual and text.startswith(usual, start, end):
            return start + len(usual)
        if usual == "":
            return start
        header = self._header(messages[:index])  # after a tool's answer, say, templates write another one
        if header is not None and text.startswith(header, start, end):
            return start + len(header)
        if usual is not None and text[start : start + 1] != usual[0]:
            return start  # a message that continues the one before it has no header
        return self._content_start(messages, index, text)  # behind a system prompt that the template adds, say

    def _content_start(self, messages: Sequence[Message], index: int, text: str) -> int:
        marked = [*messages[:index], _with_mark(messages[index]), *messages[index + 1 :]]
        before, mark, after = self._template.render(marked).text.partition(_MARK)
        if not mark or before + after != text:
            raise self._cannot_locate(index)
        return len(before)

    def _end(self, text: str, end: int) -> int:
        """Where the message ends: a separator left out, an end-of-turn token that comes after it taken in."""
        separator = self._shape.separator
        if separator and text.endswith(separator, 0, end):
            return end - len(separator)
        opening = _OPENING_TOKEN.match(text, end) if self._shape.ends_with_next else None
        return opening.end() if opening else end

    @cached_property
    def _shape(self) -> _Shape:
        """What a short conversation shows."""
        for parts in (False, True):
            chat = [
                _text_message(role, text, parts) for role, text in (("user", "x"), ("assistant", _MARK), ("user", "y"))
            ]
            try:
                traced = self._template.render(chat)
                header = self._header(chat[:1])
            except TemplateError:
                continue
            regions = traced.regions.get(1, ())
            if len(regions) == 1 and traced.text.count(_MARK) == 1:
                end = regions[0][1]
                closing = traced.text[traced.text.index(_MARK) + 1 : end]
                opening = _OPENING_TOKEN.match(traced.text, end)
                spaces = closing[len(closing.rstrip(" ")) :]
                return _Shape(header, spaces, not closing and opening is not None)
        return _Shape()

    def _header(self, messages: Sequence[Message]) -> str | None:
        """The generation prompt after some messages, up to reasoning that it begins; `None` if it cannot be told."""
        try:
            plain = self._template.render(messages)
            prompted = self._template.render(messages, generation_prompt=True)
        except TemplateError:
            return None
        # Behind the last message. Where it stands in the last message's own iteration: what it adds to the text.
        header = prompted.text[prompted.end_of_messages :]
        if not header:
            if not prompted.text.startswith(plain.text):
                return None
            header = prompted.text[len(plain.text) :]
        return _REASONING.split(header, maxsplit=1)[0]

    def _cannot_locate(self, index: int) -> TemplateError:
        return TemplateError(
            f"cannot find what the assistant writes in message {index}: the chat template writes the messages outside "
            "of a loop over them, and renders them differently once more follow. Pass a chat_template with "
            "{% generation %} tags around what the assistant writes. The template reads the messages here: "
            f"{self._template.reading_lines}"
        )


def _text_message(role: str, text: str, parts: bool) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}


def _with_mark(message: Message) -> Message:
    """The message with a mark where its text begins."""
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": f"{_MARK}{content or ''}"}
    first = next((index for index, part in enumerate(content) if part["type"] == "text"), len(content))
    text = content[first]["text"] if first < len(content) else ""
    marked = {"type": "text", "text": f"{_MARK}{text}"}
    return {**message, "content": [*content[:first], marked, *content[first + 1 :]]}
