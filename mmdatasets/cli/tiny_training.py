"""Trains a model with `transformers.Trainer` for a few steps and reports its losses."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmdatasets.errors import MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel
    from transformers.data.data_collator import DataCollator

LEARNING_RATE = 3e-3  # far above what a pretrained model bears: this one starts from random weights
BATCH_SIZE = 4
SEED = 0


def check_can_train() -> None:
    """Checks that what `transformers.Trainer` needs is installed.

    Raises:
        MissingExtraError: It is not.
    """
    try:
        importlib.import_module("accelerate")
    except ImportError as error:
        raise MissingExtraError.for_package("accelerate", "demo", "training the demo's model") from error


def train(
    model: PreTrainedModel,
    dataset: Dataset,
    collator: DataCollator,
    steps: int,
    on_step: Callable[[int, float], None],
) -> list[float]:
    """Trains `model` in place.

    Args:
        model: A model with a `loss` output.
        dataset: The mapped dataset.
        collator: `plugin.collator()`.
        steps: Number of optimiser steps, each on one batch of 4 rows.
        on_step: Called after every step with its number, from 1, and its loss.

    Returns:
        The loss of every step.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    losses: list[float] = []

    class Report(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_log(
            self, args: object, state: object, control: object, logs: dict[str, float] | None = None, **_: object
        ) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])
                on_step(len(losses), logs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
            seed=SEED,
        )
        trainer = Trainer(
            model=model, args=arguments, train_dataset=dataset, data_collator=collator, callbacks=[Report()]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return losses
