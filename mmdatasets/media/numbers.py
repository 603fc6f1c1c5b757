"""Numbers in media references, which may be anything that a row holds."""

from __future__ import annotations

import math
from numbers import Real


def as_float(value: object) -> float:
    """The number that a value is: NaN where it is none, or an integer beyond all floats."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def shown(value: object) -> str:
    """A value for an error message, shortened."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python does not write integers of more than some thousand digits
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else type(value).__name__
