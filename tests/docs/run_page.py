"""Runs the blocks of pages in order, and compares what they print with what the pages show.

python -m tests.docs.run_page PAGE ...: runs each page in a module and a folder of its own, below the working
directory; exits with 1, and says where, when a block prints something else.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.docs.blocks import Block, matches, read_blocks
from tests.docs.commands import run_shell
from tests.docs.stand_ins import write_stand_ins


def run_page(page: Path, *, has_hub: bool = True) -> list[str]:
    """Runs a page in the working directory.

    Args:
        page: The page.
        has_hub: Whether this process has a hub; blocks that need one are left out where it has none.

    Returns:
        Where a block printed something else than the page shows: what is shown, what was printed.
    """
    blocks = [block for block in read_blocks(page) if has_hub or not block.needs_hub]
    write_stand_ins(blocks, Path())
    differing = []
    with _page_module() as module:
        for block in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                _run(block, module, page.name)
            if block.shown is not None and not matches(block.shown, printed.getvalue()):
                differing.append(
                    f"{page.name}, line {block.line} shows\n{block.shown}\nand prints\n{printed.getvalue()}"
                )
    return differing


@contextlib.contextmanager
def _page_module() -> Iterator[types.ModuleType]:
    """A module that can be imported, as a notebook's is: what it defines can be pickled."""
    before = sys.modules.get("page")
    module = sys.modules["page"] = types.ModuleType("page")
    try:
        yield module
    finally:
        del sys.modules["page"]
        if before is not None:
            sys.modules["page"] = before


def _run(block: Block, module: types.ModuleType, page: str) -> None:
    if block.language in ("json", "jsonl"):
        documents = block.code.splitlines() if block.language == "jsonl" else [block.code]
        for document in documents:
            json.loads(document)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    if block.title is not None:
        Path(block.title).write_text(block.code, "utf-8")
    elif block.language == "python":
        # Lines are counted as in the page, for what a traceback says.
        exec(compile("\n" * block.line + block.code, page, "exec"), vars(module))
    elif block.language == "sh":
        run_shell(block.code)


def main() -> int:
    start = Path.cwd()
    differing = []
    for page in map(Path, sys.argv[1:]):
        folder = start / page.stem
        folder.mkdir()
        with contextlib.chdir(folder):
            differing += run_page(page)
    sys.stderr.write("\n".join(differing))
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
