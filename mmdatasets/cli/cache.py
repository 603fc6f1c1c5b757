"""`mmdatasets cache`: what a directory of the metadata cache holds."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from mmdatasets.errors import MMDatasetsError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "cache",
        help="show what a metadata cache holds",
        description=(
            "Shows how many images, videos and audio files a metadata cache knows: the directory that a plugin was "
            "given as metadata_cache, where it keeps what the headers of media files say."
        ),
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="the directory of the cache")
    parser.add_argument(
        "--max-bytes",
        metavar="N",
        type=_positive,
        help="first merge the cache's files, and remove the oldest ones beyond this many bytes",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs the command.

    Raises:
        MMDatasetsError: The directory is none, or cannot be used.
    """
    from mmdatasets.media.cache import MetadataCache

    directory: Path = args.directory
    if not directory.is_dir():
        raise MMDatasetsError("no such directory", source=str(directory))
    if args.max_bytes is None:
        counts = MetadataCache(directory).counts()
    else:
        cache = MetadataCache(directory, args.max_bytes)
        cache.compact()
        counts = cache.counts()
    if args.json:
        said = {name: value for name, value in asdict(counts).items() if name not in ("hits", "misses")}
        console.print(json.dumps({**said, "entries": counts.entries}, default=str), markup=False, highlight=False)
        return
    files = "1 file" if counts.num_files == 1 else f"{counts.num_files:,} files"
    lines = [f"{'images':8} {counts.images:>12,}", f"{'videos':8} {counts.videos:>12,}"]
    lines += [f"{'audio':8} {counts.audios:>12,}", f"{'bytes':8} {counts.num_bytes:>12,}  in {files}"]
    if counts.oldest is not None and counts.newest is not None:
        lines.append(f"probed from {counts.oldest:%Y-%m-%d %H:%M} to {counts.newest:%Y-%m-%d %H:%M} UTC")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
