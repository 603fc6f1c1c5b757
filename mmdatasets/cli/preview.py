"""`mmdatasets preview`: rows of a dataset as the model sees them, as a page or as text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from mmdatasets.cli.datasets import add_dataset_options, open_dataset
from mmdatasets.cli.numbers import not_negative
from mmdatasets.cli.preprocess import TRAIN_ON, add_media_options, media_options
from mmdatasets.errors import MMDatasetsError

_DESCRIPTION = """\
Shows rows of a dataset as the model sees them: the conversation, images with the grid or the tiles that become tokens,
frames of videos with their times, waveforms, and the tokens: who speaks, what is media, what is trained. Rows that are
not mapped are mapped first. Where the media of a mapped row cannot be read, the preview says why,
in its place; a row that is not mapped needs its media, and is an error without.

With --out it writes a page (one HTML file, which loads nothing from anywhere); without, it prints text.
"""
_EPILOG = """\
examples:
  mmdatasets preview chat.jsonl --row 3 --processor Qwen/Qwen2.5-VL-7B-Instruct --out row.html
  mmdatasets preview mapped --row 3 --processor ./my-processor
  mmdatasets preview mapped --rows 0:8 --processor ./my-processor --out rows.html
  mmdatasets preview mapped --row 3 --processor ./my-processor --json

exit status: 0 it is shown; 1 an error in the data or the processor, which the message explains; 2 wrong usage;
130 interrupted
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "preview",
        help="show rows as the model sees them: a page with images, frames, waveforms and tokens, or text",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_dataset_options(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--row", metavar="N", type=not_negative, default=0, help="which row, from 0 on (default: %(default)s)"
    )
    which.add_argument("--rows", metavar="A:B", type=_range, help="several rows: from A on, up to B, without B")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page to write, replaced if it is there")
    parser.add_argument("--json", action="store_true", help="print what is shown as one JSON object")
    parser.add_argument(
        "--train-on",
        choices=TRAIN_ON,
        default="assistant",
        help="what is trained of rows that are not mapped (default: %(default)s)",
    )
    group = parser.add_argument_group("media (what is left out, the model's processor decides; mapped rows say it)")
    add_media_options(group)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command.

    Raises:
        MMDatasetsError: The dataset, the row or the processor cannot be used, or the page not be written.
        SystemExit: With 2 if the arguments contradict each other.
    """
    try:
        options = media_options(args)
    except ValueError as error:
        args.usage_error(str(error))
    opened = open_dataset(args, options, train_on=args.train_on)
    start, stop = args.rows or (args.row, args.row + 1)
    count = len(opened.dataset)
    if start >= count:
        raise MMDatasetsError(f"there is no row {start}: the dataset has {count:,}, from 0 on", source=args.dataset)
    stop = min(stop, count)
    table = opened.dataset.with_format("arrow")[start:stop]
    preview = opened.plugin.preview(table, names=[f"row {number}" for number in range(start, stop)])
    if args.out is not None:
        preview.save(args.out)
    if args.json:
        console.file.write(json.dumps(preview.facts.to_json(), ensure_ascii=True) + "\n")
    elif args.out is None:
        console.print(preview)
    else:
        console.print(f"{args.out}: {args.out.stat().st_size / 1024:,.0f} KB", markup=False, highlight=False)


def _range(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not colon or not (first or "0").isdecimal() or not last.isdecimal() or int(first or "0") >= int(last):
        raise argparse.ArgumentTypeError(f"expected A:B, with A less than B, got {text!r}")
    return int(first or "0"), int(last)
