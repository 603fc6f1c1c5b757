"""TRL's trainers on mapped preference data: two steps of a tiny model each, and the batch that the model sees."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from transformers import PreTrainedModel, ProcessorMixin
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForSequenceClassification
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLPreTrainedModel
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.testing import build_model, build_processor
from tests.chat.chats import assistant, user

FAMILIES = ["qwen2_vl", "llava_next"]
STEPS = 2


class Qwen2VLReward(GenericForSequenceClassification, Qwen2VLPreTrainedModel):
    """transformers has no Qwen2-VL with a head for scores: its own generic head makes one."""


def settings(plugin, trainer: str, folder: Path, **further: object) -> object:
    kind = {"dpo": DPOConfig, "kto": KTOConfig, "reward": RewardConfig}[trainer]
    return kind(
        **plugin.training_args_kwargs(trainer),
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        **further,
    )


def small_plugin(family: str):
    """Of some families one that leaves long rows out."""
    processor = build_processor(family)
    fitting = {"max_length": 150, "on_overflow": "drop"} if family == "qwen2_vl" else {}
    return processor, auto_plugin(processor, options=MediaOptions(image_max_pixels=64 * 64), **fitting)


def pairs(image_file) -> list[dict[str, object]]:
    return [
        {
            "prompt": [user("<image>What is it?" if index != 2 else "Say something.")],
            "chosen": [assistant(f"A cat, number {index}.")],
            "rejected": [assistant("No idea" + " at all" * index)],
            "images": [str(image_file(60 + 20 * index, 70))] if index != 2 else [],
        }
        for index in range(4)
    ]


def mapped(plugin, rows: list[dict[str, object]]) -> datasets.Dataset:
    long = {**rows[0], "prompt": [user("<image>What is it? " + "word " * 200)]}
    dataset = datasets.Dataset.from_list(rows if plugin.max_length is None else [long, *rows])
    features = plugin.preference_features(dataset.features)
    found = dataset.map(plugin.preference_transform, batched=True, with_indices=True, features=features)
    assert len(found) == len(rows)
    return found


def check_trained(trainer, before: dict[str, torch.Tensor]) -> list[dict[str, float]]:
    """Trains, and asserts that the loss was finite and that the weights moved, those of the vision tower too."""
    trainer.train()
    assert trainer.state.global_step == STEPS
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == STEPS
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in logs)
    moved = [name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])]
    assert any("vis" in name for name in moved)
    assert any("vis" not in name for name in moved)
    return logs


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_dpo_trainer(family: str, image_file, tmp_path) -> None:
    processor, plugin = small_plugin(family)
    model = build_model(family, processor)
    before = weights(model)
    trainer = DPOTrainer(
        model=model,
        ref_model=build_model(family, processor),
        args=settings(plugin, "dpo", tmp_path),
        train_dataset=mapped(plugin, pairs(image_file)),
        data_collator=plugin.preference_collator(),
        processing_class=processor,
    )
    logs = check_trained(trainer, before)
    # The reference is the model itself at first: -log(sigmoid(0)).
    assert logs[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert logs[1]["loss"] != pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_kto_trainer(family: str, image_file, tmp_path) -> None:
    processor, plugin = small_plugin(family)
    rows = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": index % 2 == 0, "images": row["images"]}
        for index, row in enumerate(pairs(image_file))
    ]
    model = build_model(family, processor)
    before = weights(model)
    trainer = KTOTrainer(
        model=model,
        ref_model=build_model(family, processor),
        args=settings(plugin, "kto", tmp_path),
        train_dataset=mapped(plugin, rows),
        data_collator=plugin.preference_collator("kto"),
        processing_class=processor,
    )
    logs = check_trained(trainer, before)
    assert logs[0]["loss"] == pytest.approx(0.5, abs=1e-3)  # 1 - sigmoid(0)


def test_kto_trainer_on_pairs(image_file, tmp_path) -> None:
    processor, plugin = small_plugin("qwen2_vl")
    model = build_model("qwen2_vl", processor)
    before = weights(model)
    trainer = KTOTrainer(
        model=model,
        ref_model=build_model("qwen2_vl", processor),
        args=settings(plugin, "kto", tmp_path, loss_type="apo_zero_unpaired"),
        train_dataset=mapped(plugin, pairs(image_file)),
        data_collator=plugin.preference_collator("kto", with_kl=False),
        processing_class=processor,
    )
    check_trained(trainer, before)


def reward_model(family: str, processor: ProcessorMixin) -> PreTrainedModel:
    kind = {"qwen2_vl": Qwen2VLReward, "gemma3": Gemma3ForSequenceClassification}[family]
    config = build_model(family, processor).config
    config.num_labels = 1
    torch.manual_seed(0)
    return kind(config)


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_reward_trainer(family: str, image_file, tmp_path) -> None:
    processor, plugin = small_plugin(family)
    rows = [{**row, "margin": 0.5} for row in pairs(image_file)] if family == "qwen2_vl" else pairs(image_file)[:2]
    model = reward_model(family, processor)
    before = weights(model)
    trainer = RewardTrainer(
        model=model,
        args=settings(plugin, "reward", tmp_path),
        train_dataset=mapped(plugin, rows),
        data_collator=plugin.preference_collator("reward"),
        processing_class=processor.tokenizer,
    )
    logs = check_trained(trainer, before)
    assert all(0 <= entry["accuracy"] <= 1 for entry in logs)
