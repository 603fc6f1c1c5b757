"""Every code block of the README, the docs and the examples' README runs, and prints what the page shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import read_blocks
from tests.docs.commands import run_shell
from tests.docs.run_page import run_page
from tests.integrations.loopback_hub import hub_environment, loopback_hub

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
OTHER_PAGES = [REPOSITORY / "SECURITY.md", REPOSITORY / "examples" / "README.md"]
PAGES = sorted([README, *OTHER_PAGES, *(REPOSITORY / "docs").rglob("*.md")])
# These push to a hub, which the libraries ask for at their import: they run in a process of their own. The README does
# in both ways, so that only what it says of the hub waits for the slow tests.
HUB_PAGES = [page for page in PAGES if any(block.needs_hub for block in read_blocks(page))]
OTHERS = [README, *(page for page in PAGES if page not in HUB_PAGES and read_blocks(page))]


def _name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", OTHERS, ids=_name)
def test_blocks_run_and_print_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page(page, has_hub=False) == []


@pytest.mark.slow
def test_blocks_of_pages_with_a_hub_run_and_print_what_is_shown(tmp_path):
    with loopback_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.run_page", *map(str, HUB_PAGES)],
            env=hub_environment(hub, tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == sorted(
        page.stem for page in HUB_PAGES
    )


def test_what_is_shown_is_printed_by_a_block():
    """Beside the demo's output, which has a test of its own, and the diagram of the design."""
    shown = {page.name: block.code for page in PAGES for block in read_blocks(page) if block.language == "text"}
    assert sorted(shown) == ["README.md", "design.md"]
    assert shown["README.md"].startswith("1. Map")


def test_a_block_that_prints_something_else_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        '```python title="said.py"\nprint("said")\n```\n\n```sh\npython said.py  # no comment\n```\n\n'
        "```text\nsaid\n```\n\n```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "utf-8",
    )
    assert run_page(page) == ["page.md, line 13 shows\n2\n\nand prints\n1\n"]


@pytest.mark.parametrize(
    "text",
    [
        "```\nno language\n```\n",
        "```rust\nfn main() {}\n```\n",
        "```json\n{\n```\n",
        "```jsonl\n{}\n{\n```\n",
        '```json title="a.json"\n{}\n```\n\n```text\noutput of nothing\n```\n',
        "```python\nnever_defined\n```\n",
        "    ```python\n    print(1)\n    ```\n",
    ],
)
def test_a_block_that_cannot_be_used_is_an_error(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(text, "utf-8")
    with pytest.raises((ValueError, NameError)):
        run_page(tmp_path / "page.md")


@pytest.mark.parametrize(
    "line",
    [
        "mmdatasets cache no-such-folder",
        "make no-such-target",
        "pip install '.[no-such-extra]'",
        "pip install something-else",
        "python no_such_script.py",
        "curl https://example.org",
    ],
)
def test_a_command_that_does_not_exist_or_fails_is_an_error(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)):
        run_shell(line)


def test_arguments_of_examples_are_checked(capsys):
    run_shell("torchrun --nproc-per-node 8 examples/finetune_qwen_vl.py --tiny \\\n    --steps 3\nmake demo test\n")
    with pytest.raises(SystemExit):
        run_shell("python examples/finetune_qwen_vl.py --no-such-option")
