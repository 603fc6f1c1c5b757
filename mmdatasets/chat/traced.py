"""Renders a chat template and tells which message wrote which part of the text.

The template is compiled with calls added to its loops that report the message an iteration is about. They write
nothing, so the text is what transformers renders. Beside `mmdatasets.planning.dry_run`, this is the only module that
touches private API of transformers: the environment that chat templates are compiled in (`_compile_jinja_template`)
and what `render_jinja_template` does to messages beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from types import TracebackType
from typing import TypeAlias

from jinja2 import Environment, Template, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

from mmdatasets.chat.formats import Message
from mmdatasets.errors import TemplateError

Span: TypeAlias = tuple[int, int]
"""Half-open range of characters or tokens."""

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ENTER, _LEAVE, _ASSIGN = "mmdatasets_enter", "mmdatasets_leave", "mmdatasets_assign"
_NOBODY = -1
# What these write is collected before it is put into the text.
_COLLECTING = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)
_MAX_SHOWN_LINES, _MAX_SHOWN_CHARACTERS = 3, 160


@dataclass(frozen=True, slots=True)
class Traced:
    """A rendered conversation.

    Attributes:
        text: The text.
        regions: Position of a message -> the ranges that it wrote, in order, without overlap, none empty. What no
            message wrote is left out; what follows all messages is the last one's.
        generated: The ranges that the template's `{% generation %}` tags state.
    """

    text: str
    regions: Mapping[int, Sequence[Span]]
    generated: tuple[Span, ...]

    @property
    def end_of_messages(self) -> int:
        """Where the last of the messages' ranges ends; the text's end if there is none."""
        return max((spans[-1][1] for spans in self.regions.values()), default=len(self.text))

    def owner(self, position: int) -> int | None:
        """The message that wrote a character, `None` for none."""
        for message, spans in self.regions.items():
            if any(start <= position < end for start, end in spans):
                return message
        return None


class TracedTemplate:
    """A chat template, compiled as transformers compiles it.

    Args:
        source: The Jinja template.
        variables: Template variables besides the messages.
    """

    def __init__(self, source: str, variables: Mapping[str, object]) -> None:
        self.source = source
        self.has_generation_tags = bool(_GENERATION_TAG.search(source))
        self._variables = variables

    @cached_property
    def _compiled(self) -> tuple[Environment, Template]:
        try:
            environment = chat_template_utils._compile_jinja_template(self.source).environment
            tree = _ReportMessages().visit(environment.parse(self.source))
            code = environment.compile(tree)
        except JinjaError as error:
            line = getattr(error, "lineno", None)
            raise TemplateError(f"the chat template is not valid{self._at_line(line)}: {error}") from error
        return environment, Template.from_code(environment, code, environment.make_globals(None))

    @cached_property
    def _given(self) -> dict[str, object]:
        return _as_transformers_passes({"tools": None, "documents": None, **self._variables})

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> Traced:
        """Renders a conversation.

        Raises:
            TemplateError: If the template fails. Names the line.
        """
        environment, template = self._compiled
        chat = _alias_reasoning([_as_transformers_passes(dict(message)) for message in messages])
        reports = _Reports(chat)
        generated: list[Span] = []
        try:
            with environment.activate_tracker(reports.blocks, generated):  # type: ignore[attr-defined]
                for block in template.generate(
                    messages=chat, add_generation_prompt=generation_prompt, **self._given, **reports.callbacks
                ):
                    reports.blocks.append(block)
        except (JinjaError, TypeError, ValueError, KeyError, AttributeError) as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise TemplateError(
                f"the chat template fails on a conversation of {roles or 'no turns'}: {error}"
                f"{self._at_line(_template_line(error.__traceback__))}"
            ) from error
        return Traced("".join(reports.blocks), reports.regions(prompted=generation_prompt), tuple(generated))

    def _at_line(self, number: int | None) -> str:
        if number is None:
            return ""
        return f" (at {_shown(self.source, number)})"

    @property
    def reading_lines(self) -> str:
        """The template's lines that read the messages, for error messages."""
        numbers = [number for number, line in enumerate(self.source.splitlines(), 1) if "messages" in line]
        return "; ".join(_shown(self.source, number) for number in numbers[:_MAX_SHOWN_LINES])


def _shown(source: str, number: int) -> str:
    """A line of the template, which may be all of it."""
    line = source.splitlines()[number - 1].strip()
    return f"line {number}: {line if len(line) <= _MAX_SHOWN_CHARACTERS else line[:_MAX_SHOWN_CHARACTERS] + '...'}"


def _template_line(traceback: TracebackType | None) -> int | None:
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _as_transformers_passes(value: dict[str, object]) -> dict[str, object]:
    """Plain data, as `render_jinja_template` makes it of everything that a template sees; older versions do not."""
    convert = getattr(chat_template_utils, "_plain_template_data", None)
    return value if convert is None else convert(value)


def _alias_reasoning(chat: list[Message]) -> list[Message]:
    """Reasoning under every name that a template may read it by, in the versions of transformers that do so."""
    alias = getattr(chat_template_utils, "_alias_reasoning_fields", None)
    return chat if alias is None else alias(chat)


class _Reports:
    """What the calls in a template report while it is rendered."""

    def __init__(self, chat: Sequence[Message]) -> None:
        self.blocks: list[str] = []
        self._num_messages = len(chat)
        self._index = {id(message): index for index, message in enumerate(chat)}
        for message in chat:  # what tools answered, kept in the message of the assistant that asked them
            responses = message.get("tool_responses")
            self._index |= {id(item): _NOBODY for item in responses} if isinstance(responses, list) else {}
        self._loops: list[tuple[int, bool]] = []  # for each open loop: the message, and whether it is the loop's own
        self._changes: list[tuple[int, int]] = [(0, _NOBODY)]  # from which block on, and whose

    @property
    def callbacks(self) -> dict[str, object]:
        return {_ENTER: self.enter, _LEAVE: self.leave, _ASSIGN: self.assign}

    def enter(self, depth: int, value: object = None) -> None:
        """An iteration begins, over a message perhaps. Other loops belong to what they stand in."""
        del self._loops[depth:]
        own = self._index.get(id(value))
        around = self._loops[-1][0] if self._loops else _NOBODY
        self._loops.append((around, False) if own is None else (own, True))
        self._note()

    def leave(self, depth: int) -> None:
        del self._loops[depth:]
        self._note()

    def assign(self, depth: int, value: object) -> None:
        """A variable is set; to a message, in loops over positions: `{% set message = messages[i] %}`."""
        own = self._index.get(id(value))
        if own is not None and len(self._loops) > depth and not self._loops[depth][1]:
            self._loops[depth] = own, True
            self._note()

    def _note(self) -> None:
        owner = self._loops[-1][0] if self._loops else _NOBODY
        if owner != self._changes[-1][1]:
            self._changes.append((len(self.blocks), owner))

    def regions(self, *, prompted: bool) -> dict[int, list[Span]]:
        """See `Traced`; with a generation prompt, what follows all messages is nobody's."""
        offsets = [0, *accumulate(map(len, self.blocks))]
        edges = [*(offsets[block] for block, _ in self._changes), offsets[-1]]
        found: dict[int, list[Span]] = {}
        for (_, owner), start, end in zip(self._changes, edges, edges[1:], strict=False):
            if start < end and owner != _NOBODY:
                _append(found.setdefault(owner, []), (start, end))
        if found and not prompted and self._changes[-1][1] == _NOBODY and edges[-2] < edges[-1]:
            _append(found.setdefault(self._num_messages - 1, []), (edges[-2], edges[-1]))
        return found


def _append(spans: list[Span], span: Span) -> None:
    """Appends a span, or lengthens the last one that it adjoins."""
    joins = bool(spans) and spans[-1][1] == span[0]
    spans.append((spans.pop()[0] if joins else span[0], span[1]))


class _ReportMessages(NodeTransformer):
    """Adds calls to a template's loops. Where text is collected before it is written, nothing can be reported."""

    def __init__(self) -> None:
        self._depth = 0

    def visit(self, node: nodes.Node, *args: object, **kwargs: object) -> nodes.Node | list[nodes.Node]:
        if isinstance(node, _COLLECTING) or (isinstance(node, nodes.For) and node.recursive):
            return node
        if isinstance(node, nodes.For):
            return self._report_iterations(node)
        if self._depth and isinstance(node, nodes.Assign):
            return self._report_item(node)
        return self.generic_visit(node)

    def _report_iterations(self, node: nodes.For) -> list[nodes.Node]:
        depth = self._depth
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        target = [node.target.name] if isinstance(node.target, nodes.Name) else []
        node.body.insert(0, _call(_ENTER, depth, target, node.lineno))
        return [node, _call(_LEAVE, depth, [], node.lineno)]

    def _report_item(self, node: nodes.Assign) -> nodes.Node | list[nodes.Node]:
        if not isinstance(node.target, nodes.Name) or not isinstance(node.node, nodes.Getitem):
            return node
        return [node, _call(_ASSIGN, self._depth - 1, [node.target.name], node.lineno)]


def _call(name: str, depth: int, variables: Sequence[str], line: int) -> nodes.Node:
    """A statement that calls a function and writes nothing."""
    arguments = [nodes.Const(depth), *(nodes.Name(variable, "load") for variable in variables)]
    call = nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)
    return nodes.ExprStmt(call).set_lineno(line, override=True)
