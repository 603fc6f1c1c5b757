"""`mmdatasets check`: whether a mapped dataset is what the map made, and its media is there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from mmdatasets.cli.datasets import add_dataset_options, open_rows
from mmdatasets.cli.numbers import positive
from mmdatasets.options import MediaOptions

if TYPE_CHECKING:
    from datasets import Dataset

    from mmdatasets.plugins.base import BasePlugin
    from mmdatasets.report.check import CheckResult, CollateRow

_SHOWN = 100
_DESCRIPTION = """\
Checks a mapped dataset, row by row: as many labels as token ids, and as many as the length says; media spans within
the row, apart, and with the media tokens that they say; nothing of media trained; a reference for each item; and a
file, or bytes, for each reference. With --deep, every item is decoded as it was planned; with --deep and --processor
the model's inputs are made of every row, and compared with its tokens.
"""
_EPILOG = """\
examples:
  mmdatasets check mapped
  mmdatasets check mapped --deep --processor ./my-processor

exit status: 0 no problems; 1 problems, which are listed, or an error; 2 wrong usage; 130 interrupted
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "check",
        help="check a mapped dataset: tokens, spans, counts, media files; --deep decodes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_dataset_options(parser)
    parser.add_argument("--deep", action="store_true", help="decode every media item")
    parser.add_argument(
        "--max-problems",
        metavar="N",
        type=positive,
        default=_SHOWN,
        help="how many problems to list; all are counted (default: %(default)s)",
    )
    parser.add_argument("--media-root", metavar="DIR", help="folder that relative media paths start from")
    parser.add_argument("--allow-http", action="store_true", help="allow http(s) references to be opened, with --deep")
    parser.add_argument(
        "--decode-timeout", metavar="SECONDS", type=float, help="longest that reading one item may take, with --deep"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace, console: Console) -> int:
    """Runs the command.

    Returns:
        The exit status: 1 if there are problems.

    Raises:
        MMDatasetsError: The dataset or the processor cannot be used.
    """
    result = _check(args)
    if args.json:
        console.file.write(json.dumps(result.to_json(), indent=1) + "\n")
    else:
        console.print(str(result), markup=False, highlight=False)
    return int(not result.is_sound)


def _check(args: argparse.Namespace) -> CheckResult:
    from mmdatasets.report.check import check_dataset
    from mmdatasets.shards.progress import show_progress

    source = open_rows(args)
    rows, media_root = source.dataset, source.media_root
    try:
        options = MediaOptions(
            media_root=args.media_root or media_root,
            allow_http=args.allow_http,
            decode_timeout_s=args.decode_timeout,
        )
    except ValueError as error:
        args.usage_error(str(error))
    plugin = None if args.processor is None else _load_plugin(args, rows, options)
    with show_progress(len(rows), 0, "Checking", enabled=not args.quiet) as on_rows:
        return check_dataset(
            rows,
            options=options,
            deep=args.deep,
            collate=None if plugin is None or not args.deep else _collator(plugin, rows),
            media_token_ids=None if plugin is None else plugin.engine.media_token_ids,
            max_problems=args.max_problems,
            on_rows=on_rows,
        )


def _load_plugin(args: argparse.Namespace, rows: Dataset, options: MediaOptions) -> BasePlugin:
    from mmdatasets.cli.processors import load_processor
    from mmdatasets.integrations.hub import load_plugin

    processor = load_processor(args.processor, trust_remote_code=args.trust_remote_code)
    local = {name: getattr(options, name) for name in ("media_root", "allow_http", "decode_timeout_s")}
    return load_plugin(rows, processor, **local)


def _collator(plugin: BasePlugin, rows: Dataset) -> CollateRow:
    """What makes a batch of one row, so that an error is that row's."""
    from mmdatasets.report.columns import kind_of_rows

    match kind_of_rows(rows.features):
        case "pairs":
            return plugin.preference_collator("dpo", on_error="raise")
        case "answers":
            return plugin.preference_collator("kto", with_kl=False, on_error="raise")
        case "packed":
            return _unpacked(plugin)
        case "chats":
            return plugin.collator(on_error="raise")


def _unpacked(plugin: BasePlugin) -> CollateRow:
    """Takes packed rows for what they are to the processor: tokens and media. Their attention needs the model."""
    from mmdatasets.collate.rows import media_of

    def collate(rows: Sequence[object]) -> object:
        media = [media_of(row, plugin.engine) for row in rows]  # type: ignore[arg-type]
        return plugin.collated_inputs(media, [row["input_ids"] for row in rows])  # type: ignore[index]

    return collate
