"""What makes equal plugins pickle to equal bytes."""

from __future__ import annotations

import dataclasses
import sys

from mmdatasets.options import MediaOptions, ShrinkFloor


def canonical(value: object) -> object:
    """The same value made of interned strings: a pickle depends on which of its equal strings are one object."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, tuple):
        return tuple(map(canonical, value))
    if isinstance(value, MediaOptions | ShrinkFloor):
        fields = (item.name for item in dataclasses.fields(value))
        return dataclasses.replace(value, **{name: canonical(getattr(value, name)) for name in fields})  # type: ignore[arg-type]
    return value
