"""Layouts of preference data: prompts with a better and a worse answer, or with one answer and a verdict on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from mmdatasets.chat.formats import Message
from mmdatasets.chat.layouts import TOOLS, VERDICTS, CallForm, Layout, LayoutName, layouts, listed
from mmdatasets.chat.values import is_text, without_nulls
from mmdatasets.errors import ConversationError

CHOSEN, REJECTED = "chosen", "rejected"

_ANSWERS = (CHOSEN, REJECTED)
# In which column the prompt is looked for, where a layout holds one: the first that is there.
_PROMPT_LAYOUTS: tuple[LayoutName, ...] = ("prompt_completion", "conversations", "messages", "alpaca")
_SYSTEM = "system"
_BEFORE_ANSWERS = ("system", "developer", "user", "human")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class PreferenceLayout:
    """The columns of a dataset that its prompts and answers are in.

    Attributes:
        turns: The layout of the prompt, or of the whole chat where one answer comes with a verdict; `None` where the
            two answers are whole chats, which begin with the prompt.
        verdict: The column with the verdict; `None` where there are two answers.
    """

    turns: Layout | None
    verdict: str | None = None

    @property
    def is_paired(self) -> bool:
        """Whether a row has two answers."""
        return self.verdict is None

    def consumed(self, names: Collection[str]) -> tuple[str, ...]:
        """Those of a dataset's columns that become the conversations."""
        if self.verdict is not None and self.turns is not None:
            return (*self.turns.consumed(names), self.verdict)
        if self.turns is None:
            further: tuple[str, ...] = (_SYSTEM, TOOLS)
        else:
            further = (*self.turns.needed[:1], *self.turns.optional, TOOLS)
        return (*_ANSWERS, *(name for name in further if name in names))

    def conversations(self, row: Mapping[str, object], *, calls: CallForm = "mappings") -> list[list[Message]]:
        """A row's chats, the chosen one first; of the prompt nothing is trained.

        Args:
            row: The values of the columns that `consumed` names.
            calls: How the chat template takes the arguments of `tool_calls`.

        Raises:
            ConversationError: If a column has another shape. Names the column.
        """
        if self.verdict is not None and self.turns is not None:
            chat = _as_list(self.turns.messages(row, calls=calls), self.turns.needed[0])
            return [_with_prompt(chat, _num_before_answer(chat), self.turns.needed[-1])]
        answers = [_answer(row, column) for column in _ANSWERS]
        if self.turns is None or any(map(_is_whole, answers)):
            chats = [_whole(row, answer, column, calls) for answer, column in zip(answers, _ANSWERS, strict=True)]
            shared = _num_shared(chats[0], chats[1])
            self._check_prompt(row, chats[0][:shared], calls)
            return [_with_prompt(chat, shared, column) for chat, column in zip(chats, _ANSWERS, strict=True)]
        return [
            _with_prompt(*self._continued(row, answer, column, calls), column)
            for answer, column in zip(answers, _ANSWERS, strict=True)
        ]

    def verdict_of(self, row: Mapping[str, object]) -> bool:
        """Whether the row's answer is a good one.

        Raises:
            ConversationError: If the column says something else.
        """
        value = row[self.verdict or VERDICTS[0]]
        if isinstance(value, bool | int) and value in (0, 1):
            return bool(value)
        raise ConversationError(f"expected true or false, got {value!r:.60}", column=self.verdict)

    def _continued(
        self, row: Mapping[str, object], answer: Sequence[object], column: str, calls: CallForm
    ) -> tuple[list[Message], int]:
        """The prompt with an answer behind it, and how many messages the prompt has."""
        layout = self.turns
        assert layout is not None
        whole: dict[str, object] = {name: value for name, value in row.items() if name not in _ANSWERS}
        if layout.name in ("alpaca", "prompt_completion"):
            whole[layout.needed[-1]] = _answer_text(answer, column) if layout.name == "alpaca" else list(answer)
        else:
            whole[layout.needed[0]] = [*_as_list(row[layout.needed[0]], layout.needed[0]), *answer]
        chat = _as_list(layout.messages(whole, calls=calls), layout.needed[0])
        return chat, len(chat) - len(answer)

    def _check_prompt(self, row: Mapping[str, object], shared: Sequence[Message], calls: CallForm) -> None:
        """Checks that the answers, which are whole chats, begin with the prompt that stands beside them.

        Raises:
            ConversationError: If they do not.
        """
        if self.turns is None:
            return
        column = self.turns.needed[0]
        prompt = row[column]
        if prompt is None:
            return
        if isinstance(prompt, str):
            agrees = any(is_text(message.get("content"), prompt) for message in shared)
        else:
            layout = layouts()["messages"]
            turns = _as_list(layout.messages({"messages": prompt}, calls=calls), column)
            agrees = _num_shared(turns, shared, leave=0) == len(turns)
        if not agrees:
            raise ConversationError(
                f"the answers begin with a message that is not the assistant's, so they are whole chats; but they do "
                f"not both begin with what the column {column!r} has. Remove it, or the prompt from the answers",
                column=CHOSEN,
            )


def find_preferences(
    names: Collection[str],
    layout: LayoutName | None = None,
    messages_column: str = "messages",
) -> PreferenceLayout:
    """Tells from the names of a dataset's columns how it holds preferences.

    - `chosen` and `rejected`, each an answer (a string, a message, or a list of them) to the prompt in `prompt`,
      `conversations`, `messages`, or `instruction` and `input`;
    - `chosen` and `rejected` alone: whole chats, which begin with the same messages, the prompt;
    - a chat in any layout of `mmdatasets.chat.layouts.LayoutName` but plain text, and a column `label` (or `kto_tag`).

    Args:
        names: The columns.
        layout: The layout that the prompt, or the chat, must be in; detected when `None`.
        messages_column: The column with the list of turns.

    Raises:
        ConversationError: If there are none. Says what was found and what was expected.
    """
    if layout == "text":
        raise ConversationError("layout='text', but preferences are about answers in a chat: leave layout out")
    known = layouts(messages_column)
    candidates = [known[name] for name in _PROMPT_LAYOUTS if layout in (None, name)]
    if messages_column != "messages":  # a column that was named is meant
        candidates.sort(key=lambda own: messages_column not in own.needed)
    if set(_ANSWERS) <= set(names):
        turns = next((own for own in candidates if own.needed[0] in names), None)
        if turns is None and layout is not None:
            raise ConversationError(
                f"layout={layout!r} needs the column {candidates[0].needed[0]!r}; found {listed(names)}"
            )
        return PreferenceLayout(turns)
    verdict = next((name for name in VERDICTS if name in names), None)
    chat = next((own for own in known.values() if own in candidates and set(own.needed) <= set(names)), None)
    if verdict is not None and chat is not None:
        return PreferenceLayout(chat, verdict)
    raise ConversationError(
        "no columns of preference data: expected 'chosen' and 'rejected', with the prompt in 'prompt', "
        f"'conversations', {messages_column!r} or 'instruction', or within both; or a chat and 'label', which says "
        f"whether its answer is a good one; found {listed(names)}"
    )


def _answer(row: Mapping[str, object], column: str) -> list[object]:
    """An answer as messages."""
    value = row[column]
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if isinstance(value, Mapping):
        return [value]
    turns = _as_list(value, column)
    if not turns:
        raise ConversationError("the answer is an empty list", column=column)
    return list(turns)


def _answer_text(answer: Sequence[object], column: str) -> object:
    if len(answer) == 1 and isinstance(answer[0], Mapping):
        return answer[0].get("content") if answer[0].get("content") is not None else answer[0].get("value")
    raise ConversationError("expected one answer, as a string", column=column)


def _speaker(message: object) -> str | None:
    found = (message.get(key) for key in ("role", "from")) if isinstance(message, Mapping) else ()
    return next((speaker for speaker in found if isinstance(speaker, str) and speaker), None)


def _is_whole(answer: Sequence[object]) -> bool:
    return _speaker(answer[0]) in _BEFORE_ANSWERS


def _whole(row: Mapping[str, object], answer: Sequence[object], column: str, calls: CallForm) -> list[Message]:
    """A whole chat's messages, with the system message that a column of that name asks for."""
    if not _is_whole(answer):
        raise ConversationError(
            "expected a whole chat, which begins with a message of the user or the system, since there is no column "
            f"with the prompt; got one that begins with {str(answer[0])[:_SHOWN]!r}",
            column=column,
        )
    given = {"messages": answer} | ({_SYSTEM: row[_SYSTEM]} if _SYSTEM in row else {})
    return _as_list(layouts()["messages"].messages(given, calls=calls), column)


def _as_list(messages: object, column: str) -> list[Message]:
    if isinstance(messages, Sequence) and not isinstance(messages, str | bytes):
        return list(messages)
    raise ConversationError(f"expected a list of messages, got {type(messages).__name__}", column=column)


def _num_shared(first: Sequence[object], second: Sequence[object], leave: int = 1) -> int:
    """How many messages two chats begin with alike, at least `leave` left over."""
    pairs = zip(map(without_nulls, first), map(without_nulls, second), strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return min(alike, len(first) - leave, len(second) - leave)


def _num_before_answer(chat: Sequence[Message]) -> int:
    return max((index + 1 for index, message in enumerate(chat) if _speaker(message) in _BEFORE_ANSWERS), default=0)


def _with_prompt(chat: list[Message], num_prompt: int, column: str) -> list[Message]:
    """The chat, of whose first messages nothing is trained, whatever they say."""
    if not any(_speaker(message) == "assistant" for message in chat[num_prompt:]):
        raise ConversationError("it has no message of the assistant behind the prompt", column=column)
    return [*map(_untrained, chat[:num_prompt]), *chat[num_prompt:]]


def _untrained(message: Message) -> Message:
    if not isinstance(message, Mapping):
        return message  # which `normalise` refuses
    bare = {key: value for key, value in message.items() if key not in ("train", "weight")}
    return {**bare, "train": False} if is_text(bare.get("role"), "assistant") else bare
