"""Runs of media tokens in replacement texts: thousands of equal tokens, kept as one and a number."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mmdatasets.types import Expansion


def collapse_runs(text: str, *media_tokens: str) -> Expansion:
    """Shortens every run of a media token in `text` to one token and keeps the lengths.

    Args:
        text: Replacement text as the processor gives it, for example `"<|image_pad|>" * 1000`.
        *media_tokens: The tokens that stand for one feature of the model each.

    Returns:
        The shortened text with the length of each run, in order.
    """
    runs: list[int] = []

    def shorten(match: re.Match[str]) -> str:
        token: str = next(filter(None, match.groups()))
        runs.append(len(match.group()) // len(token))
        return token

    pattern = "|".join(f"({re.escape(token)})(?:{re.escape(token)})*" for token in media_tokens)
    return Expansion(re.sub(pattern, shorten, text), tuple(runs))


def expand_runs(expansion: Expansion, media_tokens: Iterable[str]) -> str:
    """An expansion as the processor writes it, each run at its length."""
    runs = iter(expansion.runs)
    pattern = "|".join(map(re.escape, dict.fromkeys(media_tokens)))
    return re.sub(pattern, lambda match: match.group() * next(runs), expansion.text)
