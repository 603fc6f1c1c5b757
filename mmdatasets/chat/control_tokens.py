"""Keeps control tokens that users typed from becoming control tokens.

Every control token in the data's own text is wrapped in two markers before the chat template renders it. What the
template itself writes is not. After rendering, the wrapped ones are tokenised as the plain text they are.

Pieces of a control token that a template would put together are kept apart, likewise: `<|im_` at the end of one part
and `end|>` at the beginning of the next, or a role that a template writes between `<|` and `|>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

# Two characters of a private-use plane, which no text has a meaning for.
START, END = "\U0010fff0", "\U0010fff1"
_SHORTEST_PIECE = 2  # of two pieces of a token one is as long as this at least
_MARKED = re.compile(f"{START}(.*?){END}|[{START}{END}]", re.DOTALL)
# Words that templates compare roles and types with, whatever a tokenizer's control tokens are.
_KNOWN_WORDS = {
    "role": frozenset({"system", "developer", "user", "assistant", "tool"}),
    "type": frozenset({"text", "image", "video", "audio", "function"}),
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of rendered text.

    Attributes:
        text: The text, without markers.
        start: Where it starts in the rendered text, markers counted.
        literal: Whether it is a control token that a user typed, to be tokenised as plain text.
    """

    text: str
    start: int
    literal: bool


class ControlTokenGuard:
    """Marks control tokens in user text.

    Args:
        tokens: The control tokens. An empty list marks nothing.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        longest_first = sorted(set(tokens), key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._all = "\0".join(longest_first)
        self._beginnings = {token[:end] for token in longest_first for end in range(_SHORTEST_PIECE, len(token))}
        self._endings = {token[start:] for token in longest_first for start in range(1, len(token) - 1)}
        self._lengths = range(_SHORTEST_PIECE, len(longest_first[0]) if longest_first else 0)

    def mark(self, value: T) -> T:
        """Wraps the control tokens in every string of messages or tools: in keys, roles and types too.

        Args:
            value: A string, or mappings and lists of strings. It is not changed. The usual roles and types stay as
                they are.

        Returns:
            The same structure; `value` itself where it has no control token.
        """
        marked = self._mark(value)
        return value if marked is None else marked  # type: ignore[return-value]

    def _mark(self, value: object) -> object | None:
        """Returns the marked copy, or `None` when there is nothing to mark."""
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, Mapping):
            return self._mark_mapping(value)
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            items = [self._mark(item) for item in value]
            for position in range(1, len(value) - 1):
                if all(isinstance(item, Mapping) and "text" in item for item in value[position - 1 : position + 2]):
                    items[position] = self._set_apart(value[position], items[position])
            if any(item is not None for item in items):
                return [old if new is None else new for old, new in zip(value, items, strict=True)]
        return None

    def _mark_text(self, text: str) -> str | None:
        given = text
        if START in text or END in text:  # dropped first: what they stood between may be a control token without them
            text = text.replace(START, "").replace(END, "")
        marked = self._pattern.sub(_wrap, text) if self._pattern.search(text) else text
        if any(text[:length] in self._endings for length in self._lengths):
            marked = END + marked
        if any(text[-length:] in self._beginnings for length in self._lengths):
            marked += END
        return None if marked is given else marked

    def _set_apart(self, part: Mapping[object, object], marked: object | None) -> object | None:
        """Keeps a text between two others from being the middle of a control token."""
        text = part["text"]
        if not isinstance(text, str):
            return marked
        text = text.replace(START, "").replace(END, "")
        if not self._is_piece(text):
            return marked
        return {**part, **(marked if isinstance(marked, Mapping) else {}), "text": f"{END}{text}{END}"}

    def _is_piece(self, text: str) -> bool:
        return bool(text) and "\0" not in text and text in self._all

    def _mark_role(self, role: object) -> object | None:
        """A role that no template knows, but may write within a control token, is wrapped whole."""
        if isinstance(role, str):
            plain = role.replace(START, "").replace(END, "")
            if self._is_piece(plain) and not self._pattern.search(plain):
                return f"{START}{plain}{END}"
        return self._mark(role)

    def _mark_mapping(self, value: Mapping[object, object]) -> dict[object, object] | None:
        keys = {key: self._mark(key) for key in value}
        items = {
            key: None if _is_known_word(key, item) else self._mark_role(item) if key == "role" else self._mark(item)
            for key, item in value.items()
        }
        if not any(found is not None for found in (*keys.values(), *items.values())):
            return None
        return {
            key if keys[key] is None else keys[key]: item if items[key] is None else items[key]
            for key, item in value.items()
        }


def _is_known_word(key: object, value: object) -> bool:
    return isinstance(key, str) and key in _KNOWN_WORDS and isinstance(value, str) and value in _KNOWN_WORDS[key]


def _wrap(match: re.Match[str]) -> str:
    return f"{START}{match.group()}{END}"


def blank_marked(text: str) -> str:
    """The text with everything that a user typed between markers blanked out; positions stay the same."""
    return _MARKED.sub(lambda match: "\0" * len(match.group()), text) if START in text else text


def split_marked(text: str) -> list[Piece]:
    """Splits rendered text at the markers.

    A template may cut a wrapped token in two; a marker without its partner is dropped and still separates.
    """
    if START not in text and END not in text:
        return [Piece(text, 0, literal=False)]
    pieces: list[Piece] = []
    last = 0
    for match in _MARKED.finditer(text):
        pieces.append(Piece(text[last : match.start()], last, literal=False))
        if match.group(1):
            pieces.append(Piece(match.group(1), match.start(1), literal=True))
        last = match.end()
    pieces.append(Piece(text[last:], last, literal=False))
    return [piece for piece in pieces if piece.text]
