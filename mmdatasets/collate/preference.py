"""Makes batches of preference data for TRL's trainers: each row's media is decoded and processed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import torch

from mmdatasets.collate.batch import Batch
from mmdatasets.collate.collator import MultimodalCollator, TokenLists, check_lengths, to_tensor, token_list
from mmdatasets.collate.rows import check_rows
from mmdatasets.errors import CollateError
from mmdatasets.features import CHOSEN_IDS, CHOSEN_LABELS, INPUT_IDS, LABEL, LABELS, REJECTED_IDS, REJECTED_LABELS
from mmdatasets.transforms.tokenise import IGNORE_INDEX

if TYPE_CHECKING:
    from mmdatasets.collate.replacing import Stand
    from mmdatasets.options import ErrorPolicy
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.bad_rows import BadRowTally

PreferenceTrainer: TypeAlias = Literal["dpo", "reward", "kto"]
"""TRL's trainer that a batch is for: `DPOTrainer`, `RewardTrainer` or `KTOTrainer`.

What the trainers of TRL 1.16 refuse: `DPOTrainer` and `KTOTrainer` leave a dataset as it is where it has a column
`images` and they are given a processor. With a tokenizer alone, for text-only models, give them the dataset unmapped.
With such a column they refuse `precompute_ref_log_probs=True`. `RewardTrainer` takes a tokenizer, no processor, and a
model with `num_labels=1`.
"""

_SIDES = ((CHOSEN_IDS, CHOSEN_LABELS), (REJECTED_IDS, REJECTED_LABELS))
_ALONE = ((INPUT_IDS, LABELS),)
_MARGIN = "margin"
_MASK = "attention_mask"
_TYPES = ("token_type_ids", "mm_token_type_ids")


@dataclass
class PreferenceCollator:
    """Collator for rows that a plugin's `preference_transform` made.

    The sequences of a batch are all chosen sides and then all rejected ones, and so are its media tensors: decoded and
    processed once, and repeated.

    Attributes:
        plugin: The plugin that mapped the rows.
        trainer: What the batch is for.

            - `"dpo"`: `input_ids`, `attention_mask`, `completion_mask` (1 in what is trained of the answer), media;
            - `"reward"`: the same without `completion_mask`, and `margin` where the rows have it;
            - `"kto"`: `label`, true for good answers, and with `with_kl` each prompt with the answer of the row before
              it (that of the last row for the first), under the same names with `KL_` before them. A row with two
              answers counts as two rows.
        padding_side: Where sequences are padded.
        pad_to_multiple_of: Pads to a multiple of this many tokens.
        ensure_media: See `MultimodalCollator`.
        with_kl: See `trainer`.
        dtype: See `MultimodalCollator`.
        on_error: See `MultimodalCollator`.
    """

    plugin: BasePlugin
    trainer: PreferenceTrainer = "dpo"
    padding_side: Literal["left", "right"] = "right"
    pad_to_multiple_of: int | None = None
    ensure_media: bool = False
    with_kl: bool = True
    dtype: torch.dtype | None = None
    on_error: ErrorPolicy | None = None
    _base: MultimodalCollator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.trainer not in get_args(PreferenceTrainer):
            known = ", ".join(map(repr, get_args(PreferenceTrainer)))
            raise ValueError(f"trainer={self.trainer!r} is none of {known}")
        self._base = MultimodalCollator(
            self.plugin,
            self.padding_side,
            self.pad_to_multiple_of,
            self.ensure_media,
            self.dtype,
            on_error=self.on_error,
        )

    @property
    def bad_rows(self) -> BadRowTally:
        """Counts the rows that were replaced in this process."""
        return self._base.bad_rows

    def __call__(self, rows: Sequence[Mapping[str, object]]) -> Batch:
        """Makes a batch.

        Args:
            rows: Mapped rows, all with two answers or all with one.

        Returns:
            What the trainer takes; of tokens `torch.int64`, `(sequences, length)`.

        Raises:
            MediaError: If a media item cannot be decoded. Names row, index and source.
            CollateError: If rows were not mapped, lack their media, or do not fit it.
        """
        check_rows(rows)
        columns = self._columns(rows)
        ids = [[token_list(row, side, index) for side, _ in columns] for index, row in enumerate(rows)]
        return self._base.replacing(rows, ids, lambda stand: self._make(rows, columns, stand))

    def _make(self, rows: Sequence[Mapping[str, object]], columns: Sequence[tuple[str, str]], stand: Stand) -> Batch:
        sequences = self._sequences(rows, columns, stand)
        if self.trainer == "kto":
            return Batch(self._kto(sequences, stand) | {LABEL: _verdicts(rows, len(columns))})
        media = self._base.fill_towers(stand.media, sequences, lost=stand.lost)
        batch = _masked(self._base.complete(self._base.pad(sequences), media, len(columns)))
        if self.trainer == "reward":
            batch.pop("completion_mask")
            if rows[0].get(_MARGIN) is not None:
                batch[_MARGIN] = torch.tensor([row[_MARGIN] for row in rows], dtype=torch.float32)
        return Batch(batch)

    def _sequences(
        self, rows: Sequence[Mapping[str, object]], columns: Sequence[tuple[str, str]], stand: Stand
    ) -> TokenLists:
        """The sequences of the rows that stand in the batch, side after side."""
        all_ids: list[list[int]] = []
        all_labels: list[list[int]] = []
        for ids, labels in columns:
            all_ids += [token_list(row, ids, index) for index, row in enumerate(rows)]
            all_labels += [token_list(row, labels, index) for index, row in enumerate(rows)]
        check_lengths(all_ids, all_labels)
        if not stand.is_whole and self.trainer != "kto":
            all_ids, all_labels = stand.arrange_pairs(self.plugin.engine, all_ids, all_labels)
        elif not stand.is_whole:
            all_ids, all_labels = stand.arrange_masked(self.plugin.engine, all_ids, all_labels)
        return {INPUT_IDS: all_ids, LABELS: all_labels, _MASK: [[1] * len(ids) for ids in all_ids]}

    def _columns(self, rows: Sequence[Mapping[str, object]]) -> tuple[tuple[str, str], ...]:
        """The columns of the rows' sequences."""
        if self.trainer == "kto" and CHOSEN_IDS not in rows[0]:
            return _ALONE
        if self.trainer != "kto" and INPUT_IDS in rows[0] and CHOSEN_IDS not in rows[0]:
            raise CollateError(
                f"the rows have one answer each, but trainer={self.trainer!r} compares two: map data with 'chosen' "
                "and 'rejected' with plugin.preference_transform, or use preference_collator('kto')"
            )
        return _SIDES

    def _kto(self, sequences: TokenLists, stand: Stand) -> dict[str, torch.Tensor]:
        """The batch with the mismatched sequences, padded to one length.

        TRL gives the model the same tensors beside both, and some of those are as long as a sequence (Mllama's
        attention mask, say).
        """
        num, copies = len(sequences[INPUT_IDS]), len(sequences[INPUT_IDS]) // len(stand.media)
        if not self.with_kl:
            media = self._base.fill_towers(stand.media, sequences, lost=stand.lost)
            return _masked(self._base.complete(self._base.pad(sequences), media, copies))
        mismatched = self._mismatched(sequences)
        media = self._base.fill_towers(stand.media, sequences, mismatched, lost=stand.lost)
        padded = self._base.pad({name: [*lists, *mismatched[name]] for name, lists in sequences.items()})
        batch = self._base.complete({name: value[:num] for name, value in padded.items()}, media, copies)
        if any(isinstance(value, Mapping) for value in batch.values()):
            raise CollateError(
                f"the model of the plugin {self.plugin.family!r} takes its inputs in a mapping, in which KTOTrainer "
                "cannot exchange the answers: set with_kl=False, and loss_type='apo_zero_unpaired' in KTOConfig"
            )
        further = self._with_types({name: value[num:] for name, value in padded.items()})
        return _masked(batch) | {f"KL_{name}": value for name, value in _masked(further).items()}

    def _with_types(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with the types of its tokens, which are all that TRL takes further of mismatched sequences."""
        engine = self.plugin.engine
        made = self.plugin.sequence_inputs(engine, batch[INPUT_IDS].tolist())
        types = {name: to_tensor(value) for name, value in made.items() if name in _TYPES}
        return self.plugin.finish_batch(engine, batch | types) if types else batch

    def _mismatched(self, sequences: TokenLists) -> TokenLists:
        """Each prompt with the answer of the sequence before it.

        Raises:
            CollateError: If an answer has media, which would go with it.
        """
        starts = [_first_trained(labels) for labels in sequences[LABELS]]
        for index, (ids, start) in enumerate(zip(sequences[INPUT_IDS], starts, strict=True)):
            if self.plugin.engine.is_media_token(np.asarray(ids[start:])).any():
                raise CollateError(
                    "its answer has media, and KTOTrainer's KL term puts answers behind other prompts: set "
                    "with_kl=False, and loss_type='apo_zero_unpaired' in KTOConfig",
                    row=f"{index % len(starts)} of the batch",
                )
        made: TokenLists = {
            name: [
                [*lists[index][:start], *lists[index - 1][starts[index - 1] :]] for index, start in enumerate(starts)
            ]
            for name, lists in sequences.items()
            if name != _MASK
        }
        return {**made, _MASK: [[1] * len(ids) for ids in made[INPUT_IDS]]}


def _first_trained(labels: Sequence[int]) -> int:
    return next((index for index, label in enumerate(labels) if label != IGNORE_INDEX), len(labels))


def _verdicts(rows: Sequence[Mapping[str, object]], num_sides: int) -> torch.Tensor:
    if num_sides == len(_SIDES):
        return torch.tensor([True] * len(rows) + [False] * len(rows))
    missing = next((index for index, row in enumerate(rows) if row.get(LABEL) is None), None)
    if missing is not None:
        raise CollateError(
            f"no {LABEL!r} among its columns ({', '.join(rows[missing])}): map the dataset with "
            "plugin.preference_transform",
            row=f"{missing} of the batch",
        )
    return torch.tensor([bool(row[LABEL]) for row in rows])


def _masked(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with a mask in the place of labels: TRL passes whatever else there is to the model."""
    return {
        **{name: value for name, value in batch.items() if name != LABELS},
        "completion_mask": (batch[LABELS] != IGNORE_INDEX).long(),
    }
