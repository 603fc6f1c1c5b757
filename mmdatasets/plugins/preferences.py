"""The stages for preference data, which every plugin has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

from mmdatasets.collate.preference import PreferenceCollator, PreferenceTrainer
from mmdatasets.transforms.preference import preference_features, transform_preferences

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Features

    from mmdatasets.options import ErrorPolicy
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.batches import Batch


class PreferenceStages:
    """What `transform`, `features` and `collator` are for chats, for rows with answers to compare."""

    def preference_transform(
        self, batch: Batch, indices: Sequence[int] | None = None
    ) -> pa.Table | dict[str, list[object]]:
        """Tokenises a batch of preference data, for `dataset.map(plugin.preference_transform, batched=True)`.

        A row with `chosen` and `rejected` becomes `chosen_ids`, `chosen_labels`, `rejected_ids`, `rejected_labels`:
        the whole chat of each side, and its labels, -100 but in what the assistant writes after the prompt. A row with
        `label` (or `kto_tag`) becomes `input_ids`, `labels` and `label`. `length` is that of the longer side;
        `media_info`, whose spans are those of the chosen side, and the media columns are as `transform` makes them:
        both sides share the media. `max_length` bounds the longer side, with `on_overflow="error"` or `"drop"`; the
        other policies, which change the prompt, are refused. See `mmdatasets.chat.preferences.find_preferences` for
        the layouts.

        Args:
            batch: Columns: prompts and answers, and optionally their media and tools.
            indices: Row numbers for error messages: `map(..., with_indices=True)` passes them.

        Raises:
            MMDatasetsError: If a row cannot be used. Names the row, and the column, index and source of its media.
        """
        return transform_preferences(cast("BasePlugin", self), batch, indices)

    def preference_features(self, source: Features | None = None) -> Features:
        """The types of what `preference_transform` returns, for `map(..., features=...)`.

        Args:
            source: Features of the dataset that is mapped; its other columns pass through. Two answers a row when
                `None`.

        Raises:
            ConversationError: If its columns are not those of preference data.
        """
        return preference_features(cast("BasePlugin", self), source)

    def preference_collator(
        self,
        trainer: PreferenceTrainer = "dpo",
        *,
        padding_side: Literal["left", "right"] = "right",
        pad_to_multiple_of: int | None = None,
        ensure_media: bool = False,
        with_kl: bool = True,
        dtype: torch.dtype | None = None,
        on_error: ErrorPolicy | None = None,
    ) -> PreferenceCollator:
        """The collator that makes batches of such rows for a trainer of TRL.

        Args:
            trainer: `"dpo"` for `DPOTrainer`, `"reward"` for `RewardTrainer`, `"kto"` for `KTOTrainer`.
            padding_side: Where rows are padded; TRL's own collators pad on the right.
            pad_to_multiple_of: Pads to a multiple of this many tokens.
            ensure_media: See `collator`.
            with_kl: Whether `"kto"` batches have the mismatched answers that its KL term is estimated with; not with
                `loss_type="apo_zero_unpaired"`.
            dtype: See `collator`.
            on_error: See `collator`. A row with two answers gets one answer of another row on both sides.
        """
        return PreferenceCollator(
            cast("BasePlugin", self), trainer, padding_side, pad_to_multiple_of, ensure_media, with_kl, dtype, on_error
        )
