"""What each of two processes runs: `Trainer` on batches of a budget, or on a stream.

torchrun --nproc-per-node 2 trainer_worker.py budget|stream DATA_FOLDER OUTPUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mmdatasets import MediaBudgetBatchSampler, auto_plugin
from mmdatasets.testing.models import build_model
from mmdatasets.testing.processors import build_processor
from tests.distributed.launch import leave

MAX_TOKENS = 150


class BudgetTrainer(Trainer):
    def get_train_dataloader(self):
        batches = MediaBudgetBatchSampler.of(
            self.train_dataset, max_tokens=MAX_TOKENS, seed=self.args.seed, num_replicas=self.args.world_size
        )
        loader = DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


def main() -> None:
    kind, data, output = sys.argv[1:]
    torch.set_num_threads(1)
    plugin = auto_plugin(build_processor("qwen2_vl"))
    files = sorted(map(str, Path(data).glob("*.jsonl")))
    source = datasets.load_dataset("json", data_files=files, split="train", streaming=True)
    rows = source.map(plugin.transform, batched=True, batch_size=4)
    if kind == "budget":
        rows = datasets.Dataset.from_list(list(rows))
    collator = plugin.collator(ensure_media=True)
    seen = []

    def collate(batch):
        seen.append([row["number"] for row in batch])
        return collator(batch)

    arguments = TrainingArguments(
        output_dir=output,
        **({"num_train_epochs": 2} if kind == "budget" else {"max_steps": 3}),
        per_device_train_batch_size=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        seed=5,
        **plugin.training_args_kwargs(),
    )
    trainer = (BudgetTrainer if kind == "budget" else Trainer)(
        model=build_model("qwen2_vl", plugin.processor), args=arguments, train_dataset=rows, data_collator=collate
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    report = {"seen": seen, "losses": losses, "steps": trainer.state.global_step}
    Path(output, f"rank{arguments.process_index}.json").write_text(json.dumps(report), encoding="utf-8")
    leave()


if __name__ == "__main__":
    main()
