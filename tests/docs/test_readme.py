"""What the README says beside its blocks: the output of the demo, and where its links lead."""

from __future__ import annotations

import re
from pathlib import Path

from mmdatasets.cli.main import main
from tests.docs.blocks import matches, read_blocks

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"


def test_the_shown_output_of_the_demo_is_real(tmp_path, monkeypatch, capsys):
    """All but what differs between machines and runs: losses, times, and the width of the rules."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    [shown] = [block.code for block in read_blocks(README) if block.language == "text"]
    assert matches(_stable(shown), _stable(capsys.readouterr().out))


def test_links_lead_to_files_and_sections():
    text = README.read_text("utf-8")
    sections = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if link.startswith("#") and link[1:] not in sections] == []
    files = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert files
    assert [link for link in files if not (REPOSITORY / link).exists()] == []


def _stable(text: str) -> str:
    text = re.sub(r"\d+\.\d+|[\d,]+(?= rows/s)|\d+(?= s$)", "N", text, flags=re.MULTILINE)
    text = re.sub(r"-{10,}$", "-", text, flags=re.MULTILINE)
    return "".join(f"{line.rstrip()}\n" for line in text.strip().splitlines())
