"""Runs the Python blocks of a page in order, and compares what they print with what the page shows.

python run_page.py PAGE: exits with 1, and says where, when a block prints something else.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", flags=re.MULTILINE | re.DOTALL)


def run_page(page: Path, module: types.ModuleType) -> list[tuple[int, str, str]]:
    """The blocks that print something else than the page shows: number, what is shown, what was printed."""
    differing = []
    for number, (code, shown) in enumerate(BLOCK.findall(page.read_text("utf-8")), start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page.name}, python block {number}", "exec"), vars(module))
        if shown and printed.getvalue() != shown:
            differing.append((number, shown, printed.getvalue()))
    return differing


def main() -> int:
    module = sys.modules["page"] = types.ModuleType("page")
    differing = run_page(Path(sys.argv[1]), module)
    for number, shown, printed in differing:
        sys.stderr.write(f"python block {number} shows\n{shown}\nand prints\n{printed}\n")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
