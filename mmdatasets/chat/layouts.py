"""Layouts of chat datasets: which columns hold a row's conversation, and how they become messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from mmdatasets.chat.formats import Message
from mmdatasets.chat.values import is_empty, is_text, parsed_json, without_nulls
from mmdatasets.errors import ConversationError

LayoutName: TypeAlias = Literal["messages", "conversations", "prompt_completion", "alpaca", "text"]
"""How a dataset holds its chats.

- `"messages"`: a list of `{"role", "content"}`, as OpenAI has it;
- `"conversations"`: a list of `{"from", "value"}`, as ShareGPT and LLaVA have it, optionally with a column `system`;
- `"prompt_completion"`: TRL's `prompt` and `completion`, messages or a string each. Of a prompt nothing is trained;
- `"alpaca"`: `instruction` and `output`, optionally `input`, `history` (pairs of question and answer) and `system`;
- `"text"`: a string that is no chat. No chat template writes it; all of it is trained, and the token that ends texts.

Each but the last may have a column `tools`. The first two differ in their columns alone: either kind of turn is read
in both.
"""

LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)

CallForm: TypeAlias = Literal["mappings", "text", "none"]
"""How a chat template takes the arguments of a tool's call: as mappings, as JSON, or no calls at all."""

TOOLS = "tools"

_MESSAGES, _CONVERSATIONS = "messages", "conversations"
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_CALL = "function_call"
# Columns that hold more than one answer to a prompt, or a verdict on one.
_PREFERENCES: tuple[tuple[str, ...], ...] = (("chosen", "rejected"), ("prompt", "completion", "label"))
_TEXT = "text"
VERDICTS = ("label", "kto_tag")
"""Columns that say whether an answer is a good one: TRL's, LLaMA-Factory's."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a dataset that its chats are in.

    Attributes:
        name: The layout's name.
        needed: Columns without which it is not this layout.
        optional: Columns that belong to it where they are there.
    """

    name: LayoutName
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def consumed(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of a dataset's columns that become the conversation."""
        further = () if self.name == _TEXT else (*self.optional, TOOLS)
        return tuple(name for name in (*self.needed, *further) if name in names)

    def messages(self, row: Mapping[str, object], *, calls: CallForm = "mappings") -> object:
        """A row's chat as `mmdatasets.chat.formats.normalise` takes it.

        Args:
            row: The values of the columns that `consumed` names.
            calls: How the chat template takes the arguments of `tool_calls`, which data has in either form (OpenAI's
                is JSON). Where it takes none, a `function_call` stays the text it is, and `tool_calls` are refused.

        Raises:
            ConversationError: If a column has another shape, or calls that the template does not write. Names the
                column.
        """
        return _READERS[self.name](row, self.needed, calls)


def find_layout(
    names: Collection[str],
    layout: LayoutName | None = None,
    messages_column: str = _MESSAGES,
    booleans: Collection[str] = (),
) -> Layout:
    """Tells from the names of a dataset's columns which layout it has.

    Where several fit, it is the first of `LayoutName`: chats as messages often come with the prompt, or the rendered
    text, beside them.

    Args:
        names: The columns.
        layout: The layout that it must be; detected when `None`.
        messages_column: The column with the list of turns, in the layouts that have one. A name other than the default
            is only looked for, nothing else.
        booleans: Those of the columns that hold booleans.

    Raises:
        ConversationError: If no layout fits, or the columns are those of preference data.
    """
    known = layouts(messages_column)
    if layout is not None:
        chosen = known[layout]
        if not set(chosen.needed) <= set(names):
            raise ConversationError(
                f"layout={layout!r} needs the column(s) {', '.join(chosen.needed)}; found {listed(names)}"
            )
        return chosen
    if messages_column != _MESSAGES:  # a column of that name holds turns, unless layout='text' says otherwise
        known = {name: own for name, own in known.items() if messages_column in own.needed and name != _TEXT}
    found = next((own for own in known.values() if set(own.needed) <= set(names)), None)
    _refuse_preferences(names, found, booleans)
    if found is not None:
        return found
    expected = "; or ".join(", ".join(map(repr, own.needed)) for own in known.values())
    raise ConversationError(
        f"no column(s) with a chat: expected {expected}; found {listed(names)}. Rename columns, or name the one with "
        "the messages with messages_column=..."
    )


def layouts(messages_column: str = _MESSAGES) -> dict[LayoutName, Layout]:
    """The layouts that a dataset may have, the preferred first.

    Args:
        messages_column: The column with the list of turns, or with the text, where it has another name than usual.
    """
    own = messages_column != _MESSAGES
    return {
        "messages": Layout("messages", (messages_column,)),
        "conversations": Layout("conversations", (messages_column if own else _CONVERSATIONS,), ("system",)),
        "prompt_completion": Layout("prompt_completion", ("prompt", "completion")),
        "alpaca": Layout("alpaca", ("instruction", "output"), ("input", "history", "system")),
        "text": Layout("text", (messages_column if own else _TEXT,)),
    }


def _refuse_preferences(names: Collection[str], found: Layout | None, booleans: Collection[str]) -> None:
    signs = next((columns for columns in _PREFERENCES if set(columns) <= set(names)), None)
    verdict = next((name for name in VERDICTS if name in names and name in booleans), None)
    if signs is None and found is not None and verdict is not None:
        signs = (*found.needed, verdict)
    if signs is None:
        return
    rest = f"set layout={found.name!r} to train on {', '.join(found.needed)} alone" if found else "rename the columns"
    raise ConversationError(
        f"the columns {', '.join(signs)} are those of preference data, for which there is "
        f"plugin.preference_transform; this one makes rows for supervised fine-tuning. If it is no preference data, "
        f"{rest}"
    )


def listed(names: Collection[str]) -> str:
    """Names of columns, for error messages."""
    return ", ".join(names) or "none"


# ------------------------------------------------------------------------------------------------------- readers


def _read_turns(row: Mapping[str, object], columns: Sequence[str], calls: CallForm) -> object:
    turns = row[columns[0]]
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes) or not turns:
        return turns  # which `normalise` refuses, and says why
    messages = _as_messages(turns, columns[0], calls)
    return [*_system(row, messages[:1]), *messages]


def _read_prompt(row: Mapping[str, object], columns: Sequence[str], calls: CallForm) -> object:
    prompt, completion = (
        [{"role": role, "content": row[column]}]
        if isinstance(row[column], str)
        else _as_messages(row[column], column, calls)
        for column, role in zip(columns, ("user", "assistant"), strict=True)
    )
    return [*map(_untrained, prompt), *completion]


def _read_alpaca(row: Mapping[str, object], columns: Sequence[str], _calls: CallForm) -> object:
    question = "\n".join(filter(None, (_text(row, columns[0], needed=True), _text(row, "input"))))
    turns = [*_history(row), (question, _text(row, columns[1], needed=True))]
    chat = [{"role": role, "content": text} for pair in turns for role, text in zip(_PAIR, pair, strict=True)]
    return [*_system(row, ()), *chat]


def _read_text(row: Mapping[str, object], columns: Sequence[str], _calls: CallForm) -> object:
    return [{"role": "user", "content": _text(row, columns[0], needed=True)}]


_PAIR = ("user", "assistant")
_READERS: dict[LayoutName, Callable[[Mapping[str, object], Sequence[str], CallForm], object]] = {
    "messages": _read_turns,
    "conversations": _read_turns,
    "prompt_completion": _read_prompt,
    "alpaca": _read_alpaca,
    "text": _read_text,
}


def _history(row: Mapping[str, object]) -> Sequence[Sequence[str]]:
    pairs = row.get("history")
    if is_empty(pairs):
        return ()
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == len(_PAIR) and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        raise ConversationError(
            f"expected a list of pairs of question and answer, got {str(pairs)[:80]}", column="history"
        )
    return pairs


def _text(row: Mapping[str, object], column: str, *, needed: bool = False) -> str:
    """A column's text, none where it is null."""
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is None and not needed:
        return ""
    raise ConversationError(f"expected a string, got {type(value).__name__}", column=column)


def _system(row: Mapping[str, object], first: Sequence[object]) -> list[Message]:
    """The system message that a column `system` asks for, unless the chat itself begins with it."""
    text = _text(row, "system")
    own = first[0] if first and isinstance(first[0], Mapping) and is_text(first[0].get("role"), "system") else None
    if not text or (own is not None and is_text(own.get("content"), text)):
        return []
    if own is not None:
        raise ConversationError(
            "the chat begins with a system message of its own: remove one of them", column="system"
        )
    return [{"role": "system", "content": text}]


def _untrained(message: object) -> object:
    """A message of a prompt: an answer in it is not trained, unless it says so itself."""
    if not isinstance(message, Mapping) or not is_text(message.get("role"), "assistant"):
        return message
    says = message.get("train") is not None or message.get("weight") is not None
    return message if says else {**message, "train": False}


def _as_messages(turns: object, column: str, calls: CallForm) -> list[object]:
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes):
        raise ConversationError(f"expected a list of messages, got {type(turns).__name__}", column=column)
    return [_as_message(turn, column, index, calls) for index, turn in enumerate(turns)]


def _as_message(turn: object, column: str, index: int, calls: CallForm) -> object:
    """A turn of `from` and `value` as a message; one of `role` and `content` is one."""
    if not isinstance(turn, Mapping):
        return turn
    if turn.get("role") is not None or turn.get("from") is None:
        return turn if is_empty(turn.get(TOOL_CALLS)) else _with_calls(turn, column, index, calls)
    speaker, value = turn["from"], turn.get("value")
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise ConversationError(
            f"turn {index} is 'from' {speaker!r}; expected one of {', '.join(_ROLES)}", column=column
        )
    if value is None:
        raise ConversationError(f"turn {index} has no 'value'", column=column)
    rest = {key: item for key, item in turn.items() if key not in ("from", "value") and item is not None}
    called = _parse_calls(value) if speaker == _CALL and calls != "none" else None
    said = {"content": value} if called is None else {TOOL_CALLS: _with_arguments(called, calls)}
    return {**rest, "role": _ROLES[speaker], **said}


# --------------------------------------------------------------------------------------------------------- tools

TOOL_CALLS = "tool_calls"
_ARGUMENTS = "arguments"


def _parse_calls(value: object) -> list[dict[str, object]] | None:
    """Calls that a turn's text has as JSON, one or a list of them; `None` where it is something else."""
    found = parsed_json(value)
    calls = found if isinstance(found, list) else [found]
    result: list[dict[str, object]] = []
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str) or set(call) - {"name", _ARGUMENTS}:
            return None
        function = {"name": call["name"], _ARGUMENTS: call.get(_ARGUMENTS, {})}
        result.append({"type": "function", "function": function})
    return result or None


def _with_calls(message: Mapping[str, object], column: str, index: int, form: CallForm) -> Mapping[str, object]:
    """A message with its `tool_calls` as the template takes them."""
    if form == "none":
        raise ConversationError(
            f"message {index} has {TOOL_CALLS}, which the chat template does not write: pass a chat_template that "
            "does",
            column=column,
        )
    calls = without_nulls(message[TOOL_CALLS])
    return {**message, TOOL_CALLS: _with_arguments(calls, form) if isinstance(calls, list) else calls}


def _with_arguments(calls: Sequence[object], form: CallForm) -> list[object]:
    """Calls with their arguments as the template takes them."""
    return [_with_arguments_of(call, form) for call in calls]


def _with_arguments_of(call: object, form: CallForm) -> object:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_arguments_of(call["function"], form)}
    given = call.get(_ARGUMENTS)
    if form == "text" and isinstance(given, Mapping | list):
        return {**call, _ARGUMENTS: _as_json(given)}
    parsed = parsed_json(given) if form == "mappings" else given
    return {**call, _ARGUMENTS: parsed} if isinstance(parsed, Mapping) else call


def _as_json(arguments: object) -> str:
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConversationError(
            f"the {_ARGUMENTS} of a call cannot be written as JSON: {error}", column=TOOL_CALLS
        ) from error


def read_tools(value: object) -> list[Mapping[str, object]]:
    """The tools of a row as chat templates take them: `{"type": "function", "function": {...}}` each.

    Args:
        value: A list of tools, or JSON of one; `None` and empty ones stand for no tools. A function without the
            mapping around it is put into one. Nulls that Arrow fills structs up with are left out.

    Raises:
        ConversationError: If it is something else.
    """
    found = parsed_json(value.strip()) if isinstance(value, str) else value
    if is_empty(found):
        return []
    tools = (
        [parsed_json(tool) for tool in found] if isinstance(found, Sequence) and not isinstance(found, str) else [None]
    )
    result: list[Mapping[str, object]] = []
    for tool in tools:
        if not isinstance(tool, Mapping):
            raise ConversationError(
                f"expected a list of tools (mappings), or JSON of one, got {str(value)[:80]!r}", column=TOOLS
            )
        # JSON has no nulls but those that were meant.
        own = (
            tool
            if isinstance(value, str)
            else {key: without_nulls(tool[key]) for key in tool if tool[key] is not None}
        )
        bare = "name" in own and "function" not in own and is_text(own.get("type", "function"), "function")
        inner = {key: item for key, item in own.items() if key != "type"} if bare else own
        result.append({"type": "function", "function": inner} if bare else own)
    return result
