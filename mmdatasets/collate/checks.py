"""Checks that what a batch's media became fits the places that were planned for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import CollateError
from mmdatasets.media.source import describe_source

if TYPE_CHECKING:
    from mmdatasets.transforms.engine import Engine
    from mmdatasets.types import ImageReference


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
    engine: Engine,
    num_tokens: Sequence[int],
    images: Sequence[Sequence[ImageReference]],
    batch_ids: Sequence[Sequence[int]],
    planned: Sequence[Sequence[int]] | None,
) -> None:
    """Checks each row of a batch.

    Args:
        engine: Knows the media tokens.
        num_tokens: How many features each item of the batch makes.
        images: The items of each row.
        batch_ids: Token ids of each row.
        planned: How many features each item of each row was planned to make, where the rows say so.

    Raises:
        CollateError: If a row's features and media tokens differ. Names the row and its first image.
    """
    supply = iter(num_tokens)
    for row, (ids, items) in enumerate(zip(batch_ids, images, strict=True)):
        made = list(islice(supply, len(items)))
        placed = int(engine.is_media_token(np.asarray(ids)).sum())
        if sum(made) == placed and (planned is None or made == list(planned[row])):
            continue
        found = f"{len(items)} image(s) make {sum(made)} features, but its input_ids have {placed} media tokens. "
        if sum(made) == placed and planned is not None:
            found = f"images make {made} features, but {list(planned[row])} were planned, in this order. "
        raise CollateError(
            f"its {found}{_CHANGED if items else _WITHOUT_MEDIA}",
            row=f"{row} of the batch",
            source=describe_source(items[0]) if items else None,
        )
