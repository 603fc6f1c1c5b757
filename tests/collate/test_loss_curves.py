"""Trained on our collator's batches, a model has the losses, step by step, that the processor's own call gives it."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from transformers import Trainer, TrainingArguments

import mmdatasets.testing
from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor

from ..oracle import oracle_messages

DATA = Path(mmdatasets.testing.__file__).parent / "data"
# `{% generation %}` marks what the assistant writes, for the oracle's labels. The end of the turn is trained, too.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ text(message) }}{{ '<|im_end|>\\n' }}{% endgeneration %}"
    "{% else %}{{ text(message) }}{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
TEMPLATE = (
    "{% macro text(message) %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endmacro %}" + MARKED
)
STEPS = 12


class NaiveCollator:
    """What a training script without this package does: the processor's own call on every batch's chats and files."""

    def __init__(self, processor) -> None:
        self.processor = processor

    def __call__(self, rows):
        chats = [oracle_messages(json.loads(row["chat"]), json.loads(row["files"])) for row in rows]
        batch = self.processor.apply_chat_template(
            chats,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True, "images_kwargs": {"max_pixels": 256 * 256}},
        )
        trained = torch.as_tensor(batch.pop("assistant_masks")).bool()
        batch["labels"] = batch["input_ids"].masked_fill(~trained, -100)
        return batch


def losses(family, processor, dataset, collator, folder):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=3e-3,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        remove_unused_columns=False,
        seed=11,
    )
    model = build_model(family, processor)
    trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_the_losses_are_the_same(family, tmp_path) -> None:
    processor = build_processor(family)
    processor.chat_template = TEMPLATE
    lines = [json.loads(line) for line in (DATA / "chat.jsonl").read_text("utf-8").splitlines()]
    plugin = auto_plugin(processor, options=MediaOptions(media_root=str(DATA), image_max_pixels=256 * 256))
    source = datasets.load_dataset("json", data_files=str(DATA / "chat.jsonl"), split="train")
    mapped = source.map(plugin.transform, batched=True, features=plugin.features(source.features))
    naive = datasets.Dataset.from_list(
        [
            {
                "chat": json.dumps(line["messages"]),
                "files": json.dumps([str(DATA / name) for name in line.get("images", [])]),
            }
            for line in lines
        ]
    )
    assert len(naive) == len(mapped)
    ours = losses(family, processor, mapped, plugin.collator(), tmp_path)
    theirs = losses(family, processor, naive, NaiveCollator(processor), tmp_path)
    assert len(ours) == STEPS
    assert ours == theirs
    assert ours[-1] < ours[0] - 1
