"""`mmdatasets report`: what a dataset holds, as a page, as JSON and in a few lines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmdatasets.cli.datasets import add_dataset_options, open_dataset, open_rows
from mmdatasets.cli.numbers import not_negative, positive
from mmdatasets.options import MediaOptions

if TYPE_CHECKING:
    from mmdatasets.report.report import Report

_TIMED = 16
_DESCRIPTION = """\
Says what a dataset holds and what it costs: lengths with the share of media, what padding and packing waste, what each
overflow policy would do at several lengths and which max_length to take, sizes of media, what is largest and slowest,
and which rows are missing, and why. It writes a page (one HTML file, which loads nothing) and the same as JSON.

A mapped dataset needs no processor. Other rows are mapped first, to a temporary place; those that cannot be used are
left out and listed.
"""
_EPILOG = """\
examples:
  mmdatasets report mapped
  mmdatasets report mapped --output report/ --row-log row_log
  mmdatasets report chat.jsonl --processor Qwen/Qwen2.5-VL-7B-Instruct --json

exit status: 0 it is written; 1 an error in the data or the processor, which the message explains; 2 wrong usage;
130 interrupted
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="report on a dataset: lengths, padding, packing, media, what fails; a page and JSON",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_dataset_options(parser)
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help="where to write: a file *.html, or a folder for report.html and report.json (default: the working "
        "directory; with --json nothing is written unless this is given)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, in place of the summary")
    parser.add_argument(
        "--row-log", metavar="DIR", type=Path, help="folder with what the map wrote of rows that it dropped or changed"
    )
    parser.add_argument(
        "--source-rows", metavar="N", type=not_negative, help="how many rows were mapped, to count those missing"
    )
    parser.add_argument(
        "--max-length",
        metavar="N",
        type=positive,
        nargs="+",
        dest="max_lengths",
        help="lengths to compare (default: chosen by the rows' lengths)",
    )
    parser.add_argument(
        "--time-media",
        metavar="N",
        type=not_negative,
        default=_TIMED,
        help="decode the N largest items, to see how long that takes (default: %(default)s)",
    )
    parser.add_argument("--num-proc", metavar="N", type=positive, help="processes that map rows that are not mapped")
    parser.add_argument("--media-root", metavar="DIR", help="folder that relative media paths start from")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command.

    Raises:
        MMDatasetsError: The dataset or the processor cannot be used, or the report not be written.
        SystemExit: With 2 if rows that are not mapped come without a processor.
    """
    report = _make(args)
    if args.json:
        console.file.write(report.to_json() + "\n")
    if args.output is not None or not args.json:
        page = report.save(args.output or Path())
        if not args.json:
            console.print(str(report), markup=False, highlight=False)
            console.print(f"{'written':10} {page} and the JSON beside it", markup=False, highlight=False)


def _make(args: argparse.Namespace) -> Report:
    from mmdatasets.report.columns import is_mapped
    from mmdatasets.report.data import ReportSettings, gather
    from mmdatasets.report.report import Report
    from mmdatasets.transforms.row_log import read_row_log

    options = MediaOptions(media_root=args.media_root)
    source = open_rows(args)
    rows, media_root = source.dataset, source.media_root
    title = Path(args.dataset).name or args.dataset
    if not is_mapped(rows):
        opened = open_dataset(args, options)
        settings = {"max_lengths": args.max_lengths, "time_media": args.time_media, "num_proc": args.num_proc}
        return opened.plugin.report(opened.dataset, title=title, **settings)
    log = None if args.row_log is None else read_row_log(args.row_log)
    options = MediaOptions(media_root=args.media_root or media_root)
    own = ReportSettings(title=title, options=options, max_lengths=args.max_lengths, time_media=args.time_media)
    missing = None if args.source_rows is None else args.source_rows - len(rows)
    return Report(gather(rows, own, log, missing))
