"""`mmdatasets demo`: photos and conversations become a tokenised dataset, a batch and a short training run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from mmdatasets.cli.numbers import not_negative, positive
from mmdatasets.errors import MMDatasetsError
from mmdatasets.options import MediaOptions

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin

    from mmdatasets.plugins.base import BasePlugin

OFFLINE_FAMILY = "qwen2_vl"
# Small photos keep the training of the demo quick: 256x256 pixels are at most 84 media tokens in Qwen2-VL.
MAX_PIXELS = 256 * 256
SHOWN_LOSSES = 5


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="run the whole way from a JSONL file to a short training run, offline",
        description=(
            "Reads conversations with media from a JSON or JSONL file, maps them to token ids, labels and media sizes "
            "(nothing is decoded for that), shows one row and one batch, trains a tiny model with random weights for "
            "a few steps, and saves the mapped dataset. Without --processor it uses a small Qwen2-VL processor that "
            "comes with the package, and needs no network. It never needs a GPU."
        ),
    )
    parser.add_argument(
        "--processor",
        metavar="PATH_OR_NAME",
        help="your model's processor: a folder made with save_pretrained, or a name on the Hugging Face Hub; the "
        "tiny model that is trained is then one of the processor's family; where the package has none, the demo ends "
        "with one batch",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        type=Path,
        help='your conversations, one JSON object a line: {"messages": [{"role": "user", "content": "<image>What is '
        'this?"}, {"role": "assistant", "content": "A cat."}], "images": ["cat.jpg"]}; or a JSON array of such '
        "objects. Other layouts (conversations, prompt and completion, instruction and output, text) are told from "
        "their keys, and there may be videos and audios. Paths are relative to the file's folder (default: 14 "
        "conversations about 6 photos that come with the package)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("demo-output"),
        help="folder for the mapped dataset; replaced if an earlier demo wrote it (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", metavar="N", type=positive, default=40, help="training steps, with up to 4 rows each (default: 40)"
    )
    parser.add_argument(
        "--max-pixels",
        metavar="N",
        type=not_negative,
        default=MAX_PIXELS,
        help="images are sized to at most this many pixels (width x height), which keeps the training short; 0 leaves "
        "their size to the processor, as for a real run (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, in place of what is shown")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command.

    Raises:
        MMDatasetsError: The data, the processor or the output folder cannot be used.
    """
    from mmdatasets import auto_plugin
    from mmdatasets.cli.output import check_output, save_dataset
    from mmdatasets.cli.rows import read_chats
    from mmdatasets.cli.tiny_training import check_can_train

    output: Path = args.output
    out, console = console, Console(quiet=True) if args.json else console
    check_output(output)
    check_can_train()
    data: Path = args.data or Path(str(resources.files("mmdatasets.testing"))) / "data" / "chat.jsonl"
    dataset = read_chats(data)
    processor = _load_processor(args.processor, console)
    options = MediaOptions(image_max_pixels=args.max_pixels or None, media_root=str(data.parent.absolute()))
    plugin = auto_plugin(processor, options=options)

    _heading(console, "1. Map: conversations to token ids")
    mapped = _map(plugin, dataset, console)
    _heading(console, "2. One row")
    _show_row(plugin, mapped, console)
    _heading(console, "3. One batch")
    _show_batch(plugin, mapped, console)
    _heading(console, "4. Train")
    losses = _train(plugin, processor, mapped, args.steps, console, own_processor=args.processor is not None)
    if not losses:
        console.print("Train your model with")
        console.print(
            "  Trainer(model, TrainingArguments(..., remove_unused_columns=False),\n"
            "          train_dataset=mapped, data_collator=plugin.collator())",
            markup=False,
        )
    _heading(console, "5. Save")
    save_dataset(mapped, output)
    console.print(f"The mapped dataset, images included, is in {output}. Load it with", markup=False)
    console.print(f"  datasets.load_from_disk({str(output)!r})", markup=False)
    if args.json:
        out.file.write(json.dumps(_facts(plugin, mapped, losses, output)) + "\n")


def _facts(plugin: BasePlugin, mapped: Dataset, losses: Sequence[float], output: Path) -> dict[str, object]:
    """What the demo did, as JSON has it."""
    items = [item for items in mapped["media_info"] for item in items]
    return {
        "family": plugin.family,
        "processor": type(plugin.processor).__name__,
        "rows": len(mapped),
        "tokens": sum(mapped["length"]),
        "media_items": len(items),
        "media_tokens": sum(item["num_tokens"] for item in items),
        "losses": list(losses),
        "output": str(output),
    }


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Rule(text, align="left", characters="-"))


def _load_processor(name: str | None, console: Console) -> ProcessorMixin:
    if name is None:
        from mmdatasets.testing import build_processor

        return build_processor(OFFLINE_FAMILY)
    from transformers import ProcessorMixin

    from mmdatasets.cli.processors import load_processor

    console.print(f"Loading the processor {name} ...", markup=False)
    processor = load_processor(name)
    if not isinstance(processor, ProcessorMixin):
        raise MMDatasetsError(
            f"this is a {type(processor).__name__}, which takes no images; expected the processor of a vision model",
            source=name,
        )
    return processor


def _map(plugin: BasePlugin, dataset: Dataset, console: Console) -> Dataset:
    console.print(f"Conversations: {len(dataset)}. Processor: {type(plugin.processor).__name__}.")
    limit = plugin.options.image_max_pixels
    if limit is not None:
        console.print(f"Images are sized to at most {limit:,} pixels; --max-pixels 0 leaves that to the processor.")
    start = time.perf_counter()
    mapped = dataset.map(
        plugin.transform,
        batched=True,
        with_indices=True,  # errors name the row of the dataset
        features=plugin.features(dataset.features),
        desc="plugin.transform",
    )
    seconds = time.perf_counter() - start
    tokens = sum(mapped["length"])
    media = [item["num_tokens"] for items in mapped["media_info"] for item in items]
    kinds = sorted({item["modality"] for items in mapped["media_info"] for item in items})
    kind = kinds[0] if len(kinds) == 1 else "media" if kinds else "image"
    console.print(
        f"Read {len(media)} {kind} headers, decoded no {kind}: {seconds:.2f} s, {len(mapped) / seconds:,.0f} rows/s, "
        "start-up included."
    )
    plural = f"{kind}s" if kind in ("image", "video") else kind
    console.print(f"{tokens:,} tokens, {sum(media):,} of them for {plural}.")
    return mapped


def _show_row(plugin: BasePlugin, mapped: Dataset, console: Console) -> None:
    from mmdatasets.preview.build import gather
    from mmdatasets.preview.text import legend, sequence_text

    # The first row with an image, where there is one: it shows most.
    number = next((i for i, items in enumerate(mapped["media_info"]) if items), 0)
    console.print(Text(f"Row {number}. ").append(legend()))
    console.print()
    console.print(sequence_text(gather(plugin, mapped[number], decode=False).rows[0].sequences[0]))


def _show_batch(plugin: BasePlugin, mapped: Dataset, console: Console) -> None:
    from mmdatasets.cli.tiny_training import BATCH_SIZE
    from mmdatasets.preview.build import list_tensors
    from mmdatasets.preview.text import tensor_table

    rows = [mapped[i] for i in range(min(BATCH_SIZE, len(mapped)))]
    batch = plugin.collator()(rows)
    console.print(f"plugin.collator() on the first {len(rows)} rows; only now are images decoded:")
    console.print()
    console.print(tensor_table(list_tensors(batch)))


def _train(
    plugin: BasePlugin,
    processor: ProcessorMixin,
    mapped: Dataset,
    steps: int,
    console: Console,
    *,
    own_processor: bool,
) -> list[float]:
    """Trains a tiny model that fits the processor.

    Returns:
        The loss of every step; of none where no model fits, and the console says why.
    """
    from mmdatasets.cli.tiny_training import find_models, select_rows

    rows, batch_size = select_rows(mapped, len(processor.tokenizer), console.print)
    if batch_size == 0:
        return []
    names = find_models(processor, plugin.family)
    if not names:
        console.print(f"Not trained: the package has no tiny model for {type(processor).__name__}.")
    for name in names:
        try:
            return _train_model(name, plugin, processor, rows, steps, batch_size, console)
        except MMDatasetsError:
            raise
        # A model that was made for other settings of the processor fails in whatever layer notices first.
        except Exception as error:
            if not own_processor:
                raise
            reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
            console.print(
                f"Not trained: the tiny model {name!r} does not fit this processor ({reason}).", markup=False
            )
    return []


def _train_model(
    name: str,
    plugin: BasePlugin,
    processor: ProcessorMixin,
    rows: Dataset,
    steps: int,
    batch_size: int,
    console: Console,
) -> list[float]:
    import torch

    from mmdatasets.cli.tiny_training import train
    from mmdatasets.testing import build_model

    model = build_model(name, processor)
    console.print(
        f"transformers.Trainer, {type(model).__name__} with random weights "
        f"({model.num_parameters() / 1e6:.1f} million parameters), {steps} steps of {batch_size} rows:"
    )
    every = max(1, steps // SHOWN_LOSSES)

    def on_step(step: int, loss: float) -> None:
        if step in (1, steps) or step % every == 0:
            console.print(f"  step {step:3d}  loss {loss:.3f}")

    start = time.perf_counter()
    # The tiny models are in float32, and a few processors make bfloat16.
    collator = plugin.collator(dtype=torch.float32)
    losses = train(model, rows, collator, steps, batch_size, on_step)
    verb = "fell" if losses[-1] < losses[0] else "did not fall: it went"
    console.print(f"loss {verb} from {losses[0]:.3f} to {losses[-1]:.3f} in {time.perf_counter() - start:.0f} s")
    return losses
