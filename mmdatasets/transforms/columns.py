"""Checks of the columns of a batch before it is mapped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmdatasets.errors import ConversationError
from mmdatasets.features import FIT, INPUT_IDS, LABELS, LENGTH, MADE_BY, MEDIA_INFO, media_columns

if TYPE_CHECKING:
    from mmdatasets.transforms.batches import BatchReader
    from mmdatasets.types import Modality


def check_columns(
    reader: BatchReader,
    replaced: Sequence[str],
    modalities: Iterable[Modality],
    tokens: Iterable[str] = (INPUT_IDS, LABELS),
    *,
    fitted: bool = False,
) -> None:
    """Checks that the transform overwrites no column that it does not read.

    Args:
        reader: The batch.
        replaced: Columns that it reads.
        modalities: What the model takes.
        tokens: Its columns of token ids.
        fitted: Whether it fits rows into a length.

    Raises:
        ConversationError: If it would.
    """
    own = {*tokens, LENGTH, MEDIA_INFO, MADE_BY, *media_columns(modalities)}
    own |= {FIT} if fitted else set()
    lost = sorted((set(reader.column_names) & own) - set(replaced))
    if lost:
        raise ConversationError(
            f"the transform would overwrite the column(s) {', '.join(lost)}; rename or remove them before the map"
        )
