"""Tokenises rendered text once, keeping which characters each token came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from mmdatasets.chat.control_tokens import Piece
from mmdatasets.chat.traced import Span
from mmdatasets.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IntArray: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of one text.

    Attributes:
        ids: `(num_tokens,)` token ids.
        starts: `(num_tokens,)` first character of each token. Tokens without text (bos, eos) are empty.
        ends: `(num_tokens,)` one past the last character of each token.
    """

    ids: IntArray
    starts: IntArray
    ends: IntArray

    def overlapping(self, spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
        """`(num_tokens,)` mask of the tokens that share a character with one of the spans."""
        mask = np.zeros(len(self.ids), dtype=bool)
        for start, end in spans:
            mask |= (self.starts < end) & (self.ends > start) & (self.starts < self.ends)
        return mask

    def written_in(self, spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
        """`(num_tokens,)` mask of the tokens that spans are made of.

        A token that runs past a span's end begins what follows, as the space before a word does. One that begins
        before the span is the span's: the model goes on from there.

        Args:
            spans: In order, without overlap. Adjacent ones count as one.
        """
        if not spans:
            return np.zeros(len(self.ids), dtype=bool)
        starts, ends = np.array(_joined(spans)).T
        first_not_before = np.minimum(np.searchsorted(ends, self.ends), len(ends) - 1)
        inside = (self.ends > starts[first_not_before]) & (self.ends <= ends[first_not_before])
        mask: npt.NDArray[np.bool_] = inside & (self.starts < self.ends)
        return mask


class TextEncoder:
    """A tokenizer, used so that control tokens which users typed stay text.

    Args:
        tokenizer: A fast tokenizer (one that knows character offsets).

    Raises:
        TemplateError: If the tokenizer is a slow one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise TemplateError(
                f"{type(tokenizer).__name__} cannot tell which characters a token came from; use a fast tokenizer "
                "(one backed by the tokenizers library)"
            )
        self.tokenizer = tokenizer

    def encode(self, texts: Sequence[Sequence[Piece]], add_special_tokens: Sequence[bool]) -> list[Encoded]:
        """Tokenises texts.

        Args:
            texts: Each text as pieces, see `mmdatasets.chat.control_tokens.split_marked`.
            add_special_tokens: For each text, whether it gets the tokenizer's own bos and eos.

        Returns:
            The tokens of each text. Offsets count characters from the pieces' own starts.
        """
        plain = iter(self._encode_plain([pieces[0].text for pieces in texts if _is_plain(pieces)]))
        encoded = [next(plain) if _is_plain(pieces) else self._encode_pieces(pieces) for pieces in texts]
        return [self._surround(one) if added else one for one, added in zip(encoded, add_special_tokens, strict=True)]

    def _encode_plain(self, texts: list[str]) -> list[Encoded]:
        if not texts:
            return []
        encoding = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        result = []
        for ids, offsets in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            spans = np.array(offsets, dtype=np.int32).reshape(-1, 2)
            result.append(Encoded(np.array(ids, dtype=np.int32), spans[:, 0], spans[:, 1]))
        return result

    def _encode_pieces(self, pieces: Sequence[Piece]) -> Encoded:
        encoded = []
        for position, piece in enumerate(pieces):
            one = self._encode_literal(piece.text) if piece.literal else self._encode_inner(piece.text, position == 0)
            encoded.append(Encoded(one.ids, one.starts + piece.start, one.ends + piece.start))
        return _concatenate(encoded)

    def _encode_inner(self, text: str, first: bool) -> Encoded:
        """Tokenises a piece from the middle of a text, without the space that some tokenizers put at a beginning."""
        if first:
            return self._encode_plain([text])[0]
        lead = self._newline_ids
        encoded = self._encode_plain([f"\n{text}"])[0]
        if not np.array_equal(encoded.ids[: len(lead)], lead):
            return self._encode_plain([text])[0]
        return Encoded(encoded.ids[len(lead) :], encoded.starts[len(lead) :] - 1, encoded.ends[len(lead) :] - 1)

    def _encode_literal(self, text: str) -> Encoded:
        """Tokenises a control token as the text it is: the tokenizer's pipeline without its added tokens."""
        backend = self.tokenizer.backend_tokenizer
        for lead in ("\n", ""):
            normalised = lead + text
            if backend.normalizer is not None:
                normalised = backend.normalizer.normalize_str(normalised)
            words = [normalised]
            if backend.pre_tokenizer is not None:
                words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalised)]
            ids = np.array([token.id for word in words for token in backend.model.tokenize(word)], dtype=np.int32)
            skip = len(self._newline_ids) if lead else 0
            if not lead or np.array_equal(ids[:skip], self._newline_ids):
                break
        ids = ids[skip:]
        return Encoded(ids, np.zeros(len(ids), dtype=np.int32), np.full(len(ids), len(text), dtype=np.int32))

    @cached_property
    def _newline_ids(self) -> IntArray:
        return self._encode_plain(["\n"])[0].ids

    def _surround(self, encoded: Encoded) -> Encoded:
        before, after = self._special_ids
        if not len(before) and not len(after):
            return encoded
        end = encoded.ends[-1] if len(encoded.ends) else 0
        return _concatenate([_textless(before, 0), encoded, _textless(after, end)])

    @cached_property
    def _special_ids(self) -> tuple[IntArray, IntArray]:
        """The ids that the tokenizer puts before and after a text by itself."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        at = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
        return np.array(full[:at], dtype=np.int32), np.array(full[at + len(bare) :], dtype=np.int32)


def _joined(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in spans:
        joins = bool(joined) and joined[-1][1] == start
        joined.append((joined.pop()[0] if joins else start, end))
    return joined


def _is_plain(pieces: Sequence[Piece]) -> bool:
    return len(pieces) == 1 and not pieces[0].literal


def _textless(ids: IntArray, at: int) -> Encoded:
    where = np.full(len(ids), at, dtype=np.int32)
    return Encoded(ids, where, where)


def _concatenate(parts: Sequence[Encoded]) -> Encoded:
    if not parts:
        empty = np.zeros(0, dtype=np.int32)
        return Encoded(empty, empty, empty)
    return Encoded(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
    )
