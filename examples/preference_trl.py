"""Preference data with images to TRL's trainers: map, look at a batch, train with DPO, KTO or a reward model.

With --tiny it needs neither network nor GPU:

    python examples/preference_trl.py --tiny
    python examples/preference_trl.py --tiny --trainer kto
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset, load_dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLPreTrainedModel
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, unpair_preference_dataset

import mmdatasets.testing
from mmdatasets import MediaOptions, auto_plugin
from mmdatasets.plugins.base import BasePlugin

PreferenceTrainer = DPOTrainer | RewardTrainer | KTOTrainer
PACKAGED_PHOTOS = Path(mmdatasets.testing.__file__).parent / "data"


class Qwen2VLReward(GenericForSequenceClassification, Qwen2VLPreTrainedModel):
    """transformers has reward models of few vision language families (Gemma 3, say); its generic head makes others."""


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    processor = load_processor(args)

    # 1. Map. Both answers share the row's images, of which the headers are read.
    folder = PACKAGED_PHOTOS if args.data is None else args.data.parent
    options = MediaOptions(media_root=str(folder.absolute()), image_max_pixels=256 * 256)
    plugin = auto_plugin(processor, options=options)
    dataset = packaged_pairs() if args.data is None else load_dataset("json", data_files=str(args.data), split="train")
    if args.trainer == "kto" and "chosen" in dataset.column_names:
        dataset = unpair_preference_dataset(dataset)  # in an order where neighbours have other prompts
    mapped = dataset.map(
        plugin.preference_transform,
        batched=True,
        with_indices=True,
        features=plugin.preference_features(dataset.features),
    )

    # 2. Collate: each image is decoded once.
    collator = plugin.preference_collator(args.trainer)
    for name, tensor in collator([mapped[0], mapped[1]]).items():
        print(f"{name}: {tuple(tensor.shape)} {tensor.dtype}")

    # 3. Train.
    trainer = make_trainer(args, processor, plugin, mapped)
    print(f"mean loss of {args.steps} steps: {trainer.train().training_loss:.3f}")


def make_trainer(
    args: argparse.Namespace, processor: ProcessorMixin, plugin: BasePlugin, mapped: Dataset
) -> PreferenceTrainer:
    # The collator reads columns that the trainers do not know, and rows must not be cut.
    settings = {
        **plugin.training_args_kwargs(args.trainer),
        "output_dir": str(args.output),
        "max_steps": args.steps,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3 if args.tiny else 1e-6,
        "bf16": not args.tiny,
        "save_strategy": "no",
        "report_to": "none",
    }
    common = {"train_dataset": mapped, "data_collator": plugin.preference_collator(args.trainer)}
    if args.trainer == "reward":
        return RewardTrainer(
            model=reward_model(args, processor),
            args=RewardConfig(**settings),
            processing_class=processor.tokenizer,  # it takes no processor
            **common,
        )
    if args.trainer == "kto":
        kind, config = KTOTrainer, KTOConfig(**settings)
    else:
        kind, config = DPOTrainer, DPOConfig(**settings)
    return kind(
        model=load_model(args, processor),
        ref_model=load_model(args, processor),
        args=config,
        processing_class=processor,
        **common,
    )


def packaged_pairs() -> Dataset:
    """A few questions about the package's photos, each with a better and a worse answer."""
    answers = {
        "cat.jpg": ("A tabby cat.", "A dog."),
        "coffee.jpg": ("A cup of coffee on a table.", "I cannot see it."),
        "astronaut.jpg": ("An astronaut in an orange suit.", "A cup."),
        "photographer.jpg": ("A photographer with his camera.", "A cat."),
    }
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": "<image>What is it?"}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "images": [name],
            }
            for name, (chosen, rejected) in answers.items()
        ]
    )


def load_processor(args: argparse.Namespace) -> ProcessorMixin:
    if args.tiny:
        return mmdatasets.testing.build_processor("qwen2_vl")
    return AutoProcessor.from_pretrained(args.model)


def load_model(args: argparse.Namespace, processor: ProcessorMixin) -> PreTrainedModel:
    if args.tiny:
        return mmdatasets.testing.build_model("qwen2_vl", processor)
    return AutoModelForImageTextToText.from_pretrained(args.model)


def reward_model(args: argparse.Namespace, processor: ProcessorMixin) -> PreTrainedModel:
    if not args.tiny:
        return Qwen2VLReward.from_pretrained(args.model, num_labels=1)
    config = load_model(args, processor).config
    config.num_labels = 1
    return Qwen2VLReward(config)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        metavar="PATH_OR_NAME",
        default="Qwen/Qwen2-VL-2B-Instruct",
        help="checkpoint of a Qwen2-VL model (default: %(default)s)",
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny model with random weights, made offline, instead")
    parser.add_argument(
        "--data",
        metavar="FILE.jsonl",
        type=Path,
        help='lines of {"prompt": [...], "chosen": [...], "rejected": [...], "images": [...]} (default: four '
        "questions about photos that come with the package)",
    )
    parser.add_argument("--trainer", choices=["dpo", "reward", "kto"], default="dpo", help="default: %(default)s")
    parser.add_argument("--steps", metavar="N", type=int, default=2, help="training steps (default: %(default)s)")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("example-output"), help="folder (default: %(default)s)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
