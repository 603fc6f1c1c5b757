"""Runs a command line of a page, in this process, or checks it where running it is not up to the page.

- `mmdatasets ...` runs through its entry point, with a small processor in the place of a name on the Hub;
- `python FILE` runs a file that the page itself has shown; of a script of `examples/`, which has tests of its own, the
  arguments are parsed, as those of `torchrun ... FILE`;
- `make TARGET` must be a target of the Makefile, and `pip install` name the package, with extras that it has.

Anything else is an error.
"""

from __future__ import annotations

import contextlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from mmdatasets.cli.main import main as run_command_line

REPOSITORY = Path(__file__).parents[2]
CONTINUED = re.compile(r"\\\n\s*")


def run_shell(code: str) -> None:
    """Runs each line of a block.

    Raises:
        ValueError: If a line is no command that a page may have, or asks for what does not exist.
    """
    for line in CONTINUED.sub("", code).splitlines():
        words = shlex.split(line, comments=True)
        if words:
            _run(words)


def _run(words: Sequence[str]) -> None:
    match words:
        case ["mmdatasets", *arguments]:
            status = run_command_line(arguments)
            if status != 0:
                raise ValueError(f"{shlex.join(words)}: exit status {status}")
        case ["make", *targets]:
            _check_targets(targets)
        case ["pip", "install", *requirements]:
            _check_requirements([name for name in requirements if not name.startswith("-")])
        case ["python", script, *arguments] if Path(script).exists():
            with mock.patch.object(sys, "argv", [script, *arguments]):
                runpy.run_path(script, run_name="__main__")
        case ["python", script, *arguments]:
            _check_arguments(script, arguments)
        case ["torchrun", "--nproc-per-node", count, script, *arguments] if count.isdigit():
            _check_arguments(script, arguments)
        case _:
            raise ValueError(f"no command that is run or checked: {shlex.join(words)}")


def _check_targets(targets: Sequence[str]) -> None:
    known = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    if not targets or not set(targets) <= set(known):
        raise ValueError(f"make {' '.join(targets)}: the Makefile has {', '.join(known)}")


def _check_requirements(requirements: Sequence[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in requirements:
        found = re.fullmatch(r"(?P<name>[\w-]+|\.)(?:\[(?P<extras>[\w,]+)\])?", requirement)
        if found is None or found["name"] not in (".", project["name"]):
            raise ValueError(f"pip install {requirement}: not this package")
        extras = set((found["extras"] or "").split(",")) - {""}
        if not extras <= set(project["optional-dependencies"]):
            raise ValueError(f"pip install {requirement}: there are {', '.join(project['optional-dependencies'])}")


def _check_arguments(script: str, arguments: Sequence[str]) -> None:
    parse = runpy.run_path(str(REPOSITORY / script))["parse_arguments"]
    with contextlib.redirect_stdout(sys.stderr):
        parse(list(arguments))
