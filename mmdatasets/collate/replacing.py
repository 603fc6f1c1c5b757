"""What stands in for rows whose media cannot be decoded, so that a batch keeps its number of rows.

A rank that drops a row, or a batch, falls out of step with the others, which wait for it for ever. So:

- A row whose media cannot be decoded, is refused by the model's processor, or does not fit the row's token ids is
  a row that cannot be used. It is replaced by the next one of the batch that can (after the last comes the first), and
  nothing is trained of it.
- Where none can, each row is replaced by the first two tokens of its own text. The first of them trains its second
  token, which the chat template writes in any row: the loss of a batch that trains nothing is 0 / 0, and the `Trainer`
  of transformers does nothing about that.
- Where the rows replaced had the only images, videos or audio of the batch, blank items take their place, as with
  `ensure_media`: every rank runs the same towers.
- A row with two answers to compare gets the chosen side of that next row on both sides, which then have the same
  score: the loss is finite, and nothing is learnt of which is better.
- Of packed rows, only the sequence whose media cannot be decoded is replaced, by its first two tokens.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmdatasets.collate.inputs import Decoded, load_row
from mmdatasets.collate.rows import RowMedia
from mmdatasets.errors import FeatureMismatchError, MediaProcessorError, MMDatasetsError
from mmdatasets.features import MEDIA_COLUMNS
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.report import logged_error
from mmdatasets.transforms.row_log import write_row_log
from mmdatasets.transforms.tokenise import IGNORE_INDEX

if TYPE_CHECKING:
    from mmdatasets.collate.batch import Batch
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.bad_rows import BadRowTally
    from mmdatasets.transforms.engine import Engine
    from mmdatasets.types import Modality

_logger = logging.getLogger(__name__)
_NUM_TOKENS = 2  # of a row of which nothing else is left: one to predict from, one to be predicted


@dataclass(frozen=True, slots=True)
class Stand:
    """Which rows stand where in a batch.

    Attributes:
        origins: For each place the row that stands there; `None` for the beginning of its own text.
        media: The media of each place.
        lost: The modalities that rows which are not there had.
    """

    origins: Sequence[int | None]
    media: list[RowMedia]
    lost: frozenset[Modality] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether every row stands in its own place."""
        return list(self.origins) == list(range(len(self.origins)))

    def arrange(
        self, engine: Engine, ids: Sequence[list[int]], labels: Sequence[list[int]] | None
    ) -> tuple[list[list[int]], list[list[int]] | None]:
        """Token ids and labels of each place, from those of each row."""
        if labels is None:
            return self.arrange_masked(engine, ids, ids)[0], None
        placed, targets = self.arrange_masked(engine, ids, labels)
        if all(origin is None for origin in self.origins):
            targets[0][-1] = placed[0][-1]
        return placed, targets

    def arrange_masked(
        self, engine: Engine, ids: Sequence[list[int]], labels: Sequence[list[int]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The same, of one or several sequences for each row, all first ones first; nothing stands in that trains."""
        num, placed, targets = len(self.origins), list(map(list, ids)), list(map(list, labels))
        for at in range(len(ids)):
            place, first = at % num, at - at % num
            origin = self.origins[place]
            if origin != place:
                placed[at] = beginning_of(engine, ids[at]) if origin is None else list(ids[first + origin])
                targets[at] = [IGNORE_INDEX] * len(placed[at])
        return placed, targets

    def arrange_pairs(
        self, engine: Engine, ids: Sequence[list[int]], labels: Sequence[list[int]]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The same for the chosen sides of rows and then their rejected ones, of rows that are compared."""
        num, placed, targets = len(self.origins), list(map(list, ids)), list(map(list, labels))
        for place, origin in enumerate(self.origins):
            if origin == place:
                continue
            mine, own = (ids[origin], labels[origin]) if origin is not None else ([], [])
            if origin is None:
                mine = beginning_of(engine, ids[place])
                own = [IGNORE_INDEX, *mine[1:]]
            for side in (place, place + num):
                placed[side], targets[side] = list(mine), list(own)
        return placed, targets


@dataclass(frozen=True, slots=True)
class Places:
    """What is at each place of a batch.

    Attributes:
        rows: The row.
        media: Its media; `None` where it cannot be used.
        ids: The token ids of its sequences.
    """

    rows: Sequence[Mapping[str, object]]
    media: Sequence[RowMedia | None]
    ids: Sequence[Sequence[Sequence[int]]]


def beginning_of(engine: Engine, ids: Sequence[int]) -> list[int]:
    """The first two tokens of a row that stand for no media."""
    given = np.asarray(ids, dtype=np.int64)
    text: list[int] = given[~engine.is_media_token(given)][:_NUM_TOKENS].tolist()
    tokenizer = engine.tokenizer
    other = next((one for one in (tokenizer.eos_token_id, tokenizer.pad_token_id) if one is not None), 0)
    return text + [other] * (_NUM_TOKENS - len(text))


def load_rows(
    plugin: BasePlugin, media: Sequence[RowMedia | None], errors: RowErrors, decoded: Decoded | None = None
) -> list[RowMedia | None]:
    """Decodes the media of rows, what several share once.

    Args:
        plugin: The plugin.
        media: The media of each row; `None` for rows that cannot be used.
        errors: Takes what is wrong with rows.
        decoded: What is decoded already; what is decoded here is added.

    Returns:
        The media of each row with what it decodes to; `None` for rows that cannot be used.
    """
    known: Decoded = {} if decoded is None else decoded
    loaded: list[RowMedia | None] = [None] * len(media)
    for place, row in enumerate(media):
        if row is not None:
            with errors.row(place):
                items = load_row(plugin.engine, row, known)
                # A `get_mm_inputs` of the plugin's own takes references, and decodes them itself.
                loaded[place] = row if plugin.has_own_inputs else replace(row, loaded=items)
    return loaded


def make_tolerantly(
    plugin: BasePlugin,
    places: Places,
    errors: RowErrors,
    tally: BadRowTally,
    make: Callable[[Sequence[RowMedia | None]], Batch],
) -> Batch:
    """Makes a batch of which some rows cannot be used, and reports on those.

    What cannot be decoded is known before. What the processor refuses, or makes something else of than was planned,
    is known when it ran on the batch: then it runs on each row by itself, to find out whose fault that was.

    Args:
        plugin: The plugin.
        places: What is at each place of the batch.
        errors: What is wrong with it so far.
        tally: Counts what is wrong.
        make: Makes the batch, given the media of each place, `None` where another row is to stand.

    Raises:
        MMDatasetsError: If something is wrong with no row by itself.
        TooManyBadRowsError: If more rows cannot be used than the plugin allows.
    """
    loaded = load_rows(plugin, places.media, errors)
    try:
        batch = make(loaded)
    except (MediaProcessorError, FeatureMismatchError):
        known = len(errors.found)
        _process_alone(plugin, loaded, places.ids, errors)
        if len(errors.found) == known:
            raise
        batch = make([None if place in errors.found else row for place, row in enumerate(loaded)])
    report_replaced(plugin, places.rows, errors, tally)
    return batch


def _process_alone(
    plugin: BasePlugin,
    loaded: Sequence[RowMedia | None],
    ids: Sequence[Sequence[Sequence[int]]],
    errors: RowErrors,
) -> None:
    for place, row in enumerate(loaded):
        if row is None or not row.items:
            continue
        with errors.row(place):
            try:
                plugin.collated_inputs([row], ids[place], len(ids[place]))
            except MMDatasetsError as error:
                error.row = None  # of this batch of one it is the first
                raise


def stand_in(rows: Sequence[Mapping[str, object]], loaded: Sequence[RowMedia | None]) -> Stand:
    """Decides which row stands where.

    Args:
        rows: The rows.
        loaded: The media of each; `None` for rows that cannot be used.
    """
    num = len(loaded)
    good = [place for place in range(num) if loaded[place] is not None]
    origins = [min(good, key=lambda other, place=place: (other - place) % num, default=None) for place in range(num)]  # type: ignore[misc]
    media = [(None if origin is None else loaded[origin]) or RowMedia() for origin in origins]
    gone = [row for row, one in zip(rows, loaded, strict=True) if one is None]
    return Stand(origins, media, frozenset().union(*map(modalities_in, gone)))


def modalities_in(row: Mapping[str, object]) -> frozenset[Modality]:
    """The modalities that a mapped row refers to."""
    found = {modality for modality, column in MEDIA_COLUMNS.items() if row.get(column) is not None}
    return frozenset(modality for modality in found if len(row[MEDIA_COLUMNS[modality]]))  # type: ignore[arg-type]


def report_replaced(
    plugin: BasePlugin, rows: Sequence[Mapping[str, object]], errors: RowErrors, tally: BadRowTally
) -> None:
    """Says which rows of a batch were replaced, in the plugin's log of rows or in a warning, and counts them.

    Args:
        plugin: Says where rows are logged.
        rows: The row that each of the places in `errors` is of.
        errors: What is wrong with them.
        tally: Counts them.

    Raises:
        TooManyBadRowsError: If there are more than the plugin allows.
    """
    logged = [
        logged_error(error, errors.names[place], "replaced", rows[place])
        for place, error in sorted(errors.found.items())
    ]
    if plugin.row_log is not None:
        for row in logged:  # each in a file that is named after it: the same one in every epoch
            write_row_log(plugin.row_log, plugin.settings_digest, [], [row])
    elif logged:
        counts = Counter(row.reason for row in logged)
        _logger.warning(
            "replaced %d of %d rows of a batch (%s), of which nothing is trained; row_log='a directory' of the plugin "
            "keeps which",
            len(logged),
            len(errors.names),
            ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())),
        )
    tally.add(len(errors.names), errors.found)
