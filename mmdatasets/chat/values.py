"""Looking at values of columns, which may be anything: of arrays, `not value` and `value == other` are no truths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sized

from mmdatasets.errors import ConversationError


def is_empty(value: object) -> bool:
    """Whether a column holds nothing: it is null, or of no length."""
    if value is None or value is False:
        return True
    try:
        return isinstance(value, Sized) and len(value) == 0
    except TypeError:  # an array of no dimension
        return False


def is_text(value: object, text: str) -> bool:
    """Whether a value is this text."""
    return isinstance(value, str) and value == text


def check_encodable(text: str) -> None:
    """Checks that a text can be tokenised: JSON has halves of characters, which no encoding has.

    Raises:
        ConversationError: If it cannot. Says where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConversationError(
            f"the text has half of a character ({text[error.start]!a}, a surrogate without its other half) behind "
            f"{text[max(0, error.start - 20) : error.start]!r}: it was cut in the middle of one, or read with a wrong "
            "encoding"
        ) from error


def parsed_json(value: object) -> object:
    """What a string says in JSON; the value itself where it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # the latter of brackets, thousands within one another
        return value


def without_nulls(value: object) -> object:
    """The value without the keys that Arrow, whose structs all have the same, adds to a mapping; arrays as lists."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, memoryview) else value
