"""The collator beside the processor: time per batch of rows with one image each, files to tensors.

  processor(text, images)  the images opened with Pillow, then processor(text=..., images=..., padding=True)
  apply_chat_template      processor.apply_chat_template(conversations, tokenize=True, return_dict=True, padding=True)
  ours                     plugin.collator()(rows), on rows that were mapped before

All read the same files; their token ids and pixel values are checked to be equal. The processor's ways make no labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import torch
from common import Result, alternate, conversation, make_rows, parser, report, write_photos
from datasets import Dataset, Image, List
from PIL import Image as PillowImage

from mmdatasets import auto_plugin
from mmdatasets.testing import build_processor

if TYPE_CHECKING:
    from transformers import ProcessorMixin

SIZES = ["1024x768", "4000x3000"]


def measure(
    size: tuple[int, int], batch_size: int, processor: ProcessorMixin, folder: Path, repeats: int
) -> list[Result]:
    paths = write_photos(folder, [size] * batch_size)
    conversations = [conversation([path]) for path in paths]
    texts = [processor.apply_chat_template(messages, tokenize=False) for messages in conversations]
    plugin = auto_plugin(processor)
    dataset = Dataset.from_list(make_rows(paths, 1)).cast_column("images", List(Image(decode=False)))
    mapped = dataset.map(plugin.transform, batched=True, features=plugin.features(dataset.features))
    rows = [mapped[i] for i in range(batch_size)]
    collator = plugin.collator()
    batches: dict[str, Mapping[str, torch.Tensor]] = {}

    def by_call() -> None:
        images = [[PillowImage.open(path).convert("RGB")] for path in paths]
        batches["call"] = processor(text=texts, images=images, padding=True, return_tensors="pt")

    def by_template() -> None:
        batches["template"] = processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def ours() -> None:
        batches["ours"] = collator(rows)

    contestants = {"processor(text, images)": by_call, "apply_chat_template": by_template, "plugin.collator": ours}
    seconds = alternate(contestants, repeats)
    for name, batch in batches.items():
        for key in ("input_ids", "attention_mask", "pixel_values"):
            if not torch.equal(batch[key], batches["ours"][key]):
                raise AssertionError(f"{size}: {key} of {name} differs from the collator's")
    case = f"batch of {batch_size} rows, one {size[0]}x{size[1]} JPEG each"
    return [Result(case, name, 1, times) for name, times in seconds.items()]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batch-size", type=int, default=4, help="rows per batch (default: %(default)s)")
    options.add_argument("--sizes", nargs="+", default=SIZES, metavar="WxH", help="pixels of every image")
    args = options.parse_args()
    datasets.disable_progress_bars()
    processor = build_processor(args.family)
    results: list[Result] = []
    for text in args.sizes:
        width, height = map(int, text.split("x"))
        with tempfile.TemporaryDirectory() as name:
            results += measure((width, height), args.batch_size, processor, Path(name), args.repeats)
    report(results, "batch", as_json=args.json)


if __name__ == "__main__":
    main()
