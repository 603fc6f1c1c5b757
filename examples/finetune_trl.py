"""Fine-tunes a vision-language model with LoRA: trl.SFTTrainer and PEFT.

pip install 'mmdatasets[trl]'
python examples/finetune_trl.py --tiny                      # offline, without a GPU: random weights
python examples/finetune_trl.py --model Qwen/Qwen3-VL-4B-Instruct --data chat.jsonl
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from trl import SFTConfig, SFTTrainer

import mmdatasets.testing
from mmdatasets import MediaOptions, auto_plugin

PACKAGED_DATA = Path(mmdatasets.testing.__file__).parent / "data" / "chat.jsonl"
# The linear layers of the language model, not those of the vision tower.
LANGUAGE_LAYERS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    processor, model = load(args)
    options = MediaOptions(media_root=str(args.data.parent.absolute()), image_max_pixels=args.max_pixels)
    plugin = auto_plugin(processor, options=options)
    dataset = load_dataset("json", data_files=str(args.data), split="train")
    mapped = dataset.map(plugin.transform, batched=True, with_indices=True, features=plugin.features(dataset.features))

    # training_args_kwargs("sft") has SFTTrainer leave the mapped rows as they are: it neither tokenises nor cuts them.
    arguments = SFTConfig(
        output_dir=str(args.output),
        num_train_epochs=args.epochs,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        bf16=torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=args.workers,
        **plugin.training_args_kwargs("sft"),
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=mapped,
        data_collator=plugin.collator(dtype=model.dtype, ensure_media=arguments.world_size > 1),
        processing_class=processor,
        peft_config=LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=LANGUAGE_LAYERS),
    )
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    print(f"{len(mapped)} rows, {trained:,} of {model.num_parameters():,} parameters are trained")
    result = trainer.train()
    print(f"mean loss of {result.global_step} steps: {result.training_loss:.3f}")
    trainer.save_model(str(args.output))
    print(f"saved the adapter to {args.output}")


def load(args: argparse.Namespace) -> tuple[ProcessorMixin, PreTrainedModel]:
    if args.tiny:
        processor = mmdatasets.testing.build_processor("qwen3_vl")
        return processor, mmdatasets.testing.build_model("qwen3_vl", processor).train()
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=dtype)
    return AutoProcessor.from_pretrained(args.model), model


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model with random weights, made offline")
    parser.add_argument("--model", metavar="PATH_OR_NAME", default="Qwen/Qwen3-VL-4B-Instruct")
    parser.add_argument(
        "--data",
        metavar="FILE.jsonl",
        type=Path,
        default=PACKAGED_DATA,
        help='lines of {"messages": [...], "images": [...]}, paths relative to the file',
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("example-output/trl"))
    parser.add_argument("--epochs", metavar="N", type=float, default=1.0)
    parser.add_argument("--steps", metavar="N", type=int, default=-1, help="instead of epochs")
    parser.add_argument("--batch-size", metavar="N", type=int, default=4)
    parser.add_argument("--rank", metavar="N", type=int, default=16, help="of the LoRA matrices")
    parser.add_argument("--learning-rate", metavar="RATE", type=float, default=None)
    parser.add_argument("--max-pixels", metavar="N", type=int, default=None, help="of an image")
    parser.add_argument("--workers", metavar="N", type=int, default=None)
    args = parser.parse_args(argv)
    # A tiny model bears a high learning rate, and is to be trained in seconds.
    tiny = {"learning_rate": 1e-2, "max_pixels": 256 * 256, "workers": 0}
    real = {"learning_rate": 1e-4, "max_pixels": 1024 * 1024, "workers": 8}
    for name, value in (tiny if args.tiny else real).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


if __name__ == "__main__":
    main()
