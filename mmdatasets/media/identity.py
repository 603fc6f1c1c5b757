"""Which references are to the same file, so that it is decoded once."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence

from mmdatasets.media.source import is_array


def identity(reference: object) -> Hashable:
    """Equal for references to the same file or the same list of frames.

    Arrays, images and open files are the same if they are one object, which must be kept alive as long as identities
    are compared.

    Args:
        reference: A media reference of any form; see `mmdatasets.types.MediaReference`.
    """
    if isinstance(reference, str | bytes):
        return reference
    if isinstance(reference, os.PathLike):
        path: str | bytes = os.fspath(reference)
        return path
    if isinstance(reference, Mapping):
        return tuple(sorted((str(key), identity(value)) for key, value in reference.items() if value is not None))
    if isinstance(reference, bool | int | float):
        return ("number", reference)
    if (
        isinstance(reference, Sequence)
        and not is_array(reference)
        and not isinstance(reference, bytearray | memoryview)
    ):
        return tuple(map(identity, reference))
    return ("object", id(reference))
