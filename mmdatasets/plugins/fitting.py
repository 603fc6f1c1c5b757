"""What a plugin says of the length of rows, and the report on what became of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast, get_args

from datasets.fingerprint import Hasher

from mmdatasets.options import Overflow, ShrinkFloor
from mmdatasets.transforms.bad_rows import RowErrors
from mmdatasets.transforms.fit import Fitted, fit_row
from mmdatasets.transforms.fit_report import FitReport, make_report
from mmdatasets.transforms.shrink import check_can_shrink
from mmdatasets.transforms.tokenise import tokenise_each

if TYPE_CHECKING:
    from datasets import Dataset

    from mmdatasets.chat.formats import Conversation
    from mmdatasets.plugins.base import BasePlugin


def _local_directory(given: str | os.PathLike[str]) -> str:
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str) or not path or "://" in path:
        raise ValueError(f"row_log must be a local directory or None, got {given!r}")
    return path


@dataclass(eq=False)
class Fitting:
    """The part of a plugin that fits rows into a length.

    Attributes:
        max_length: Most tokens of a row, media tokens included; any number when `None`. With it, a row of which
            nothing is trained is dropped, and the column `fit` says of each row what became of it.
        on_overflow: What becomes of longer rows. None of these ever divides a media item's tokens.

            `"error"` raises `RowTooLongError`. `"drop"` leaves the row out.

            `"drop_turns"` leaves out its oldest turns with their media, as few as need be: a turn is what the user
            says, in one message or several in a row, with all up to the next of these. System prompts at the
            beginning and the last turn stay; a row whose last turn is too long is dropped. The rest is tokenised anew,
            as a row that never had the others.

            `"truncate"` keeps the row's first tokens, up to the last place where its text may end: not within a media
            item or its delimiters, and where the text up to there makes, by itself, these very tokens. Media behind
            it leave the row.

            `"shrink"` lowers the pixels of the row's images and frames and the number of frames, all alike, down to
            `shrink_floor`, until it fits; the row keeps its budget in `media_info`, by which the collator processes
            its media. A row that is too long at the floor is dropped, and so is one whose media has one size with the
            model, whatever its own (the log of rows has `media_of_one_size`).
        shrink_floor: How far `"shrink"` goes.
        row_log: Local directory for a table of the rows that were dropped, replaced or changed, which `datasets.map`
            has no place for; see `fit_report` and `mmdatasets.transforms.row_log.read_row_log`. One for each dataset.
            Map with `with_indices=True` for the rows' numbers. Without it, a warning counts what each batch drops.
    """

    _: KW_ONLY
    max_length: int | None = None
    on_overflow: Overflow = "error"
    shrink_floor: ShrinkFloor = field(default_factory=ShrinkFloor)
    row_log: str | os.PathLike[str] | None = None

    def check_fitting(self) -> None:
        """Checks these fields.

        Raises:
            ValueError: If one has a value that it cannot have.
            MMDatasetsError: If the class cannot do what `on_overflow` asks for.
        """
        length = self.max_length
        if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
            raise ValueError(f"max_length must be a positive number of tokens or None, got {length!r}")
        if self.on_overflow not in get_args(Overflow):
            known = ", ".join(map(repr, get_args(Overflow)))
            raise ValueError(f"on_overflow={self.on_overflow!r} is none of {known}")
        if self.on_overflow != "error" and length is None:
            raise ValueError(f"on_overflow={self.on_overflow!r} needs max_length, the most tokens of a row")
        if not isinstance(self.shrink_floor, ShrinkFloor):
            raise ValueError(f"shrink_floor must be a mmdatasets.ShrinkFloor, got {self.shrink_floor!r}")
        if self.row_log is not None:
            self.row_log = _local_directory(self.row_log)
        if self.on_overflow == "shrink":
            check_can_shrink(cast("BasePlugin", self))

    def fit_each(self, conversations: Sequence[Conversation | None], errors: RowErrors) -> list[Fitted | None]:
        """Tokenises rows and fits them into `max_length`.

        Args:
            conversations: Normalised rows; `None` for those that cannot be used. What is planned of their media is
                kept in them.
            errors: Takes what is wrong with further ones, or raises it.

        Returns:
            As many rows; `None` for those that cannot be used.

        Raises:
            RowTooLongError: If one is longer, and the policies are `"error"` and `"raise"`. Names the row.
            MMDatasetsError: By the policy of `errors`. Names the row.
        """
        plugin = cast("BasePlugin", self)
        planned: list[Conversation | None] = [None] * len(conversations)
        for index, conversation in enumerate(conversations):
            if conversation is not None:
                with errors.row(index):
                    conversation.plans = plugin.engine.media.plan(conversation.media)
                    planned[index] = conversation
        fitted: list[Fitted | None] = [None] * len(conversations)
        for index, row in enumerate(tokenise_each(plugin, planned, errors)):
            conversation = planned[index]
            if row is not None and conversation is not None:
                with errors.row(index):
                    limit = self.max_length or len(row.input_ids)
                    fitted[index] = fit_row(plugin, conversation, row, errors.names[index], limit)
        return fitted

    @cached_property
    def settings_digest(self) -> str:
        """What tells the plugin's settings, its processor included, from others: letters and digits."""
        digest: str = Hasher.hash(self)
        return digest

    def fit_report(self, mapped: Dataset, source: Dataset | int | None = None) -> FitReport:
        """Counts what became of the rows of a dataset that was mapped with `max_length`, and logs it.

        Args:
            mapped: The dataset as `map` returned it.
            source: The dataset that was mapped, or how many rows it had. Without it, the rows that were dropped are
                those in `row_log`.

        Raises:
            MMDatasetsError: If `mapped` does not say what became of its rows, or the numbers contradict each other.
        """
        return make_report(mapped, source, self.row_log, self.settings_digest)
