"""`mmdatasets push`: a mapped dataset, its media included, goes to the Hub with a card."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from mmdatasets.cli.datasets import add_source_options, open_rows
from mmdatasets.cli.numbers import positive
from mmdatasets.errors import MMDatasetsError

_DESCRIPTION = """\
Pushes a mapped dataset to the Hugging Face Hub, with its media files in the rows and a card that says what made it:
mmdatasets.load_collator(dataset, processor) then makes the collator on any machine. No processor is needed for it.
"""
_EPILOG = """\
examples:
  mmdatasets push mapped you/chats --private
  mmdatasets push mapped you/chats --split validation

exit status: 0 it is pushed; 1 an error in the data or of the Hub, which the message explains; 2 wrong usage;
130 interrupted
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "push",
        help="push a mapped dataset to the Hub, with its media and a card",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_options(parser)
    parser.add_argument("repo_id", metavar="REPO_ID", help="where to push to: OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is made now")
    parser.add_argument("--to-split", metavar="NAME", help="the split's name there (default: that of --split)")
    parser.add_argument("--to-config", metavar="NAME", default="default", help="the configuration's name there")
    parser.add_argument("--revision", metavar="NAME", help="branch to push to (default: the main one)")
    parser.add_argument("--num-shards", metavar="N", type=positive, help="how many files (default: by size)")
    parser.add_argument(
        "--no-media",
        action="store_true",
        help="leave the media files where they are: the rows keep their paths, which mean nothing elsewhere",
    )
    parser.add_argument(
        "--token", metavar="TOKEN", help="access token (default: that of `hf auth login`, which no history records)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command.

    Raises:
        MMDatasetsError: The dataset is not mapped, a media file cannot be read, or the Hub refuses.
    """
    from mmdatasets.integrations.hub import push_to_hub

    rows = open_rows(args).dataset
    split = args.to_split or args.split
    try:
        commit = push_to_hub(
            rows,
            args.repo_id,
            embed_media=not args.no_media,
            split=split,
            config_name=args.to_config,
            private=args.private or None,
            revision=args.revision,
            num_shards=args.num_shards,
            token=args.token,
        )
    except MMDatasetsError:
        raise
    # What fails depends on where: the name, the token, the network, the Hub; the client's errors are of many kinds.
    except Exception as error:
        raise MMDatasetsError(_without(args.token, f"cannot push: {error}"), source=args.repo_id) from None
    said = {"repo_id": args.repo_id, "split": split, "rows": len(rows), "commit": commit.oid}
    if args.json:
        console.file.write(json.dumps(said) + "\n")
        return
    console.print(f"{len(rows):,} rows are in {args.repo_id}, split {split!r}. Load them with", markup=False)
    console.print(f"  datasets.load_dataset({args.repo_id!r}, split={split!r})", markup=False)


def _without(token: str | None, text: str) -> str:
    """A message that does not have the token."""
    return text.replace(token, "<token>") if token else text
