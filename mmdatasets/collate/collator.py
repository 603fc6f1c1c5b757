"""Makes batches of mapped rows: decodes what was planned, runs the model's processor on it, pads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from mmdatasets.collate.batch import Batch, cast_media
from mmdatasets.collate.position_ids import ModelPositions
from mmdatasets.collate.replacing import Places, Stand, make_tolerantly, stand_in
from mmdatasets.collate.rows import RowMedia, check_rows, media_of
from mmdatasets.errors import CollateError, MediaError
from mmdatasets.features import INPUT_IDS, LABELS
from mmdatasets.transforms.bad_rows import BadRowTally, RowErrors, check_policy
from mmdatasets.transforms.tokenise import IGNORE_INDEX

if TYPE_CHECKING:
    from mmdatasets.options import ErrorPolicy
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.types import Modality

TokenLists: TypeAlias = dict[str, list[list[int]]]
"""Sequences of a batch by name (`input_ids`, ...), not padded."""


@dataclass
class MultimodalCollator:
    """Collator for rows that a plugin's transform made.

    Attributes:
        plugin: The plugin that mapped the rows.
        padding_side: Where rows are padded; as the tokenizer does it when `None`.
        pad_to_multiple_of: Pads to a multiple of this many tokens.
        ensure_media: Gives a batch a blank item for each of the model's towers (of images and videos, of audio) that
            it has nothing for, whose tokens are neither attended to nor trained. Every rank of a sharded run then
            executes every tower, without which ZeRO-3 and FSDP wait forever.
        dtype: What pixels and audio features are cast to; as the processor makes them when `None`.
        return_tensors: `"pt"`, the only kind there is.
        positions: Makes `position_ids`; the model makes them itself when `None`.
        on_error: What becomes of a row whose media cannot be decoded or processed, or does not fit its token ids: the
            plugin's policy when `None`. See
            `mmdatasets.collate.replacing` for what stands in for it. Each worker counts its own.
    """

    plugin: BasePlugin
    padding_side: Literal["left", "right"] | None = None
    pad_to_multiple_of: int | None = None
    ensure_media: bool = False
    dtype: torch.dtype | None = None
    return_tensors: Literal["pt"] = "pt"
    positions: ModelPositions | None = None
    on_error: ErrorPolicy | None = None

    def __post_init__(self) -> None:
        if self.padding_side not in (None, "left", "right"):
            raise ValueError(f"padding_side must be 'left', 'right' or None, got {self.padding_side!r}")
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of must be a positive number of tokens, got {self.pad_to_multiple_of}")
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ValueError(
                f"dtype must be a floating torch.dtype such as torch.bfloat16, or None; got {self.dtype!r}"
            )
        check_return_tensors(self.return_tensors)
        check_policy(self.policy, self.plugin.row_log)

    @property
    def policy(self) -> ErrorPolicy:
        """What becomes of a row whose media cannot be used."""
        return self.plugin.on_error if self.on_error is None else self.on_error

    @cached_property
    def bad_rows(self) -> BadRowTally:
        """Counts the rows that were replaced in this process."""
        return BadRowTally(self.plugin.max_bad_rows, self.plugin.max_consecutive)

    def __call__(self, rows: Sequence[Mapping[str, object]], return_tensors: str | None = None) -> Batch:
        """Makes a batch.

        Args:
            rows: Rows with `input_ids`, optionally `labels`, and the media columns.
            return_tensors: `"pt"` or `None`; collators of transformers take it here too.

        Returns:
            What the model's forward takes: `input_ids`, `attention_mask`, `labels` (all `torch.int64`, `(batch,
            length)`), the processor's media tensors (`pixel_values`, ...), and what else the family needs.

        Raises:
            MediaError: If a media item cannot be decoded or processed, and `on_error` is `"raise"`. Names row, index
                and source.
            FeatureMismatchError: If media does not fit the row's token ids, likewise.
            TooManyBadRowsError: If more rows were replaced than the plugin allows.
            CollateError: If rows were not mapped, or lack their media.
            ValueError: If other than torch tensors are asked for.
        """
        check_return_tensors(return_tensors or self.return_tensors)
        check_rows(rows)
        ids = [token_list(row, INPUT_IDS, index) for index, row in enumerate(rows)]
        labels = None
        if any(row.get(LABELS) is not None for row in rows):
            labels = [token_list(row, LABELS, index) for index, row in enumerate(rows)]
            check_lengths(ids, labels)
        return self.replacing(rows, [[row] for row in ids], lambda stand: self._make(stand, ids, labels))

    def _make(self, stand: Stand, ids: list[list[int]], labels: list[list[int]] | None) -> Batch:
        if stand.is_whole:
            ids, labels = list(map(list, ids)), None if labels is None else list(map(list, labels))
        else:
            ids, labels = stand.arrange(self.plugin.engine, ids, labels)
        sequences = {INPUT_IDS: ids, "attention_mask": [[1] * len(row) for row in ids]}
        if labels is not None:
            sequences[LABELS] = labels
        media = self.fill_towers(stand.media, sequences, lost=stand.lost)
        return Batch(self.complete(self.pad(sequences), media))

    def complete(
        self, batch: dict[str, torch.Tensor], media: Sequence[RowMedia], copies: int = 1
    ) -> dict[str, torch.Tensor]:
        """Adds to padded sequences what the model takes beside them.

        Args:
            batch: The sequences.
            media: The media of each row.
            copies: How many sequences share a row's media; see `mmdatasets.collate.inputs.make_inputs`.
        """
        inputs = self.plugin.collated_inputs(media, batch[INPUT_IDS].tolist(), copies)
        batch |= {name: self._as_input(name, value) for name, value in inputs.items()}
        batch = self.plugin.finish_batch(self.plugin.engine, batch)
        if self.positions is not None:
            batch["position_ids"] = self.positions(batch)
        return batch

    def _as_input(self, name: str, value: object) -> torch.Tensor:
        made = to_tensor(value)
        return made if self.dtype is None else cast_media(name, made, self.dtype)  # type: ignore[return-value]

    def replacing(
        self,
        rows: Sequence[Mapping[str, object]],
        ids: Sequence[Sequence[Sequence[int]]],
        make: Callable[[Stand], Batch],
    ) -> Batch:
        """Makes a batch, by the policy with other rows in the place of bad ones.

        Args:
            rows: The rows.
            ids: The token ids of each row's sequences.
            make: Makes the batch of the rows that stand in it. It may be called twice.

        Raises:
            MMDatasetsError: If a row's media cannot be used, or by other policies than `"raise"`, if what is wrong is
                not the row's fault. Names the row.
            TooManyBadRowsError: If more rows were replaced than the plugin allows.
        """
        errors = RowErrors([f"{index} of the batch" for index in range(len(rows))], self.policy)
        media: list[RowMedia | None] = [None] * len(rows)
        for index, row in enumerate(rows):
            with errors.row(index):
                media[index] = self.media_of_row(row, index)
        if self.policy == "raise":
            return make(Stand(range(len(rows)), [one for one in media if one is not None]))
        places = Places(rows, media, ids)
        return make_tolerantly(self.plugin, places, errors, self.bad_rows, lambda loaded: make(stand_in(rows, loaded)))

    def media_of_row(self, row: Mapping[str, object], index: int) -> RowMedia:
        """The media of row `index` of a batch, in the order of the text.

        Raises:
            MediaError: If a reference cannot be used. Names the row.
        """
        try:
            return media_of(row, self.plugin.engine)
        except (MediaError, CollateError) as error:
            raise error.at(row=f"{index} of the batch") from error.__cause__

    def fill_towers(
        self, media: Sequence[RowMedia], *batches: TokenLists, lost: Collection[Modality] = ()
    ) -> list[RowMedia]:
        """With `ensure_media`, blank items for the towers that a batch has nothing for.

        Args:
            media: The media of each row.
            *batches: Sequences with this media, one or several for each row. The blanks' tokens join the first row's,
                masked out.
            lost: Modalities that the batch would have if no row of it had been replaced, which it gets in any case.

        Returns:
            The media with the blanks.
        """
        if not self.ensure_media and not lost:
            return list(media)
        engine = self.plugin.engine
        present = {item.modality for row in media for item in row.items}
        blanks = []
        for tower in self.plugin.towers:
            taken = [modality for modality in tower if modality in engine.runner.placeholders]
            is_needed = self.ensure_media or not set(tower).isdisjoint(lost)
            if not taken or not is_needed or present & set(tower):
                continue
            blank, ids = engine.blank(taken[0])
            blanks.append(blank)
            for sequences in batches:
                for row in range(0, len(sequences[INPUT_IDS]), len(media)):
                    sequences[INPUT_IDS][row] += ids
                    sequences["attention_mask"][row] += [0] * len(ids)
                    if LABELS in sequences:
                        sequences[LABELS][row] += [IGNORE_INDEX] * len(ids)
        return [replace(media[0], blanks=blanks), *media[1:]]

    def pad(self, sequences: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, torch.Tensor]:
        """Sequences as `torch.int64` `(sequences, length)`, padded.

        Raises:
            CollateError: If the tokenizer has nothing to pad with.
        """
        tokenizer = self.plugin.engine.tokenizer
        if tokenizer.pad_token_id is None:
            raise CollateError("the tokenizer has no pad token; set tokenizer.pad_token before making the plugin")
        side = self.padding_side or tokenizer.padding_side
        values = {INPUT_IDS: tokenizer.pad_token_id, LABELS: IGNORE_INDEX}
        length = max(len(ids) for ids in sequences[INPUT_IDS])
        multiple = self.pad_to_multiple_of or 1
        length = -(-length // multiple) * multiple
        return {name: _pad_rows(rows, length, values.get(name, 0), side) for name, rows in sequences.items()}


def check_return_tensors(kind: str) -> None:
    """Checks that torch tensors are asked for.

    Raises:
        ValueError: If others are.
    """
    if kind != "pt":
        raise ValueError(f"return_tensors={kind!r}: batches are torch tensors, for which it is 'pt'")


def to_tensor(value: object) -> torch.Tensor:
    """Makes lists of numbers a tensor. Lists of tensors stay, also those that are empty for want of media."""
    leaf = value
    while isinstance(leaf, list):
        leaf = next((item for item in leaf if not (isinstance(item, list) and not item)), None)
    nested = isinstance(value, list) and (leaf is None or isinstance(leaf, torch.Tensor))
    return value if nested else torch.as_tensor(value)  # type: ignore[return-value]


def _pad_rows(rows: Sequence[Sequence[int]], length: int, value: int, side: str) -> torch.Tensor:
    padded = torch.full((len(rows), length), value, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        target[where] = torch.as_tensor(row, dtype=torch.int64)
    return padded


def token_list(row: Mapping[str, object], column: str, index: int) -> list[int]:
    """A column of token ids or labels of row `index` of a batch.

    Raises:
        CollateError: If the row has no such column.
    """
    value = row.get(column)
    if value is None:
        raise CollateError(
            f"no {column!r} among its columns ({', '.join(row)}): map the dataset with plugin.transform first, and "
            "have the trainer keep its columns (plugin.training_args_kwargs() sets remove_unused_columns=False; for "
            'SFTTrainer it is plugin.training_args_kwargs("sft"))',
            row=f"{index} of the batch",
        )
    return value.tolist() if hasattr(value, "tolist") else list(value)  # type: ignore[call-overload, no-any-return]


def check_lengths(batch_ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> None:
    """Checks that each sequence has as many labels as token ids.

    Raises:
        CollateError: If one has not.
    """
    for index, (ids, targets) in enumerate(zip(batch_ids, labels, strict=True)):
        if len(ids) != len(targets):
            raise CollateError(
                f"{len(ids)} input_ids but {len(targets)} labels: do not cut one of them after the map "
                '(max_length=None in SFTConfig, which plugin.training_args_kwargs("sft") sets)',
                row=f"{index} of the batch",
            )
