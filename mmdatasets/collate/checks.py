"""Checks that what a batch's media became fits the places that were planned for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import CollateError

if TYPE_CHECKING:
    from mmdatasets.transforms.engine import Engine


_WITHOUT_MEDIA = (
    "The row came without its media columns: pass remove_unused_columns=False to TrainingArguments, which otherwise "
    "drops them silently."
)
_CHANGED = (
    "Map the dataset with this plugin's own transform, do not cut input_ids afterwards (max_length=None in SFTConfig),"
    " and map again if media files or options changed."
)


def locate_item(index: int, lengths: Sequence[int]) -> tuple[int, int]:
    """Row, and position in the row, of item `index` of all rows' items."""
    for row, length in enumerate(lengths):
        if index < length:
            return row, index
        index -= length
    return len(lengths), index


def check_features(
    engine: Engine, num_tokens: Sequence[int], lengths: Sequence[int], batch_ids: Sequence[Sequence[int]]
) -> None:
    """Checks each row of a batch.

    Args:
        engine: Knows the media tokens.
        num_tokens: How many features each item of the batch makes.
        lengths: How many items each row has.
        batch_ids: Token ids of each row.

    Raises:
        CollateError: If a row's features and media tokens differ in number. Names the row.
    """
    first = 0
    for row, (ids, length) in enumerate(zip(batch_ids, lengths, strict=True)):
        made = sum(num_tokens[first : first + length])
        placed = int(engine.is_media_token(np.asarray(ids)).sum())
        first += length
        if made == placed:
            continue
        raise CollateError(
            f"its {length} image(s) make {made} features, but its input_ids have {placed} media tokens. "
            + (_WITHOUT_MEDIA if length == 0 else _CHANGED),
            row=f"{row} of the batch",
        )
