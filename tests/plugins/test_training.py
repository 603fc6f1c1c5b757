"""The settings for trainers, with the trainers themselves."""

from __future__ import annotations

import datasets
import pytest
import torch
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from mmdatasets import auto_plugin
from mmdatasets.errors import CollateError
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor

LONG = "A very long answer indeed. " * 400


@pytest.fixture(scope="module")
def plugin():
    return auto_plugin(build_processor("qwen2_5_vl"))


@pytest.fixture
def mapped(plugin, image_file):
    answers = ["A cat.", LONG, "A dog.", "Nothing."]
    images = [[str(image_file(60, 60))], [str(image_file(90, 60))], [str(image_file(60, 90))], []]
    rows = datasets.Dataset.from_dict(
        {
            "messages": [
                [{"role": "user", "content": "<image>?" * len(own)}, {"role": "assistant", "content": answer}]
                for answer, own in zip(answers, images, strict=True)
            ],
            "images": images,
        }
    )
    return rows.map(plugin.transform, batched=True, features=plugin.features(rows.features))


def settings(tmp_path, **more):
    return {
        "output_dir": str(tmp_path),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        **more,
    }


class Watched:
    """A collator that keeps the lengths of its batches' longest rows."""

    def __init__(self, collator):
        self.collator = collator
        self.lengths = []

    def __call__(self, rows):
        self.lengths += [len(row["input_ids"]) for row in rows]
        return self.collator(rows)


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trainer(plugin, mapped, tmp_path) -> None:
    watched = Watched(plugin.collator())
    arguments = TrainingArguments(**plugin.training_args_kwargs(), **settings(tmp_path))
    model = build_model("qwen2_5_vl", plugin.processor)
    trainer = Trainer(model=model, args=arguments, train_dataset=mapped, eval_dataset=mapped, data_collator=watched)
    assert len(losses(trainer)) == 2
    assert sorted(watched.lengths) == sorted(mapped["length"])
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))


def test_sft_trainer(plugin, mapped, tmp_path) -> None:
    """Rows reach the collator as they were mapped, also that with more than SFTConfig's default of 1024 tokens."""
    watched = Watched(plugin.collator())
    arguments = SFTConfig(**plugin.training_args_kwargs("sft"), **settings(tmp_path))
    model = build_model("qwen2_5_vl", plugin.processor)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=mapped,
        eval_dataset=mapped,
        data_collator=watched,
        processing_class=plugin.processor,
    )
    assert max(mapped["length"]) > 1024
    assert len(losses(trainer)) == 2
    assert sorted(watched.lengths) == sorted(mapped["length"])
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))


def test_both_trainers_have_the_same_losses(plugin, mapped, tmp_path) -> None:
    found = []
    for trainer_class, config_class, name in ((Trainer, TrainingArguments, "trainer"), (SFTTrainer, SFTConfig, "sft")):
        arguments = config_class(
            **plugin.training_args_kwargs(name),
            **settings(tmp_path, learning_rate=1e-3, gradient_checkpointing=False, seed=3, max_steps=4),
        )
        model = build_model("qwen2_5_vl", plugin.processor)
        trainer = trainer_class(
            model=model,
            args=arguments,
            train_dataset=mapped,
            data_collator=plugin.collator(),
            processing_class=plugin.processor,
        )
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_without_them_the_error_names_them(plugin, mapped, tmp_path) -> None:
    model = build_model("qwen2_5_vl", plugin.processor)
    arguments = TrainingArguments(**settings(tmp_path))
    trainer = Trainer(
        model=model, args=arguments, train_dataset=mapped.select([0, 2]), data_collator=plugin.collator()
    )
    with pytest.raises(CollateError, match=r"training_args_kwargs\(\)\), which sets remove_unused_columns=False"):
        trainer.train()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings(tmp_path)),
        train_dataset=mapped,
        data_collator=plugin.collator(),
        processing_class=plugin.processor,
    )
    with pytest.raises(CollateError, match=r"training_args_kwargs\(\) sets remove_unused_columns=False"):
        trainer.train()


def test_cut_rows_name_the_setting_of_sft(plugin, mapped) -> None:
    row = dict(mapped[0])
    row["input_ids"], row["labels"] = row["input_ids"][:12], row["labels"][:12]
    with pytest.raises(CollateError, match=r'plugin.training_args_kwargs\("sft"\) sets'):
        plugin.collator()([row])


def test_other_trainers_are_refused(plugin) -> None:
    with pytest.raises(ValueError, match="trainer='grpo' is none of 'trainer', 'sft', 'dpo'"):
        plugin.training_args_kwargs("grpo")
