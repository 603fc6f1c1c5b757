"""From conversations with images to a trained model: map, look at a row, collate, train, save.

Without arguments it needs neither network nor GPU:

    python examples/map_and_train.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import load_dataset
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Trainer,
    TrainingArguments,
)

import mmdatasets.testing
from mmdatasets import MediaOptions, auto_plugin

PACKAGED_DATA = Path(mmdatasets.testing.__file__).parent / "data" / "chat.jsonl"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    processor, model, learning_rate = load(args.processor)

    # 1. Map: the headers of the images are read, no pixel is decoded. Image paths are relative to the data file. The
    #    limit on the pixels keeps the training short; leave it out for the sizes that the model was made for.
    options = MediaOptions(media_root=str(args.data.parent.absolute()), image_max_pixels=256 * 256)
    plugin = auto_plugin(processor, options=options)
    dataset = load_dataset("json", data_files=str(args.data), split="train")
    mapped = dataset.map(plugin.transform, batched=True, with_indices=True, features=plugin.features(dataset.features))
    print(f"row 0: {mapped[0]['length']} tokens, media: {mapped[0]['media_info']}")

    # 2. Collate: the images are decoded, and the processor makes tensors of them.
    collator = plugin.collator()
    for name, tensor in collator([mapped[0], mapped[1]]).items():
        print(f"{name}: {tuple(tensor.shape)} {tensor.dtype}")

    # 3. Train. The collator reads columns that the model does not know: they must stay.
    arguments = TrainingArguments(
        output_dir=str(args.output / "checkpoints"),
        max_steps=args.steps,
        per_device_train_batch_size=2,
        learning_rate=learning_rate,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        **plugin.training_args_kwargs(),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=mapped, data_collator=collator)
    print(f"mean loss of {args.steps} steps: {trainer.train().training_loss:.3f}")

    # 4. Save: the image files go into the dataset, so that the folder can be moved to another machine.
    mapped.save_to_disk(str(args.output / "mapped"))
    print(f"saved {len(mapped)} rows to {args.output / 'mapped'}")


def load(name: str | None) -> tuple[ProcessorMixin, PreTrainedModel, float]:
    """The processor, the model and a learning rate for it."""
    if name is None:
        processor = mmdatasets.testing.build_processor("qwen2_vl")
        return processor, mmdatasets.testing.build_model("qwen2_vl", processor), 3e-3  # tiny, random weights
    return AutoProcessor.from_pretrained(name), AutoModelForImageTextToText.from_pretrained(name), 1e-5


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--processor",
        metavar="PATH_OR_NAME",
        help="checkpoint to take the processor and the model from, such as Qwen/Qwen2-VL-2B-Instruct (default: a "
        "small processor and a tiny model with random weights, both made offline)",
    )
    parser.add_argument(
        "--data",
        metavar="FILE.jsonl",
        type=Path,
        default=PACKAGED_DATA,
        help='lines of {"messages": [...], "images": [...]} (default: the conversations that come with the package)',
    )
    parser.add_argument("--steps", metavar="N", type=int, default=20, help="training steps (default: %(default)s)")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("example-output"), help="folder (default: %(default)s)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
