"""Renders a chat template and locates, in the rendered text, what is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

from mmdatasets.chat.formats import Message
from mmdatasets.chat.labels import TrainOn, chosen_messages, take_switches
from mmdatasets.chat.layouts import TOOL_CALLS, CallForm
from mmdatasets.chat.traced import Span, Traced, TracedTemplate
from mmdatasets.chat.turns import TurnFinder
from mmdatasets.errors import TemplateError

_TOOLS = re.compile(r"\btools\b")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: The text.
        trained_spans: Character ranges that are trained, in order, without overlap.
    """

    text: str
    trained_spans: tuple[Span, ...]


class ChatTemplate:
    """A chat template with the variables it is rendered with.

    Args:
        source: The Jinja template, rendered in transformers' sandbox.
        variables: Template variables besides the messages, for example `bos_token`.
        train_on: What is trained.
    """

    def __init__(
        self, source: str, variables: Mapping[str, object] | None = None, train_on: TrainOn = "assistant"
    ) -> None:
        self.source = source
        self.train_on = train_on
        self._template = TracedTemplate(source, dict(variables or {}))
        self._finder = TurnFinder(self._template)

    @property
    def has_generation_tags(self) -> bool:
        """Whether the template itself states what the assistant writes."""
        return self._template.has_generation_tags

    @cached_property
    def call_form(self) -> CallForm:
        """How the template takes the arguments of the calls of tools that a message has: most as mappings."""
        if TOOL_CALLS not in self.source:
            return "none"
        return "text" if not self._renders_call({"x": "y"}) and self._renders_call('{"x": "y"}') else "mappings"

    def _renders_call(self, arguments: object) -> bool:
        """Whether the template renders a call with these arguments."""
        call = {"id": "x" * 9, "type": "function", "function": {"name": "f", "arguments": arguments}}
        for content in ("x", [{"type": "text", "text": "x"}]):
            chat: list[Message] = [
                {"role": "user", "content": content},
                {"role": "assistant", "content": content, TOOL_CALLS: [call]},
            ]
            try:
                self._template.render(chat)
            except TemplateError:
                continue
            return True
        return False

    def with_tools(self, tools: Sequence[Mapping[str, object]]) -> ChatTemplate:
        """The same template, given tools to describe.

        Raises:
            TemplateError: If it describes none.
        """
        if not _TOOLS.search(self.source):
            raise TemplateError(
                f"the row has {len(tools)} tool(s), which the chat template does not write: pass a chat_template that "
                "does, or remove the column"
            )
        other = copy(self)
        other._template = self._template.with_variables({"tools": tools})
        other._finder = TurnFinder(other._template)
        return other

    def render(self, messages: Sequence[Message]) -> Rendered:
        """Renders a conversation, once as a rule, and finds what is trained of it.

        Templates with `{% generation %}` tags state what the assistant writes. For others, see
        `mmdatasets.chat.turns.TurnFinder`.

        Args:
            messages: The conversation. `train` and `weight` of a message say whether it is trained; the template does
                not see them.

        Raises:
            ConversationError: If `train` or `weight` of a message is not valid.
            TemplateError: If the template fails, or a message cannot be located in its text. Shows the offending part
                of the template.
        """
        messages, allowed = take_switches(messages, self.train_on)
        traced = self._template.render(messages)
        if self.train_on == "all":
            return Rendered(traced.text, self._all_but(messages, allowed, traced))
        chosen = chosen_messages([str(message["role"]) for message in messages], allowed, self.train_on)
        spans: list[Span] = []
        if self.has_generation_tags:
            spans = self._tagged_spans(messages, chosen, traced)
        else:
            for index in chosen:
                spans += self._finder.spans(messages, index, traced)
        return Rendered(traced.text, tuple(spans))

    def _all_but(self, messages: Sequence[Message], allowed: Sequence[bool], traced: Traced) -> tuple[Span, ...]:
        """The text without the messages that may not be trained."""
        edges = [0]
        for index, may in enumerate(allowed):
            if not may:
                edges += [edge for region in self._finder.regions(messages, index, traced) for edge in region]
        edges = sorted([*edges, len(traced.text)])
        return tuple((start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end)

    def _tagged_spans(self, messages: Sequence[Message], chosen: Sequence[int], traced: Traced) -> list[Span]:
        """What the template states of the chosen messages."""
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if list(chosen) == turns:
            return list(traced.generated)
        owners = [traced.owner(start) for start, _ in traced.generated]
        if None in owners:
            if len(turns) != len(owners):
                raise TemplateError(
                    f"cannot tell which of the {len(turns)} messages of the assistant each of the {len(owners)} "
                    "generation tags of the chat template is about, so not all but some of them cannot be trained; "
                    f"the template reads the messages here: {self._template.reading_lines}"
                )
            owners = list(turns)
        return [span for span, owner in zip(traced.generated, owners, strict=True) if owner in chosen]
