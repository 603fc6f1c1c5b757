"""Token ids as pieces of text, each where it stands, and text that is safe to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mmdatasets.preview.facts import Piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_LONGEST = 8
"""Most tokens that are tried together: a character has at most four bytes, and some tokenizers a token for each."""


class TokenText:
    """A tokenizer's tokens as text.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, ...], str] = {}

    @cached_property
    def control(self) -> dict[int, str]:
        """The tokenizer's added tokens by their ids."""
        return {int(number): token.content for number, token in self._tokenizer.added_tokens_decoder.items()}

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """The pieces that token ids are the text of, in order.

        Bytes of one character that are several tokens become one piece.
        """
        found: list[Piece] = []
        position = 0
        while position < len(ids):
            token = int(ids[position])
            if token in self.control:
                found.append(Piece(self.control[token], (token,), is_control=True))
                position += 1
                continue
            group = self._whole(ids, position)
            found.append(Piece(self._text(group), group))
            position += len(group)
        return found

    def _whole(self, ids: Sequence[int], position: int) -> tuple[int, ...]:
        """The fewest tokens from a position on that are whole characters; one token where none are."""
        for length in range(1, _LONGEST + 1):
            group = tuple(map(int, ids[position : position + length]))
            if len(group) < length or any(token in self.control for token in group):
                break
            if _BROKEN not in self._text(group):
                return group
        return (int(ids[position]),)

    def _text(self, group: tuple[int, ...]) -> str:
        if group not in self._known:
            # Behind another token: some tokenizers leave out a space at the beginning of a text.
            text = self._decode([*self._anchor, *group])
            before = self._decode(self._anchor)
            self._known[group] = text[len(before) :] if text.startswith(before) else self._decode(group)
        return self._known[group]

    @cached_property
    def _anchor(self) -> list[int]:
        ids: list[int] = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False, skip_special_tokens=False)
        return text


_SHOWN_AS_THEY_ARE = "\n\t"
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
"""Without these, words of some scripts and emoji are written otherwise."""


def visible(text: str) -> str:
    """The text with characters that cannot be seen, or that change how their neighbours are shown, as their numbers.

    Those are control characters, marks that change the direction of writing, lone surrogates, and what Unicode has no
    character for. Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_plain(character) else f"\\u{{{ord(character):x}}}" for character in text)


def _is_plain(character: str) -> bool:
    return character in _SHOWN_AS_THEY_ARE or character in _JOINERS or unicodedata.category(character) not in _HIDDEN
