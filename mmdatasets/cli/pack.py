"""`mmdatasets pack`: several short rows of a mapped dataset become one."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmdatasets.cli.datasets import add_source_options, open_rows
from mmdatasets.cli.numbers import positive
from mmdatasets.errors import MMDatasetsError

if TYPE_CHECKING:
    from datasets import Dataset

_STRATEGIES = ("best_fit", "first_fit", "sequential")
_ROWS_PER_SHARD, _ROWS_AT_ONCE = 5000, 100
_DESCRIPTION = """\
Packs a mapped dataset: rows are put together to rows of up to --max-length tokens, which plugin.packed_collator makes
batches of, so that no sequence sees another. No processor is needed. A row that is longer is an error: map with
--max-length and --on-overflow, or raise the length.
"""
_EPILOG = """\
examples:
  mmdatasets pack mapped --max-length 8192 --output packed
  mmdatasets pack mapped --max-length 8192 --max-patches 4096 --strategy sequential --output packed

exit status: 0 it is written; 1 an error in the data, which the message explains; 2 wrong usage; 130 interrupted
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "pack",
        help="pack a mapped dataset: several short rows become one",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_options(parser)
    parser.add_argument("--max-length", metavar="N", type=positive, required=True, help="most tokens of a packed row")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for the result, Parquet files for datasets.load_dataset(DIR); it must not be there yet, or be "
        "empty",
    )
    parser.add_argument(
        "--strategy",
        choices=_STRATEGIES,
        default="best_fit",
        help="which rows go together: what leaves least room, or in the order of the rows into the first that has "
        "room, or into the last alone (default: %(default)s)",
    )
    parser.add_argument("--max-patches", metavar="N", type=positive, help="most media tokens of a packed row")
    parser.add_argument("--num-proc", metavar="N", type=positive, help="processes that copy rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command.

    Raises:
        MMDatasetsError: The dataset cannot be packed, or the output not be written.
    """
    from mmdatasets.report.columns import kind_of_rows
    from mmdatasets.transforms.packing import Packer

    output: Path = args.output
    _check_output(output)
    rows = open_rows(args).dataset
    kind = kind_of_rows(rows.features)
    if kind in ("pairs", "answers"):
        raise MMDatasetsError("these are preference data, which is not packed", source=args.dataset)
    packer = Packer(args.max_length, args.strategy, args.max_patches)
    packed = packer.pack(rows, num_proc=args.num_proc)
    tokens = int(sum(packed.with_format("numpy")["length"]))
    fill = tokens / (args.max_length * len(packed)) if len(packed) else 1.0
    _save(packed, output, args.split)
    if args.json:
        said = {"rows": len(rows), "packed_rows": len(packed), "tokens": tokens, "max_length": args.max_length}
        console.file.write(json.dumps({**said, "fill": round(fill, 6), "output": str(output)}) + "\n")
        return
    lines = [
        f"rows     {len(rows):,}, packed into {len(packed):,}",
        f"fill     {fill:.2%} of {args.max_length:,} tokens ({args.strategy})",
        f"written  {output}; load it with datasets.load_dataset({str(output)!r}, split={args.split!r})",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _check_output(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise MMDatasetsError("the output is there already, and not empty; choose another", source=str(folder))


def _save(dataset: Dataset, folder: Path, split: str) -> None:
    """Writes Parquet files under their folder's name when all of them are written. Media stays where it is.

    (`save_to_disk` would copy every file that a row refers to into it.)
    """
    import pyarrow.parquet as pq

    from mmdatasets.features import PARQUET_OPTIONS
    from mmdatasets.shards.layout import ShardLayout

    schema = dataset.features.arrow_schema
    rows = dataset.with_format("arrow")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            new = Path(temporary) / "dataset"
            for shard in ShardLayout(split, len(dataset), _ROWS_PER_SHARD).shards():
                (new / shard.name).parent.mkdir(parents=True, exist_ok=True)
                with pq.ParquetWriter(new / shard.name, schema, **PARQUET_OPTIONS) as writer:
                    for first in range(shard.start, shard.stop, _ROWS_AT_ONCE):
                        writer.write_table(rows[first : min(first + _ROWS_AT_ONCE, shard.stop)].cast(schema))
            if folder.exists():
                folder.rmdir()
            new.rename(folder)
    except OSError as error:
        raise MMDatasetsError(f"cannot write the output: {error}", source=str(folder)) from error
