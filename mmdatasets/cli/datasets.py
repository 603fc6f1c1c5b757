"""Opens the dataset that a command is given, with the plugin that made its rows, or that is to map them."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdatasets.errors import MMDatasetsError
from mmdatasets.options import MediaOptions

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.shards.sources import OpenedSource

DATASET_HELP = (
    "a data file (.json, .jsonl, .ndjson, .parquet, .csv, .arrow), a folder of files of one such format or of "
    "save_to_disk, or a dataset's name on the Hugging Face Hub; of conversations, or mapped already"
)


@dataclass(frozen=True, slots=True)
class OpenedDataset:
    """A dataset, and its plugin.

    Attributes:
        dataset: Its rows.
        plugin: What made them, or is to map them.
        is_mapped: Whether they are mapped.
    """

    dataset: Dataset
    plugin: BasePlugin
    is_mapped: bool


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Adds the dataset, and which part of it is meant."""
    parser.add_argument("dataset", metavar="DATASET", help=DATASET_HELP)
    parser.add_argument("--split", default="train", help="which split of it (default: %(default)s)")
    parser.add_argument("--config", metavar="NAME", help="which configuration of a dataset on the Hub")


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Adds the dataset, and what there is to say of it."""
    add_source_options(parser)
    parser.add_argument(
        "--processor",
        metavar="NAME_OR_DIR",
        help="the model's processor: a folder made with save_pretrained, or a name on the Hub. A mapped dataset may "
        "say its name itself",
    )
    parser.add_argument("--family", metavar="NAME", help="the plugin to use (default: that of the processor's class)")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="allow the processor's own code from the Hub or folder to run"
    )


def open_rows(args: argparse.Namespace) -> OpenedSource:
    """Opens the rows that the arguments name, mapped or not; nothing is said of a plugin.

    Args:
        args: With what `add_source_options` adds.

    Raises:
        MMDatasetsError: If there is no such dataset or split, or it cannot be read.
    """
    from mmdatasets.shards.sources import open_source_dataset

    return open_source_dataset(_shards_of(args.dataset), args.split, args.config)


def _shards_of(name: str) -> str:
    """What `preprocess` wrote is in a folder of its own, beside a file that says what made it."""
    folder = Path(name).expanduser()
    shards = folder / "data"
    return str(shards) if shards.is_dir() and any(folder.glob("preprocess-*.json")) else name


def open_dataset(args: argparse.Namespace, options: MediaOptions, **fields: object) -> OpenedDataset:
    """Opens the dataset that the arguments name.

    Args:
        args: With what `add_dataset_options` adds, and `usage_error`.
        options: How media is read. Of a mapped dataset only where it lies and what is allowed:
            it says the rest itself.
        **fields: Further fields of the plugin for a dataset that is not mapped.

    Raises:
        MMDatasetsError: If the dataset or the processor cannot be used.
        SystemExit: With 2 if a dataset that is not mapped comes without a processor.
    """
    from mmdatasets.cli.processors import load_processor
    from mmdatasets.features import CHOSEN_IDS, INPUT_IDS, MADE_BY
    from mmdatasets.integrations.hub import load_plugin
    from mmdatasets.plugins.record import LOCAL_SETTINGS

    opened = open_rows(args)
    names = opened.dataset.column_names
    is_mapped = INPUT_IDS in names or CHOSEN_IDS in names
    processor = None
    if args.processor is not None:
        processor = load_processor(args.processor, trust_remote_code=args.trust_remote_code)
    root = options.media_root or opened.media_root
    local = {name: value for name, value in asdict(options).items() if name in LOCAL_SETTINGS} | {"media_root": root}
    if is_mapped and MADE_BY in names:
        try:
            plugin = load_plugin(opened.dataset, processor, **local)
        except MMDatasetsError as error:
            if processor is None and "processor=..." in error.message:
                error.message = error.message.replace("pass processor=...", "pass --processor NAME_OR_DIR")
            raise error.at(source=args.dataset) from error.__cause__
        return OpenedDataset(opened.dataset, plugin, is_mapped)
    if processor is None:
        args.usage_error(f"--processor is needed: {args.dataset} does not say which one made it")
    return OpenedDataset(opened.dataset, _new_plugin(args, processor, options, root, fields), is_mapped)


def _new_plugin(
    args: argparse.Namespace,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    options: MediaOptions,
    root: str | None,
    further: dict[str, object],
) -> BasePlugin:
    from mmdatasets import auto_plugin, get_mm_plugin
    from mmdatasets.errors import UnknownPluginError

    fields: dict[str, Any] = {"options": replace(options, media_root=root), **further}
    try:
        if args.family is None:
            return auto_plugin(processor, **fields)
        return get_mm_plugin(args.family, processor=processor, **fields)
    except (ValueError, UnknownPluginError) as error:
        if isinstance(error, MMDatasetsError) and not isinstance(error, UnknownPluginError):
            raise
        args.usage_error(str(error))
        raise
