"""Every Python block of the README and the docs runs, page by page, in order, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path

import pytest

from mmdatasets.cli.main import main

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = [README, *(REPOSITORY / "docs" / name for name in ("adding_a_family.md", "preprocess.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", flags=re.MULTILINE | re.DOTALL)


def test_every_page_with_code_is_run():
    pages = [README, *(REPOSITORY / "docs").glob("**/*.md")]
    assert {page for page in pages if BLOCK.search(page.read_text("utf-8"))} == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run_and_print_what_is_shown(page, tmp_path, monkeypatch):
    blocks = BLOCK.findall(page.read_text("utf-8"))
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    # A module that can be imported, as a notebook's is: what it defines can be pickled.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    namespace = vars(module)
    for number, (code, shown) in enumerate(blocks, start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page.name}, python block {number}", "exec"), namespace)
        if shown:
            assert printed.getvalue() == shown, f"python block {number}"


def test_the_shown_output_of_the_demo_is_real(tmp_path, monkeypatch, capsys):
    """All but what differs between machines and runs: losses, times, and the width of the rules."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    shown = re.search(r"^```text\n(1\. Map.*?)^```$", README.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert _stable(capsys.readouterr().out) == _stable(shown[1])


def _stable(text: str) -> list[str]:
    text = re.sub(r"\d+\.\d+|[\d,]+(?= rows/s)|\d+(?= s$)", "N", text, flags=re.MULTILINE)
    text = re.sub(r"-{10,}$", "-", text, flags=re.MULTILINE)
    return [line.rstrip() for line in text.strip().splitlines()]
