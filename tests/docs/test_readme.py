"""Every Python block of the README and the docs runs, page by page, in order, and prints what the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mmdatasets.cli.main import main
from tests.docs.run_page import BLOCK, run_page
from tests.integrations.loopback_hub import hub_environment, loopback_hub

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
NAMES = ("adding_a_family", "materialise", "metadata_cache", "preprocess", "ray")
PAGES = [REPOSITORY / "docs" / f"{name}.md" for name in NAMES]
HUB_PAGES = [README, REPOSITORY / "docs" / "hub.md"]


def test_every_page_with_code_is_run():
    pages = [README, *(REPOSITORY / "docs").glob("**/*.md")]
    assert {page for page in pages if BLOCK.search(page.read_text("utf-8"))} == {*PAGES, *HUB_PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run_and_print_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A module that can be imported, as a notebook's is: what it defines can be pickled.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    assert len(BLOCK.findall(page.read_text("utf-8"))) >= 3
    assert run_page(page, module) == []


@pytest.mark.parametrize("page", HUB_PAGES, ids=lambda page: page.stem)
def test_python_blocks_with_a_hub_run_and_print_what_is_shown(page, tmp_path):
    """In a process of its own, whose hub is here."""
    with loopback_hub() as hub:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("run_page.py")), str(page)],
            env=hub_environment(hub, tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr[-3000:]


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
