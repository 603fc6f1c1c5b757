"""The console script `mmdatasets`."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from mmdatasets._version import __version__
from mmdatasets.cli import cache, check, demo, families, pack, preprocess, preview, probe, push, report
from mmdatasets.cli.stopping import INTERRUPTED, TERMINATED, Terminated, stop_on_sigterm
from mmdatasets.errors import MMDatasetsError

EXIT_OK, EXIT_ERROR = 0, 1  # argparse itself exits with 2 on wrong usage


def build_parser() -> argparse.ArgumentParser:
    """Builds the argument parser with every command."""
    parser = argparse.ArgumentParser(
        prog="mmdatasets",
        description="Turns chat data with images, videos and audio into training batches for multimodal models.",
        epilog="Exit status: 0 success, 1 an error in the data or the processor, or problems found, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"mmdatasets {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in (demo, families, probe, preview, report, preprocess, pack, check, push, cache):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments without the program's name; those of the process when `None`.

    Returns:
        The exit status: 0 success, 1 an error that the message explains, or problems that were found, 130 interrupted,
        143 terminated.

    Raises:
        SystemExit: With 2 on wrong usage, with 0 after `--help` and `--version`.
    """
    args = build_parser().parse_args(argv)
    try:
        with stop_on_sigterm():
            status: int | None = args.run(args, Console(soft_wrap=True))
    except MMDatasetsError as error:
        # Paths and chat text may contain what rich would read as markup.
        Console(stderr=True, soft_wrap=True).print(
            Text("error: ", style="bold red").append(str(error), style="default")
        )
        return EXIT_ERROR
    except KeyboardInterrupt as error:
        word, code = ("terminated", TERMINATED) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
        hint = "; what is finished stays, and the same command goes on from there" if "resumes" in args else ""
        sys.stderr.write(f"{word}{hint}\n")
        if argv is None:
            _hurry()
        return code
    return status or EXIT_OK


def _hurry() -> None:
    """Has the process, of which nothing is left to do, end soon."""
    gc.freeze()  # else the interpreter looks for cycles in all that torch has, for seconds where cores are busy
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who cannot wait and types Ctrl-C again gets no traceback
