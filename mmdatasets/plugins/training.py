"""What a plugin gives to a training loop: its collator, and the settings that trainers need for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from mmdatasets.collate.collator import MultimodalCollator
from mmdatasets.collate.position_ids import ModelPositions

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from mmdatasets.plugins.base import BasePlugin

TrainerName: TypeAlias = Literal["trainer", "sft", "dpo", "reward", "kto"]
"""`transformers.Trainer`, or TRL's `SFTTrainer`, `DPOTrainer`, `RewardTrainer` or `KTOTrainer`."""


class Training:
    """The part of a plugin that training loops use."""

    def collator(
        self,
        *,
        padding_side: Literal["left", "right"] | None = None,
        pad_to_multiple_of: int | None = None,
        ensure_media: bool = False,
        dtype: torch.dtype | None = None,
        return_tensors: Literal["pt"] = "pt",
        position_ids: bool = False,
        config: PretrainedConfig | None = None,
    ) -> MultimodalCollator:
        """The collator that makes batches of mapped rows, for `Trainer(data_collator=...)` or a `DataLoader`.

        Args:
            padding_side: Where rows are padded; as the tokenizer does it when `None`.
            pad_to_multiple_of: Pads to a multiple of this many tokens.
            ensure_media: Gives a batch a blank item, masked out, for each of the model's towers that it has nothing
                for, so that every rank of a sharded run executes every tower.
            dtype: What pixels and audio features are cast to, for example `torch.bfloat16`, which halves what goes
                from the workers to the device; as the processor makes them when `None`. Ids, grids and masks stay.
            return_tensors: `"pt"`, the only kind there is.
            position_ids: Adds `position_ids`, which the model otherwise computes itself: those that it would compute.
                `(axes, batch, length)` for models with multimodal rotary embeddings, else `(batch, length)`.
            config: The model's configuration, `model.config`, which `position_ids` needs.

        Raises:
            ValueError: If a setting has another value than these, or `position_ids` has no `config`.
            MMDatasetsError: If transformers has no model class for `config`.
        """
        if position_ids and config is None:
            raise ValueError(
                "position_ids=True needs config=model.config: how positions are counted is up to the model"
            )
        return MultimodalCollator(
            cast("BasePlugin", self),
            padding_side,
            pad_to_multiple_of,
            ensure_media,
            dtype,
            return_tensors,
            ModelPositions(config) if position_ids and config is not None else None,
        )

    def training_args_kwargs(self, trainer: TrainerName = "trainer") -> dict[str, object]:
        """The settings without which a trainer spoils the collator's rows, as keyword arguments of its configuration.

        `TrainingArguments(**plugin.training_args_kwargs(), ...)`; for TRL
        `SFTConfig(**plugin.training_args_kwargs("sft"), ...)`, and with `preference_collator`
        `DPOConfig(**plugin.training_args_kwargs("dpo"), ...)` and its like.

        Args:
            trainer: See `TrainerName`.

        Returns:
            `remove_unused_columns=False`: the model does not know the columns that the collator reads.
            `accelerator_config` with `dispatch_batches=False`: a streaming dataset's batches are otherwise made in one
            process and cut apart along the first dimension, which for pixels is not that of rows. For TRL also
            `max_length=None`, and for its `SFTTrainer` `skip_prepare_dataset`: rows are tokenised, and would otherwise
            be cut, through images too. (The other trainers tell from the columns that a dataset is prepared.) For
            `"kto"` also `train_sampling_strategy="sequential"`, which its default loss needs.

        Raises:
            ValueError: If there is no such trainer.
        """
        if trainer not in get_args(TrainerName):
            raise ValueError(f"trainer={trainer!r} is none of {', '.join(map(repr, get_args(TrainerName)))}")
        settings: dict[str, object] = {
            "remove_unused_columns": False,
            "accelerator_config": {"dispatch_batches": False},
        }
        if trainer != "trainer":
            settings["max_length"] = None
        if trainer == "sft":
            settings["dataset_kwargs"] = {"skip_prepare_dataset": True}
        if trainer == "kto":
            settings["train_sampling_strategy"] = "sequential"
        return settings
