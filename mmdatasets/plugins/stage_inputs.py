"""What the three stages take from other trainers, and how they write a media item."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmdatasets.errors import MediaError
from mmdatasets.options import MediaOptions
from mmdatasets.types import Expansion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


def options_of(processor: ProcessorMixin | PreTrainedTokenizerBase, options: MediaOptions) -> MediaOptions:
    """Options with what was set as attributes on the processor, which is how other trainers pass pixel budgets.

    Only the three stages read these attributes, and only here.
    """
    found = {
        name: getattr(processor, name)
        for name in ("image_max_pixels", "image_min_pixels")
        if getattr(options, name) is None and isinstance(getattr(processor, name, None), int)
    }
    return dataclasses.replace(options, **found) if found else options


def refuse_unsupported(videos: Sequence[object], audios: Sequence[object]) -> None:
    """Refuses media that no family here takes yet.

    Raises:
        MediaError: If there is any.
    """
    for name, items in (("video", videos), ("audio", audios)):
        if items:
            raise MediaError(f"{name} is not supported yet, but the row has {len(items)} {name} item(s)")


def written_out(expansion: Expansion, token: str) -> str:
    """An expansion as the processor writes it, each run at its length."""
    pieces = expansion.text.split(token)
    runs = iter(expansion.runs)
    return pieces[0] + "".join(token * next(runs) + piece for piece in pieces[1:])
