"""Finds a tiny model for a processor, and trains it with `transformers.Trainer` for a few steps."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmdatasets.errors import MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

    from mmdatasets.collate.collator import MultimodalCollator

LEARNING_RATE = 3e-3  # far above what a pretrained model bears: this one starts from random weights
BATCH_SIZE = 4
SEED = 0
# A batch has one logit for each token and word of the vocabulary. So many are 1 GiB, and training takes a few times
# that; a tiny model with the vocabulary of a published one would else need more memory than a small machine has.
MAX_LOGITS = 2**28
MAX_ROW_TOKENS = 4096


def check_can_train() -> None:
    """Checks that what `transformers.Trainer` needs is installed.

    Raises:
        MissingExtraError: It is not.
    """
    try:
        importlib.import_module("accelerate")
    except ImportError as error:
        raise MissingExtraError.for_package("accelerate", "demo", "training the demo's model") from error


def find_models(processor: ProcessorMixin, family: str) -> list[str]:
    """Finds the tiny models of `mmdatasets.testing` that are made for a processor's class.

    Args:
        processor: The processor.
        family: Its plugin's name: models of that name, then of that plugin, come first.

    Returns:
        Names for `build_model`, the likeliest to fit first.
    """
    from mmdatasets.testing import build_processor, get_spec, list_models

    fitting = []
    for name in list_models():
        try:
            offline = build_processor(name)
        except ImportError:  # one that needs a package of its own, which this processor's class then does not
            continue
        if type(offline) is type(processor):
            fitting.append(name)
    return sorted(fitting, key=lambda name: (name != family, get_spec(name).plugin != family))


def select_rows(mapped: Dataset, vocabulary_size: int, say: Callable[[str], None]) -> tuple[Dataset, int]:
    """Selects the rows that a tiny model can be trained on in a short time and little memory.

    Args:
        mapped: The mapped dataset.
        vocabulary_size: Number of tokens that the model knows.
        say: Called with a sentence where rows are left out.

    Returns:
        The rows, and how many of them make a batch: 0 where there are none.
    """
    from mmdatasets.transforms.tokenise import IGNORE_INDEX

    labelled = [i for i, labels in enumerate(mapped["labels"]) if any(label != IGNORE_INDEX for label in labels)]
    if not labelled:
        say("Not trained: no token has a label. Only what an assistant says is trained; no row has such a turn.")
        return mapped, 0
    limit = min(MAX_ROW_TOKENS, MAX_LOGITS // vocabulary_size)
    lengths = mapped["length"][:]
    short = [i for i in labelled if lengths[i] <= limit]
    if not short:
        say(f"Not trained: every row with a label has more than {limit:,} tokens, which would take too long.")
        return mapped, 0
    if len(short) < len(labelled):
        say(f"Left out: {len(labelled) - len(short)} row(s) of more than {limit:,} tokens, which would take too long.")
    longest = max(lengths[i] for i in short)
    return mapped.select(short), min(BATCH_SIZE, len(short), MAX_LOGITS // (vocabulary_size * longest))


def train(
    model: PreTrainedModel,
    dataset: Dataset,
    collator: MultimodalCollator,
    steps: int,
    batch_size: int,
    on_step: Callable[[int, float], None],
) -> list[float]:
    """Trains `model` in place.

    Args:
        model: A model with a `loss` output.
        dataset: The mapped dataset.
        collator: `plugin.collator()`.
        steps: Number of optimiser steps, each on one batch.
        batch_size: Rows of a batch.
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
            per_device_train_batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            **collator.plugin.training_args_kwargs(),
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
