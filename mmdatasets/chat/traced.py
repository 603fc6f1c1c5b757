"""Renders a chat template and tells which message wrote which part of the text.

The template is compiled with statements added to its loops that report the message an iteration is about. They write
nothing, so the text is what transformers renders. Beside `mmdatasets.planning.dry_run`, this is the only module that
touches private API of transformers: the environment that chat templates are compiled in (`_compile_jinja_template`)
and what `render_jinja_template` does to messages beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from types import TracebackType
from typing import TypeAlias, TypeVar

from jinja2 import Environment, Template, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

from mmdatasets.chat.formats import Message
from mmdatasets.errors import TemplateError

Span: TypeAlias = tuple[int, int]
"""Half-open range of characters or tokens."""

T = TypeVar("T")

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_REPORTS = "mmdatasets_reports"
_ENTER, _LEAVE, _ASSIGN = "an iteration begins", "a loop ends", "a variable is set"
_NOBODY = -1
_TOOL_ANSWERS = "tool_responses"  # what tools answered, kept in the message of the assistant that asked them
# What these write is collected before it is put into the text.
_COLLECTING = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)
# What templates raise; of those that come from strangers, what the sandbox does.
_FAILURES = (JinjaError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
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
        self._agrees: dict[Hashable, bool] = {}  # kinds of messages -> whether transformers renders the same text

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

    def with_variables(self, variables: Mapping[str, object]) -> TracedTemplate:
        """The same template with further variables, not compiled again."""
        _ = self._compiled
        other = copy(self)
        other.__dict__.pop("_given", None)
        other._variables = {**self._variables, **variables}
        return other

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> Traced:
        """Renders a conversation.

        Where messages have keys that none had before, transformers renders them too. If its text is another one, as
        where a version of transformers prepares messages in a way not known here, conversations of such messages are
        left to it from then on, and come without regions.

        Raises:
            TemplateError: If the template fails. Names the line.
        """
        try:
            kinds = frozenset((message["role"], type(message.get("content")), *message) for message in messages)
            traced = self._render_traced(messages, generation_prompt) if self._agrees.get(kinds, True) else None
            if traced and kinds in self._agrees:
                return traced
            plain = self._render_plain(messages, generation_prompt)
            self._agrees[kinds] = traced is not None and traced.text == plain.text
            return traced if traced and self._agrees[kinds] else plain
        except _FAILURES as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise TemplateError(
                f"the chat template fails on a conversation of {roles or 'no turns'}: {error}"
                f"{self._at_line(_template_line(error.__traceback__))}"
            ) from error

    def _render_traced(self, messages: Sequence[Message], generation_prompt: bool) -> Traced:
        environment, template = self._compiled
        chat = _alias_reasoning(_as_transformers_passes(list(messages)))
        reports = _Reports(chat)
        generated: list[Span] = []
        with self._tracker(environment, reports.blocks, generated):
            for block in template.generate(
                messages=chat, add_generation_prompt=generation_prompt, **self._given, **{_REPORTS: reports}
            ):
                reports.blocks.append(block)
        return Traced("".join(reports.blocks), reports.regions(prompted=generation_prompt), tuple(generated))

    def _render_plain(self, messages: Sequence[Message], generation_prompt: bool) -> Traced:
        texts, generated = chat_template_utils.render_jinja_template(
            conversations=[list(messages)],
            chat_template=self.source,
            add_generation_prompt=generation_prompt,
            return_assistant_tokens_mask=self.has_generation_tags,
            **self._variables,
        )
        return Traced(texts[0], {}, tuple(generated[0]) if generated else ())

    def _tracker(
        self, environment: Environment, blocks: list[str], generated: list[Span]
    ) -> AbstractContextManager[None]:
        """Has the generation tags, if there are any, add their ranges to `generated`."""
        if not self.has_generation_tags:
            return nullcontext()
        return environment.activate_tracker(blocks, generated)  # type: ignore[attr-defined, no-any-return]

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


def _as_transformers_passes(value: T) -> T:
    """Plain data, as `render_jinja_template` makes it of everything that a template sees; older versions do not."""
    convert = getattr(chat_template_utils, "_plain_template_data", None)
    return value if convert is None else convert(value)


def _alias_reasoning(chat: list[Message]) -> list[Message]:
    """Reasoning under every name that a template may read it by, in the versions of transformers that do so."""
    alias = getattr(chat_template_utils, "_alias_reasoning_fields", None)
    return chat if alias is None else alias(chat)


class _Reports:
    """What a template reports while it is rendered.

    An iteration over a message is that message's. Another one belongs to the loop that it stands in, until it sets a
    variable to a message, as loops over positions do: `{% set message = messages[i] %}`.
    """

    def __init__(self, chat: Sequence[Message]) -> None:
        self.blocks: list[str] = []
        self._num_messages = len(chat)
        self._index = {id(message): index for index, message in enumerate(chat)}
        for message in chat:
            responses = message.get(_TOOL_ANSWERS)
            self._index |= {id(item): _NOBODY for item in responses} if isinstance(responses, list) else {}
        self._loops: list[tuple[int, bool]] = []  # for each open loop: the message, and whether it is the loop's own
        self._changes: list[tuple[int, int]] = [(0, _NOBODY)]  # from which block on, and whose

    def __getitem__(self, report: tuple[str, int, object]) -> None:
        """Takes a report of a template: what happens, in which loop counted from the outermost, and a variable."""
        kind, depth, value = report
        own = self._index.get(id(value))
        if kind == _ASSIGN:
            if own is not None and not self._loops[depth][1]:
                self._loops[depth] = own, True
        else:
            del self._loops[depth:]
        if kind == _ENTER:
            around = self._loops[-1][0] if self._loops else _NOBODY
            self._loops.append((around, False) if own is None else (own, True))
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
    """Adds reports to a template's loops, but not where text is collected before it is written."""

    def __init__(self) -> None:
        self._targets: list[str | None] = []

    def visit(self, node: nodes.Node, *args: object, **kwargs: object) -> object:
        if isinstance(node, _COLLECTING) or (isinstance(node, nodes.For) and node.recursive):
            return node
        if isinstance(node, nodes.For):
            return self._report_iterations(node)
        if self._targets and isinstance(node, nodes.Assign):
            return self._report_item(node)
        return self.generic_visit(node)

    def _report_iterations(self, node: nodes.For) -> list[nodes.Node]:
        if self._is_over_parts(node.iter):
            self.generic_visit(node)
            return [node]
        depth, target = len(self._targets), node.target.name if isinstance(node.target, nodes.Name) else None
        self._targets.append(target)
        self.generic_visit(node)
        self._targets.pop()
        node.body.insert(0, _report(_ENTER, depth, target, node.lineno))
        return [node, _report(_LEAVE, depth, None, node.lineno)]

    def _report_item(self, node: nodes.Assign) -> list[nodes.Node]:
        if not isinstance(node.target, nodes.Name) or not isinstance(node.node, nodes.Getitem):
            return [node]
        return [node, _report(_ASSIGN, len(self._targets) - 1, node.target.name, node.lineno)]

    def _is_over_parts(self, iterated: nodes.Node) -> bool:
        """Whether a loop in a loop over messages is over parts of a message, which need no report."""
        root: nodes.Node | None = iterated
        while isinstance(root, nodes.Getattr | nodes.Getitem | nodes.Filter | nodes.Call):
            names = (
                [root.attr]
                if isinstance(root, nodes.Getattr)
                else [const.value for const in root.find_all(nodes.Const)]
            )
            if _TOOL_ANSWERS in names:
                return False
            root = root.node
        return isinstance(root, nodes.Name) and root.name in self._targets


def _report(kind: str, depth: int, variable: str | None, line: int) -> nodes.Node:
    """A statement that reports and writes nothing: an item access, which the sandbox does much quicker than a call."""
    value: nodes.Expr = nodes.Const(None) if variable is None else nodes.Name(variable, "load")
    report = nodes.Tuple([nodes.Const(kind), nodes.Const(depth), value], "load")
    access = nodes.Getitem(nodes.Name(_REPORTS, "load"), report, "load")
    return nodes.ExprStmt(access).set_lineno(line, override=True)
