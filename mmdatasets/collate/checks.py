"""Checks that what a batch's media became fits the places that were planned for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.errors import CollateError, FeatureMismatchError
from mmdatasets.media.source import describe_source

if TYPE_CHECKING:
    from mmdatasets.collate.rows import RowMedia
    from mmdatasets.transforms.engine import Engine


_WITHOUT_MEDIA = (
    "The row came without its media columns: trainers drop, without a word, the columns that the model does not know. "
    "Pass TrainingArguments(**plugin.training_args_kwargs()), which sets remove_unused_columns=False; for SFTTrainer "
    'SFTConfig(**plugin.training_args_kwargs("sft")).'
)
_CHANGED = (
    "Map the dataset with this plugin's own transform, do not cut input_ids afterwards (max_length=None in SFTConfig, "
    'which plugin.training_args_kwargs("sft") sets), and map again if media files or options changed.'
)


def check_features(
    engine: Engine, made: Sequence[Sequence[int]], media: Sequence[RowMedia], batch_ids: Sequence[Sequence[int]]
) -> None:
    """Checks each row of a batch.

    Args:
        engine: Knows the media tokens.
        made: How many features each item of each row makes.
        media: The items of each row.
        batch_ids: Token ids of each row.

    Raises:
        FeatureMismatchError: If a row's features and media tokens differ. Names the row and its first item.
        CollateError: If a row with media tokens has no media.
    """
    for row, (ids, items, features) in enumerate(zip(batch_ids, media, made, strict=True)):
        placed = int(engine.is_media_token(np.asarray(ids)).sum())
        planned = items.num_tokens
        if planned is not None and items.blanks:
            planned = [*planned, *features[len(planned) :]]
        if sum(features) == placed and (planned is None or list(features) == list(planned)):
            continue
        kinds = "/".join(dict.fromkeys(item.modality for item in items.items)) or "media"
        found = (
            f"{len(items.items)} {kinds}(s) make {sum(features)} features, but its input_ids have {placed} media "
            "tokens. "
        )
        if sum(features) == placed:
            found = f"{kinds}s make {list(features)} features, but {planned} were planned, in this order. "
        kind = FeatureMismatchError if items.items else CollateError
        raise kind(
            f"its {found}{_CHANGED if items.items else _WITHOUT_MEDIA}",
            row=f"{row} of the batch",
            source=describe_source(items.items[0].reference) if items.items else None,
        )
