"""Who says what in a tokenised row: found by what the chat template writes between the turns of a probe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from mmdatasets.errors import MMDatasetsError

if TYPE_CHECKING:
    from mmdatasets.chat.formats import Message
    from mmdatasets.chat.template import ChatTemplate

_PROBES = (
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant"),
    ("system",),
    ("user",),
    ("user", "user", "assistant", "assistant"),
    ("user", "assistant", "tool", "assistant"),
    ("user", "assistant", "tool", "tool", "assistant", "user"),
)
_EDGE = ""  # before the first turn and behind the last one
_FEWEST = 3
"""Characters, without spaces, of what separates turns by text alone: less may stand in what is said."""

_Separators: TypeAlias = dict[tuple[str, str], set[str]]


@dataclass(frozen=True, slots=True)
class TurnSpan:
    """Where a turn stands in a text, in characters.

    Attributes:
        role: Who speaks; `None` for what stands before the first turn.
        start: Where it starts, with what the template writes before it.
        content_start: Where what is said starts.
        content_end: Where that ends.
        end: Where the turn ends.
    """

    role: str | None
    start: int
    content_start: int
    content_end: int
    end: int


class TurnMarks:
    """What a chat template writes between turns.

    Args:
        template: The template.
        control: The tokenizer's added tokens, which are told from text that looks like them.
    """

    def __init__(self, template: ChatTemplate, control: Iterable[str]) -> None:
        self._sealed = {token: chr(0xF0000 + number) for number, token in enumerate(sorted(set(control)))}
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._sealed, key=len, reverse=True))) or r"(?!)")
        separators = _probe(template, self._seal_text)
        self._footers = {role: _footer(separators, role) for role, _ in separators if role}
        self._starts, self._next = _usable(separators)

    def seal(self, token: str) -> str:
        """What stands for a control token in the texts that `find` takes: one character that no data has."""
        return self._sealed.get(token, token)

    def _seal_text(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._sealed[match.group()], text)

    def find(self, text: str) -> list[TurnSpan]:
        """The turns of a text, from its beginning to its end; none where the text is no chat.

        Args:
            text: The text, its control tokens sealed.
        """
        first = self._first(text)
        if first is None:
            return []
        at, length, role = first
        spans = [TurnSpan(None, 0, 0, at, at)] if at else []
        start, content = at, at + length
        while True:
            found = _earliest(text, content, self._next.get(role, {}))
            if found is None:
                end = len(text)
                footer = self._footers[role]
                has_footer = bool(footer) and text.endswith(footer, content)
                spans.append(TurnSpan(role, start, content, end - len(footer) if has_footer else end, end))
                return spans
            at, length, following = found
            split = at + self._footer_length(role, following, text[at : at + length])
            spans.append(TurnSpan(role, start, content, at, split))
            start, content, role = split, at + length, following

    def _first(self, text: str) -> tuple[int, int, str] | None:
        """Where the first turn starts, how long what the template writes before it is, and whose it is."""
        told = {role: set(filter(None, texts)) for role, texts in self._starts.items()}
        found = _earliest(text, 0, told)
        lead = len(text) - len(text.lstrip("".join(self._sealed.values()) + " "))
        bare = next((role for role, texts in self._starts.items() if "" in texts), None)
        # Some templates write nothing before a system prompt: it is there where no other turn begins the text.
        if bare is None or (found is not None and found[0] <= lead):
            return found
        return lead, 0, bare

    def _footer_length(self, role: str, following: str, separator: str) -> int:
        footer = self._footers[role]
        return len(footer) if separator.startswith(footer) else 0


def _probe(template: ChatTemplate, seal: Callable[[str], str]) -> _Separators:
    """What the template writes between the turns of each probe that it takes."""
    found: _Separators = {}
    for roles in _PROBES:
        between = _between(template, roles)
        if between is None:
            continue
        for pair, text in zip(pairwise([_EDGE, *roles, _EDGE]), between, strict=True):
            found.setdefault(pair, set()).add(seal(text))
    return found


def _between(template: ChatTemplate, roles: Sequence[str]) -> list[str] | None:
    words = [f"Zq{number}xW" for number in range(len(roles))]
    for typed in (True, False):
        messages: list[Message] = [
            {"role": role, "content": [{"type": "text", "text": word}] if typed else word}
            for role, word in zip(roles, words, strict=True)
        ]
        try:
            text = template.render(messages).text
        except MMDatasetsError:
            continue
        parts = re.split("|".join(words), text)
        if re.findall("|".join(words), text) == words:
            return parts
    return None


def _footer(separators: Mapping[tuple[str, str], set[str]], role: str) -> str:
    """What ends a turn, whatever follows; empty where only one thing is known to follow."""
    following = [texts for (one, _), texts in separators.items() if one == role]
    if len(following) < 2:
        return ""
    # A space by itself begins the next word: tokens have both.
    return _common_beginning([text for texts in following for text in texts]).rstrip(" ")


def _common_beginning(texts: Sequence[str]) -> str:
    shortest, longest = min(texts), max(texts)  # in alphabetical order: what these share, all between them do
    length = next((place for place, one in enumerate(shortest) if longest[place] != one), len(shortest))
    return shortest[:length]


def _usable(separators: _Separators) -> tuple[dict[str, set[str]], dict[str, dict[str, set[str]]]]:
    """How texts begin, and what follows each role, by the role that comes then.

    Roles that the template writes as another one, or parts from the next one by nothing that tells, are left out.
    """
    starts = {role: separators[_EDGE, role] for role in ("system", "user") if (_EDGE, role) in separators}
    if starts.get("system") == starts.get("user"):
        starts.pop("system", None)
    # A template with a system prompt of its own writes that before the first question.
    prompts = tuple(filter(None, starts.get("system", ())))
    starts["user"] = {text for text in starts.get("user", ()) if not (prompts and text.startswith(prompts))}
    following: dict[str, dict[str, set[str]]] = {}
    for (role, then), texts in separators.items():
        telling = {text for text in texts if _tells(text)}
        if role and then and telling == texts:
            following.setdefault(role, {})[then] = telling
    known = {role: texts for role, texts in starts.items() if following.get(role)}
    return known, following


def _tells(text: str) -> bool:
    has_control = any(character >= "\U000f0000" for character in text)
    return has_control or len("".join(text.split())) >= _FEWEST


def _earliest(text: str, start: int, wanted: Mapping[str, set[str]]) -> tuple[int, int, str] | None:
    """Where one of some texts stands first, its length, and its name; of several the longest."""
    found = [
        (at, -len(one), name) for name, texts in wanted.items() for one in texts if (at := text.find(one, start)) >= 0
    ]
    if not found:
        return None
    at, length, name = min(found)
    return at, -length, name
