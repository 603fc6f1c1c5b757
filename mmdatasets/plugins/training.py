"""What a plugin gives to a training loop: its collator, and the settings that trainers need for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from mmdatasets.collate.collator import MultimodalCollator
from mmdatasets.collate.isolation import check_implementation, check_isolation
from mmdatasets.collate.packed import PackedCollator
from mmdatasets.collate.position_ids import ModelPositions
from mmdatasets.transforms.packing import Packer

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from mmdatasets.collate.isolation import PackedAttention
    from mmdatasets.options import ErrorPolicy
    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.transforms.bins import Strategy

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
        on_error: ErrorPolicy | None = None,
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
            on_error: What becomes of a row whose media cannot be decoded; the plugin's `on_error` when `None`. By
                `"skip"` and `"quarantine"` another row stands in for it, of which nothing is trained; see
                `mmdatasets.collate.replacing`.

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
            on_error,
        )

    def packer(self, *, max_length: int, strategy: Strategy = "best_fit", max_patches: int | None = None) -> Packer:
        """What packs mapped rows: `dataset.map(packer, batched=True)`, or `packer.pack(dataset)` over all of them.

        Args:
            max_length: The most tokens of a packed row.
            strategy: Which rows go together: `"best_fit"`, `"first_fit"` or `"sequential"`; see
                `mmdatasets.transforms.packing.Packer`.
            max_patches: The most media tokens of a packed row; no limit when `None`.

        Raises:
            ValueError: If a setting has another value than these.
        """
        return Packer(max_length, strategy, max_patches)

    def packed_collator(
        self,
        config: PretrainedConfig,
        *,
        attention: PackedAttention = "varlen",
        flatten: bool = False,
        pad_to_multiple_of: int | None = None,
        ensure_media: bool = False,
        dtype: torch.dtype | None = None,
        trusted: bool = False,
        on_error: ErrorPolicy | None = None,
    ) -> PackedCollator:
        """The collator that makes batches of packed rows, in which no sequence sees another.

        It is made for models that were proven to keep packed sequences apart; `docs/families.md` lists them.

        Args:
            config: The model's configuration, `model.config`, which says how positions are counted and what kinds of
                layers and attention there are.
            attention: What tells the model the boundaries. `"varlen"`: positions that begin anew, and
                `cu_seq_lens_q`, ..., for FlashAttention; other kinds of attention go by the positions. `"block_mask"`:
                a mask `(1, 1, length, length)` for `sdpa` and `eager` attention, which grows with the square of the
                batch. `"flex"`: a `BlockMask` for `flex_attention`.
            flatten: Takes rows that were not packed, too, each as a sequence.
            pad_to_multiple_of: Fills the row up to a multiple of this many tokens, by a last sequence of padding.
            ensure_media: Gives a batch a sequence of blank items for those of the model's towers that it has nothing
                for, so that every rank of a sharded run executes every tower.
            dtype: What pixels and audio features are cast to; as the processor makes them when `None`.
            trusted: Takes the caller's word that a type of model that nobody has looked at keeps sequences apart.
            on_error: See `collator`. Of a packed row, only the sequence with that media is replaced.

        Raises:
            CollateError: If the model does not keep packed sequences apart, or not by `attention`, or its kind of
                attention does not fit that. Names the family and says why.
            MMDatasetsError: If transformers has no model class for `config`.
            ValueError: If a setting has another value than these.
        """
        plugin = cast("BasePlugin", self)
        isolation = plugin.isolation(config, trusted=trusted)
        check_isolation(isolation, attention, f"{plugin.family} ({config.model_type})")
        check_implementation(config, attention)
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of must be a positive number of tokens, got {pad_to_multiple_of}")
        positions = ModelPositions(config)
        parts = MultimodalCollator(plugin, "right", None, ensure_media, dtype, positions=positions, on_error=on_error)
        return PackedCollator(parts, config, isolation, attention, flatten, pad_to_multiple_of)

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
