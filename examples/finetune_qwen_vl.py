"""Fine-tunes a Qwen-VL model on chats with images and videos, with transformers.Trainer.

python examples/finetune_qwen_vl.py --tiny                      # offline, without a GPU: random weights
python examples/finetune_qwen_vl.py --model Qwen/Qwen2.5-VL-3B-Instruct --data chat.jsonl
torchrun --nproc-per-node 8 examples/finetune_qwen_vl.py --model ... --data ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Trainer,
    TrainingArguments,
)

import mmdatasets.testing
from mmdatasets import MediaBudgetBatchSampler, MediaOptions, auto_plugin

PACKAGED_DATA = Path(mmdatasets.testing.__file__).parent / "data" / "chat.jsonl"


class BudgetTrainer(Trainer):
    """A trainer whose batches have as many rows as a budget of tokens takes.

    Args:
        max_tokens: Tokens of a batch, padding included.
        **arguments: Trainer's own.
    """

    def __init__(self, *, max_tokens: int, **arguments: object) -> None:
        super().__init__(**arguments)
        self.max_tokens = max_tokens

    def get_train_dataloader(self) -> DataLoader:
        """Batches of the budget, shared among processes by accelerate."""
        longest = max(self.train_dataset["length"])
        batches = MediaBudgetBatchSampler.of(
            self.train_dataset,
            max_tokens=max(self.max_tokens, longest),
            seed=self.args.seed,
            num_replicas=self.args.world_size,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    processor, model = load(args)

    # What is seen of an image or a video decides what training costs; these limits are in pixels and frames.
    options = MediaOptions(
        media_root=str(args.data.parent.absolute()),
        image_max_pixels=args.max_pixels,
        video_max_pixels=args.max_pixels // 4,
        video_fps=2.0,
        video_max_frames=128,
    )
    plugin = auto_plugin(processor, options=options)
    dataset = load_dataset("json", data_files=str(args.data), split="train")
    mapped = dataset.map(
        plugin.transform,
        batched=True,
        with_indices=True,
        num_proc=args.workers or None,
        features=plugin.features(dataset.features),
    )
    print(f"{len(mapped)} rows, {sum(mapped['length']):,} tokens, the longest {max(mapped['length']):,}")

    # The vision tower stays as it is; the language model and the projection in between are trained.
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "visual." not in name or ".merger." in name
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(args.output),
        num_train_epochs=args.epochs,
        max_steps=args.steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        bf16=on_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        dataloader_num_workers=args.workers,
        **plugin.training_args_kwargs(),
    )
    # ensure_media: a process whose batch has no image still runs the vision tower, as the others do.
    collator = plugin.collator(dtype=model.dtype, ensure_media=arguments.world_size > 1)
    trainer = BudgetTrainer(
        max_tokens=args.max_tokens, model=model, args=arguments, train_dataset=mapped, data_collator=collator
    )
    result = trainer.train()
    print(f"mean loss of {result.global_step} steps: {result.training_loss:.3f}")
    trainer.save_model(str(args.output))
    processor.save_pretrained(args.output)
    print(f"saved to {args.output}")


def load(args: argparse.Namespace) -> tuple[ProcessorMixin, PreTrainedModel]:
    if args.tiny:
        processor = mmdatasets.testing.build_processor("qwen2_5_vl")
        return processor, mmdatasets.testing.build_model("qwen2_5_vl", processor).train()
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=dtype)
    return AutoProcessor.from_pretrained(args.model), model


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model with random weights, made offline")
    parser.add_argument("--model", metavar="PATH_OR_NAME", default="Qwen/Qwen2.5-VL-3B-Instruct")
    parser.add_argument(
        "--data",
        metavar="FILE.jsonl",
        type=Path,
        default=PACKAGED_DATA,
        help='lines of {"messages": [...], "images": [...], "videos": [...]}, paths relative to the file',
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("example-output/qwen-vl"))
    parser.add_argument("--epochs", metavar="N", type=float, default=1.0)
    parser.add_argument("--steps", metavar="N", type=int, default=-1, help="instead of epochs")
    parser.add_argument("--learning-rate", metavar="RATE", type=float, default=None)
    parser.add_argument("--max-tokens", metavar="N", type=int, default=8192, help="of a batch (default: %(default)s)")
    parser.add_argument("--max-pixels", metavar="N", type=int, default=None, help="of an image")
    parser.add_argument("--workers", metavar="N", type=int, default=None)
    args = parser.parse_args(argv)
    # A tiny model bears a high learning rate, and is to be trained in seconds.
    tiny = {"learning_rate": 3e-3, "max_pixels": 256 * 256, "workers": 0}
    real = {"learning_rate": 1e-5, "max_pixels": 1024 * 1024, "workers": 8}
    for name, value in (tiny if args.tiny else real).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.tiny:
        args.max_tokens = min(args.max_tokens, 512)
    return args


if __name__ == "__main__":
    main()
