"""Fine-tunes an audio-language model on chats with recordings, with transformers.Trainer.

python examples/finetune_audio.py --tiny                      # offline, without a GPU: random weights
python examples/finetune_audio.py --model Qwen/Qwen2-Audio-7B-Instruct --data chat.jsonl
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Trainer,
    TrainingArguments,
)

import mmdatasets.testing
from mmdatasets import MediaOptions, auto_plugin

PACKAGED_AUDIO = Path(mmdatasets.testing.__file__).parent / "data" / "speech.flac"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    processor, model = load(args)
    dataset, folder = read(args.data)

    # Whisper's encoder hears 30 seconds at most. "chunk" makes several items of a longer recording; the default is an
    # error, as the rest would otherwise be lost without a word.
    plugin = auto_plugin(processor, options=MediaOptions(media_root=str(folder), long_audio="chunk"))
    mapped = dataset.map(plugin.transform, batched=True, with_indices=True, features=plugin.features(dataset.features))
    seconds = sum(item["num_samples"] for row in mapped["media_info"] for item in row) / 16_000
    print(f"{len(mapped)} rows, {seconds:.1f} s of audio, {sum(mapped['length']):,} tokens")

    # The encoder stays as it is.
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "audio_tower" not in name
    arguments = TrainingArguments(
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
        **plugin.training_args_kwargs(),
    )
    collator = plugin.collator(dtype=model.dtype, ensure_media=arguments.world_size > 1)
    trainer = Trainer(model=model, args=arguments, train_dataset=mapped, data_collator=collator)
    result = trainer.train()
    print(f"mean loss of {result.global_step} steps: {result.training_loss:.3f}")
    trainer.save_model(str(args.output))
    processor.save_pretrained(args.output)
    print(f"saved to {args.output}")


def load(args: argparse.Namespace) -> tuple[ProcessorMixin, PreTrainedModel]:
    if args.tiny:
        processor = mmdatasets.testing.build_processor("qwen2_audio")
        return processor, mmdatasets.testing.build_model("qwen2_audio", processor).train()
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = AutoModelForMultimodalLM.from_pretrained(args.model, dtype=dtype)
    return AutoProcessor.from_pretrained(args.model), model


def read(path: Path | None) -> tuple[Dataset, Path]:
    """The chats, and the folder that their paths start from."""
    if path is not None:
        return load_dataset("json", data_files=str(path), split="train"), path.parent.absolute()
    # The recording that comes with the package, asked about in several ways.
    questions = ["What is said?", "Write down what you hear.", "Transcribe the recording.", "Which words are these?"]
    answer = "He was not an ill-disposed young man."
    chats = [
        [{"role": "user", "content": f"<audio>{question}"}, {"role": "assistant", "content": answer}]
        for question in questions
    ]
    columns = {"messages": chats, "audios": [[PACKAGED_AUDIO.name]] * len(chats)}
    return Dataset.from_dict(columns), PACKAGED_AUDIO.parent


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model with random weights, made offline")
    parser.add_argument("--model", metavar="PATH_OR_NAME", default="Qwen/Qwen2-Audio-7B-Instruct")
    parser.add_argument(
        "--data",
        metavar="FILE.jsonl",
        type=Path,
        help='lines of {"messages": [...], "audios": [...]}, paths relative to the file (default: a few made of the '
        "recording that comes with the package)",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("example-output/audio"))
    parser.add_argument("--epochs", metavar="N", type=float, default=1.0)
    parser.add_argument("--steps", metavar="N", type=int, default=-1, help="instead of epochs")
    parser.add_argument("--batch-size", metavar="N", type=int, default=2)
    parser.add_argument("--learning-rate", metavar="RATE", type=float, default=None)
    parser.add_argument("--workers", metavar="N", type=int, default=None)
    args = parser.parse_args(argv)
    # A tiny model bears a high learning rate, and is to be trained in seconds.
    tiny = {"learning_rate": 3e-3, "workers": 0}
    real = {"learning_rate": 1e-5, "workers": 8}
    for name, value in (tiny if args.tiny else real).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


if __name__ == "__main__":
    main()
