"""Numbers in words, for readers."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")
_THOUSAND = 1000


def count(number: int | float) -> str:
    """A number of things, with separators: `12,345`."""
    return f"{number:,.0f}"


def compact(number: int) -> str:
    """A number of things in little space: `12,345`, and from a million on `2.55 M`."""
    for factor, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= factor:
            return f"{number / factor:.3g} {letter}"
    return count(number)


def share(part: float) -> str:
    """A share as a percentage of two or three digits; what is there at all is never 0%, and what is not all 100%."""
    percent = 100 * part
    if 0 < percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.0f}%" if percent in (0, 100) else f"{percent:.1f}%"


def number(value: float) -> str:
    """A measured value, with as many digits as tell something."""
    if value == int(value) or abs(value) >= _THOUSAND:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def size(num_bytes: float) -> str:
    """A number of bytes: `1.2 MB`."""
    value, unit = float(num_bytes), _UNITS[0]
    for unit in _UNITS:
        if value < _THOUSAND:
            break
        if unit != _UNITS[-1]:
            value /= _THOUSAND
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.3g} {unit}"


def seconds(value: float) -> str:
    """A duration: `12 ms`, `1.5 s`."""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def several(number_of: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 row`, `2 rows`."""
    return f"{count(number_of)} {one if number_of == 1 else many or f'{one}s'}"


def items(number_of: int, modality: str) -> str:
    """A number of media items: `2 images`, `3 audio items`."""
    return several(number_of, "audio item") if modality == "audio" else several(number_of, modality)
